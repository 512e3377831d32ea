//! Opens leases, and records what happens to them.

use std::sync::LazyLock;

use dayfly_domain::id::{LeaseId, RequestId};
use dayfly_domain::lease::{IllegalTransition, Lease, LeaseEvent, LeaseState, RevokeCause};
use dayfly_domain::time::Timestamp;

use super::issue_keys;
use super::moves::Moves;
use super::rows;
use super::transaction::{Insert, Sql, Tx};
use super::writer::{Lane, Verb};
pub(super) use crate::store::fresh::FreshLease;
use crate::store::issue_keys::{Written, take_back};
use crate::store::{NewLease, StoreError};

pub(super) static INSERT: LazyLock<Insert> = LazyLock::new(|| {
    Insert::new(
        "INSERT INTO leases
            (id, task, session, spiffe_id, node, scope, parameters, provider, revocability, worst_case_ms,
             leaves_behind, narrowed, renews, opened_at, state, pending_since, bound_at, handle)
        VALUES",
        18,
    )
});

pub(super) fn bind<'q>(row: &FreshLease, sql: Sql<'q>) -> Sql<'q> {
    let row = row.clone();
    sql.bind(row.id)
        .bind(row.task)
        .bind(row.session)
        .bind(row.spiffe_id)
        .bind(row.node)
        .bind(row.scope)
        .bind(row.parameters)
        .bind(row.provider)
        .bind(row.revocability)
        .bind(row.worst_case_ms)
        .bind(row.leaves_behind)
        .bind(row.narrowed)
        .bind(row.renews)
        .bind(row.opened_at)
        .bind(row.state)
        .bind(row.pending_since)
        .bind(row.bound_at)
        .bind(row.handle)
}

pub(super) struct OpenLease {
    new: NewLease,
    /// As it is written where it takes the place of nothing. Made by the caller, so that the writer has less to do.
    written: Written,
    now: Timestamp,
}

impl OpenLease {
    pub(super) fn new(new: NewLease, now: Timestamp) -> Result<Self, StoreError> {
        if let LeaseState::Revoking { .. } | LeaseState::Ended { .. } = new.lease.state {
            return Err(IllegalTransition { state: new.lease.state.name(), event: "open" }.into());
        }
        Ok(Self { written: Written::of(&new, now), new, now })
    }

    async fn write(&self, tx: &mut Tx, written: &Written) -> Result<(), StoreError> {
        tx.live.add(&written.holders);
        tx.add_lease(written.row.clone());
        for line in &written.lines {
            tx.note(line.clone());
        }
        match &self.new.key {
            Some(key) => issue_keys::keep(tx, key, self.new.lease.task, self.new.lease.id).await,
            None => Ok(()),
        }
    }
}

impl Verb for OpenLease {
    type Answer = ();

    fn lane(&self) -> Lane {
        Lane::Grant
    }

    async fn run(&self, tx: &mut Tx) -> Result<(), StoreError> {
        let new = &self.new;
        tx.require_open(new.lease.task, new.lease.session, self.now).await?;
        tx.require_node(new.node.as_ref())?;
        issue_keys::require_live(tx, new.lease.renews).await?;
        let replaced = match &new.key {
            Some(key) => issue_keys::live_under(tx, key).await?,
            None => Vec::new(),
        };
        if replaced.is_empty() {
            let written = &self.written;
            tx.live.admit(&written.holders, new.limits)?;
            return self.write(tx, written).await;
        }
        let written = Written::in_place_of(new, &replaced, self.now);
        tx.live.admit(&written.holders, new.limits)?;
        let moved = take_back(replaced, new, tx, self.now)?;
        moved.save(tx).await?;
        self.write(tx, &written).await
    }
}

pub(super) struct RecordLease {
    pub(super) lease: LeaseId,
    pub(super) event: LeaseEvent,
    pub(super) now: Timestamp,
    pub(super) request: Option<RequestId>,
}

impl Verb for RecordLease {
    type Answer = Lease;

    fn lane(&self) -> Lane {
        Lane::of_event(&self.event)
    }

    /// An answer of a target is never refused: on a full disk its credential is taken back instead.
    fn is_refusable(&self) -> bool {
        matches!(self.event, LeaseEvent::Extend { .. })
    }

    async fn run(&self, tx: &mut Tx) -> Result<Lease, StoreError> {
        const FIND: &str = "
            SELECT leases.*, tasks.state AS task_state, tasks.end_cause AS task_end_cause, tasks.lapses_at AS task_lapses_at
            FROM leases JOIN tasks ON tasks.id = leases.task
            WHERE leases.id = $1";
        let found = tx.row("find a lease", sqlx::query(FIND).bind(self.lease.to_string())).await?;
        let found = found.ok_or(StoreError::Unknown("lease"))?;
        let over = rows::why_task_over(&found, self.now)?;
        let mut lease = rows::lease(&found)?;
        let mut moved = Moves::new(self.now, self.request);
        match (&self.event, over) {
            (LeaseEvent::Issue { .. }, Some(cause)) => {
                moved.take(tx, &mut lease, LeaseEvent::AskRevoke(RevokeCause::TaskEnded(cause)))?;
            }
            // It cannot be recorded as given, so it is not given.
            (LeaseEvent::Issue { .. }, None) if !tx.gives() => {
                moved.take(tx, &mut lease, LeaseEvent::AskRevoke(RevokeCause::Undelivered))?;
            }
            (LeaseEvent::Extend { .. }, Some(_))
                if matches!(lease.lease.state, LeaseState::Active { .. }) =>
            {
                return Err(StoreError::TaskNotOpen);
            }
            _ => {}
        }
        moved.take(tx, &mut lease, self.event.clone())?;
        moved.save(tx).await?;
        Ok(lease.lease)
    }
}
