//! Takes leases from state to state: each change is counted, recorded, and put into or out of the revocation queue.

use dayfly_domain::id::{LeaseId, RequestId};
use dayfly_domain::lease::{IllegalTransition, LeaseEvent, LeaseState};
use dayfly_domain::time::Timestamp;
use serde::Serialize;

use super::counts::Holders;
use super::rows::{Queued, StateColumns, StoredLease, json};
use super::transaction::Tx;
use crate::records;
use crate::store::StoreError;

/// Leases on their way from state to state, written together.
pub(super) struct Moves {
    now: Timestamp,
    request: Option<RequestId>,
    rows: Vec<MovedLease>,
}

#[derive(Serialize)]
struct MovedLease {
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

    /// Takes a lease through an event and records it. True if it stands elsewhere now.
    pub(super) fn take(
        &mut self,
        tx: &mut Tx,
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
            (false, true) => tx.live.remove(&Holders::of(lease, node)),
            (true, false) => tx.live.add(&Holders::of(lease, node)),
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
        tx.record(&records::lease(lease, self.now, self.request));
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

    /// Writes where they stand now.
    pub(super) async fn save(self, tx: &mut Tx) -> Result<(), StoreError> {
        const SAVE: &str = "
            UPDATE leases
            SET state = new.value ->> 'state',
                pending_since = new.value ->> 'pending_since',
                bound_at = new.value ->> 'bound_at',
                handle = new.value ->> 'handle',
                requested_at = new.value ->> 'requested_at',
                cause = new.value ->> 'cause',
                applied_at = new.value ->> 'applied_at',
                runs_out_at = new.value ->> 'runs_out_at',
                ended_at = new.value ->> 'ended_at',
                outcome = new.value ->> 'outcome',
                evidence = new.value ->> 'evidence',
                next_attempt_at = new.value ->> 'next_attempt_at',
                claimed_until = new.value ->> 'claimed_until',
                attempts = new.value ->> 'attempts',
                last_error = new.value ->> 'last_error'
            FROM json_each($1) AS new
            WHERE leases.id = new.value ->> 'id'";
        const AT_ONCE: usize = 500;
        for rows in self.rows.chunks(AT_ONCE) {
            tx.write("move leases", sqlx::query(SAVE).bind(json(&rows))).await?;
        }
        Ok(())
    }
}

fn is_over(state: &LeaseState) -> bool {
    matches!(state, LeaseState::Ended { .. })
}

/// Whether a target can be asked to take it back.
fn can_be_revoked(state: &LeaseState) -> bool {
    matches!(state, LeaseState::Revoking { handle: Some(_), runs_out_at: None, .. })
}
