//! Ties the chains of the brokers together: each records from time to time where those of the others stand.

use dayfly_domain::audit::{Record, Stream};
use dayfly_domain::time::Timestamp;
use serde_json::json;
use sqlx::Row;

use super::transaction::Tx;
use super::verb::Verb;
use crate::store::StoreError;
use crate::store::desk::Lane;
use crate::store::failure::failed;
use crate::store::moves::Journal;

/// Records where the chains of the other brokers stand. `dayfly audit verify` holds them against that.
pub(super) struct Witness {
    pub(super) now: Timestamp,
}

impl Verb for Witness {
    type Answer = ();

    fn lane(&self) -> Lane {
        Lane::Grant
    }

    async fn run(&self, tx: &mut Tx) -> Result<(), StoreError> {
        const HEADS: &str = "
            SELECT brokers.writer, named.stream, head.seq, encode(head.hash, 'hex')
            FROM brokers
            CROSS JOIN unnest($2::TEXT[]) AS named (stream)
            CROSS JOIN LATERAL (
                SELECT seq, hash FROM audit
                WHERE audit.writer = brokers.writer AND audit.stream = named.stream
                ORDER BY seq DESC
                LIMIT 1
            ) AS head
            WHERE brokers.writer <> $1
            ORDER BY brokers.writer, named.stream";
        const WHAT: &str = "read the heads of the other brokers' chains";
        let writer = tx.member.writer.clone();
        let streams = Vec::from_iter(Stream::ALL.map(Stream::as_str));
        let rows = tx.rows(WHAT, sqlx::query(HEADS).bind(writer).bind(streams)).await?;
        let mut heads = Vec::new();
        for row in rows {
            let text = |column: usize| row.try_get::<String, _>(column).map_err(failed(WHAT));
            let seq: i64 = row.try_get(2).map_err(failed(WHAT))?;
            heads.push(json!({"writer": text(0)?, "stream": text(1)?, "seq": seq, "hash": text(3)?}));
        }
        if !heads.is_empty() {
            tx.record(&Record::new(Stream::Admin, "audit.witness", self.now).with("heads", heads));
        }
        Ok(())
    }
}
