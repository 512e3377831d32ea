//! A test program of its own, because what it tests changes the whole process.

use std::os::unix::fs::PermissionsExt;

use dayfly_sys::harden_process;
use rustix::process::{DumpableBehavior, dumpable_behavior};

#[test]
fn a_hardened_process_leaves_no_core_and_no_open_files() -> Result<(), Box<dyn std::error::Error>> {
    harden_process()?;
    assert_eq!(dumpable_behavior()?, DumpableBehavior::NotDumpable);
    let limits = std::fs::read_to_string("/proc/self/limits")?;
    let core =
        limits.lines().find_map(|line| line.strip_prefix("Max core file size")).ok_or("no such limit")?;
    assert_eq!(core.split_whitespace().take(2).collect::<Vec<_>>(), ["0", "0"]);

    let path = std::env::temp_dir().join(format!("dayfly-umask-{}", std::process::id()));
    std::fs::write(&path, b"x")?;
    let mode = std::fs::metadata(&path)?.permissions().mode();
    std::fs::remove_file(&path)?;
    assert_eq!(mode & 0o777, 0o600);
    Ok(())
}
