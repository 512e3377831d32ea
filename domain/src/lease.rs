//! A lease's life: `pending → active → revoking → ended`. Each state carries exactly what is known in it.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use crate::id::{LeaseId, SessionId, TaskId};
use crate::parameter::Parameters;
use crate::scope::Promise;
use crate::spiffe::SpiffeId;
use crate::task::EndCause;
use crate::time::Timestamp;

/// What the provider needs to take one credential back: an accessor, a session name. Never the credential itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Handle(pub Value);

/// Why a lease is being taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RevokeCause {
    /// Its task ended.
    TaskEnded(EndCause),
    /// Its holder gave it back.
    Holder,
    /// An admin took it.
    Admin,
    /// The agent it came through did not speak for too long; its task is held for the sake of another lease.
    NodeSilent,
    /// The target did not answer, or the answer came when nobody would have it.
    Undelivered,
    /// A renewal yielded a new secret, or was denied.
    Renewal,
    /// The bindings no longer carry it.
    Uncovered,
}

/// In which order leases are taken back, where targets are slower than what is asked of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// An admin took it.
    Kill,
    /// Its task is over, or its holder gave it back.
    End,
    /// Its time is over, or another lease took its place: nobody is left who could misuse it for long.
    Expiry,
}

impl Urgency {
    /// Every urgency, the most urgent first.
    pub const ALL: [Urgency; 3] = [Urgency::Kill, Urgency::End, Urgency::Expiry];

    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Urgency::Kill => "kill",
            Urgency::End => "end",
            Urgency::Expiry => "expiry",
        }
    }

    /// The number in the database: the smaller, the more urgent.
    pub const fn rank(self) -> u8 {
        match self {
            Urgency::Kill => 0,
            Urgency::End => 1,
            Urgency::Expiry => 2,
        }
    }
}

impl RevokeCause {
    /// How urgent it is.
    pub const fn urgency(self) -> Urgency {
        match self {
            RevokeCause::Admin | RevokeCause::Uncovered | RevokeCause::TaskEnded(EndCause::Admin) => {
                Urgency::Kill
            }
            RevokeCause::TaskEnded(EndCause::Deadline) | RevokeCause::Renewal => Urgency::Expiry,
            RevokeCause::TaskEnded(_)
            | RevokeCause::Holder
            | RevokeCause::Undelivered
            | RevokeCause::NodeSilent => Urgency::End,
        }
    }

    /// Whether an admin's word is behind it.
    pub const fn is_admins(self) -> bool {
        matches!(self.urgency(), Urgency::Kill)
    }
}

/// How a lease ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The target said, after the revoke, that it is gone.
    Verified {
        /// What was asked, where, and what came back.
        evidence: String,
    },
    /// Its last possible moment passed.
    RanOut,
    /// The target never gave anything out.
    NeverIssued,
}

impl Outcome {
    /// `verified`, `ran_out` or `never_issued`.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Outcome::Verified { .. } => "verified",
            Outcome::RanOut => "ran_out",
            Outcome::NeverIssued => "never_issued",
        }
    }
}

/// Where a lease stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// The row stands; the target may have heard of it.
    Pending {
        /// When the row was written.
        since: Timestamp,
        /// The last moment a credential of it could work if its answer is lost.
        residue_until: Timestamp,
    },
    /// The credential is out.
    Active {
        /// When it stops working by itself.
        expires_at: Timestamp,
        /// What takes it back.
        handle: Handle,
    },
    /// It is being taken back.
    Revoking {
        /// When that was first asked.
        requested_at: Timestamp,
        /// Why.
        cause: RevokeCause,
        /// What takes it back; unknown while the answer is out.
        handle: Option<Handle>,
        /// When the target took the word, though nothing is proven yet.
        applied_at: Option<Timestamp>,
        /// Set once it is known that the target cannot take it back.
        runs_out_at: Option<Timestamp>,
        /// The last moment it could work, whatever happens.
        bound: Timestamp,
    },
    /// Over.
    Ended {
        /// When.
        at: Timestamp,
        /// How.
        outcome: Outcome,
    },
}

