//! The audit chains of this broker. Its lanes take turns: the turn lasts until the transaction is committed or undone.

use dayfly_domain::audit::Stream;
use sqlx::Row;
use sqlx::postgres::PgConnection;

use crate::store::StoreError;
use crate::store::chain::{Care, Head, Heads, Line, Link};
use crate::store::failure::{corrupt, failed};

const WHAT: &str = "read the heads of the audit chains";

/// The writer's own chains, as they are in the database while nobody else writes them.
#[derive(Debug)]
pub(super) struct Ledger {
    writer: String,
    /// Where the chains stand and how many records were lost; none if that must be read.
    stands: Option<(Heads, i64)>,
    /// What that becomes if the transaction is committed.
    next: Option<(Heads, i64)>,
}

impl Ledger {
    pub(super) fn new(writer: &str) -> Self {
        Self { writer: writer.to_owned(), stands: None, next: None }
    }

    /// The chains may stand elsewhere than it is remembered.
    pub(super) fn doubt(&mut self) {
        self.stands = None;
        self.next = None;
    }

    /// The transaction was committed.
    pub(super) fn keep(&mut self) {
        if let Some(next) = self.next.take() {
            self.stands = Some(next);
        }
    }

    /// Writes the records, after one that says how many were lost before, if any were.
    pub(super) async fn write(
        &mut self,
        connection: &mut PgConnection,
        mut lines: Vec<Line>,
        care: Care,
    ) -> Result<(), StoreError> {
        self.next = None;
        let Some(last) = lines.last().map(|line| line.at) else { return Ok(()) };
        let (mut heads, lost) = match self.stands {
            Some(stands) => stands,
            None => read(connection, &self.writer).await?,
        };
        if care == Care::Counted {
            let lost = lost + i64::try_from(lines.len()).unwrap_or(i64::MAX);
            tracing::error!(records = lines.len(), "audit records are lost: they could not be written");
            self.next = Some((heads, lost));
            return self.count(connection, lost).await;
        }
        if lost > 0 {
            lines.insert(0, Line::confession(lost, last));
            self.count(connection, 0).await?;
        }
        let links = Link::all(&mut heads, &self.writer, &lines);
        insert(connection, &self.writer, &links).await?;
        self.next = Some((heads, 0));
        Ok(())
    }

    async fn count(&self, connection: &mut PgConnection, lost: i64) -> Result<(), StoreError> {
        const COUNT: &str = "
            INSERT INTO audit_lost (writer, records) VALUES ($1, $2)
            ON CONFLICT (writer) DO UPDATE SET records = excluded.records";
        let query = sqlx::query(COUNT).bind(&self.writer).bind(lost);
        query.execute(connection).await.map(|_| ()).map_err(failed("count lost records"))
    }
}

async fn read(connection: &mut PgConnection, writer: &str) -> Result<(Heads, i64), StoreError> {
    const HEAD: &str = "
        SELECT seq, hash FROM audit
        WHERE writer = $1 AND stream = $2
        ORDER BY seq DESC
        LIMIT 1";
    const LOST: &str = "SELECT records FROM audit_lost WHERE writer = $1";
    let mut heads = [Head::GENESIS; Stream::ALL.len()];
    for (head, stream) in heads.iter_mut().zip(Stream::ALL) {
        let query = sqlx::query(HEAD).bind(writer).bind(stream.as_str());
        if let Some(row) = query.fetch_optional(&mut *connection).await.map_err(failed(WHAT))? {
            let hash: Vec<u8> = row.try_get(1).map_err(failed(WHAT))?;
            let hash = hash.try_into().map_err(|_| corrupt(WHAT, "a hash is not 32 bytes long"))?;
            *head = Head { seq: row.try_get(0).map_err(failed(WHAT))?, hash };
        }
    }
    let lost = sqlx::query(LOST).bind(writer).fetch_optional(connection).await.map_err(failed(WHAT))?;
    let lost = match lost {
        Some(row) => row.try_get(0).map_err(failed(WHAT))?,
        None => 0,
    };
    Ok((heads, lost))
}

async fn insert(connection: &mut PgConnection, writer: &str, links: &[Link<'_>]) -> Result<(), StoreError> {
    const INSERT: &str = "
        INSERT INTO audit (writer, stream, seq, prev_hash, hash, at, bytes)
        SELECT $1, link.* FROM unnest($2::TEXT[], $3::BIGINT[], $4::BYTEA[], $5::BYTEA[], $6::BIGINT[], $7::BYTEA[])
            AS link";
    const AT_ONCE: usize = 1_000;
    for links in links.chunks(AT_ONCE) {
        let query = sqlx::query(INSERT)
            .bind(writer)
            .bind(Vec::from_iter(links.iter().map(|link| link.line.stream.as_str())))
            .bind(Vec::from_iter(links.iter().map(|link| link.seq)))
            .bind(Vec::from_iter(links.iter().map(|link| link.prev_hash.to_vec())))
            .bind(Vec::from_iter(links.iter().map(|link| link.hash.to_vec())))
            .bind(Vec::from_iter(links.iter().map(|link| link.line.at.unix_millis())))
            .bind(Vec::from_iter(links.iter().map(|link| link.line.bytes.clone())));
        query.execute(&mut *connection).await.map_err(failed("write audit records"))?;
    }
    Ok(())
}
