//! One task's cgroup: who is in it, when it is empty, and the end of all in it.

use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dayfly_sys::{pidfd, wait::Watched};
use rustix::fs::OFlags;
use tracing::warn;

use super::files::{collect_processes, find_below, io_error, is_removed, open_at, remove_below, write_at};
use super::{CgroupError, RECHECK};
use crate::process::{Process, ProcessError};

/// How long killed processes may take to be gone before that is an error.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// How a cgroup came to hold nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emptied {
    /// The last process in it or below it has exited or left.
    Empty,
    /// It was removed.
    Gone,
}

/// A task's cgroup. Dropping it leaves it and its processes as they are, so that a restart can find them.
#[derive(Debug)]
pub struct TaskCgroup {
    pub(super) fd: OwnedFd,
    pub(super) id: u64,
    pub(super) path: PathBuf,
    pub(super) directory: PathBuf,
    pub(super) base: PathBuf,
    pub(super) origin: Option<OwnedFd>,
    pub(super) since: u64,
}

impl TaskCgroup {
    /// Its id, which is the inode number of its folder.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Its folder.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Its path in the hierarchy.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// When it was made, in clock ticks since boot; 0 when it was found again after a restart.
    pub(crate) fn since(&self) -> u64 {
        self.since
    }

    /// Whether a process is alive in it or below it. [`CgroupError::Gone`] once it was removed.
    pub fn is_populated(&self) -> Result<bool, CgroupError> {
        self.populated_in(&mut self.open("cgroup.events", OFlags::RDONLY)?)
    }

    /// Waits until nothing is alive in it. Never misses that: if the kernel sends no event, a slow timer looks.
    pub async fn emptied(&self) -> Emptied {
        self.emptied_looking_every(RECHECK).await
    }

    pub(super) async fn emptied_looking_every(&self, recheck: Duration) -> Emptied {
        loop {
            match self.emptied_by_event(recheck).await {
                Ok(end) => return end,
                Err(CgroupError::Gone) => return Emptied::Gone,
                Err(e) => {
                    warn!(path = %self.directory.display(), error = %e, "could not watch a cgroup; looking again");
                    tokio::time::sleep(recheck).await;
                }
            }
        }
    }

    async fn emptied_by_event(&self, recheck: Duration) -> Result<Emptied, CgroupError> {
        let mut events = self.open("cgroup.events", OFlags::RDONLY)?;
        let watched = events.try_clone().and_then(|file| Watched::for_change(file.into()));
        let watched = watched.map_err(|source| self.io_error("watch", "cgroup.events", source))?;
        // The kernel wakes whoever polls the file for each change after the last read of the same open file.
        while self.populated_in(&mut events)? {
            if let Ok(Err(source)) = tokio::time::timeout(recheck, watched.event()).await {
                return Err(self.io_error("watch", "cgroup.events", source));
            }
        }
        Ok(Emptied::Empty)
    }

    /// Kills every process in it and below it, child tasks' too, and waits until they are gone.
    pub async fn kill(&self) -> Result<(), CgroupError> {
        match self.write("cgroup.kill", "1") {
            Ok(()) => {}
            Err(CgroupError::Gone) if !self.directory.exists() => return Ok(()),
            // Linux before 5.14 has no such file.
            Err(CgroupError::Gone) => self.kill_one_by_one()?,
            Err(e) => return Err(e),
        }
        match tokio::time::timeout(KILL_PATIENCE, self.emptied()).await {
            Ok(Emptied::Empty | Emptied::Gone) => Ok(()),
            Err(_) => Err(CgroupError::StillPopulated { path: self.directory.clone() }),
        }
    }

