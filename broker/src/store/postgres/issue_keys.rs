//! Keys under which a credential is asked for again.

use async_trait::async_trait;
use dayfly_domain::id::{LeaseId, TaskId};
use dayfly_domain::idempotency::IssueKey;
use sqlx::Row;

use super::PostgresStore;
use super::transaction::Tx;
use super::verb::Verb;
use crate::store::StoreError;
use crate::store::desk::Lane;
use crate::store::failure::failed;
use crate::store::issue_keys::{IssueKeyStore, KEEP_KEY, LIVE_UNDER_KEY, SWEEP_KEYS, must_live, replaceable};
use crate::store::rows::{self, StoredLease};

const WHAT: &str = "look up an idempotency key";

/// What lives under the key, oldest first; all of it may be replaced.
pub(super) async fn live_under(tx: &mut Tx, key: &IssueKey) -> Result<Vec<StoredLease>, StoreError> {
    const FIND: &str = "SELECT request FROM issue_keys WHERE id = $1";
    let Some(row) = tx.row(WHAT, sqlx::query(FIND).bind(key.id.to_vec())).await? else {
        return Ok(Vec::new());
    };
    let request: Vec<u8> = row.try_get(0).map_err(failed(WHAT))?;
    if request != key.request {
        return Err(StoreError::KeyReused);
    }
    let found = tx.rows(WHAT, sqlx::query(LIVE_UNDER_KEY).bind(key.id.to_vec())).await?;
    let live = found.iter().map(rows::lease).collect::<Result<Vec<StoredLease>, _>>()?;
    // Opened by another broker while this one waited: whoever asked there is being answered.
    if live.iter().any(|stored| !tx.is_locked(stored.lease.id)) {
        return Err(StoreError::KeyInFlight);
    }
    replaceable(live)
}

/// Writes what is issued under the key now.
pub(super) async fn keep(
    tx: &mut Tx,
    key: &IssueKey,
    task: TaskId,
    lease: LeaseId,
) -> Result<(), StoreError> {
    let keep = sqlx::query(KEEP_KEY)
        .bind(key.id.to_vec())
        .bind(key.request.to_vec())
        .bind(task.to_string())
        .bind(lease.to_string());
    tx.write("keep an idempotency key", keep).await.map(|_| ())
}

/// Whether the lease lives that is to be renewed.
pub(super) async fn require_live(tx: &mut Tx, renewed: Option<LeaseId>) -> Result<(), StoreError> {
    const STATE: &str = "SELECT state FROM leases WHERE id = $1";
    const WHAT: &str = "find the lease to renew";
    let Some(renewed) = renewed else { return Ok(()) };
    let found = tx.row(WHAT, sqlx::query(STATE).bind(renewed.to_string())).await?;
    let state: Option<String> = found.map(|row| row.try_get(0)).transpose().map_err(failed(WHAT))?;
    must_live(state.as_deref())
}

struct Sweep {
    limit: u32,
}

impl Verb for Sweep {
    type Answer = u32;

    fn lane(&self) -> Lane {
        Lane::Grant
    }

    async fn run(&self, tx: &mut Tx) -> Result<u32, StoreError> {
        let swept =
            tx.write("forget idempotency keys", sqlx::query(SWEEP_KEYS).bind(i64::from(self.limit))).await?;
        Ok(u32::try_from(swept).unwrap_or(u32::MAX))
    }
}

#[async_trait]
impl IssueKeyStore for PostgresStore {
    async fn sweep_issue_keys(&self, limit: u32) -> Result<u32, StoreError> {
        self.desk.post(Sweep { limit }).await
    }
}
