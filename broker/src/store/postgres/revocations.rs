//! The revocation queue: what is due, who works on it, what time settles by itself.

use dayfly_domain::id::{LeaseId, RequestId};
use dayfly_domain::lease::{Handle, LeaseEvent, LeaseState, RevokeCause, Urgency};
use dayfly_domain::time::{Timestamp, Ttl};

use super::moves::{save, storable};
use super::transaction::{Needs, Sql, Tx, texts};
use super::verb::Verb;
use crate::store::desk::Lane;
use crate::store::moves::Moves;
use crate::store::rows::{self, StoredLease, json};
use crate::store::{DueRevocation, StoreError};

/// Asks for the revocation of single leases.
pub(super) struct Queue {
    pub(super) leases: Vec<LeaseId>,
    pub(super) cause: RevokeCause,
    pub(super) now: Timestamp,
    pub(super) request: Option<RequestId>,
}

impl Verb for Queue {
    type Answer = Vec<LeaseId>;

    fn lane(&self) -> Lane {
        Lane::of_revocation(self.cause)
    }

    fn needs(&self) -> Needs {
        Needs { moves: self.leases.clone(), ..Needs::default() }
    }

    async fn run(&self, tx: &mut Tx) -> Result<Vec<LeaseId>, StoreError> {
        const FIND: &str = "SELECT * FROM leases WHERE id = ANY($1) ORDER BY id";
        let event = LeaseEvent::AskRevoke(self.cause);
        take_all(tx, sqlx::query(FIND).bind(texts(&self.leases)), event, self.now, self.request).await
    }
}

/// Takes every lease whose last moment is past to its end. Another broker may be at it.
pub(super) struct SweepPast {
    pub(super) now: Timestamp,
    pub(super) limit: u32,
}

impl Verb for SweepPast {
    type Answer = u32;

    fn lane(&self) -> Lane {
        Lane::End
    }

    async fn run(&self, tx: &mut Tx) -> Result<u32, StoreError> {
        const PAST: &str = "
            SELECT * FROM leases
            WHERE state <> 'ended'
              AND bound_at <= $1
            ORDER BY bound_at
            LIMIT $2
            FOR UPDATE SKIP LOCKED";
        let past = sqlx::query(PAST).bind(self.now.unix_millis()).bind(i64::from(self.limit));
        take_all(tx, past, LeaseEvent::Tick, self.now, None).await.map(|ended| count(&ended))
    }
}

/// Gives up on answers that nobody waits for any more, whichever broker had asked.
pub(super) struct SweepPending {
    pub(super) pending_since_before: Timestamp,
    pub(super) now: Timestamp,
}

impl Verb for SweepPending {
    type Answer = u32;

    fn lane(&self) -> Lane {
        Lane::End
    }

    async fn run(&self, tx: &mut Tx) -> Result<u32, StoreError> {
        const PENDING: &str = "
            SELECT * FROM leases
            WHERE state = 'pending' AND pending_since < $1
            FOR UPDATE SKIP LOCKED";
        let pending = sqlx::query(PENDING).bind(self.pending_since_before.unix_millis());
        take_all(tx, pending, LeaseEvent::LoseAnswer, self.now, None).await.map(|lost| count(&lost))
    }
}

/// Takes every lease that a query finds through one event. Returns those that stand elsewhere now.
pub(super) async fn take_all(
    tx: &mut Tx,
    query: Sql<'_>,
    event: LeaseEvent,
    now: Timestamp,
    request: Option<RequestId>,
) -> Result<Vec<LeaseId>, StoreError> {
    let mut moves = Moves::new(now, request);
    let mut moved = Vec::new();
    for row in tx.rows("find leases", query).await? {
        let mut lease = rows::lease(&row)?;
        if moves.take(tx, &mut lease, event.clone())? {
            moved.push(lease.lease.id);
        }
    }
    save(moves, tx).await?;
    Ok(moved)
}

pub(super) fn count(leases: &[LeaseId]) -> u32 {
    u32::try_from(leases.len()).unwrap_or(u32::MAX)
}

