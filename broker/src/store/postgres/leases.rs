//! Opens leases, and records what happens to them.

use dayfly_domain::id::{LeaseId, RequestId};
use dayfly_domain::lease::{IllegalTransition, Lease, LeaseEvent, LeaseState, RevokeCause};
use dayfly_domain::time::Timestamp;
use sqlx::postgres::PgConnection;

use super::issue_keys;
use super::moves::save;
use super::transaction::{Needs, Tx};
use super::verb::Verb;
use crate::store::desk::Lane;
use crate::store::failure::failed;
use crate::store::fresh::FreshLease;
use crate::store::issue_keys::{Written, take_back};
use crate::store::moves::{Journal, Moves};
use crate::store::rows::{self, json};
use crate::store::{NewLease, StoreError};

/// Writes leases that were just opened, in one statement.
pub(super) async fn insert(connection: &mut PgConnection, fresh: &[FreshLease]) -> Result<(), StoreError> {
    const INSERT: &str = "
        INSERT INTO leases
            (id, task, session, spiffe_id, node, scope, parameters, provider, revocability, worst_case_ms,
             leaves_behind, narrowed, renews, opened_at, state, pending_since, bound_at, handle)
        SELECT id, task, session, spiffe_id, node, scope, parameters::JSONB, provider, revocability, worst_case_ms,
               leaves_behind::JSONB, narrowed, renews, opened_at, state, pending_since, bound_at, handle::JSONB
        FROM jsonb_to_recordset($1::JSONB) AS new (
            id TEXT, task TEXT, session TEXT, spiffe_id TEXT, node TEXT, scope TEXT, parameters TEXT, provider TEXT,
            revocability TEXT, worst_case_ms BIGINT, leaves_behind TEXT, narrowed TEXT, renews TEXT, opened_at BIGINT,
            state TEXT, pending_since BIGINT, bound_at BIGINT, handle TEXT
        )";
    let insert = sqlx::query(INSERT).bind(json(&fresh));
    insert.execute(connection).await.map(|_| ()).map_err(failed("write leases"))
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
        tx.lives(&written.holders);
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

    fn needs(&self) -> Needs {
        let new = &self.new;
        let (through, counts) = (new.node.clone().into_iter().collect(), self.written.holders.all.clone());
        Needs {
            adds_under: vec![new.lease.task],
            counts,
            through,
            moves: new.lease.renews.into_iter().collect(),
            keys: new.key.iter().map(|key| key.id).collect(),
            ..Needs::default()
        }
    }

    async fn run(&self, tx: &mut Tx) -> Result<(), StoreError> {
        let new = &self.new;
        tx.is_decided();
        tx.require_open(new.lease.task, new.lease.session, self.now)?;
        tx.require_node(new.node.as_ref())?;
        issue_keys::require_live(tx, new.lease.renews).await?;
        let replaced = match &new.key {
            Some(key) => issue_keys::live_under(tx, key).await?,
            None => Vec::new(),
        };
        if replaced.is_empty() {
            let written = &self.written;
            written.holders.admit(new.limits, |holder| tx.live(holder))?;
            return self.write(tx, written).await;
        }
        let written = Written::in_place_of(new, &replaced, self.now);
        written.holders.admit(new.limits, |holder| tx.live(holder))?;
        let moved = take_back(replaced, new, tx, self.now)?;
        save(moved, tx).await?;
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

    /// An answer of a target is never refused: without a record its credential is taken back instead.
    fn is_refusable(&self) -> bool {
        matches!(self.event, LeaseEvent::Extend { .. })
    }

    fn needs(&self) -> Needs {
        let adds = matches!(self.event, LeaseEvent::Issue { .. } | LeaseEvent::Extend { .. });
        let adds_to = if adds { vec![self.lease] } else { Vec::new() };
        Needs { adds_to, moves: vec![self.lease], ..Needs::default() }
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
        // A renewal is a decision.
        if let LeaseEvent::Extend { .. } = self.event {
            tx.is_decided();
        }
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
        save(moved, tx).await?;
        Ok(lease.lease)
    }
}
