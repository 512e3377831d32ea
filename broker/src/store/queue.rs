//! The revocation queue as it is shown, and what of it needs no target.

use async_trait::async_trait;
use dayfly_domain::lease::{LeaseState, Urgency};
use dayfly_domain::time::Timestamp;

use super::failure::corrupt;
use super::rows::{self, Columns, Fields};
use super::{LeaseRow, StoreError};

/// Which revocations to list.
#[derive(Clone, Debug, Default)]
pub struct QueueFilter {
    /// Only of this provider.
    pub provider: Option<String>,
    /// Only those that failed at least this often.
    pub failed_at_least: u32,
    /// At most this many, most urgent and oldest first.
    pub limit: u32,
}

/// One lease that waits to be taken back.
#[derive(Clone, Debug)]
pub struct QueuedRow {
    /// The lease, with its tries so far.
    pub row: LeaseRow,
    /// How urgent it is.
    pub urgency: Urgency,
    /// When it is tried next.
    pub next_at: Option<Timestamp>,
}

/// The queue of one provider, in figures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueDepth {
    /// The provider.
    pub provider: String,
    /// Leases that wait to be taken back.
    pub queued: u64,
    /// Of these, tried at least `quarantine_after` times in vain.
    pub stuck: u64,
    /// When the oldest was asked for.
    pub oldest: Timestamp,
}

/// The verbs of the queue that are not part of one revocation.
#[async_trait]
pub trait QueueStore: Send + Sync {
    /// What waits to be taken back.
    async fn queued(&self, filter: QueueFilter) -> Result<Vec<QueuedRow>, StoreError>;

    /// Each provider's queue; providers without one are left out.
    async fn queue_depths(&self, stuck_after: u32) -> Result<Vec<QueueDepth>, StoreError>;

    /// Makes every failed revocation due now: of one provider, or of all. Returns how many.
    async fn retry_now(&self, provider: Option<&str>, now: Timestamp) -> Result<u32, StoreError>;

    /// Takes up to `limit` due revocations of a provider to their end at once, where revocability is `exact`: for a provider
    /// whose credentials are checked against the lease itself. Returns how many.
    async fn verify_local(
        &self,
        provider: &str,
        evidence: &str,
        limit: u32,
        now: Timestamp,
    ) -> Result<u32, StoreError>;
}

/// A row of `leases` that waits.
pub(super) fn queued(row: &impl Fields) -> Result<QueuedRow, StoreError> {
    let stored = rows::lease(row)?;
    let LeaseState::Revoking { cause, .. } = &stored.lease.state else {
        return Err(corrupt("leases.state", "not being revoked"));
    };
    Ok(QueuedRow { urgency: cause.urgency(), next_at: stored.queue.next_attempt_at, row: stored.into() })
}

/// A row that measures a queue.
pub(super) fn depth(row: &impl Fields) -> Result<QueueDepth, StoreError> {
    let row = Columns(row);
    Ok(QueueDepth {
        provider: row.text("provider")?,
        queued: row.number("queued")?.unsigned_abs(),
        stuck: row.number("stuck")?.unsigned_abs(),
        oldest: row.time("oldest")?,
    })
}
