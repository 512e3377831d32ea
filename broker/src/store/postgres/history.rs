//! Finds records of the past by when they were written and what they hold, without reading a chain through.

use dayfly_domain::audit::Stream;
use dayfly_domain::time::Timestamp;
use sqlx::Row;
use sqlx::postgres::PgPool;

use super::audit::row_of;
use crate::store::failure::failed;
use crate::store::{AuditRow, StoreError};

const WHAT: &str = "look for audit records";

/// The first record that is not from before the moment, by halving. Times are almost in the order of the numbers; where
/// two are not, what is found is one of the places where they step over the moment.
pub(super) async fn since(
    readers: &PgPool,
    writer: &str,
    stream: Stream,
    moment: Timestamp,
) -> Result<Option<u64>, StoreError> {
    const LAST: &str = "SELECT MAX(seq) FROM audit WHERE writer = $1 AND stream = $2";
    const AT: &str = "SELECT at FROM audit WHERE writer = $1 AND stream = $2 AND seq = $3";
    // One snapshot, so that the end of the chain stays where it is.
    let mut snapshot =
        readers.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await.map_err(failed(WHAT))?;
    let last = sqlx::query(LAST).bind(writer).bind(stream.as_str());
    let last = last.fetch_one(&mut *snapshot).await.map_err(failed(WHAT))?;
    let last: Option<i64> = last.try_get(0).map_err(failed(WHAT))?;
    // All before `from` are older, and none from `to` on is looked at again.
    let (mut from, mut to) = (1, last.unwrap_or(0) + 1);
    while from < to {
        let middle = from + (to - from) / 2;
        let row = sqlx::query(AT).bind(writer).bind(stream.as_str()).bind(middle);
        let row = row.fetch_one(&mut *snapshot).await.map_err(failed(WHAT))?;
        let at: i64 = row.try_get(0).map_err(failed(WHAT))?;
        if at < moment.unix_millis() { from = middle + 1 } else { to = middle }
    }
    Ok(last.filter(|last| from <= *last).map(|_| from.unsigned_abs()))
}

pub(super) async fn holding(
    readers: &PgPool,
    writer: &str,
    stream: Stream,
    from_seq: u64,
    within: u64,
    text: &str,
) -> Result<Vec<AuditRow>, StoreError> {
    const HOLDING: &str = "
        SELECT seq, prev_hash, hash, at, bytes FROM audit
        WHERE writer = $1 AND stream = $2 AND seq >= $3 AND seq < $4
          AND position($5 IN bytes) > 0
        ORDER BY seq";
    let bound = |seq: u64| i64::try_from(seq).unwrap_or(i64::MAX);
    let rows = sqlx::query(HOLDING)
        .bind(writer)
        .bind(stream.as_str())
        .bind(bound(from_seq))
        .bind(bound(from_seq.saturating_add(within)))
        .bind(text.as_bytes())
        .fetch_all(readers)
        .await
        .map_err(failed(WHAT))?;
    rows.iter().map(|row| row_of(row, writer, stream).map_err(failed(WHAT))).collect()
}