    pub(super) fn kill_one_by_one(&self) -> Result<(), CgroupError> {
        // What forks while it is read shows up in the next round. Bounded, as the caller waits and looks anyway.
        for _ in 0..1000 {
            let pids = self.processes()?;
            if pids.is_empty() {
                return Ok(());
            }
            for pid in pids {
                let Ok(process) = Process::open(pid) else { continue };
                // By now the number may be a stranger's: the kernel is asked where its process stands.
                match self.holds(&process) {
                    Ok(true) => pidfd::kill(&process)
                        .map_err(|source| self.io_error("kill a process in", "", source))?,
                    Ok(false) | Err(CgroupError::Process(ProcessError::Gone)) => {}
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(())
    }

    /// Moves a process back to where the leader came from, or just above the task if that is gone.
    pub fn release(&self, leader: &Process) -> Result<(), CgroupError> {
        if !self.holds(leader)? {
            return Ok(());
        }
        leader.must_be_alive()?;
        let pid = leader.id().pid.to_string();
        if let Some(origin) = &self.origin
            && write_at(origin, "cgroup.procs", &pid).is_ok()
        {
            return Ok(());
        }
        let above = self.directory.parent().unwrap_or(&self.base);
        let procs = above.join("cgroup.procs");
        fs::write(&procs, pid).map_err(|source| io_error("move a process to", &procs, source))
    }

    /// Removes it and what is below it. Fails while a process is alive there.
    pub fn remove(&self) -> Result<(), CgroupError> {
        match remove_below(&self.directory) {
            Ok(()) => Ok(()),
            Err(e) if is_removed(&e) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy => {
                Err(CgroupError::StillPopulated { path: self.directory.clone() })
            }
            Err(source) => Err(self.io_error("remove", "", source)),
        }
    }

    /// Whether a process stands in it or below it.
    pub(crate) fn holds(&self, process: &Process) -> Result<bool, CgroupError> {
        let Some(id) = process.cgroup_id()? else { return Ok(false) };
        Ok(self.path_of_id(id)?.is_some())
    }

    /// The path in the hierarchy of the cgroup `id`, if it is this one or below.
    pub(crate) fn path_of_id(&self, id: u64) -> Result<Option<PathBuf>, CgroupError> {
        if id == self.id {
            return Ok(Some(self.path.clone()));
        }
        let found = find_below(&self.directory, id).map_err(|source| self.io_error("read", "", source))?;
        Ok(found.and_then(|dir| Some(self.path.join(dir.strip_prefix(&self.directory).ok()?))))
    }

    /// The pids of all processes in it and below it.
    pub(crate) fn processes(&self) -> Result<Vec<i32>, CgroupError> {
        let mut pids = Vec::new();
        collect_processes(&self.directory, &mut pids)
            .map_err(|source| self.io_error("read", "cgroup.procs", source))?;
        Ok(pids)
    }

    pub(super) fn admit(&self, process: &Process) -> Result<(), CgroupError> {
        process.must_be_alive()?;
        self.write("cgroup.procs", &process.id().pid.to_string())?;
        // Alive now means alive then: it was this process that moved.
        if process.cgroup_id()? != Some(self.id) {
            return Err(ProcessError::Unsettled { pid: process.id().pid }.into());
        }
        Ok(())
    }

    pub(super) fn populated_in(&self, events: &mut File) -> Result<bool, CgroupError> {
        let mut text = String::new();
        events
            .rewind()
            .and_then(|()| events.read_to_string(&mut text))
            .map_err(|source| self.io_error("read", "cgroup.events", source))?;
        match text.lines().find_map(|line| line.strip_prefix("populated ")) {
            Some("0") => Ok(false),
            Some("1") => Ok(true),
            _ => Err(self.io_error("understand", "cgroup.events", io::ErrorKind::InvalidData.into())),
        }
    }

    pub(super) fn open(&self, name: &str, flags: OFlags) -> Result<File, CgroupError> {
        open_at(&self.fd, name, flags).map_err(|source| self.io_error("open", name, source))
    }

    fn write(&self, name: &str, text: &str) -> Result<(), CgroupError> {
        write_at(&self.fd, name, text).map_err(|source| self.io_error("write", name, source))
    }

    fn io_error(&self, what: &'static str, name: &str, source: io::Error) -> CgroupError {
        if is_removed(&source) {
            CgroupError::Gone
        } else {
            io_error(what, &self.directory.join(name), source)
        }
    }
}
