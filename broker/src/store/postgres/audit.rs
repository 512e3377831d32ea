//! Audit records that go with no change of state, and how the chains are read.

use dayfly_domain::audit::{Record, Stream};
use dayfly_domain::time::Timestamp;
use sqlx::Row;
use sqlx::postgres::{PgPool, PgRow};

use super::transaction::Tx;
use super::verb::Verb;
use crate::store::chain::Line;
use crate::store::desk::Lane;
use crate::store::failure::failed;
use crate::store::{AuditRow, StoreError};

/// Writes records that go with no change of state.
pub(super) struct Write {
    lines: Vec<Line>,
}

impl Write {
    pub(super) fn new(records: &[Record]) -> Self {
        Self { lines: records.iter().map(Line::new).collect() }
    }
}

impl Verb for Write {
    type Answer = ();

    fn lane(&self) -> Lane {
        Lane::Grant
    }

    async fn run(&self, tx: &mut Tx) -> Result<(), StoreError> {
        for line in &self.lines {
            tx.note(line.clone());
        }
        Ok(())
    }
}

pub(super) async fn read(
    readers: &PgPool,
    writer: &str,
    stream: Stream,
    from_seq: u64,
    limit: u32,
) -> Result<Vec<AuditRow>, StoreError> {
    const READ: &str = "
        SELECT seq, prev_hash, hash, at, bytes FROM audit
        WHERE writer = $1 AND stream = $2 AND seq >= $3
        ORDER BY seq
        LIMIT $4";
    let rows = sqlx::query(READ)
        .bind(writer)
        .bind(stream.as_str())
        .bind(i64::try_from(from_seq).unwrap_or(i64::MAX))
        .bind(i64::from(limit))
        .fetch_all(readers)
        .await
        .map_err(failed("read audit records"))?;
    rows.iter().map(|row| row_of(row, writer, stream).map_err(failed("read audit records"))).collect()
}

/// Every broker that ever wrote here.
pub(super) async fn writers(readers: &PgPool) -> Result<Vec<String>, StoreError> {
    const WRITERS: &str = "SELECT writer FROM brokers ORDER BY writer";
    let rows = sqlx::query(WRITERS).fetch_all(readers).await.map_err(failed("list the brokers"))?;
    rows.iter().map(|row| row.try_get(0).map_err(failed("list the brokers"))).collect()
}

pub(super) fn row_of(row: &PgRow, writer: &str, stream: Stream) -> Result<AuditRow, sqlx::Error> {
    Ok(AuditRow {
        writer: writer.to_owned(),
        stream,
        seq: row.try_get::<i64, _>("seq")?.unsigned_abs(),
        prev_hash: row.try_get("prev_hash")?,
        hash: row.try_get("hash")?,
        at: Timestamp::from_unix_millis(row.try_get("at")?),
        bytes: row.try_get("bytes")?,
    })
}
