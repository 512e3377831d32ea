//! Where the cgroup v2 hierarchy is, and where in it a process stands.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use super::CgroupError;
use super::files::io_error;
use crate::process::{Process, ProcessError};

/// Where the cgroup v2 hierarchy is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    pub(super) mount_point: PathBuf,
    /// Which cgroup of the hierarchy the mount point shows; `/` except in containers.
    pub(super) root: PathBuf,
}

impl Hierarchy {
    /// Finds it in the mount table, also where the old hierarchies are mounted beside it.
    pub fn find() -> Result<Self, CgroupError> {
        let table = fs::read_to_string("/proc/self/mountinfo")
            .map_err(|source| io_error("read", Path::new("/proc/self/mountinfo"), source))?;
        Self::in_table(&table).ok_or(CgroupError::NotMounted)
    }

    /// proc_pid_mountinfo(5): the fourth field is the root, the fifth the mount point, the type stands after the lone `-`.
    pub(super) fn in_table(mountinfo: &str) -> Option<Self> {
        let mounts = mountinfo.lines().filter_map(|line| {
            let (mount, file_system) = line.split_once(" - ")?;
            file_system.strip_prefix("cgroup2 ")?;
            let mut fields = mount.split(' ').skip(3);
            Some(Self { root: unescaped(fields.next()?), mount_point: unescaped(fields.next()?) })
        });
        // A mount that shows everything is worth more than one that shows a part.
        mounts.min_by_key(|found| found.root != Path::new("/"))
    }

    /// The folder of the agent's own cgroup.
    pub fn own_directory(&self) -> Result<PathBuf, CgroupError> {
        let table = Path::new("/proc/self/cgroup");
        let text = fs::read(table).map_err(|source| io_error("read", table, source))?;
        path_in(&text).and_then(|path| self.directory_of(&path)).ok_or(CgroupError::NotMounted)
    }

    /// The path of a process's cgroup in the hierarchy; `/` is the root of all.
    ///
    /// The path is checked against the id that the kernel gives for the pidfd, so it is not another process's.
    pub fn path_of(&self, process: &Process) -> Result<PathBuf, CgroupError> {
        let pid = process.id().pid;
        let table = PathBuf::from(format!("/proc/{pid}/cgroup"));
        for _ in 0..4 {
            let id = process.cgroup_id()?;
            let text = match fs::read(&table) {
                Err(e) if crate::process::is_gone(&e) => return Err(ProcessError::Gone.into()),
                other => other.map_err(|source| io_error("read", &table, source))?,
            };
            process.must_be_alive()?;
            let path = path_in(&text).ok_or(CgroupError::NotMounted)?;
            // What lies outside the mount cannot be compared; it cannot be a task's either.
            let found =
                self.directory_of(&path).and_then(|dir| fs::metadata(dir).ok()).map(|meta| meta.ino());
            if found.is_none() || found == id {
                return Ok(path);
            }
        }
        Err(ProcessError::Unsettled { pid }.into())
    }

    /// The id of the cgroup that a `/proc/PID/cgroup` names; `None` when it is not below the mount.
    pub(crate) fn id_in(&self, proc_pid_cgroup: &[u8]) -> io::Result<Option<u64>> {
        let Some(dir) = path_in(proc_pid_cgroup).and_then(|path| self.directory_of(&path)) else {
            return Ok(None);
        };
        // cgroups(7): a cgroup's id is the inode number of its folder.
        Ok(Some(fs::metadata(dir)?.ino()))
    }

    pub(super) fn directory_of(&self, path: &Path) -> Option<PathBuf> {
        let below = path.strip_prefix(&self.root).ok()?;
        below
            .components()
            .all(|part| matches!(part, Component::Normal(_)))
            .then(|| self.mount_point.join(below))
    }

    pub(super) fn path_from(&self, directory: &Path) -> Option<PathBuf> {
        Some(self.root.join(directory.strip_prefix(&self.mount_point).ok()?))
    }
}

/// proc_pid_cgroup(5): the line of the v2 hierarchy is `0::/path`; a removed cgroup's path ends in ` (deleted)`.
pub(super) fn path_in(proc_pid_cgroup: &[u8]) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    let path = proc_pid_cgroup.split(|&b| b == b'\n').find_map(|line| line.strip_prefix(b"0::"))?;
    Some(PathBuf::from(std::ffi::OsStr::from_bytes(path)))
}

/// proc_pid_mountinfo(5): space, tab, newline and backslash stand as octal escapes.
fn unescaped(field: &str) -> PathBuf {
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    escapes.iter().fold(field.to_owned(), |text, (code, plain)| text.replace(code, plain)).into()
}
