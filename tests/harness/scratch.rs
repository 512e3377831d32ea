//! A short-lived folder under `/tmp`, with a path short enough for Unix sockets.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::Context;

/// A folder that every user may enter, removed when dropped. `DAYFLY_TEST_KEEP=1` keeps it, for a look at the logs.
#[derive(Debug)]
pub struct Scratch {
    folder: Option<tempfile::TempDir>,
    path: PathBuf,
}

impl Scratch {
    /// Makes `/tmp/df-XXXXXX`.
    ///
    /// # Errors
    /// When `/tmp` cannot be written.
    pub fn new() -> anyhow::Result<Self> {
        // Not $TMPDIR: a Unix socket's path has at most 107 bytes, sockaddr_un(7).
        let folder = tempfile::Builder::new()
            .prefix("df-")
            .tempdir_in("/tmp")
            .context("could not make a folder in /tmp")?;
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755))
            .context("could not open the folder to others")?;
        let path = folder.path().to_owned();
        Ok(Self { folder: Some(folder), path })
    }

    /// The same folder for somebody else. It goes with the first one's owner.
    #[must_use]
    pub fn lent(&self) -> Self {
        Self { folder: None, path: self.path.clone() }
    }

    /// The folder itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path in it.
    #[must_use]
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path().join(name)
    }

    /// Makes a folder in it, with this mode.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn folder(&self, name: &str, mode: u32) -> anyhow::Result<PathBuf> {
        let path = self.join(name);
        fs::create_dir_all(&path).with_context(|| format!("could not make {}", path.display()))?;
        fs::set_permissions(&path, Permissions::from_mode(mode))?;
        Ok(path)
    }

    /// Makes a folder in it that belongs to `uid`, closed to all others.
    ///
    /// # Errors
    /// When it cannot be made or given away.
    pub fn folder_of(&self, name: &str, uid: u32) -> anyhow::Result<PathBuf> {
        let path = self.folder(name, 0o700)?;
        chown(&path, Some(uid), Some(uid))
            .with_context(|| format!("could not give {} to {uid}", path.display()))?;
        Ok(path)
    }

    /// Writes a file in it, with this mode.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn file(&self, name: &str, mode: u32, content: impl AsRef<[u8]>) -> anyhow::Result<PathBuf> {
        let path = self.join(name);
        fs::write(&path, content).with_context(|| format!("could not write {}", path.display()))?;
        fs::set_permissions(&path, Permissions::from_mode(mode))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let Some(folder) = self.folder.take() else { return };
        if std::env::var_os("DAYFLY_TEST_KEEP").is_some() {
            let _kept = folder.keep();
            return;
        }
        // An agent that was killed leaves its folders for secrets mounted; what is mounted cannot be removed.
        for mount in mounts_in(self.path()) {
            let _still_there = nix::mount::umount2(&mount, nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

/// Mount points below a folder, the innermost first (field 5 of proc_pid_mountinfo(5); our folders need no escapes).
fn mounts_in(folder: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    let mut inside: Vec<PathBuf> = points.filter(|point| point.starts_with(folder)).collect();
    inside.reverse();
    inside
}
