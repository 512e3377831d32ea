//! Waits for a descriptor inside tokio's reactor.
//!
//! tokio's safe constructors of `AsyncFd` are deprecated: they accept any `AsRawFd`, whose number may be closed or
//! change behind the reactor's back. Here only an [`OwnedFd`] goes in, which cannot.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A descriptor registered with the current tokio runtime.
///
/// Must be made inside a runtime with I/O enabled; tokio panics otherwise.
#[derive(Debug)]
pub struct Watched {
    inner: AsyncFd<OwnedFd>,
    interest: Interest,
}

impl Watched {
    /// Watches for "readable": a pidfd is readable from the exit of its process on.
    pub fn for_reading(fd: OwnedFd) -> io::Result<Self> {
        Self::register(fd, Interest::READABLE)
    }

    /// Watches for "exceptional condition" (`POLLPRI`): how kernel files such as `cgroup.events` say that they changed.
    pub fn for_change(fd: OwnedFd) -> io::Result<Self> {
        Self::register(fd, Interest::PRIORITY)
    }

    /// Completes at the first event after the last one that was consumed here.
    ///
    /// Read the state *before* waiting: what was true at registration is not an event for every kind of file.
    pub async fn event(&self) -> io::Result<()> {
        let mut guard = self.inner.ready(self.interest).await?;
        guard.clear_ready();
        Ok(())
    }

    #[expect(
        unsafe_code,
        reason = "tokio 1.54 leaves no other way to build an AsyncFd that is not deprecated"
    )]
    fn register(fd: OwnedFd, interest: Interest) -> io::Result<Self> {
        // SAFETY: the contract of `register_with_interest` is that `as_raw_fd` names a valid open descriptor, always the
        // same one, until the `AsyncFd` is dropped. `OwnedFd` owns its descriptor, has no interior mutability, and is
        // moved into the `AsyncFd`, which drops it only after it has taken it out of the reactor. No method of `Watched`
        // hands out `&mut OwnedFd`, so it cannot be swapped for another.
        let inner = unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(io::Error::from)?;
        Ok(Self { inner, interest })
    }
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.get_ref().as_fd()
    }
}
