//! Per-task files: the bearer token of the AWS endpoint, and the access token.
//!
//! A task's folder belongs to the agent and can be passed but not listed or written to by others; its files belong to the
//! workload's user, mode 0400. So a workload can neither put something else in a file's place nor fill the memory that
//! the folders of all tasks share.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use dayfly_sys::memory_fs::{self, MemoryFsError};
use tracing::{info, warn};

use crate::daemon::make_passable;

/// Enough for thousands of tasks; a file takes a page.
const SIZE_KIB: u32 = 64 * 1024;

/// Why a task has no files.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The folder or a file could not be made.
    #[error("could not {what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// What lies there could reach a disk.
    #[error(transparent)]
    NotMemory(#[from] MemoryFsError),
    /// Another agent uses it.
    #[error("{} is in use by another agent; give each its own agent.runtime_dir", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
}

/// The folder of all tasks' folders.
#[derive(Debug)]
pub struct Folders {
    base: PathBuf,
    /// Whether what is written below can reach a disk.
    never_on_disk: Result<(), String>,
    /// Locked while this agent lives.
    _lock: File,
}

impl Folders {
    /// Takes `runtime_dir`, and with `mount` puts a memory file system there if there is none.
    pub fn take(runtime_dir: &Path, mount: bool) -> Result<Self, FolderError> {
        let failed = |what, path: &Path| {
            let path = path.to_owned();
            move |source| FolderError::Io { what, path, source }
        };
        make_passable(runtime_dir).map_err(failed("make", runtime_dir))?;
        let lock_path = runtime_dir.join("lock");
        let lock = File::options().create(true).truncate(false).write(true).mode(0o600).open(&lock_path);
        let lock = lock.map_err(failed("open", &lock_path))?;
        if lock.try_lock().is_err() {
            return Err(FolderError::InUse { path: runtime_dir.to_owned() });
        }
        let base = runtime_dir.join("tasks");
        make_passable(&base).map_err(failed("make", &base))?;
        if mount && memory_fs::check_never_on_disk(&base).is_err() {
            memory_fs::mount_tmpfs_noswap(&base, SIZE_KIB)?;
            info!(path = %base.display(), "mounted a memory file system");
        }
        // Passed, not listed: task ids are no secrets, but nobody's business.
        fs::set_permissions(&base, Permissions::from_mode(0o711)).map_err(failed("change", &base))?;
        let never_on_disk = memory_fs::check_never_on_disk(&base).map_err(|error| error.to_string());
        if let Err(why) = &never_on_disk {
            warn!(%why, "token files will be refused");
        }
        Ok(Self { base, never_on_disk, _lock: lock })
    }

    /// The tasks of an earlier life of the agent that are not taken up again, by the folders they left. Removes the folders.
    pub fn leftovers(&self, kept: &HashSet<String>) -> Vec<String> {
        let entries = fs::read_dir(&self.base).into_iter().flatten().flatten();
        let mut tasks = Vec::new();
        for entry in entries {
            match entry.file_name().into_string() {
                Ok(name) if kept.contains(&name) => continue,
                Ok(name) => tasks.push(name),
                Err(_) => {}
            }
            if let Err(error) = fs::remove_dir_all(entry.path()) {
                warn!(path = %entry.path().display(), %error, "could not remove a folder of an earlier life");
            }
        }
        tasks
    }

    /// Makes a task's folder. Files in it will be `uid`'s and `gid`'s.
    pub fn open(&self, task_id: &str, uid: u32, gid: u32) -> Result<TaskFolder, FolderError> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let path = self.base.join(task_id);
        let failed = |source| FolderError::Io { what: "make", path: path.clone(), source };
        if task_id.is_empty() || task_id.len() > 128 || !task_id.chars().all(is_plain) {
            return Err(failed(io::ErrorKind::InvalidInput.into()));
        }
        DirBuilder::new().mode(0o711).create(&path).map_err(failed)?;
        fs::set_permissions(&path, Permissions::from_mode(0o711)).map_err(failed)?;
        Ok(TaskFolder { path, uid, gid, is_left: AtomicBool::new(false) })
    }

    /// Takes the folder of a task of an earlier life, or makes it anew where it is gone.
    pub fn reopen(&self, task_id: &str, uid: u32, gid: u32) -> Result<TaskFolder, FolderError> {
        let path = self.base.join(task_id);
        // Nobody else may make anything in the folder above, so what is called so is ours.
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_dir() => Ok(TaskFolder { path, uid, gid, is_left: AtomicBool::new(false) }),
            _ => self.open(task_id, uid, gid),
        }
    }

    /// Whether a credential may lie here.
    pub fn may_hold_credentials(&self) -> Result<(), &str> {
        match &self.never_on_disk {
            Ok(()) => Ok(()),
            Err(why) => Err(why),
        }
    }
}

