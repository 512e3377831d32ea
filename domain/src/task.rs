//! A task's life: open until the first signal of its end.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{SessionId, TaskId};
use crate::scope::Ceiling;
use crate::spiffe::SpiffeId;
use crate::stage::Stage;
use crate::time::Timestamp;

/// What a task's life hangs on, beside its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnchorKind {
    /// A cgroup that the node agent made and owns.
    CgroupOwned,
    /// A process; members descend from it.
    Process,
    /// A direct caller's WatchTask stream.
    Stream,
    /// Nothing yet: the task was offered to a named workload, which has not claimed it.
    Offer,
    /// Nothing but the deadline: a task of the HTTPS token exchange, whose caller keeps no stream.
    Deadline,
}

impl AnchorKind {
    /// The anchor's name in documents and records.
    pub const fn as_str(self) -> &'static str {
        match self {
            AnchorKind::CgroupOwned => "cgroup_owned",
            AnchorKind::Process => "process",
            AnchorKind::Stream => "stream",
            AnchorKind::Offer => "offer",
            AnchorKind::Deadline => "deadline",
        }
    }
}

/// What the node agent observed of an anchor. The broker cannot prove it; it bounds it by the deadline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    /// Which kind.
    pub kind: AnchorKind,
    /// Boot it belongs to; empty for a stream.
    pub boot_id: String,
    /// Id of the cgroup; 0 where there is none.
    pub cgroup_id: u64,
    /// Inode of the leader's pidfd; 0 where there is none.
    pub pidfd_inode: u64,
    /// Start time of the leader in clock ticks since boot; 0 where there is none.
    pub start_time: u64,
    /// `pidfd` or `peercred`; the kind's own name where no process is watched.
    pub attested_by: String,
}

impl Anchor {
    /// Whether what a restarted agent sees now is what was on record: the same kind, boot and cgroup, and the same leader. A
    /// task with a cgroup may have outlived its leader; then that is 0.
    pub fn is_still(&self, seen: &Anchor) -> bool {
        let same_leader = (self.pidfd_inode, self.start_time) == (seen.pidfd_inode, seen.start_time);
        let leader_gone =
            self.kind == AnchorKind::CgroupOwned && (seen.pidfd_inode, seen.start_time) == (0, 0);
        self.kind == seen.kind
            && self.boot_id == seen.boot_id
            && self.cgroup_id == seen.cgroup_id
            && (same_leader || leader_gone)
    }

    /// An anchor that is no process and no cgroup of a node.
    pub fn of_no_process(kind: AnchorKind) -> Self {
        Self {
            kind,
            boot_id: String::new(),
            cgroup_id: 0,
            pidfd_inode: 0,
            start_time: 0,
            attested_by: kind.as_str().to_owned(),
        }
    }
}

/// Why a task is over. The first signal wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndCause {
    /// Its caller said so.
    Explicit,
    /// Its process or cgroup is gone.
    AnchorGone,
    /// The broker's own deadline came.
    Deadline,
    /// A task above it ended.
    ParentEnded,
    /// An admin ended it.
    Admin,
    /// Its node did not speak for too long.
    NodeSilent,
    /// Its node no longer knows of it.
    MissingFromInventory,
    /// Its restarted agent found something else in its place: another process, another cgroup, another boot.
    AnchorChanged,
}

impl EndCause {
    /// Every cause.
    pub const ALL: [EndCause; 8] = [
        EndCause::Explicit,
        EndCause::AnchorGone,
        EndCause::Deadline,
        EndCause::ParentEnded,
        EndCause::Admin,
        EndCause::NodeSilent,
        EndCause::MissingFromInventory,
        EndCause::AnchorChanged,
    ];

    /// The cause's name in records and on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            EndCause::Explicit => "explicit",
            EndCause::AnchorGone => "anchor_gone",
            EndCause::Deadline => "deadline",
            EndCause::ParentEnded => "parent_ended",
            EndCause::Admin => "admin",
            EndCause::NodeSilent => "node_silent",
            EndCause::MissingFromInventory => "missing_from_inventory",
            EndCause::AnchorChanged => "anchor_changed",
        }
    }

    /// The cause of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.as_str() == name)
    }
}

impl fmt::Display for EndCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskState {
    /// It may be asked under, until its deadline.
    Open {
        /// When the broker ends it, whatever an agent says.
        deadline: Timestamp,
    },
    /// Over, with all under it.
    Ended {
        /// When.
        at: Timestamp,
        /// By which signal.
        cause: EndCause,
    },
}

/// What can happen to a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskEvent {
    /// A signal of its end.
    End(EndCause),
    /// Time went by.
    Tick,
}