/// What can happen to a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseEvent {
    /// The target gave a credential.
    Issue {
        /// When it stops working by itself.
        expires_at: Timestamp,
        /// What takes it back.
        handle: Handle,
    },
    /// The target said no, or was never reached: nothing exists there.
    Refuse,
    /// No answer came: something may exist there.
    LoseAnswer,
    /// The target is about to be asked for a longer life. Recorded before the call.
    Extend {
        /// The latest it can live after that.
        expires_at: Timestamp,
    },
    /// It must be taken back.
    AskRevoke(RevokeCause),
    /// The target took the word; the effect is not proven.
    Apply,
    /// The target's answer, after the revoke, shows that it is gone.
    Verify {
        /// What was asked, where, and what came back.
        evidence: String,
    },
    /// The target has no way to take it back.
    CannotRevoke,
    /// Time went by.
    Tick,
}

/// The event makes no sense in the state.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("a lease that is {state} cannot take the event {event}")]
pub struct IllegalTransition {
    /// The state's name.
    pub state: &'static str,
    /// The event's name.
    pub event: &'static str,
}

impl LeaseState {
    /// Takes the lease to its next state, or says why the event makes no sense here.
    pub fn on(self, event: LeaseEvent, now: Timestamp) -> Result<Self, IllegalTransition> {
        use LeaseEvent as E;
        use LeaseState as S;
        let illegal = Err(IllegalTransition { state: self.name(), event: event.name() });
        Ok(match (self, event) {
            (S::Pending { .. }, E::Issue { expires_at, handle }) => S::Active { expires_at, handle },
            (S::Pending { .. }, E::Refuse) => ended(now, Outcome::NeverIssued),
            (S::Pending { residue_until, .. }, E::LoseAnswer) => {
                unheld(now, RevokeCause::Undelivered, residue_until)
            }
            // The answer is still out: whatever comes of it is nobody's.
            (S::Pending { residue_until, .. }, E::AskRevoke(cause)) => unheld(now, cause, residue_until),
            (S::Pending { residue_until, .. }, E::Tick) if now >= residue_until => {
                ended(now, Outcome::RanOut)
            }
            (state @ S::Pending { .. }, E::Tick) => state,
            (S::Pending { .. }, E::Extend { .. } | E::Apply | E::Verify { .. } | E::CannotRevoke) => {
                return illegal;
            }

            (S::Active { expires_at, handle }, E::Extend { expires_at: later }) => {
                S::Active { expires_at: expires_at.max(later), handle }
            }
            (S::Active { expires_at, handle }, E::AskRevoke(cause)) => S::Revoking {
                requested_at: now,
                cause,
                handle: Some(handle),
                applied_at: None,
                runs_out_at: None,
                bound: expires_at,
            },
            (S::Active { expires_at, .. }, E::Tick) if now >= expires_at => ended(now, Outcome::RanOut),
            (state @ S::Active { .. }, E::Tick) => state,
            (
                S::Active { .. },
                E::Issue { .. } | E::Refuse | E::LoseAnswer | E::Apply | E::Verify { .. } | E::CannotRevoke,
            ) => return illegal,

            // The answer came after we gave up on it: keep the handle, still revoke.
            (
                S::Revoking { requested_at, cause, handle: None, applied_at, .. },
                E::Issue { expires_at, handle },
            ) => S::Revoking {
                requested_at,
                cause,
                handle: Some(handle),
                applied_at,
                runs_out_at: None,
                bound: expires_at,
            },
            (S::Revoking { handle: None, .. }, E::Refuse) => ended(now, Outcome::NeverIssued),
            // The extension was already on its way when the end came: the bound moves, the end stands.
            (
                S::Revoking { requested_at, cause, handle, applied_at, runs_out_at, bound },
                E::Extend { expires_at },
            ) => {
                let bound = bound.max(expires_at);
                let runs_out_at = runs_out_at.map(|_| bound);
                S::Revoking { requested_at, cause, handle, applied_at, runs_out_at, bound }
            }
            // The first word counts; a target that is asked again says the same.
            (S::Revoking { requested_at, cause, handle, applied_at, runs_out_at, bound }, E::Apply) => {
                let applied_at = Some(applied_at.unwrap_or(now));
                S::Revoking { requested_at, cause, handle, applied_at, runs_out_at, bound }
            }
            (S::Revoking { .. }, E::Verify { evidence }) => ended(now, Outcome::Verified { evidence }),
            (S::Revoking { requested_at, cause, handle, applied_at, bound, .. }, E::CannotRevoke) => {
                S::Revoking { requested_at, cause, handle, applied_at, runs_out_at: Some(bound), bound }
            }
            (S::Revoking { bound, .. }, E::Tick) if now >= bound => ended(now, Outcome::RanOut),
            // What was left to run out is tried once more when an admin says so: a scope may have its sessions ended for
            // nobody else.
            (
                S::Revoking {
                    requested_at,
                    cause: before,
                    handle: Some(handle),
                    applied_at,
                    runs_out_at: Some(_),
                    bound,
                },
                E::AskRevoke(cause),
            ) if cause.is_admins() && !before.is_admins() => S::Revoking {
                requested_at,
                cause,
                handle: Some(handle),
                applied_at,
                runs_out_at: None,
                bound,
            },
            // Asking twice is fine; so is losing an answer nobody waits for.
            (state @ S::Revoking { .. }, E::AskRevoke(_) | E::LoseAnswer | E::Tick) => state,
            (S::Revoking { handle: Some(_), .. }, E::Issue { .. } | E::Refuse) => return illegal,

            // A handle is never lost: what comes to light after the end is taken back.
            (S::Ended { .. }, E::Issue { expires_at, handle }) => S::Revoking {
                requested_at: now,
                cause: RevokeCause::Undelivered,
                handle: Some(handle),
                applied_at: None,
                runs_out_at: None,
                bound: expires_at,
            },
            (
                state @ S::Ended { .. },
                E::Refuse
                | E::LoseAnswer
                | E::Extend { .. }
                | E::AskRevoke(_)
                | E::Apply
                | E::Verify { .. }
                | E::CannotRevoke
                | E::Tick,
            ) => state,
        })
    }

