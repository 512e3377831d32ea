//! The revocation queue as it is shown, and the revocations that need no target.

use async_trait::async_trait;
use dayfly_domain::lease::LeaseEvent;
use dayfly_domain::time::Timestamp;
use sqlx::postgres::Postgres;
use sqlx::query_builder::QueryBuilder;

use super::PostgresStore;
use super::revocations::{count, take_all};
use super::transaction::Tx;
use super::verb::Verb;
use crate::store::desk::Lane;
use crate::store::failure::failed;
use crate::store::queue::{self, QueueDepth, QueueFilter, QueueStore, QueuedRow};
use crate::store::{Hint, StoreError};

#[async_trait]
impl QueueStore for PostgresStore {
    async fn queued(&self, filter: QueueFilter) -> Result<Vec<QueuedRow>, StoreError> {
        let mut query = QueryBuilder::<Postgres>::new(
            "SELECT * FROM leases
            WHERE state = 'revoking' AND handle IS NOT NULL AND runs_out_at IS NULL AND attempts >= ",
        );
        query.push_bind(i64::from(filter.failed_at_least));
        if let Some(provider) = filter.provider {
            query.push(" AND provider = ").push_bind(provider);
        }
        query.push(" ORDER BY urgency, requested_at, id LIMIT ").push_bind(i64::from(filter.limit));
        let found = query.build().fetch_all(&self.readers).await.map_err(failed("list revocations"))?;
        found.iter().map(queue::queued).collect()
    }

    async fn queue_depths(&self, stuck_after: u32) -> Result<Vec<QueueDepth>, StoreError> {
        const DEPTHS: &str = "
            SELECT provider, count(*) AS queued, count(*) FILTER (WHERE attempts >= $1) AS stuck, min(requested_at) AS oldest
            FROM leases
            WHERE state = 'revoking' AND handle IS NOT NULL AND runs_out_at IS NULL
            GROUP BY provider
            ORDER BY provider";
        let rows = sqlx::query(DEPTHS).bind(i64::from(stuck_after)).fetch_all(&self.readers).await;
        rows.map_err(failed("measure the revocation queue"))?.iter().map(queue::depth).collect()
    }

    async fn retry_now(&self, provider: Option<&str>, now: Timestamp) -> Result<u32, StoreError> {
        self.desk.post(RetryNow { provider: provider.map(str::to_owned), now }).await
    }

    async fn verify_local(
        &self,
        provider: &str,
        evidence: &str,
        limit: u32,
        now: Timestamp,
    ) -> Result<u32, StoreError> {
        let (provider, evidence) = (provider.to_owned(), evidence.to_owned());
        self.desk.post(VerifyLocal { provider, evidence, limit, now }).await
    }
}

struct VerifyLocal {
    provider: String,
    evidence: String,
    limit: u32,
    now: Timestamp,
}

impl Verb for VerifyLocal {
    type Answer = u32;

    fn lane(&self) -> Lane {
        Lane::End
    }

    async fn run(&self, tx: &mut Tx) -> Result<u32, StoreError> {
        const DUE: &str = "
            SELECT * FROM leases
            WHERE state = 'revoking'
              AND handle IS NOT NULL
              AND runs_out_at IS NULL
              AND provider = $1
              AND revocability = 'exact'
              AND next_attempt_at <= $2
            ORDER BY urgency, requested_at
            LIMIT $3
            FOR UPDATE SKIP LOCKED";
        let due =
            sqlx::query(DUE).bind(&self.provider).bind(self.now.unix_millis()).bind(i64::from(self.limit));
        let event = LeaseEvent::Verify { evidence: self.evidence.clone() };
        take_all(tx, due, event, self.now, None).await.map(|ended| count(&ended))
    }
}

struct RetryNow {
    provider: Option<String>,
    now: Timestamp,
}

impl Verb for RetryNow {
    type Answer = u32;

    fn lane(&self) -> Lane {
        Lane::End
    }

    async fn run(&self, tx: &mut Tx) -> Result<u32, StoreError> {
        const RETRY: &str = "
            UPDATE leases
            SET next_attempt_at = $1
            WHERE state = 'revoking'
              AND handle IS NOT NULL
              AND runs_out_at IS NULL
              AND next_attempt_at > $1
              AND ($2::TEXT IS NULL OR provider = $2)";
        let retry = sqlx::query(RETRY).bind(self.now.unix_millis()).bind(self.provider.clone());
        let made_due = tx.write("make revocations due", retry).await?;
        tx.hint(Hint::Revocations);
        Ok(u32::try_from(made_due).unwrap_or(u32::MAX))
    }
}
