//! Processes held by a descriptor.
//!
//! A pid is a number that the kernel gives to somebody else once its process was reaped. A pidfd is not.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{getsockopt, sockopt};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::wait::Watched;

/// The process that connected a Unix stream socket (`SO_PEERPIDFD`, Linux 6.5).
///
/// The connection may outlive that process and speak for an heir of the descriptor: ask [`alive`] on each use.
/// Fails with `ENOPROTOOPT` on an older kernel, with `EINVAL` or `ESRCH` on some kernels once the peer was reaped.
pub fn of_peer(socket: impl AsFd) -> io::Result<OwnedFd> {
    Ok(getsockopt(&socket.as_fd(), sockopt::PeerPidfd)?)
}

/// Who a Unix stream socket's peer was when it connected (`SO_PEERCRED`): pid, uid, gid, effective ones.
///
/// The pid is only a number and may since name another process.
pub fn credentials_of_peer(socket: impl AsFd) -> io::Result<PeerCredentials> {
    // Not through rustix: its pid type cannot be 0, which is what the kernel says of a peer that is not visible from here.
    let cred = getsockopt(&socket.as_fd(), sockopt::PeerCredentials)?;
    Ok(PeerCredentials { pid: cred.pid(), uid: cred.uid(), gid: cred.gid() })
}

/// What `SO_PEERCRED` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerCredentials {
    /// Process id in this pid namespace; 0 when the peer is not visible from here.
    pub pid: i32,
    /// Effective user id at `connect`.
    pub uid: u32,
    /// Effective group id at `connect`.
    pub gid: u32,
}