    /// `pending`, `active`, `revoking` or `ended`.
    pub const fn name(&self) -> &'static str {
        match self {
            LeaseState::Pending { .. } => "pending",
            LeaseState::Active { .. } => "active",
            LeaseState::Revoking { .. } => "revoking",
            LeaseState::Ended { .. } => "ended",
        }
    }
}

fn ended(at: Timestamp, outcome: Outcome) -> LeaseState {
    LeaseState::Ended { at, outcome }
}

/// A lease whose credential, if there is one, nobody holds: it cannot be named to the target, so it runs out.
fn unheld(now: Timestamp, cause: RevokeCause, residue_until: Timestamp) -> LeaseState {
    LeaseState::Revoking {
        requested_at: now,
        cause,
        handle: None,
        applied_at: None,
        runs_out_at: Some(residue_until),
        bound: residue_until,
    }
}

impl LeaseEvent {
    /// The event's name in records and errors.
    pub const fn name(&self) -> &'static str {
        match self {
            LeaseEvent::Issue { .. } => "issue",
            LeaseEvent::Refuse => "refuse",
            LeaseEvent::LoseAnswer => "lose_answer",
            LeaseEvent::Extend { .. } => "extend",
            LeaseEvent::AskRevoke(_) => "ask_revoke",
            LeaseEvent::Apply => "apply",
            LeaseEvent::Verify { .. } => "verify",
            LeaseEvent::CannotRevoke => "cannot_revoke",
            LeaseEvent::Tick => "tick",
        }
    }
}