impl TaskState {
    /// Takes the task to its next state. Ending what is over changes nothing: the first signal wins.
    #[must_use]
    pub fn on(self, event: TaskEvent, now: Timestamp) -> Self {
        match (self, event) {
            (TaskState::Open { .. }, TaskEvent::End(cause)) => TaskState::Ended { at: now, cause },
            (TaskState::Open { deadline }, TaskEvent::Tick) if now >= deadline => {
                TaskState::Ended { at: now, cause: EndCause::Deadline }
            }
            (TaskState::Open { deadline }, TaskEvent::Tick) => TaskState::Open { deadline },
            (TaskState::Ended { at, cause }, TaskEvent::End(_) | TaskEvent::Tick) => {
                TaskState::Ended { at, cause }
            }
        }
    }

    /// Whether credentials may be issued under the task now.
    pub fn is_open(self, now: Timestamp) -> bool {
        matches!(self.on(TaskEvent::Tick, now), TaskState::Open { .. })
    }
}

/// A task that waits to be claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// What its deadline becomes once it is claimed.
    pub deadline: Timestamp,
}

/// A task as the broker keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Its id.
    pub id: TaskId,
    /// The root of its tree.
    pub session: SessionId,
    /// The task it was opened in, unless it is a root.
    pub parent: Option<TaskId>,
    /// Who holds it: who opened it, proven; or the workload it was opened for, which alone can claim it.
    pub opened_by: SpiffeId,
    /// The holder's stage when it was opened.
    pub stage: Stage,
    /// The agent that opened or claimed it and alone speaks for it; none for a direct caller.
    pub node: Option<SpiffeId>,
    /// What its life hangs on.
    pub anchor: Anchor,
    /// SHA-256 of the key of a direct caller.
    pub key_hash: Option<[u8; 32]>,
    /// Everything it and all under it may ask for.
    pub ceiling: Ceiling,
    /// What it is for, in its opener's words.
    pub intent: String,
    /// What its opener calls it. Claimed.
    pub labels: BTreeMap<String, String>,
    /// Present while it waits for the workload it was opened for. Its deadline is then the end of the offer.
    pub offer: Option<Offer>,
    /// When it was opened.
    pub opened_at: Timestamp,
    /// Where it stands.
    pub state: TaskState,
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_millis(1_000);
    const BEFORE: Timestamp = Timestamp::from_unix_millis(500);
    const LATER: Timestamp = Timestamp::from_unix_millis(2_000);

    #[test]
    fn an_anchor_is_the_same_only_if_all_the_kernel_says_of_it_is() {
        let cgroup = Anchor {
            kind: AnchorKind::CgroupOwned,
            boot_id: "boot".to_owned(),
            cgroup_id: 7,
            pidfd_inode: 8,
            start_time: 9,
            attested_by: "pidfd".to_owned(),
        };
        let process = Anchor { kind: AnchorKind::Process, cgroup_id: 0, ..cgroup.clone() };
        let leaderless = |anchor: &Anchor| Anchor { pidfd_inode: 0, start_time: 0, ..anchor.clone() };
        assert!(cgroup.is_still(&Anchor { attested_by: "peercred".to_owned(), ..cgroup.clone() }));
        assert!(cgroup.is_still(&leaderless(&cgroup)), "the last process ends it");
        assert!(process.is_still(&process) && !process.is_still(&leaderless(&process)));
        for changed in [
            Anchor { kind: AnchorKind::Process, ..cgroup.clone() },
            Anchor { boot_id: "another".to_owned(), ..cgroup.clone() },
            Anchor { cgroup_id: 6, ..cgroup.clone() },
            Anchor { pidfd_inode: 6, ..cgroup.clone() },
            Anchor { start_time: 6, ..cgroup.clone() },
        ] {
            assert!(!cgroup.is_still(&changed), "{changed:?}");
        }
    }

    fn shown(state: TaskState) -> String {
        match state {
            TaskState::Open { deadline } => format!("open until {}", deadline.unix_millis()),
            TaskState::Ended { at, cause } => format!("ended at {} by {cause}", at.unix_millis()),
        }
    }

    #[test]
    fn every_state_meets_every_event_as_the_golden_matrix_says() {
        let states = [
            TaskState::Open { deadline: LATER },
            TaskState::Open { deadline: NOW },
            TaskState::Ended { at: BEFORE, cause: EndCause::Explicit },
        ];
        let events = EndCause::ALL.map(TaskEvent::End).into_iter().chain([TaskEvent::Tick]);
        let mut table = String::from("# now is 1000; state | event | next state\n");
        for event in events {
            for state in states {
                let name = match event {
                    TaskEvent::End(cause) => format!("end by {cause}"),
                    TaskEvent::Tick => "tick".to_owned(),
                };
                let next = shown(state.on(event, NOW));
                writeln!(table, "{:<24} | {name:<31} | {next}", shown(state)).expect("writing to a string");
            }
        }
        crate::golden::compare("task_matrix.txt", &table);
    }
}
