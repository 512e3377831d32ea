//! A process, held by its pidfd, and facts about it that are all of that one process.
//!
//! Everything in `/proc` is found by number, and numbers are given away again. So each reading here is: open
//! `/proc/PID`, see that the pidfd is alive, read, see that it is alive still. While a process lives, or is a zombie,
//! nobody else has its number.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use dayfly_sys::pidfd;
use rustix::fs::{AtFlags, Mode, OFlags};

pub use self::stat::{ProcessId, boot_id};

pub(crate) use self::stat::{Stat, is_gone, ticks_since_boot};

use crate::cgroup::Hierarchy;

mod stat;

/// A process that was alive when this was made. Clones share one descriptor.
#[derive(Clone, Debug)]
pub struct Process {
    pidfd: Arc<OwnedFd>,
    pidfd_ino: u64,
    id: ProcessId,
}

/// How well a caller's process is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttestedBy {
    /// The kernel handed over a pidfd of the process that connected.
    PeerPidfd,
    /// The kernel is older than 6.5 and gave only a number, which may have changed hands before it was opened.
    PeerCred,
}

impl AttestedBy {
    /// The word for records and policy input.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PeerPidfd => "pidfd",
            Self::PeerCred => "peercred",
        }
    }
}

/// Who a process is. An SVID fetched for one key is not good for another: an `exec`, a change of user or of cgroup
/// changes the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProcessKey {
    /// Inode of the pidfd; one per process and boot since Linux 6.9.
    pub pidfd_ino: u64,
    /// Process id, which tells processes apart on older kernels.
    pub pid: i32,
    /// Device of the executable.
    pub exe_dev: u64,
    /// Inode of the executable.
    pub exe_ino: u64,
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// Id of the process's cgroup v2; `None` on a machine without.
    pub cgroup_id: Option<u64>,
    /// Start time in clock ticks since boot.
    pub start_time: u64,
}

/// What is known of a process at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Who it is.
    pub key: ProcessKey,
    /// Its parent's pid; 0 when that is outside the pid namespace.
    pub ppid: i32,
    /// Path of its executable as the kernel names it; for messages, not for decisions.
    pub exe: PathBuf,
}

