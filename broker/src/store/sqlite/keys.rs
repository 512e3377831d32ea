//! Signing keys that were taken out.

use dayfly_domain::audit::Record;
use dayfly_domain::time::Timestamp;
use sqlx::Row;
use sqlx::sqlite::{SqlitePool, SqliteRow};

use super::transaction::{Tx, corrupt, failed};
use super::writer::{Lane, Verb};
use crate::store::{StoreError, WithheldKey};

/// Takes a key out. What was retired may still turn out to be compromised, not the other way round.
pub(super) struct Withhold {
    pub(super) key: WithheldKey,
    pub(super) record: Record,
}

impl Verb for Withhold {
    type Answer = ();

    fn lane(&self) -> Lane {
        Lane::Kill
    }

    async fn run(&self, tx: &mut Tx) -> Result<(), StoreError> {
        const WITHHOLD: &str = "
            INSERT INTO withheld_keys (purpose, kid, announced_at, first, why, withheld_at)
            VALUES ($1, $2, $3, $4, $5, $6)
            ON CONFLICT (purpose, kid) DO UPDATE
            SET why = excluded.why, withheld_at = excluded.withheld_at
            WHERE withheld_keys.why = 'retired' AND excluded.why = 'compromised'";
        let WithheldKey { purpose, facts, withheld } = &self.key;
        let withhold = sqlx::query(WITHHOLD)
            .bind(purpose.clone())
            .bind(facts.kid.clone())
            .bind(facts.announced_at.unix_millis())
            .bind(facts.first)
            .bind(withheld.why.as_str())
            .bind(withheld.at.unix_millis());
        tx.write("take out a signing key", withhold).await?;
        tx.record(&self.record);
        Ok(())
    }
}

pub(super) async fn list(readers: &SqlitePool) -> Result<Vec<WithheldKey>, StoreError> {
    const LIST: &str = "
        SELECT purpose, kid, announced_at, first, why, withheld_at
        FROM withheld_keys
        ORDER BY withheld_at, kid";
    let rows = sqlx::query(LIST).fetch_all(readers).await.map_err(failed("read withheld keys"))?;
    rows.iter().map(key).collect()
}

fn key(row: &SqliteRow) -> Result<WithheldKey, StoreError> {
    const WHAT: &str = "read withheld keys";
    let text = |name| row.try_get::<String, _>(name).map_err(failed(WHAT));
    let moment = |name| row.try_get(name).map(Timestamp::from_unix_millis).map_err(failed(WHAT));
    let first = row.try_get("first").map_err(failed(WHAT))?;
    let name = (text("purpose")?, text("kid")?);
    let read = WithheldKey::of(name, moment("announced_at")?, first, &text("why")?, moment("withheld_at")?);
    read.ok_or_else(|| corrupt(WHAT, "a key was withheld for no reason that is known"))
}
