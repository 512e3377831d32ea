//! Client assertions that were taken: none is taken twice, also by a broker that was restarted.

use dayfly_domain::time::Timestamp;

use super::transaction::Tx;
use super::verb::Verb;
use crate::store::StoreError;
use crate::store::desk::Lane;

/// Takes an assertion, unless it was taken before.
pub(super) struct Take {
    pub(super) hash: [u8; 32],
    pub(super) expires_at: Timestamp,
    pub(super) now: Timestamp,
}

impl Verb for Take {
    type Answer = bool;

    fn lane(&self) -> Lane {
        Lane::Grant
    }

    async fn run(&self, tx: &mut Tx) -> Result<bool, StoreError> {
        const TAKE: &str = "
            INSERT INTO taken_assertions (hash, expires_at)
            SELECT $1, $2::BIGINT
            WHERE $2::BIGINT > $3
            ON CONFLICT (hash) DO NOTHING";
        let take = sqlx::query(TAKE)
            .bind(self.hash.to_vec())
            .bind(self.expires_at.unix_millis())
            .bind(self.now.unix_millis());
        Ok(tx.write("take a client assertion", take).await? == 1)
    }
}

/// Forgets assertions that ran out before a moment.
pub(super) struct Sweep {
    pub(super) expired_before: Timestamp,
    pub(super) limit: u32,
}

impl Verb for Sweep {
    type Answer = u32;

    fn lane(&self) -> Lane {
        Lane::Grant
    }

    async fn run(&self, tx: &mut Tx) -> Result<u32, StoreError> {
        const SWEEP: &str = "
            DELETE FROM taken_assertions
            WHERE hash IN (
                SELECT hash FROM taken_assertions
                WHERE expires_at < $1
                ORDER BY expires_at
                LIMIT $2
                FOR UPDATE SKIP LOCKED
            )";
        let sweep = sqlx::query(SWEEP).bind(self.expired_before.unix_millis()).bind(i64::from(self.limit));
        let swept = tx.write("forget client assertions", sweep).await?;
        Ok(u32::try_from(swept).unwrap_or(u32::MAX))
    }
}
