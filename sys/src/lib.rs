//! What Dayfly asks of the Linux kernel and no safe crate offers as it is needed here.
//!
//! This is the only crate with `unsafe` code. Each block is a few lines long and carries its proof. What can be done
//! through `rustix` or `nix` is done through them. Every file descriptor made here is close-on-exec.
//!
//! - [`pidfd`]: a process held by a descriptor instead of a number that may be given to somebody else.
//! - [`sock_diag`]: whose socket is at the other end of a loopback TCP connection.
//! - [`fdpass`]: frames over a Unix stream, each with at most one descriptor.
//! - [`wait`]: descriptors that become readable once, as futures.
//! - [`harden`]: no core dumps, no foreign `ptrace`, private files.
//! - [`memory_fs`]: folders for secrets that are never written to a disk.

#[cfg(feature = "fault-points")]
pub mod fault;
pub mod fdpass;
pub mod harden;
pub mod memory_fs;
pub mod pidfd;
pub mod sock_diag;
pub mod wait;

pub use fdpass::{recv_with_fd, send_with_fd};
pub use harden::{become_subreaper, harden_process};
pub use sock_diag::{SocketFacts, sock_diag_tcp};