/// Why a process cannot be spoken for.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It has exited; a connection that it left to others does not speak for it.
    #[error("the process has exited; call again from one that lives")]
    Gone,
    /// It is in a pid namespace that the agent does not see.
    #[error("the process is not visible from the agent's pid namespace; run the agent in the host's")]
    NotVisible,
    /// Its facts kept changing while they were read.
    #[error("process {pid} kept changing while it was read; try again")]
    Unsettled {
        /// Process id.
        pid: i32,
    },
    /// The agent may not look.
    #[error(
        "could not read {what} of process {pid}; the agent needs CAP_SYS_PTRACE for processes of other users"
    )]
    Unreadable {
        /// Process id.
        pid: i32,
        /// What was read.
        what: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The descriptor is not what it should be.
    #[error("could not use the process descriptor")]
    Pidfd(#[source] io::Error),
}

impl Process {
    /// The process that connected a Unix stream socket, and how well that is known.
    pub fn of_peer(socket: impl AsFd) -> Result<(Self, AttestedBy), ProcessError> {
        match pidfd::of_peer(&socket) {
            Ok(fd) => Ok((Self::from_pidfd(fd)?, AttestedBy::PeerPidfd)),
            Err(e) if e.raw_os_error() == Some(nix::libc::ENOPROTOOPT) => {
                Ok((Self::of_peer_number(socket)?, AttestedBy::PeerCred))
            }
            // Some kernels refuse the option once the peer was reaped.
            Err(e) if matches!(e.raw_os_error(), Some(nix::libc::EINVAL | nix::libc::ESRCH)) => {
                Err(ProcessError::Gone)
            }
            Err(e) => Err(ProcessError::Pidfd(e)),
        }
    }

    fn of_peer_number(socket: impl AsFd) -> Result<Self, ProcessError> {
        let told = pidfd::credentials_of_peer(socket).map_err(ProcessError::Pidfd)?;
        if told.pid == 0 {
            return Err(ProcessError::NotVisible);
        }
        let process = Self::open(told.pid)?;
        // All that can be checked of a bare number: whoever has it now is the user that connected.
        if process.facts()?.key.uid != told.uid {
            return Err(ProcessError::Gone);
        }
        Ok(process)
    }

    /// Takes a process by its number, as the kernel just gave it in `cgroup.procs` or `/proc`.
    pub fn open(pid: i32) -> Result<Self, ProcessError> {
        match pidfd::open(pid) {
            Ok(fd) => Self::from_pidfd(fd),
            Err(e) if e.raw_os_error() == Some(nix::libc::ESRCH) => Err(ProcessError::Gone),
            Err(e) => Err(ProcessError::Pidfd(e)),
        }
    }

    /// Finds a process again after a restart of the agent; [`ProcessError::Gone`] if its number is another's now.
    ///
    /// What was remembered must be of this boot ([`boot_id`]).
    pub fn reopen(id: ProcessId, pidfd_ino: u64) -> Result<Self, ProcessError> {
        let found = Self::open(id.pid)?;
        if found.id == id && found.pidfd_ino == pidfd_ino { Ok(found) } else { Err(ProcessError::Gone) }
    }

    /// Takes a process by its pidfd.
    pub fn from_pidfd(fd: OwnedFd) -> Result<Self, ProcessError> {
        let pid = pidfd::pid(&fd).map_err(|e| match e.raw_os_error() {
            Some(nix::libc::ESRCH) if pidfd::alive(&fd).unwrap_or(false) => ProcessError::NotVisible,
            Some(nix::libc::ESRCH) => ProcessError::Gone,
            _ => ProcessError::Pidfd(e),
        })?;
        let pidfd_ino = pidfd::inode(&fd).map_err(ProcessError::Pidfd)?;
        let stat = Stat::of(pid).map_err(|source| unreadable(pid, "stat", source))?;
        let process =
            Self { pidfd: Arc::new(fd), pidfd_ino, id: ProcessId { pid, start_time: stat.id.start_time } };
        process.must_be_alive()?;
        Ok(process)
    }

    /// Its number and start time.
    pub fn id(&self) -> ProcessId {
        self.id
    }

    /// Inode of its pidfd, to be remembered with [`Process::id`] and [`boot_id`].
    pub fn pidfd_ino(&self) -> u64 {
        self.pidfd_ino
    }

    /// Whether it lives. A zombie does not; neither does one about which the kernel will not tell.
    pub fn is_alive(&self) -> bool {
        pidfd::alive(self).unwrap_or(false)
    }

    /// [`ProcessError::Gone`] unless it lives. To be asked before and after whatever is done in its name.
    pub fn must_be_alive(&self) -> Result<(), ProcessError> {
        if self.is_alive() { Ok(()) } else { Err(ProcessError::Gone) }
    }

    /// Reads its facts, twice, until both readings agree: an `exec` or a move in between would mix two processes' worth.
    pub fn facts(&self) -> Result<Facts, ProcessError> {
        let mut before = self.read()?;
        for _ in 0..4 {
            let after = self.read()?;
            if after == before {
                return Ok(after);
            }
            before = after;
        }
        Err(ProcessError::Unsettled { pid: self.id.pid })
    }

    /// The id of its cgroup v2 at this moment; `None` on a machine without.
    pub fn cgroup_id(&self) -> Result<Option<u64>, ProcessError> {
        let pid = self.id.pid;
        match pidfd::info(self) {
            Ok(info) => Ok(info.cgroup_id),
            Err(e) if e.kind() == io::ErrorKind::Unsupported => {
                let text =
                    fs::read(format!("/proc/{pid}/cgroup")).map_err(|e| unreadable(pid, "cgroup", e))?;
                self.must_be_alive()?;
                cgroup_id_in(&text).map_err(|e| unreadable(pid, "cgroup", e))
            }
            Err(e) => Err(unreadable(pid, "pidfd info", e)),
        }
    }

    /// Itself first, then its parent, and so on up; each link was true when it was read, and of one process.
    pub fn lineage(&self) -> Result<Vec<ProcessId>, ProcessError> {
        for _ in 0..4 {
            if let Some(line) = self.climb()? {
                self.must_be_alive()?;
                return Ok(line);
            }
        }
        Err(ProcessError::Unsettled { pid: self.id.pid })
    }

    /// `None` when a link broke while it was read.
    fn climb(&self) -> Result<Option<Vec<ProcessId>>, ProcessError> {
        let read = |pid| match Stat::of(pid) {
            Ok(stat) => Ok(Some(stat)),
            Err(e) if is_gone(&e) => Ok(None),
            Err(source) => Err(unreadable(pid, "stat", source)),
        };
        self.must_be_alive()?;
        let Some(mut child) = read(self.id.pid)? else { return Err(ProcessError::Gone) };
        let mut line = vec![self.id];
        // More generations than this are not a family but somebody who keeps us busy.
        while line.len() < 4096 {
            if child.ppid == 0 {
                return Ok(Some(line));
            }
            let parent = read(child.ppid)?;
            // An orphan gets another parent at once. So while the child still names this one, it was alive throughout.
            let Some(again) = read(child.id.pid)? else { return Ok(None) };
            if again.id != child.id || again.ppid != child.ppid {
                return Ok(None);
            }
            // A parent that lives and cannot be seen (hidepid): the line ends here.
            let Some(parent) = parent else { return Ok(Some(line)) };
            line.push(parent.id);
            child = parent;
        }
        Err(ProcessError::Unsettled { pid: self.id.pid })
    }

    fn read(&self) -> Result<Facts, ProcessError> {
        let pid = self.id.pid;
        let fail = |what: &'static str| move |source: io::Error| unreadable(pid, what, source);
        let dir = rustix::fs::open(
            format!("/proc/{pid}"),
            OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|e| unreadable(pid, "folder", e.into()))?;
        // From here on the folder is this process's, whatever becomes of the number.
        self.must_be_alive()?;
        let exe = rustix::fs::statat(&dir, "exe", AtFlags::empty())
            .map_err(|e| unreadable(pid, "exe", e.into()))?;
        let exe_path =
            rustix::fs::readlinkat(&dir, "exe", Vec::new()).map_err(|e| unreadable(pid, "exe", e.into()))?;
        let told = match pidfd::info(self) {
            Ok(info) => info,
            Err(e) if e.kind() == io::ErrorKind::Unsupported => {
                read_info(&dir, pid).map_err(fail("status"))?
            }
            Err(source) => return Err(unreadable(pid, "pidfd info", source)),
        };
        let stat = read_at(&dir, "stat").and_then(|text| Stat::parse(&text)).map_err(fail("stat"))?;
        self.must_be_alive()?;
        let key = ProcessKey {
            pidfd_ino: self.pidfd_ino,
            pid,
            exe_dev: exe.st_dev,
            exe_ino: exe.st_ino,
            uid: told.uid,
            gid: told.gid,
            cgroup_id: told.cgroup_id,
            start_time: stat.id.start_time,
        };
        Ok(Facts { key, ppid: told.ppid, exe: path_from(exe_path.into_bytes()) })
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl PartialEq for Process {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && self.pidfd_ino == other.pidfd_ino
    }
}

impl Eq for Process {}

fn unreadable(pid: i32, what: &'static str, source: io::Error) -> ProcessError {
    if is_gone(&source) { ProcessError::Gone } else { ProcessError::Unreadable { pid, what, source } }
}

fn read_at(dir: &OwnedFd, name: &str) -> io::Result<Vec<u8>> {
    let file = rustix::fs::openat(dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut fs::File::from(file), &mut bytes)?;
    Ok(bytes)
}

fn path_from(bytes: Vec<u8>) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    std::ffi::OsString::from_vec(bytes).into()
}

/// For kernels without `PIDFD_GET_INFO`. `dir` is `/proc/PID`.
fn read_info(dir: &OwnedFd, pid: i32) -> io::Result<pidfd::Info> {
    let status = read_at(dir, "status")?;
    let status = String::from_utf8_lossy(&status);
    // proc_pid_status(5): real, effective, saved set, file system.
    let second = |name: &str| -> io::Result<u32> {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|ids| ids.split_ascii_whitespace().nth(1)?.parse().ok())
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "malformed /proc/PID/status"))
    };
    let ppid = Stat::parse(&read_at(dir, "stat")?)?.ppid;
    let cgroup_id = cgroup_id_in(&read_at(dir, "cgroup")?)?;
    Ok(pidfd::Info { pid, ppid, uid: second("Uid:")?, gid: second("Gid:")?, cgroup_id })
}

fn cgroup_id_in(proc_pid_cgroup: &[u8]) -> io::Result<Option<u64>> {
    match Hierarchy::find() {
        Ok(hierarchy) => hierarchy.id_in(proc_pid_cgroup),
        Err(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests;
