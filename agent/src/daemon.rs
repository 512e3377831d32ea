//! What a daemon says to, and hears from, the system around it.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use sd_notify::NotifyState;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing::warn;

/// How a daemon was told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// SIGTERM: by the service manager, for a restart as well as for good.
    Terminate,
    /// SIGINT: by a person who wants it to end.
    Interrupt,
}

/// Completes at SIGTERM or SIGINT.
pub async fn stop() -> Told {
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        warn!("cannot listen for signals; stop this process with SIGKILL");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => Told::Terminate,
        _ = int.recv() => Told::Interrupt,
    }
}

/// Tells the service manager, if there is one, that requests are served.
pub fn ready() {
    notify(NotifyState::Ready);
}

/// Tells the service manager that the end has begun.
pub fn stopping() {
    notify(NotifyState::Stopping);
}

fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        warn!(%error, "could not tell the service manager");
    }
}

/// Listens on a Unix socket with these permission bits. A socket that nobody answers is a dead process's and replaced;
/// one that somebody answers is not taken over.
pub fn listen(path: &Path, mode: u32) -> io::Result<UnixListener> {
    if let Some(parent) = path.parent() {
        make_passable(parent)?;
    }
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.file_type().is_socket() => {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process answers there"));
            }
            fs::remove_file(path)?;
        }
        Ok(_) => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is no socket"));
        }
        Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    Ok(listener)
}

/// Makes a folder that others may pass but not write to, unless it is there. What lies in it has modes of its own.
pub fn make_passable(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).create(folder)?;
    // The umask of this process hides what it makes.
    fs::set_permissions(folder, Permissions::from_mode(0o755))
}
