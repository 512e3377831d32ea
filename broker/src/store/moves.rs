//! Takes leases from state to state: each change is counted, recorded, and put into or out of the revocation queue.

use dayfly_domain::audit::Record;
use dayfly_domain::id::{LeaseId, RequestId};
use dayfly_domain::lease::{IllegalTransition, LeaseEvent, LeaseState};
use dayfly_domain::time::Timestamp;
use serde::Serialize;

use super::holders::Holders;
use super::rows::{Queued, StateColumns, StoredLease};
use crate::records;

/// What a transaction keeps count of while leases move.
pub(super) trait Journal {
    /// Notes a record.
    fn record(&mut self, record: &Record);

    /// One more lease is not over.
    fn lives(&mut self, holders: &Holders);

    /// One fewer is.
    fn lives_no_more(&mut self, holders: &Holders);
}

/// Leases on their way from state to state, written together.
pub(super) struct Moves {
    now: Timestamp,
    request: Option<RequestId>,
    pub(super) rows: Vec<MovedLease>,
}

/// Where a lease stands now.
#[derive(Serialize)]
pub(super) struct MovedLease {
    id: LeaseId,
    #[serde(flatten)]
    state: StateColumns,
    next_attempt_at: Option<i64>,
    claimed_until: Option<i64>,
    attempts: u32,
    last_error: String,
}

impl Moves {
    pub(super) fn new(now: Timestamp, request: Option<RequestId>) -> Self {
        Self { now, request, rows: Vec::new() }
    }

    /// Whether a target must be asked now.
    pub(super) fn asks_back(&self) -> bool {
        self.rows.iter().any(|row| row.next_attempt_at.is_some())
    }

    /// Takes a lease through an event and records it. True if it stands elsewhere now.
    pub(super) fn take(
        &mut self,
        journal: &mut impl Journal,
        stored: &mut StoredLease,
        event: LeaseEvent,
    ) -> Result<bool, IllegalTransition> {
        let before = stored.lease.state.clone();
        let after = before.clone().on(event, self.now)?;
        if after == before {
            return Ok(false);
        }
        let (lease, node) = (&mut stored.lease, stored.node.as_ref());
        match (is_over(&before), is_over(&after)) {
            (false, true) => journal.lives_no_more(&Holders::of(lease, node)),
            (true, false) => journal.lives(&Holders::of(lease, node)),
            (true, true) | (false, false) => {}
        }
        match (can_be_revoked(&before), can_be_revoked(&after)) {
            (false, true) => stored.queue = Queued { next_attempt_at: Some(self.now), ..Queued::default() },
            (true, false) => {
                stored.queue.next_attempt_at = None;
                stored.queue.claimed_until = None;
            }
            (true, true) | (false, false) => {}
        }
        lease.state = after;
        journal.record(&records::lease(lease, self.now, self.request));
        let millis = |at: Timestamp| at.unix_millis();
        let row = MovedLease {
            id: lease.id,
            state: StateColumns::from(&lease.state),
            next_attempt_at: stored.queue.next_attempt_at.map(millis),
            claimed_until: stored.queue.claimed_until.map(millis),
            attempts: stored.queue.attempts,
            last_error: stored.queue.last_error.clone(),
        };
        match self.rows.last_mut() {
            Some(last) if last.id == row.id => *last = row,
            _ => self.rows.push(row),
        }
        Ok(true)
    }
}

fn is_over(state: &LeaseState) -> bool {
    matches!(state, LeaseState::Ended { .. })
}

/// Whether a target can be asked to take it back.
fn can_be_revoked(state: &LeaseState) -> bool {
    matches!(state, LeaseState::Revoking { handle: Some(_), runs_out_at: None, .. })
}
