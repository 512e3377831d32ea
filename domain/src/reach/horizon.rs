//! Until when something can still work.

use crate::decision::Decision;
use crate::lease::{Lease, LeaseState};
use crate::scope::Scope;
use crate::task::{Task, TaskState};
use crate::time::{Timestamp, Ttl};

use super::Line;

/// The last moments of what is out now. Absent where nothing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Horizon {
    /// If nobody does anything: leases to their own end, and what tasks may still get to the end of that.
    pub at_the_latest: Option<Timestamp>,
    /// If all of it is ended now, and the targets do what was promised.
    pub if_ended_now: Option<Timestamp>,
}

impl Horizon {
    /// Of one lease. What is being taken back already is not promised for any earlier than its own end.
    pub fn of_lease(lease: &Lease, now: Timestamp) -> Self {
        let (at_the_latest, if_ended_now) = match &lease.state {
            LeaseState::Pending { residue_until, .. } => (*residue_until, *residue_until),
            LeaseState::Active { expires_at, .. } => {
                (*expires_at, (now + lease.promise.worst_case_after_end).min(*expires_at))
            }
            LeaseState::Revoking { runs_out_at, bound, .. } => {
                let last = runs_out_at.unwrap_or(*bound);
                (last, last)
            }
            LeaseState::Ended { .. } => return Self::default(),
        };
        Self { at_the_latest: Some(at_the_latest), if_ended_now: Some(if_ended_now) }
    }

    /// Of a task itself, without its leases: while it may get anything, what it gets is cut to its deadline. `over` says by
    /// how much a credential of a scope outlives that: some targets give none that is short enough.
    pub fn of_task(task: &Task, lines: &[Line], now: Timestamp, over: impl Fn(&Scope) -> Ttl) -> Self {
        let most_over = lines.iter().filter_map(|line| match &line.decision {
            Decision::Allow(grant) => Some(over(&grant.scope)),
            Decision::Deny(_) => None,
        });
        let most_over = most_over.max();
        let deadline = match (task.state, task.offer) {
            (TaskState::Open { .. }, Some(offer)) => Some(offer.deadline),
            (TaskState::Open { deadline }, None) => Some(deadline),
            (TaskState::Ended { .. }, _) => None,
        };
        let deadline = deadline.filter(|deadline| now < *deadline);
        let at_the_latest = deadline.zip(most_over).map(|(deadline, over)| deadline + over);
        Self { at_the_latest, if_ended_now: None }
    }

    /// Of both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            at_the_latest: self.at_the_latest.max(other.at_the_latest),
            if_ended_now: self.if_ended_now.max(other.if_ended_now),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::id::{LeaseId, TaskId};
    use crate::lease::{Handle, Outcome, RevokeCause};
    use crate::scope::{Promise, Revocability};

    const NOW: Timestamp = Timestamp::from_unix_millis(1_700_000_000_000);

    fn horizon(state: LeaseState) -> (Option<u64>, Option<u64>) {
        let task = TaskId::new(NOW, 1);
        let lease = Lease {
            id: LeaseId::new(NOW, 1),
            task,
            session: task.into(),
            spiffe_id: "spiffe://example.org/a".parse().expect("an id"),
            scope: String::new(),
            parameters: Default::default(),
            provider: String::new(),
            narrowed: None,
            promise: Promise {
                revocability: Revocability::Exact,
                worst_case_after_end: Ttl::seconds(5),
                leaves_behind: Vec::new(),
            },
            renews: None,
            opened_at: NOW,
            state,
        };
        let Horizon { at_the_latest, if_ended_now } = Horizon::of_lease(&lease, NOW);
        let seconds = |at: Timestamp| NOW.until(at).as_seconds();
        (at_the_latest.map(seconds), if_ended_now.map(seconds))
    }

    #[test]
    fn only_what_the_target_may_still_take_back_is_over_before_its_own_end() {
        let at = |seconds| NOW + Ttl::seconds(seconds);
        let active = |expires_at| LeaseState::Active { expires_at, handle: Handle(json!(1)) };
        let revoking = |runs_out_at| LeaseState::Revoking {
            requested_at: NOW,
            cause: RevokeCause::Admin,
            handle: None,
            applied_at: None,
            runs_out_at,
            bound: at(60),
        };
        assert_eq!(horizon(LeaseState::Pending { since: NOW, residue_until: at(30) }), (Some(30), Some(30)));
        assert_eq!(horizon(active(at(60))), (Some(60), Some(5)));
        assert_eq!(horizon(active(at(2))), (Some(2), Some(2)));
        assert_eq!(horizon(revoking(None)), (Some(60), Some(60)));
        assert_eq!(horizon(revoking(Some(at(50)))), (Some(50), Some(50)));
        assert_eq!(horizon(LeaseState::Ended { at: NOW, outcome: Outcome::RanOut }), (None, None));
    }
}
