//! The platform team's documents: what stands, and every version that ever stood.

use dayfly_domain::audit::Record;
use dayfly_domain::document::{Document, Kind};
use dayfly_domain::time::Timestamp;
use sqlx::Row;
use sqlx::postgres::{PgPool, PgRow};

use super::membership::Version;
use super::transaction::{Sql, Tx};
use super::verb::Verb;
use crate::store::desk::Lane;
use crate::store::failure::{corrupt, failed};
use crate::store::moves::Journal;
use crate::store::{Change, StoreError, StoredDocument};

pub(super) struct Apply {
    pub(super) change: Change,
    pub(super) records: Vec<Record>,
}

impl Verb for Apply {
    type Answer = u64;

    fn lane(&self) -> Lane {
        Lane::Grant
    }

    async fn run(&self, tx: &mut Tx) -> Result<u64, StoreError> {
        const STEP: &str = "UPDATE rules SET revision = revision + 1 WHERE revision = $1";
        let expected = i64::try_from(self.change.expected_revision).unwrap_or(i64::MAX);
        if tx.write("step the revision", sqlx::query(STEP).bind(expected)).await? == 0 {
            let actual = tx.row("read the revision", sqlx::query(REVISION)).await?;
            let actual = actual.as_ref().map(revision).transpose()?.unwrap_or(0);
            return Err(StoreError::StaleRevision { expected: self.change.expected_revision, actual });
        }
        tx.applies_documents();
        let revision = expected + 1;
        for document in &self.change.puts {
            self.put(tx, document, revision).await?;
        }
        for key in &self.change.deletes {
            self.delete(tx, key.kind, &key.name, revision).await?;
        }
        for record in &self.records {
            tx.record(record);
        }
        Ok(revision.unsigned_abs())
    }
}

impl Apply {
    async fn put(&self, tx: &mut Tx, document: &Document, revision: i64) -> Result<(), StoreError> {
        const PUT: &str = "
            INSERT INTO documents (kind, name, body, digest, revision, applied_at, applied_by)
            VALUES ($1, $2, $3::JSONB, $4, $5, $6, $7)
            ON CONFLICT (kind, name) DO UPDATE
            SET body = excluded.body,
                digest = excluded.digest,
                revision = excluded.revision,
                applied_at = excluded.applied_at,
                applied_by = excluded.applied_by";
        const KEEP: &str = "
            INSERT INTO document_history (kind, name, body, digest, revision, applied_at, applied_by)
            VALUES ($1, $2, $3::JSONB, $4, $5, $6, $7)";
        let bind = |sql: &'static str| {
            sqlx::query(sql)
                .bind(document.key.kind.as_str())
                .bind(document.key.name.clone())
                .bind(document.canonical())
                .bind(document.digest())
                .bind(revision)
        };
        tx.write("put a document", self.by_whom(bind(PUT))).await?;
        tx.write("keep a version of a document", self.by_whom(bind(KEEP))).await.map(|_| ())
    }

    async fn delete(&self, tx: &mut Tx, kind: Kind, name: &str, revision: i64) -> Result<(), StoreError> {
        const DELETE: &str = "DELETE FROM documents WHERE kind = $1 AND name = $2";
        const KEEP: &str = "
            INSERT INTO document_history (kind, name, revision, applied_at, applied_by)
            VALUES ($1, $2, $3, $4, $5)";
        let delete = sqlx::query(DELETE).bind(kind.as_str()).bind(name.to_owned());
        if tx.write("delete a document", delete).await? == 0 {
            return Ok(());
        }
        let keep = sqlx::query(KEEP).bind(kind.as_str()).bind(name.to_owned()).bind(revision);
        tx.write("keep the removal of a document", self.by_whom(keep)).await.map(|_| ())
    }

    fn by_whom<'q>(&self, sql: Sql<'q>) -> Sql<'q> {
        sql.bind(self.change.at.unix_millis()).bind(self.change.by.clone())
    }
}

const REVISION: &str = "SELECT revision, approvals FROM rules";

fn revision(row: &PgRow) -> Result<u64, StoreError> {
    row.try_get::<i64, _>("revision").map(i64::unsigned_abs).map_err(failed("read the revision"))
}

/// Every document and the revision they stand at, as of one moment.
pub(super) async fn load(readers: &PgPool) -> Result<(Version, Vec<StoredDocument>), StoreError> {
    const ALL: &str =
        "SELECT body::TEXT AS body, revision, applied_at, applied_by FROM documents ORDER BY kind, name";
    const WHAT: &str = "read the documents";
    let mut snapshot =
        readers.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await.map_err(failed(WHAT))?;
    let at = sqlx::query(REVISION).fetch_one(&mut *snapshot).await.map_err(failed(WHAT))?;
    let rows = sqlx::query(ALL).fetch_all(&mut *snapshot).await.map_err(failed(WHAT))?;
    snapshot.commit().await.map_err(failed(WHAT))?;
    let documents = rows.iter().map(stored).collect::<Result<_, _>>()?;
    Ok((version_of(&at)?, documents))
}

/// Which documents and approvals stand.
pub(super) async fn version(readers: &PgPool) -> Result<Version, StoreError> {
    let row = sqlx::query(REVISION).fetch_one(readers).await.map_err(failed("read the revision"))?;
    version_of(&row)
}

fn version_of(row: &PgRow) -> Result<Version, StoreError> {
    let number = |name: &str| row.try_get::<i64, _>(name).map_err(failed("read the revision"));
    Ok(Version { revision: number("revision")?, approvals: number("approvals")? })
}

pub(super) async fn history(
    readers: &PgPool,
    kind: Kind,
    name: &str,
) -> Result<Vec<StoredDocument>, StoreError> {
    const HISTORY: &str = "
        SELECT body::TEXT AS body, revision, applied_at, applied_by FROM document_history
        WHERE kind = $1 AND name = $2 AND body IS NOT NULL
        ORDER BY revision";
    let history = sqlx::query(HISTORY).bind(kind.as_str()).bind(name);
    let rows = history.fetch_all(readers).await.map_err(failed("read the history of a document"))?;
    rows.iter().map(stored).collect()
}

/// The newest version of each document that is no newer than the revision, those left out that were removed by then.
pub(super) async fn at(readers: &PgPool, revision: u64) -> Result<Vec<StoredDocument>, StoreError> {
    const AT: &str = "
        SELECT body::TEXT AS body, revision, applied_at, applied_by FROM document_history AS version
        WHERE body IS NOT NULL
          AND revision = (
              SELECT MAX(revision) FROM document_history
              WHERE kind = version.kind AND name = version.name AND revision <= $1
          )
        ORDER BY kind, name";
    let revision = i64::try_from(revision).unwrap_or(i64::MAX);
    let rows = sqlx::query(AT).bind(revision).fetch_all(readers).await;
    rows.map_err(failed("read the documents of a revision"))?.iter().map(stored).collect()
}

fn stored(row: &PgRow) -> Result<StoredDocument, StoreError> {
    const WHAT: &str = "read a document";
    let body: String = row.try_get("body").map_err(failed(WHAT))?;
    let document = Document::from_canonical(&body).map_err(|fault| corrupt(WHAT, fault.to_string()))?;
    let applied_at: i64 = row.try_get("applied_at").map_err(failed(WHAT))?;
    Ok(StoredDocument {
        document,
        revision: revision(row)?,
        applied_at: Timestamp::from_unix_millis(applied_at),
        applied_by: row.try_get("applied_by").map_err(failed(WHAT))?,
    })
}