/// One task's folder, removed when dropped unless it was left.
#[derive(Debug)]
pub struct TaskFolder {
    path: PathBuf,
    uid: u32,
    gid: u32,
    is_left: AtomicBool,
}

impl TaskFolder {
    /// Where a file of this name is or will be.
    pub fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Puts a file in place in one step: a reader sees the old content or the new, never a part.
    pub fn put(&self, name: &str, content: &[u8]) -> Result<(), FolderError> {
        let new = self.path.join(format!(".{name}.new"));
        let failed = |what| {
            let path = new.clone();
            move |source| FolderError::Io { what, path, source }
        };
        let _ = fs::remove_file(&new);
        let mut file =
            File::options().write(true).create_new(true).mode(0o400).open(&new).map_err(failed("make"))?;
        if (self.uid, self.gid) != (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
        {
            std::os::unix::fs::fchown(&file, Some(self.uid), Some(self.gid)).map_err(failed("give away"))?;
        }
        file.write_all(content).map_err(failed("write"))?;
        drop(file);
        fs::rename(&new, self.path.join(name)).map_err(failed("put in place"))
    }

    /// Takes a file away; it need not be there.
    pub fn take_away(&self, name: &str) {
        match fs::remove_file(self.path.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                warn!(path = %self.path.display(), name, %error, "could not remove a task's file");
            }
            _ => {}
        }
    }

    /// Whose its files are.
    pub fn owner(&self) -> (u32, u32) {
        (self.uid, self.gid)
    }

    /// Leaves it where it is when this is dropped.
    pub fn leave(&self) {
        self.is_left.store(true, Ordering::Relaxed);
    }

    /// Removes the folder and all in it; it need not be there.
    pub fn remove(&self) {
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                warn!(path = %self.path.display(), %error, "could not remove a task's folder");
            }
            _ => {}
        }
    }
}

impl Drop for TaskFolder {
    fn drop(&mut self) {
        if !*self.is_left.get_mut() {
            self.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_file_is_its_users_alone_and_changes_in_one_step() {
        let home = tempfile::tempdir().unwrap();
        let folders = Folders::take(&home.path().join("run"), false).unwrap();
        let uid = rustix::process::geteuid().as_raw();
        let owner = if uid == 0 { 12345 } else { uid };
        let folder = folders.open("01TASK", owner, rustix::process::getegid().as_raw()).unwrap();
        for content in ["one", "two"] {
            folder.put("token", content.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(folder.path_of("token")).unwrap(), content);
        }
        let meta = fs::metadata(folder.path_of("token")).unwrap();
        assert_eq!((meta.uid(), meta.mode() & 0o777), (owner, 0o400));
        let meta = fs::metadata(&folder.path).unwrap();
        assert_eq!((meta.uid(), meta.mode() & 0o777), (uid, 0o711));
        folder.take_away("token");
        assert!(!folder.path_of("token").exists());
        folder.take_away("token");
        let path = folder.path.clone();
        drop(folder);
        assert!(!path.exists());
    }

    #[test]
    fn folders_of_an_earlier_life_name_its_tasks_and_are_removed() {
        let home = tempfile::tempdir().unwrap();
        let folders = Folders::take(home.path(), false).unwrap();
        for name in ["01OLD", "01KEPT"] {
            folders.open(name, 0, 0).unwrap().leave();
        }
        assert!(matches!(Folders::take(home.path(), false), Err(FolderError::InUse { .. })));
        drop(folders);
        let folders = Folders::take(home.path(), false).unwrap();
        let kept = HashSet::from(["01KEPT".to_owned()]);
        assert_eq!(folders.leftovers(&kept), ["01OLD"]);
        assert!(folders.leftovers(&kept).is_empty());
        let again = folders.reopen("01KEPT", 0, 0).unwrap();
        assert!(again.path_of("x").parent().unwrap().is_dir());
        drop(again);
        assert_eq!(folders.reopen("01KEPT", 0, 0).unwrap().owner(), (0, 0), "made anew");
    }

    #[test]
    fn a_task_id_that_is_a_path_makes_no_folder() {
        let home = tempfile::tempdir().unwrap();
        let folders = Folders::take(home.path(), false).unwrap();
        for id in ["", "..", "a/b", "a.b", "\u{e9}"] {
            assert!(folders.open(id, 0, 0).is_err(), "{id:?}");
        }
    }
}
