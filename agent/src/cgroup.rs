//! Task cgroups: made and owned by the agent, so that who is in one is the kernel's word and nobody else's.
//!
//! A task's cgroup is a folder of the agent's (0755, nobody else may write) below the agent's own cgroup; a child
//! task's lies in its parent's. A workload without root can neither leave it by itself nor let anybody in; all it forks
//! is born there. Controllers are not touched: the folders name processes, they do not limit them.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use tracing::warn;

pub use self::hierarchy::Hierarchy;
pub use self::task::{Emptied, TaskCgroup};

use self::files::{io_error, make_directory, must_be_ours, open_directory};
use crate::process::{Process, ProcessError, ticks_since_boot};

mod files;
mod hierarchy;
mod task;

/// How often an anchor is looked at although no event came: events may be lost, for instance by a removed cgroup.
pub(crate) const RECHECK: Duration = Duration::from_secs(1);

/// Why a task has no cgroup, or why one could not be used.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// No cgroup v2 hierarchy is mounted.
    #[error("no cgroup v2 hierarchy is mounted; mount one or anchor tasks to processes")]
    NotMounted,
    /// The folder cannot be trusted to hold task cgroups.
    #[error("{} may not hold task cgroups: {why}", path.display())]
    NotOurs {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The agent may not make cgroups or move that process; the task has to be anchored to the process.
    #[error("the agent may not do this at {}; run it as root or anchor the task to the process", path.display())]
    NotAllowed {
        /// The folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The process to move is one that would take the agent or the machine along, or that could undo it.
    #[error("this process may not be moved into a task: {0}")]
    Unmovable(&'static str),
    /// A name that cannot be a folder's.
    #[error("a task's cgroup cannot be called {0:?}")]
    BadName(String),
    /// The cgroup is gone.
    #[error("the cgroup was removed")]
    Gone,
    /// Something is alive in it that cannot be killed now.
    #[error("processes are still alive in {}; they may be waiting for a device", path.display())]
    StillPopulated {
        /// The folder.
        path: PathBuf,
    },
    /// The process to move is gone.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// A file operation failed.
    #[error("could not {what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// The folder below which the agent makes its tasks' cgroups.
#[derive(Clone, Debug)]
pub struct CgroupTree {
    hierarchy: Hierarchy,
    base: PathBuf,
}

impl CgroupTree {
    /// Takes `dayfly` below the agent's own cgroup, and makes it if need be.
    pub fn own(hierarchy: Hierarchy) -> Result<Self, CgroupError> {
        let base = hierarchy.own_directory()?.join("dayfly");
        Self::at(hierarchy, &base)
    }

    /// Takes the folder `base`, and makes it if its parent exists. It has to be ours, and nobody else may write to it.
    pub fn at(hierarchy: Hierarchy, base: &Path) -> Result<Self, CgroupError> {
        if hierarchy.path_from(base).is_none_or(|path| path == Path::new("/")) {
            return Err(CgroupError::NotOurs {
                path: base.to_owned(),
                why: "it is not below the cgroup v2 mount",
            });
        }
        match make_directory(base) {
            Ok(()) => {}
            Err(CgroupError::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
        must_be_ours(base)?;
        Ok(Self { hierarchy, base: base.to_owned() })
    }

    /// The hierarchy that this is a part of.
    pub fn hierarchy(&self) -> &Hierarchy {
        &self.hierarchy
    }

    /// The folder.
    pub fn directory(&self) -> &Path {
        &self.base
    }

    /// Makes a cgroup for the task `name`, inside `parent`'s if that has one, and moves `leader` into it.
    ///
    /// Processes that `leader` has already forked stay where they are. [`CgroupError::NotAllowed`] and
    /// [`CgroupError::Unmovable`] mean: anchor the task to the process.
    pub fn open_task(
        &self,
        name: &str,
        parent: Option<&TaskCgroup>,
        leader: &Process,
    ) -> Result<TaskCgroup, CgroupError> {
        may_be_moved(leader)?;
        let dir = parent.map_or(self.base.as_path(), TaskCgroup::directory).join(folder_name(name)?);
        let before = self.hierarchy.path_of(leader)?;
        make_directory(&dir)?;
        let opened = self.take(&dir).and_then(|mut cgroup| {
            cgroup.since =
                ticks_since_boot().map_err(|source| io_error("read", Path::new("/proc/uptime"), source))?;
            // Held open: whatever is called so later is not where the leader came from.
            cgroup.origin = self.hierarchy.directory_of(&before).and_then(|dir| open_directory(&dir).ok());
            cgroup.admit(leader)?;
            Ok(cgroup)
        });
        if opened.is_err() {
            // Fails when a stranger got the number of a leader that died just now: then it must not be removed either.
            if let Err(e) = fs::remove_dir(&dir) {
                warn!(path = %dir.display(), error = %e, "could not remove the cgroup of a task that was not opened");
            }
        }
        opened
    }

    /// Finds a task's cgroup again after a restart of the agent; [`CgroupError::Gone`] unless it is the very same.
    ///
    /// `since` is when it was made, so that what its leader forked before is not taken for escaped.
    pub fn reopen(&self, directory: &Path, id: u64, since: u64) -> Result<TaskCgroup, CgroupError> {
        if !directory.starts_with(&self.base)
            || directory.components().any(|part| part == Component::ParentDir)
        {
            return Err(CgroupError::NotOurs {
                path: directory.to_owned(),
                why: "it is not below the agent's cgroup",
            });
        }
        let cgroup = TaskCgroup { since, ..self.take(directory)? };
        if cgroup.id == id { Ok(cgroup) } else { Err(CgroupError::Gone) }
    }

    fn take(&self, dir: &Path) -> Result<TaskCgroup, CgroupError> {
        let fd = open_directory(dir).map_err(|source| io_error("open", dir, source))?;
        must_be_ours(dir)?;
        let id = rustix::fs::fstat(&fd).map_err(|e| io_error("stat", dir, e.into()))?.st_ino;
        let path = self.hierarchy.path_from(dir).ok_or(CgroupError::NotMounted)?;
        Ok(TaskCgroup {
            fd,
            id,
            path,
            directory: dir.to_owned(),
            base: self.base.clone(),
            origin: None,
            since: 0,
        })
    }
}

fn may_be_moved(leader: &Process) -> Result<(), CgroupError> {
    let facts = leader.facts()?;
    if facts.key.pid == 1 {
        return Err(CgroupError::Unmovable("it is the machine's first process"));
    }
    if u32::try_from(facts.key.pid) == Ok(std::process::id()) {
        return Err(CgroupError::Unmovable("it is the agent itself"));
    }
    let own = rustix::process::geteuid();
    if !own.is_root() && facts.key.uid == own.as_raw() {
        return Err(CgroupError::Unmovable("it has the agent's own uid and could walk out again"));
    }
    Ok(())
}

/// Task names come from ids; this only keeps a surprise from becoming a path.
fn folder_name(name: &str) -> Result<String, CgroupError> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if name.is_empty() || name.len() > 128 || !name.chars().all(is_plain) {
        return Err(CgroupError::BadName(name.to_owned()));
    }
    Ok(format!("task-{name}"))
}

#[cfg(test)]
mod tests;
