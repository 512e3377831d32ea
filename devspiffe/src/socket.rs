//! Unix sockets that are private, are taken over after a crash, and are removed at the end.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

use crate::error::ServerError;

/// A bound socket's file, removed when dropped.
pub(crate) struct Socket {
    path: PathBuf,
    inode: (u64, u64),
}

impl Socket {
    /// Binds a listening socket, in place of one that a crash left behind.
    pub(crate) fn bind(path: PathBuf, mode: u32) -> Result<(UnixListener, Self), ServerError> {
        let path = std::path::absolute(&path).map_err(could_not("resolve", &path))?;
        // unix(7): 108 bytes, the last of them NUL.
        if path.as_os_str().len() > 107 {
            return Err(ServerError::PathTooLong { path });
        }
        if let Some(folder) = path.parent() {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
            made.map_err(could_not("create", folder))?;
        }
        remove_stale(&path)?;
        let listener = UnixListener::bind(&path).map_err(could_not("bind", &path))?;
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).map_err(could_not("protect", &path))?;
        let metadata = std::fs::symlink_metadata(&path).map_err(could_not("look at", &path))?;
        Ok((listener, Self { inode: (metadata.dev(), metadata.ino()), path }))
    }

    /// The address as gRPC and SPIFFE write it.
    pub(crate) fn endpoint(&self) -> String {
        format!("unix://{}", self.path.display())
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Somebody may have put another socket there.
        let is_ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.inode);
        if is_ours {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Removes a socket that nobody listens on: what a crash left behind.
fn remove_stale(path: &Path) -> Result<(), ServerError> {
    // Connecting to a plain file is refused like connecting to a dead socket: look first, or notes would be deleted.
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    if !is_socket {
        return Ok(());
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(ServerError::InUse { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(could_not("remove", path))
        }
        Err(error) => Err(could_not("reach", path)(error)),
    }
}

fn could_not(attempt: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ServerError {
    let path = path.to_owned();
    move |source| ServerError::Socket { attempt, path, source }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

    use super::*;

    #[tokio::test]
    async fn a_socket_that_a_crash_left_behind_is_taken_over_and_a_live_one_is_not() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a/b.sock");
        std::fs::create_dir(home.path().join("a")).unwrap();
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "the standard library leaves the file");

        let (_listener, socket) = Socket::bind(path.clone(), 0o600).unwrap();
        assert!(matches!(Socket::bind(path.clone(), 0o600), Err(ServerError::InUse { .. })));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn what_is_not_a_socket_is_not_removed() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("notes.txt");
        std::fs::write(&path, "mine").unwrap();
        assert!(matches!(
            Socket::bind(path.clone(), 0o600),
            Err(ServerError::Socket { attempt: "bind", .. })
        ));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");

        let long = home.path().join("x".repeat(107));
        assert!(matches!(Socket::bind(long, 0o600), Err(ServerError::PathTooLong { .. })));
    }
}
