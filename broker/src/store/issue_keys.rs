//! Keys under which a credential is asked for again, and the lease that is issued in the place of another.

use async_trait::async_trait;
use dayfly_domain::id::LeaseId;
use dayfly_domain::lease::{IllegalTransition, LeaseEvent, LeaseState, RevokeCause};
use dayfly_domain::time::Timestamp;

use super::chain::Line;
use super::fresh::FreshLease;
use super::holders::Holders;
use super::moves::{Journal, Moves};
use super::rows::StoredLease;
use super::{NewLease, StoreError};
use crate::records;

/// The verb of keys beside [`open_lease`](super::Store::open_lease), which takes them.
#[async_trait]
pub trait IssueKeyStore: Send + Sync {
    /// Forgets keys of tasks that are over, and returns how many.
    async fn sweep_issue_keys(&self, limit: u32) -> Result<u32, StoreError>;
}

/// A lease as it is written: its row, those it counts for, the records of its decision and of itself.
#[derive(Clone, Debug)]
pub(super) struct Written {
    pub(super) holders: Holders,
    pub(super) row: FreshLease,
    pub(super) lines: [Line; 2],
}

impl Written {
    pub(super) fn of(new: &NewLease, now: Timestamp) -> Self {
        let NewLease { lease, decision, node, request, .. } = new;
        let opened = records::lease(lease, now, Some(*request));
        Self {
            holders: Holders::of(lease, node.as_ref()),
            row: FreshLease::new(lease, node.as_ref()),
            lines: [Line::new(decision), Line::new(&opened)],
        }
    }

    /// The same in the place of what lived under its key.
    pub(super) fn in_place_of(new: &NewLease, replaced: &[StoredLease], now: Timestamp) -> Self {
        let ids: Vec<LeaseId> = replaced.iter().map(|stored| stored.lease.id).collect();
        let mut new = new.clone();
        new.lease.renews = ids.last().copied();
        new.decision = new.decision.with("replaces", ids);
        Self::of(&new, now)
    }
}

/// What lives under a key, and may be replaced: none of it is still being issued.
pub(super) fn replaceable(live: Vec<StoredLease>) -> Result<Vec<StoredLease>, StoreError> {
    let in_flight = |stored: &StoredLease| matches!(stored.lease.state, LeaseState::Pending { .. });
    if live.iter().any(in_flight) { Err(StoreError::KeyInFlight) } else { Ok(live) }
}

/// Whoever held them asked anew, so nobody holds them.
pub(super) fn take_back(
    replaced: Vec<StoredLease>,
    new: &NewLease,
    journal: &mut impl Journal,
    now: Timestamp,
) -> Result<Moves, StoreError> {
    let mut moves = Moves::new(now, Some(new.request));
    for mut stored in replaced {
        moves.take(journal, &mut stored, LeaseEvent::AskRevoke(RevokeCause::Undelivered))?;
    }
    Ok(moves)
}

/// Only what lives is renewed: what is on its way back gets no successor.
pub(super) fn must_live(state: Option<&str>) -> Result<(), StoreError> {
    match state {
        Some("pending" | "active") => Ok(()),
        Some("revoking") => Err(IllegalTransition { state: "revoking", event: "renew" }.into()),
        Some(_) => Err(IllegalTransition { state: "ended", event: "renew" }.into()),
        None => Err(StoreError::Unknown("lease")),
    }
}

/// Every lease that lives under a key: what was issued under it last, and what took its place since. `$1` is the key's id.
pub(super) const LIVE_UNDER_KEY: &str = "
    WITH RECURSIVE line (id) AS (
        SELECT lease FROM issue_keys WHERE id = $1
        UNION
        SELECT leases.id FROM leases JOIN line ON leases.renews = line.id
    )
    SELECT leases.* FROM leases JOIN line ON line.id = leases.id
    WHERE leases.state IN ('pending', 'active')
    ORDER BY leases.opened_at, leases.id";

/// Writes what was issued under a key: `$1` its id, `$2` the request, `$3` the task, `$4` the lease.
pub(super) const KEEP_KEY: &str = "
    INSERT INTO issue_keys (id, request, task, lease) VALUES ($1, $2, $3, $4)
    ON CONFLICT (id) DO UPDATE SET lease = excluded.lease";

/// Forgets at most `$1` keys of tasks that are over.
pub(super) const SWEEP_KEYS: &str = "
    DELETE FROM issue_keys
    WHERE id IN (
        SELECT issue_keys.id FROM issue_keys JOIN tasks ON tasks.id = issue_keys.task
        WHERE tasks.state <> 'open'
        LIMIT $1
    )";
