//! Unix sockets with a mode of their own.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, bail};
use tokio::net::UnixListener;

/// unix(7): `sun_path` holds 108 bytes with the closing zero.
const MAX_PATH: usize = 107;

/// Listens on a path, in the place of a socket that an earlier life left behind.
pub fn unix(path: &Path, mode: u32) -> anyhow::Result<UnixListener> {
    if path.as_os_str().len() > MAX_PATH {
        bail!("the socket path {} is longer than {MAX_PATH} bytes; choose a shorter one", path.display());
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if std::os::unix::fs::FileTypeExt::is_socket(&found.file_type()) => {
            std::fs::remove_file(path)
                .with_context(|| format!("could not remove the old socket {}", path.display()))?;
        }
        Ok(_) => bail!("{} exists and is not a socket; remove it or choose another path", path.display()),
        Err(_) => {}
    }
    let listener =
        UnixListener::bind(path).with_context(|| format!("could not listen on {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .with_context(|| format!("could not set the mode of {}", path.display()))?;
    Ok(listener)
}