/// A lease as the broker keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its id, told to the target wherever the target takes one.
    pub id: LeaseId,
    /// The task it was issued under.
    pub task: TaskId,
    /// That task's session.
    pub session: SessionId,
    /// Whom it was issued to, proven.
    pub spiffe_id: SpiffeId,
    /// The scope.
    pub scope: String,
    /// Its values.
    pub parameters: Parameters,
    /// The provider.
    pub provider: String,
    /// What that provider promised about taking it back.
    pub promise: Promise,
    /// [`Narrowing::digest`](crate::policy::Narrowing::digest) of what policies put into the credential; none if nothing.
    pub narrowed: Option<String>,
    /// The lease it took the place of, if it is a renewal with a new secret.
    pub renews: Option<LeaseId>,
    /// When its row was written.
    pub opened_at: Timestamp,
    /// Where it stands.
    pub state: LeaseState,
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use serde_json::json;

    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_millis(1_000);
    const SOON: Timestamp = Timestamp::from_unix_millis(2_000);
    const LATER: Timestamp = Timestamp::from_unix_millis(3_000);

    fn handle() -> Handle {
        Handle(json!("h"))
    }

    fn revoking(handle: Option<Handle>, bound: Timestamp) -> LeaseState {
        let cause = RevokeCause::TaskEnded(EndCause::AnchorGone);
        LeaseState::Revoking { requested_at: NOW, cause, handle, applied_at: None, runs_out_at: None, bound }
    }

    fn states() -> Vec<(&'static str, LeaseState)> {
        vec![
            ("pending", LeaseState::Pending { since: NOW, residue_until: SOON }),
            ("pending, residue past", LeaseState::Pending { since: NOW, residue_until: NOW }),
            ("active", LeaseState::Active { expires_at: SOON, handle: handle() }),
            ("active, expired", LeaseState::Active { expires_at: NOW, handle: handle() }),
            ("revoking", revoking(Some(handle()), SOON)),
            ("revoking, answer out", revoking(None, SOON)),
            ("revoking, bound past", revoking(Some(handle()), NOW)),
            ("ended verified", ended(NOW, Outcome::Verified { evidence: "e".into() })),
            ("ended ran_out", ended(NOW, Outcome::RanOut)),
            ("ended never_issued", ended(NOW, Outcome::NeverIssued)),
        ]
    }

    fn events() -> Vec<LeaseEvent> {
        vec![
            LeaseEvent::Issue { expires_at: LATER, handle: handle() },
            LeaseEvent::Refuse,
            LeaseEvent::LoseAnswer,
            LeaseEvent::Extend { expires_at: LATER },
            LeaseEvent::AskRevoke(RevokeCause::TaskEnded(EndCause::Explicit)),
            LeaseEvent::Apply,
            LeaseEvent::Verify { evidence: "lookup: gone".into() },
            LeaseEvent::CannotRevoke,
            LeaseEvent::Tick,
        ]
    }

    fn shown(state: &LeaseState) -> String {
        match state {
            LeaseState::Pending { .. } => "pending".to_owned(),
            LeaseState::Active { expires_at, .. } => format!("active until {}", expires_at.unix_millis()),
            LeaseState::Revoking { handle, applied_at, runs_out_at, bound, .. } => {
                let mut text = format!("revoking, bound {}", bound.unix_millis());
                text.push_str(if handle.is_some() { ", handle" } else { ", no handle" });
                if applied_at.is_some() {
                    text.push_str(", applied");
                }
                if let Some(at) = runs_out_at {
                    write!(text, ", runs out at {}", at.unix_millis()).expect("writing to a string");
                }
                text
            }
            LeaseState::Ended { outcome, .. } => format!("ended {}", outcome.as_str()),
        }
    }

    #[test]
    fn what_was_left_to_run_out_is_tried_again_when_an_admin_says_so_and_once() {
        let run_out = revoking(Some(handle()), LATER).on(LeaseEvent::CannotRevoke, NOW).expect("legal");
        let ask =
            |state: &LeaseState, cause| state.clone().on(LeaseEvent::AskRevoke(cause), SOON).expect("legal");
        assert_eq!(ask(&run_out, RevokeCause::Holder), run_out);
        let asked = ask(&run_out, RevokeCause::Admin);
        assert!(
            matches!(asked, LeaseState::Revoking { cause: RevokeCause::Admin, runs_out_at: None, .. }),
            "{asked:?}"
        );
        let again = asked.on(LeaseEvent::CannotRevoke, SOON).expect("legal");
        assert_eq!(ask(&again, RevokeCause::Admin), again);
    }

    #[test]
    fn the_first_word_of_a_target_counts() {
        let applied = revoking(Some(handle()), LATER).on(LeaseEvent::Apply, NOW).expect("legal");
        assert_eq!(applied.clone().on(LeaseEvent::Apply, SOON), Ok(applied));
    }

    #[test]
    fn every_state_meets_every_event_as_the_golden_matrix_says() {
        let mut table = String::from("# now is 1000; state | event | next state\n");
        for (name, state) in states() {
            for event in events() {
                let next = match state.clone().on(event.clone(), NOW) {
                    Ok(next) if next == state => "stays".to_owned(),
                    Ok(next) => shown(&next),
                    Err(_) => "ILLEGAL".to_owned(),
                };
                writeln!(table, "{name:<22} | {:<13} | {next}", event.name()).expect("writing to a string");
            }
        }
        crate::golden::compare("lease_matrix.txt", &table);
    }

    #[test]
    fn nothing_that_may_live_is_ever_called_verified_without_the_targets_word() {
        for (_, state) in states() {
            for event in events().into_iter().filter(|event| !matches!(event, LeaseEvent::Verify { .. })) {
                let was_verified =
                    matches!(&state, LeaseState::Ended { outcome: Outcome::Verified { .. }, .. });
                if let Ok(LeaseState::Ended { outcome: Outcome::Verified { .. }, .. }) =
                    state.clone().on(event, NOW)
                {
                    assert!(was_verified);
                }
            }
        }
    }
}
