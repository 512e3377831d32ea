//! Finds out what a process is: its user, its group, the file it executes.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use nix::sys::socket::{getsockopt, sockopt::PeerPidfd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tonic::transport::server::Connected;

/// What is known of a process. What is unknown matches no selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) pid: Option<i32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) path: Option<PathBuf>,
}

/// A process that cannot be mistaken for a later one with the same pid.
#[derive(Debug)]
pub(crate) struct PinnedProcess {
    pid: i32,
    pidfd: OwnedFd,
}

impl PinnedProcess {
    /// Takes hold of the process that has this pid now.
    pub(crate) fn open(pid: i32) -> io::Result<Self> {
        let known = Pid::from_raw(pid).filter(|_| pid > 0).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self { pid, pidfd: pidfd_open(known, PidfdFlags::empty())? })
    }

    /// The process that opened the other end of a socket, as the kernel remembers it.
    pub(crate) fn peer_of(stream: &UnixStream) -> io::Result<Self> {
        // A peer from a pid namespace that this process cannot see has no pid here.
        let pid = stream.peer_cred()?.pid().filter(|pid| *pid > 0).ok_or(io::ErrorKind::NotFound)?;
        match getsockopt(stream, PeerPidfd) {
            Ok(pidfd) => Ok(Self { pid, pidfd }),
            // Linux before 6.5 has no SO_PEERPIDFD. Between connect and here the pid could have been given to another
            // process, but only if the peer has ended, and then nobody reads the answer.
            Err(nix::errno::Errno::ENOPROTOOPT) => Self::open(pid),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether the process still runs; a zombie does not.
    pub(crate) fn is_alive(&self) -> bool {
        let mut ended = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(poll(&mut ended, Some(&at_once)), Ok(0))
    }

    /// Reads what the process is. An error when it has ended meanwhile.
    pub(crate) fn observe(&self) -> io::Result<Facts> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let facts = Facts {
            pid: Some(self.pid),
            uid: effective_id(&status, "Uid:"),
            gid: effective_id(&status, "Gid:"),
            path: std::fs::read_link(format!("/proc/{}/exe", self.pid)).ok(),
        };
        // Alive after the reading: so the pid was this process's all the while.
        if !self.is_alive() {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(facts)
    }
}

/// proc_pid_status(5): `Uid:` and `Gid:` are followed by the real, effective, saved and file system id.
fn effective_id(status: &str, label: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix(label))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// An accepted connection that knows who opened it.
pub(crate) struct PeerStream {
    stream: UnixStream,
    peer: Peer,
}

/// The caller of an RPC; `None` when the kernel could not say who it is.
pub(crate) type Peer = Option<Arc<PinnedProcess>>;

impl PeerStream {
    pub(crate) fn new(stream: UnixStream) -> Self {
        let peer = PinnedProcess::peer_of(&stream)
            .inspect_err(|error| tracing::warn!(%error, "could not tell who connected"))
            .ok();
        Self { stream, peer: peer.map(Arc::new) }
    }
}

impl Connected for PeerStream {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_is_seen_as_it_is() {
        let mut child = Command::new("/bin/cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let process = PinnedProcess::open(pid).unwrap();
        let facts = process.observe().unwrap();
        assert_eq!(facts.pid, Some(pid));
        assert_eq!(facts.uid, Some(nix::unistd::geteuid().as_raw()));
        assert_eq!(facts.gid, Some(nix::unistd::getegid().as_raw()));
        assert_eq!(facts.path, Some(std::fs::canonicalize("/bin/cat").unwrap()));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn an_ended_process_is_nobody_even_before_it_is_reaped() {
        let mut child = Command::new("/bin/cat").stdin(Stdio::piped()).spawn().unwrap();
        let process = PinnedProcess::open(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(process.is_alive());
        child.kill().unwrap();
        while process.is_alive() {
            std::thread::yield_now();
        }
        assert!(process.observe().is_err(), "a zombie still has a pid and a status file");
        child.wait().unwrap();
    }

    #[test]
    fn the_effective_id_is_the_second() {
        let status = "Name:\tx\nUid:\t1\t22\t3\t4\nGid:\t5\t66\t7\t8\n";
        assert_eq!(effective_id(status, "Uid:"), Some(22));
        assert_eq!(effective_id(status, "Gid:"), Some(66));
        assert_eq!(effective_id("Name:\tx\n", "Uid:"), None);
    }
}
