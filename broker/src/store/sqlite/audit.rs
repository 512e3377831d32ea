//! The audit chains: their heads stay with the writer, their records go into the transaction of what they record.

use std::sync::LazyLock;

use dayfly_domain::audit::{GENESIS, Record, Stream};
use dayfly_domain::time::Timestamp;
use sqlx::Row;
use sqlx::sqlite::{SqliteConnection, SqlitePool, SqliteRow};

use super::transaction::{Insert, Sql, Tx, corrupt, failed, insert_many};
use super::writer::{Lane, Verb};
pub(super) use crate::store::chain::{Care, Line};
use crate::store::chain::{Head, Link};
use crate::store::{AuditRow, StoreError};

/// The writer's own chains.
pub(super) struct Ledger {
    writer: String,
    heads: [Head; Stream::ALL.len()],
    lines: Vec<Line>,
    lost: i64,
    /// What `heads` and `lost` become if the transaction is committed.
    next: Option<([Head; Stream::ALL.len()], i64)>,
}

static INSERT: LazyLock<Insert> = LazyLock::new(|| {
    Insert::new("INSERT INTO audit (writer, stream, seq, prev_hash, hash, at, bytes) VALUES", 7)
});

impl Ledger {
    pub(super) async fn open(connection: &mut SqliteConnection, writer: &str) -> Result<Self, StoreError> {
        const COUNT_FROM_ZERO: &str = "INSERT OR IGNORE INTO audit_lost (writer, records) VALUES ($1, 0)";
        // On a full disk the row is there from an earlier start, or there is nothing yet that could be lost.
        let counting = sqlx::query(COUNT_FROM_ZERO).bind(writer).execute(&mut *connection).await;
        if let Err(error) = counting {
            tracing::warn!(%error, "could not prepare the count of lost records");
        }
        let heads = [Head { seq: 0, hash: GENESIS }; Stream::ALL.len()];
        let mut ledger = Self { writer: writer.to_owned(), heads, lines: Vec::new(), lost: 0, next: None };
        ledger.reload(connection).await?;
        Ok(ledger)
    }

    /// Reads the heads as they are on disk.
    pub(super) async fn reload(&mut self, connection: &mut SqliteConnection) -> Result<(), StoreError> {
        const HEAD: &str = "
            SELECT seq, hash FROM audit
            WHERE writer = $1 AND stream = $2
            ORDER BY seq DESC
            LIMIT 1";
        const LOST: &str = "SELECT records FROM audit_lost WHERE writer = $1";
        const WHAT: &str = "read the heads of the audit chains";
        self.lines.clear();
        self.next = None;
        for (head, stream) in self.heads.iter_mut().zip(Stream::ALL) {
            let query = sqlx::query(HEAD).bind(&self.writer).bind(stream.as_str());
            *head = match query.fetch_optional(&mut *connection).await.map_err(failed(WHAT))? {
                Some(row) => {
                    let hash: Vec<u8> = row.try_get(1).map_err(failed(WHAT))?;
                    let hash = hash.try_into().map_err(|_| corrupt(WHAT, "a hash is not 32 bytes long"))?;
                    Head { seq: row.try_get(0).map_err(failed(WHAT))?, hash }
                }
                None => Head { seq: 0, hash: GENESIS },
            };
        }
        let lost = sqlx::query(LOST).bind(&self.writer).fetch_optional(&mut *connection).await;
        self.lost = match lost.map_err(failed(WHAT))? {
            Some(row) => row.try_get(0).map_err(failed(WHAT))?,
            None => 0,
        };
        Ok(())
    }

    pub(super) fn note(&mut self, line: Line) {
        self.lines.push(line);
    }

    /// Writes the noted records, after one that says how many were lost before, if any were.
    pub(super) async fn write(
        &mut self,
        connection: &mut SqliteConnection,
        care: Care,
    ) -> Result<(), StoreError> {
        let mut lines = std::mem::take(&mut self.lines);
        let Some(last) = lines.last() else { return Ok(()) };
        if care == Care::Counted {
            let lost = self.lost + i64::try_from(lines.len()).unwrap_or(i64::MAX);
            tracing::error!(records = lines.len(), "audit records are lost: they could not be written");
            self.next = Some((self.heads, lost));
            return self.count(connection, lost).await;
        }
        if self.lost > 0 {
            lines.insert(0, Line::confession(self.lost, last.at));
            self.count(connection, 0).await?;
        }
        let mut heads = self.heads;
        let links = Link::all(&mut heads, &self.writer, &lines);
        insert_many(connection, "write audit records", &INSERT, &links, bind).await?;
        self.next = Some((heads, 0));
        Ok(())
    }

    async fn count(&self, connection: &mut SqliteConnection, lost: i64) -> Result<(), StoreError> {
        const COUNT: &str = "UPDATE audit_lost SET records = $1 WHERE writer = $2";
        let query = sqlx::query(COUNT).bind(lost).bind(&self.writer);
        query.execute(connection).await.map(|_| ()).map_err(failed("count lost records"))
    }

    /// The transaction was committed.
    pub(super) fn keep(&mut self) {
        if let Some((heads, lost)) = self.next.take() {
            self.heads = heads;
            self.lost = lost;
        }
    }
}

fn bind<'q>(link: &Link<'_>, sql: Sql<'q>) -> Sql<'q> {
    sql.bind(link.writer.to_owned())
        .bind(link.line.stream.as_str())
        .bind(link.seq)
        .bind(link.prev_hash.to_vec())
        .bind(link.hash.to_vec())
        .bind(link.line.at.unix_millis())
        .bind(link.line.bytes.clone())
}

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
    readers: &SqlitePool,
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
        .bind(limit)
        .fetch_all(readers)
        .await
        .map_err(failed("read audit records"))?;
    rows.iter().map(|row| row_of(row, writer, stream).map_err(failed("read audit records"))).collect()
}

pub(super) fn row_of(row: &SqliteRow, writer: &str, stream: Stream) -> Result<AuditRow, sqlx::Error> {
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