/// Claims due revocations of one provider. What another broker claims at this moment is passed over.
pub(super) struct Claim {
    pub(super) provider: String,
    pub(super) limit: u32,
    pub(super) claim_for: Ttl,
    pub(super) now: Timestamp,
}

impl Verb for Claim {
    type Answer = Vec<DueRevocation>;

    fn lane(&self) -> Lane {
        Lane::End
    }

    async fn run(&self, tx: &mut Tx) -> Result<Vec<DueRevocation>, StoreError> {
        const CLAIM: &str = "
            UPDATE leases
            SET claimed_until = $1, claimed_by = $5
            WHERE id IN (
                SELECT id FROM leases
                WHERE state = 'revoking'
                  AND handle IS NOT NULL
                  AND runs_out_at IS NULL
                  AND provider = $2
                  AND next_attempt_at <= $3
                  AND (claimed_until IS NULL OR claimed_until <= $3)
                ORDER BY urgency, requested_at
                LIMIT $4
                FOR UPDATE SKIP LOCKED
            )
            RETURNING *";
        let claimed_until = self.now + self.claim_for;
        let writer = tx.member.writer.clone();
        let claim = sqlx::query(CLAIM)
            .bind(claimed_until.unix_millis())
            .bind(&self.provider)
            .bind(self.now.unix_millis())
            .bind(i64::from(self.limit))
            .bind(writer);
        let rows = tx.rows("claim revocations", claim).await?;
        let mut claimed: Vec<StoredLease> = rows.iter().map(rows::lease).collect::<Result<_, _>>()?;
        claimed.sort_by_key(|stored| (asked(stored), stored.lease.id));
        let due = |stored: StoredLease| DueRevocation {
            lease: stored.lease,
            attempts: stored.queue.attempts,
            claimed_until,
        };
        Ok(claimed.into_iter().map(due).collect())
    }
}

/// How urgent it is, and since when.
fn asked(stored: &StoredLease) -> Option<(Urgency, Timestamp)> {
    match stored.lease.state {
        LeaseState::Revoking { requested_at, cause, .. } => Some((cause.urgency(), requested_at)),
        LeaseState::Pending { .. } | LeaseState::Active { .. } | LeaseState::Ended { .. } => None,
    }
}

/// Adds to what takes a lease back. It is no transition: no record is written.
pub(super) struct AmendHandle {
    pub(super) lease: LeaseId,
    pub(super) handle: Handle,
}

impl Verb for AmendHandle {
    type Answer = ();

    fn lane(&self) -> Lane {
        Lane::End
    }

    async fn run(&self, tx: &mut Tx) -> Result<(), StoreError> {
        const AMEND: &str = "
            UPDATE leases
            SET handle = $1::JSONB
            WHERE id = $2
              AND state IN ('active', 'revoking')
              AND handle IS NOT NULL";
        let amend = sqlx::query(AMEND).bind(storable(json(&self.handle))).bind(self.lease.to_string());
        tx.write("amend a handle", amend).await.map(|_| ())
    }
}

/// Notes a try that did not settle it, and when to try again.
pub(super) struct Postpone {
    pub(super) lease: LeaseId,
    pub(super) next_at: Timestamp,
    pub(super) error: String,
}

impl Verb for Postpone {
    type Answer = ();

    fn lane(&self) -> Lane {
        Lane::End
    }

    async fn run(&self, tx: &mut Tx) -> Result<(), StoreError> {
        // Its end may have been recorded in between, or another broker took it over; then there is nothing to postpone.
        const POSTPONE: &str = "
            UPDATE leases
            SET next_attempt_at = $1, claimed_until = NULL, claimed_by = NULL, last_error = $2,
                attempts = CASE WHEN $2 = '' THEN 0 ELSE attempts + 1 END
            WHERE id = $3
              AND state = 'revoking'
              AND COALESCE(claimed_by, $4) = $4";
        let postpone = sqlx::query(POSTPONE)
            .bind(self.next_at.unix_millis())
            .bind(self.error.replace('\0', "\u{fffd}"))
            .bind(self.lease.to_string())
            .bind(tx.member.writer.clone());
        tx.write("postpone a revocation", postpone).await.map(|_| ())
    }
}
