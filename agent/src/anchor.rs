//! What a task's life hangs on, and how its end is seen.
//!
//! An owned cgroup catches every process of the task, daemons too. A process anchor catches what descends from its
//! leader while the line to it lives; it is for agents that may not make cgroups, and scopes can refuse it.

use std::io;
use std::time::Duration;

use dayfly_sys::pidfd;
use tracing::warn;

use crate::cgroup::{CgroupError, Emptied, RECHECK, TaskCgroup};
use crate::process::{Process, ProcessError};

pub use self::by_process::ProcessAnchor;
pub(crate) use self::by_process::descendants;

mod by_process;

/// What a task's life hangs on.
#[derive(Debug)]
pub enum Anchor {
    /// A cgroup that the agent made and owns.
    OwnedCgroup {
        /// The cgroup.
        cgroup: TaskCgroup,
        /// The process that was moved into it; `None` when it was gone after a restart of the agent.
        leader: Option<Process>,
        /// Whose exit ends the task.
        ends_with: EndsWith,
    },
    /// A process and what descends from it.
    Process(ProcessAnchor),
}

/// Whose exit ends a task with a cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndsWith {
    /// The leader's, whatever is left.
    Leader,
    /// The last one's.
    LastProcess,
}

/// Why a task's anchor does not hold any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndCause {
    /// The leader has exited, by itself or by a signal.
    LeaderExited,
    /// Nothing is alive in the cgroup.
    CgroupEmpty,
    /// The cgroup was removed.
    CgroupGone,
}

impl EndCause {
    /// The word for records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LeaderExited => "leader_exited",
            Self::CgroupEmpty => "cgroup_empty",
            Self::CgroupGone => "cgroup_gone",
        }
    }
}

/// Whom [`Anchor::kill_rest`] lets live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spare {
    /// Nobody.
    Nobody,
    /// The leader, for instance because it has just said itself that its task is over. It leaves the cgroup.
    Leader,
}

/// Why an anchor could not be taken, or what is left could not be killed.
#[derive(Debug, thiserror::Error)]
pub enum AnchorError {
    /// The leader is neither the caller nor its child.
    #[error("a task can hang on the calling process or on a child of it, not on another process")]
    NotYours,
    /// The cgroup could not be used.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The process could not be used.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// Other processes could not be read or killed.
    #[error("could not kill what is left of the task")]
    Kill(#[from] io::Error),
    /// It keeps forking.
    #[error("the task makes processes faster than they can be stopped; try again")]
    Forking,
}

impl Anchor {
    /// The word of the contract and of scopes for this kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::OwnedCgroup { .. } => "cgroup_owned",
            Self::Process(_) => "process",
        }
    }

    /// The process that it hangs on, if that was alive when the anchor was taken.
    pub fn leader(&self) -> Option<&Process> {
        match self {
            Self::OwnedCgroup { leader, .. } => leader.as_ref(),
            Self::Process(anchor) => Some(anchor.leader()),
        }
    }

    /// Waits until it holds no more; at once if it already does not. An event may be lost, an end is not: a slow timer
    /// looks as well. Can be cancelled and asked again.
    pub async fn ended(&self) -> EndCause {
        match self {
            Self::OwnedCgroup { cgroup, leader, ends_with: EndsWith::Leader } => {
                tokio::select! {
                    biased;
                    () = exited(leader.as_ref()) => EndCause::LeaderExited,
                    emptied = cgroup.emptied() => emptied.into(),
                }
            }
            Self::OwnedCgroup { cgroup, ends_with: EndsWith::LastProcess, .. } => {
                cgroup.emptied().await.into()
            }
            Self::Process(anchor) => {
                exited(Some(anchor.leader())).await;
                anchor.has_ended();
                EndCause::LeaderExited
            }
        }
    }

    /// Kills what is left of the task, and with a cgroup waits until it is dead; child tasks' processes too.
    ///
    /// A process anchor reaches what descends from the leader while that lives. Once it is dead, only its own process
    /// group and session can still be told; daemons that left those are not found.
    pub async fn kill_rest(&self, spare: Spare) -> Result<(), AnchorError> {
        match self {
            Self::OwnedCgroup { cgroup, leader, .. } => {
                if let (Spare::Leader, Some(leader)) = (spare, leader) {
                    match cgroup.release(leader) {
                        Err(CgroupError::Process(ProcessError::Gone)) => {}
                        other => other?,
                    }
                }
                Ok(cgroup.kill().await?)
            }
            Self::Process(anchor) => anchor.kill(spare),
        }
    }

    /// Removes what the agent made for it. Fails while processes are alive in there.
    pub fn remove(&self) -> Result<(), AnchorError> {
        match self {
            Self::OwnedCgroup { cgroup, .. } => Ok(cgroup.remove()?),
            Self::Process(_) => Ok(()),
        }
    }
}

impl From<Emptied> for EndCause {
    fn from(emptied: Emptied) -> Self {
        match emptied {
            Emptied::Empty => Self::CgroupEmpty,
            Emptied::Gone => Self::CgroupGone,
        }
    }
}

/// Nobody has exited already.
async fn exited(process: Option<&Process>) {
    let Some(process) = process else { return };
    while process.is_alive() {
        // Out of descriptors is no reason to miss an end.
        let patience = match tokio::time::timeout(RECHECK, pidfd::exited(process)).await {
            Ok(Err(e)) => {
                warn!(pid = process.id().pid, error = %e, "could not watch a process; looking again");
                RECHECK
            }
            Ok(Ok(())) | Err(_) => Duration::ZERO,
        };
        tokio::time::sleep(patience).await;
    }
}

#[cfg(test)]
mod tests;
