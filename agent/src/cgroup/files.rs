//! The folders and files of cgroups.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::CgroupError;

pub(super) fn make_directory(dir: &Path) -> Result<(), CgroupError> {
    DirBuilder::new().mode(0o755).create(dir).map_err(|source| io_error("make", dir, source))?;
    // The agent's umask would hide from workloads where they are.
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))
        .map_err(|source| io_error("open to readers", dir, source))
}

/// Whoever may write in the folder, or to the file that moves processes, decides who is a member.
pub(super) fn must_be_ours(dir: &Path) -> Result<(), CgroupError> {
    let own = rustix::process::geteuid().as_raw();
    let refuse = |why| CgroupError::NotOurs { path: dir.to_owned(), why };
    for path in [dir.to_owned(), dir.join("cgroup.procs")] {
        let meta = fs::symlink_metadata(&path).map_err(|source| io_error("stat", &path, source))?;
        if meta.uid() != own {
            return Err(refuse("it is owned by another user than the agent's"));
        }
        if meta.mode() & 0o022 != 0 {
            return Err(refuse("others than its owner may write to it"));
        }
    }
    Ok(())
}

pub(super) fn collect_processes(dir: &Path, pids: &mut Vec<i32>) -> io::Result<()> {
    let text = match fs::read_to_string(dir.join("cgroup.procs")) {
        Err(e) if is_removed(&e) => return Ok(()),
        other => other?,
    };
    pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|&pid| pid > 0));
    for child in directories_in(dir)? {
        collect_processes(&child, pids)?;
    }
    Ok(())
}

pub(super) fn find_below(dir: &Path, id: u64) -> io::Result<Option<PathBuf>> {
    for child in directories_in(dir)? {
        let is_it = fs::symlink_metadata(&child).is_ok_and(|meta| meta.ino() == id);
        if is_it {
            return Ok(Some(child));
        }
        if let Some(found) = find_below(&child, id)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

pub(super) fn remove_below(dir: &Path) -> io::Result<()> {
    for child in directories_in(dir)? {
        remove_below(&child)?;
    }
    match fs::remove_dir(dir) {
        Err(e) if is_removed(&e) => Ok(()),
        other => other,
    }
}

/// What was removed meanwhile has no folders.
pub(super) fn directories_in(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Err(e) if is_removed(&e) => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

pub(super) fn open_directory(dir: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(rustix::fs::open(dir, flags, Mode::empty())?)
}

pub(super) fn open_at(dir: impl AsFd, name: &str, flags: OFlags) -> io::Result<File> {
    Ok(rustix::fs::openat(dir, name, flags | OFlags::CLOEXEC, Mode::empty())?.into())
}

pub(super) fn write_at(dir: impl AsFd, name: &str, text: &str) -> io::Result<()> {
    open_at(dir, name, OFlags::WRONLY)?.write_all(text.as_bytes())
}

/// A removed cgroup's folder is not found, and a file of it that is still open says ENODEV.
pub(super) fn is_removed(e: &io::Error) -> bool {
    e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(nix::libc::ENODEV)
}

pub(super) fn io_error(what: &'static str, path: &Path, source: io::Error) -> CgroupError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            CgroupError::NotAllowed { path, source }
        }
        _ => CgroupError::Io { what, path, source },
    }
}