/// Opens a process by number. `ESRCH` when there is none; `EINVAL` when the number names a thread that is no leader.
pub fn open(pid: i32) -> io::Result<OwnedFd> {
    let pid = if pid > 0 { Pid::from_raw(pid) } else { None };
    let pid = pid.ok_or(rustix::io::Errno::SRCH)?;
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

/// Whether the process has not exited yet. A zombie is not alive.
pub fn alive(pidfd: impl AsFd) -> io::Result<bool> {
    let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    loop {
        match poll(&mut fds, Some(&at_once)) {
            Ok(_) => {
                return Ok(!fds[0].revents().intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR));
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Waits until the process has exited; at once if it already has.
pub async fn exited(pidfd: impl AsFd) -> io::Result<()> {
    let pidfd = pidfd.as_fd().try_clone_to_owned()?;
    let watched = Watched::for_reading(pidfd)?;
    while alive(&watched)? {
        watched.event().await?;
    }
    Ok(())
}

/// Sends `SIGKILL`. A process that is gone is a success: it is what was wanted.
pub fn kill(pidfd: impl AsFd) -> io::Result<()> {
    send(pidfd, Signal::KILL)
}

/// Sends `SIGSTOP`, so that the process can neither fork nor exit by itself. A process that is gone is a success.
pub fn stop(pidfd: impl AsFd) -> io::Result<()> {
    send(pidfd, Signal::STOP)
}

fn send(pidfd: impl AsFd, signal: Signal) -> io::Result<()> {
    match rustix::process::pidfd_send_signal(pidfd, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// The inode number of the pidfd: on Linux 6.9 and later one per process, never used twice in one boot.
///
/// Older kernels give all pidfds the same number, so never take it for a key alone.
pub fn inode(pidfd: impl AsFd) -> io::Result<u64> {
    Ok(rustix::fs::fstat(pidfd)?.st_ino)
}

/// The process id behind a pidfd, in this pid namespace. `ESRCH` when it was reaped or is not visible from here.
pub fn pid(pidfd: impl AsFd) -> io::Result<i32> {
    match info(pidfd.as_fd()) {
        Ok(info) => Ok(info.pid),
        Err(e) if e.kind() == io::ErrorKind::Unsupported => pid_from_fdinfo(pidfd.as_fd()),
        Err(e) => Err(e),
    }
}

fn pid_from_fdinfo(pidfd: BorrowedFd<'_>) -> io::Result<i32> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    pid_in_fdinfo(&text).ok_or_else(|| rustix::io::Errno::SRCH.into())
}

/// `Pid:` is 0 when the process is outside this pid namespace and -1 once it was reaped.
fn pid_in_fdinfo(text: &str) -> Option<i32> {
    let pid: i32 = text.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim().parse().ok()?;
    (pid > 0).then_some(pid)
}

/// What the kernel tells about a process through its pidfd alone, without `/proc` and its races.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// Process id in this pid namespace.
    pub pid: i32,
    /// Parent's process id; 0 when the parent is outside this pid namespace.
    pub ppid: i32,
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// Id of the process's cgroup v2, which is the inode number of its directory; absent if the kernel did not say.
    pub cgroup_id: Option<u64>,
}

/// Asks `PIDFD_GET_INFO` (Linux 6.13). [`io::ErrorKind::Unsupported`] on older kernels: read `/proc` then.
/// `ESRCH` once the process was reaped.
pub fn info(pidfd: impl AsFd) -> io::Result<Info> {
    let mut raw = RawInfo { mask: INFO_PID | INFO_CREDS | INFO_CGROUP_ID, ..RawInfo::default() };
    match get_info(pidfd.as_fd(), &mut raw) {
        Ok(()) => {}
        Err(rustix::io::Errno::NOTTY | rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Err(e) => return Err(e.into()),
    }
    if raw.mask & (INFO_PID | INFO_CREDS) != INFO_PID | INFO_CREDS || raw.pid == 0 {
        return Err(rustix::io::Errno::SRCH.into());
    }
    Ok(Info {
        pid: i32::try_from(raw.pid).map_err(|_| rustix::io::Errno::RANGE)?,
        ppid: i32::try_from(raw.ppid).map_err(|_| rustix::io::Errno::RANGE)?,
        uid: raw.euid,
        gid: raw.egid,
        cgroup_id: (raw.mask & INFO_CGROUP_ID != 0).then_some(raw.cgroupid),
    })
}

// linux/pidfd.h: PIDFD_INFO_PID, PIDFD_INFO_CREDS, PIDFD_INFO_CGROUPID.
const INFO_PID: u64 = 1 << 0;
const INFO_CREDS: u64 = 1 << 1;
const INFO_CGROUP_ID: u64 = 1 << 2;

/// `struct pidfd_info` of linux/pidfd.h in its first published size, `PIDFD_INFO_SIZE_VER0`.
#[repr(C)]
#[derive(Default)]
struct RawInfo {
    mask: u64,
    cgroupid: u64,
    pid: u32,
    tgid: u32,
    ppid: u32,
    ruid: u32,
    rgid: u32,
    euid: u32,
    egid: u32,
    suid: u32,
    sgid: u32,
    fsuid: u32,
    fsgid: u32,
    exit_code: i32,
}

const _: () = assert!(size_of::<RawInfo>() == 64, "PIDFD_INFO_SIZE_VER0");

// linux/pidfd.h: PIDFD_GET_INFO = _IOWR(PIDFS_IOCTL_MAGIC 0xFF, 11, struct pidfd_info). The size is part of the number.
const GET_INFO: rustix::ioctl::Opcode = rustix::ioctl::opcode::read_write::<RawInfo>(0xFF, 11);

#[expect(unsafe_code, reason = "an ioctl that neither rustix nor nix knows yet")]
fn get_info(pidfd: BorrowedFd<'_>, raw: &mut RawInfo) -> rustix::io::Result<()> {
    // SAFETY: `GET_INFO` encodes read+write and the size of `RawInfo`; pidfs copies at most that many bytes in and out
    // (`copy_struct_to_user` with the size taken from the number). On a descriptor that is no pidfd a driver that knew
    // the number would see the same size in it; all others answer ENOTTY and touch nothing. Every bit pattern is a valid
    // `RawInfo`, which is `repr(C)`, has no padding (asserted: 64 bytes) and no pointers.
    unsafe {
        let update = rustix::ioctl::Updater::<GET_INFO, RawInfo>::new(raw);
        rustix::ioctl::ioctl(pidfd, update)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

    use std::os::unix::net::UnixStream;
    use std::process::Command;
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_peer_of_a_socket_pair_is_this_process() {
        let (a, _b) = UnixStream::pair().unwrap();
        let peer = of_peer(&a).unwrap();
        assert!(alive(&peer).unwrap());
        assert_eq!(pid(&peer).unwrap(), i32::try_from(std::process::id()).unwrap());
        assert_eq!(inode(&peer).unwrap(), inode(open(pid(&peer).unwrap()).unwrap()).unwrap());
        let cred = credentials_of_peer(&a).unwrap();
        assert_eq!(cred.pid, pid(&peer).unwrap());
        let flags = rustix::io::fcntl_getfd(&peer).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    }

    #[test]
    fn both_ways_to_learn_the_pid_agree() {
        let me = i32::try_from(std::process::id()).unwrap();
        let fd = open(me).unwrap();
        assert_eq!(pid_from_fdinfo(fd.as_fd()).unwrap(), me);
        match info(&fd) {
            Ok(info) => {
                assert_eq!(info.pid, me);
                assert_eq!(info.uid, nix::unistd::geteuid().as_raw());
                assert_eq!(info.ppid, nix::unistd::getppid().as_raw());
            }
            Err(e) => assert_eq!(e.kind(), io::ErrorKind::Unsupported, "{e}"),
        }
    }

    #[test]
    fn fdinfo_of_the_dead_and_the_unseen_gives_no_pid() {
        assert_eq!(pid_in_fdinfo("pos:\t0\nflags:\t02000002\nPid:\t42\nNSpid:\t42\n"), Some(42));
        assert_eq!(pid_in_fdinfo("pos:\t0\nPid:\t-1\n"), None);
        assert_eq!(pid_in_fdinfo("pos:\t0\nPid:\t0\n"), None);
        assert_eq!(pid_in_fdinfo("pos:\t0\n"), None);
    }

    #[tokio::test]
    async fn a_killed_process_is_seen_to_exit_and_a_second_kill_is_harmless() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let fd = open(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(50), exited(&fd)).await.is_err(), "it lives");
        kill(&fd).unwrap();
        tokio::time::timeout(Duration::from_secs(5), exited(&fd)).await.unwrap().unwrap();
        assert!(!alive(&fd).unwrap(), "a zombie is not alive");
        child.wait().unwrap();
        exited(&fd).await.unwrap();
        kill(&fd).unwrap();
        assert_eq!(pid(&fd).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }

    #[test]
    fn numbers_that_name_no_process_are_refused() {
        for pid in [0, -1, i32::MIN] {
            assert_eq!(open(pid).unwrap_err().raw_os_error(), Some(libc::ESRCH), "{pid}");
        }
    }
}
