//! The brake on mass lapse: one row.

use dayfly_domain::audit::Record;
use dayfly_domain::brake::Brake;
use dayfly_domain::time::Timestamp;
use sqlx::Row;
use sqlx::postgres::PgPool;

use super::transaction::Tx;
use super::verb::Verb;
use crate::store::StoreError;
use crate::store::desk::Lane;
use crate::store::failure::failed;
use crate::store::moves::Journal;

/// Moves the brake, if it stands where the caller saw it. What it takes away or gives back is silence's, so it is not
/// refused for want of a record.
pub(super) struct Move {
    pub(super) from: Brake,
    pub(super) to: Brake,
    pub(super) record: Record,
}

impl Verb for Move {
    type Answer = bool;

    fn lane(&self) -> Lane {
        Lane::End
    }

    async fn run(&self, tx: &mut Tx) -> Result<bool, StoreError> {
        // Of several brokers that see the same silence, one moves the brake.
        const MOVE: &str = "
            UPDATE brake
            SET engaged_at = $1,
                released_at = $2,
                released_by = $3
            WHERE COALESCE(engaged_at, 0) = $4
              AND COALESCE(released_at, 0) = $5";
        let or_zero = |at: Option<Timestamp>| at.map_or(0, Timestamp::unix_millis);
        let moved = sqlx::query(MOVE)
            .bind(self.to.engaged_at.map(Timestamp::unix_millis))
            .bind(self.to.released_at.map(Timestamp::unix_millis))
            .bind(&self.to.released_by)
            .bind(or_zero(self.from.engaged_at))
            .bind(or_zero(self.from.released_at));
        let moved = tx.write("move the brake", moved).await? == 1;
        if moved {
            tx.record(&self.record);
        }
        Ok(moved)
    }
}

pub(super) async fn read(readers: &PgPool) -> Result<Brake, StoreError> {
    const WHAT: &str = "read the brake";
    let row = sqlx::query("SELECT engaged_at, released_at, released_by FROM brake").fetch_one(readers).await;
    let row = row.map_err(failed(WHAT))?;
    let moment = |column: &str| -> Result<Option<Timestamp>, StoreError> {
        let at: Option<i64> = row.try_get(column).map_err(failed(WHAT))?;
        Ok(at.map(Timestamp::from_unix_millis))
    };
    Ok(Brake {
        engaged_at: moment("engaged_at")?,
        released_at: moment("released_at")?,
        released_by: row.try_get("released_by").map_err(failed(WHAT))?,
    })
}
