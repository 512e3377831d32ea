//! What each daemon does to itself before it holds a secret.

use std::io;

use nix::sys::resource::{Resource, setrlimit};
use rustix::fs::Mode;
use rustix::process::DumpableBehavior;

/// Forbids core dumps and `ptrace` by other processes of the same user, and makes files private by default.
///
/// Sets `PR_SET_DUMPABLE=0`, `RLIMIT_CORE=0` and the umask 077. Call it first in `main`, and again after a change of
/// user: the kernel takes the first of the three back at `exec` and when credentials change. `/proc/self/mem` and its
/// like belong to root afterwards.
pub fn harden_process() -> io::Result<()> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    // RLIMIT_CORE alone does not stop a core_pattern that is a pipe; this does.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    Ok(())
}

/// Makes orphans among this process's descendants its children, so that they can still be found by descent.
///
/// Not inherited by children. The caller has to reap what is given to it.
pub fn become_subreaper() -> io::Result<()> {
    // Any pid but `None` means "yes".
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    Ok(())
}
