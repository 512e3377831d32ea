//! Where the parts are that `scripts/test` built: it exports one variable for each.

use std::path::PathBuf;

use anyhow::{Context, ensure};

/// The program `name` from the peer built into the folder that `DAYFLY_TEST_<PEER>` names.
///
/// # Errors
/// When the variable is not set or the program is not there.
pub fn peer(peer: &str, name: &str) -> anyhow::Result<PathBuf> {
    program(&format!("DAYFLY_TEST_{}", peer.to_uppercase()), name)
}

/// One of our own binaries, with fault points: `dayfly-broker`, `dayfly-agent` or `dayfly`.
///
/// # Errors
/// When `DAYFLY_TEST_BIN` is not set or the binary is not there.
pub fn binary(name: &str) -> anyhow::Result<PathBuf> {
    program("DAYFLY_TEST_BIN", name)
}

/// A value that `scripts/test` exports.
///
/// # Errors
/// When it is not set.
pub fn exported(variable: &str) -> anyhow::Result<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from).with_context(|| {
        format!("{variable} is not set: run scripts/test, or eval \"$(scripts/test --env)\" first")
    })
}

fn program(variable: &str, name: &str) -> anyhow::Result<PathBuf> {
    let path = exported(variable)?.join(name);
    ensure!(path.is_file(), "there is no {}: run scripts/test, which builds it", path.display());
    Ok(path)
}
