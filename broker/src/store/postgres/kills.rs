//! The kill switch: what is cut off, and the ends that follow from it.

use async_trait::async_trait;
use dayfly_domain::audit::Record;
use dayfly_domain::id::{KillId, LeaseId, RequestId};
use dayfly_domain::kill::{Kill, Live, State};
use dayfly_domain::time::Timestamp;
use sqlx::Row;
use sqlx::postgres::PgPool;

use super::PostgresStore;
use super::cut_off::EndCutOff;
use super::transaction::{Tx, texts};
use super::verb::Verb;
use crate::store::desk::Lane;
use crate::store::failure::failed;
use crate::store::kills::{self, CutOff, KillStore, LeaseTally};
use crate::store::moves::Journal;
use crate::store::{Ended, StoreError};

#[async_trait]
impl KillStore for PostgresStore {
    async fn write_kill(&self, kill: Kill, most: u32, record: Record) -> Result<(), StoreError> {
        self.desk.post(Write { kill, most, record }).await
    }

    async fn move_kill(&self, kill: Kill, from: State, record: Record) -> Result<(), StoreError> {
        self.desk.post(Move { kill, from, record }).await
    }

    async fn kills(&self, lifted_too: bool) -> Result<Vec<Kill>, StoreError> {
        const LIST: &str =
            "SELECT * FROM kills WHERE $1 OR state <> 'lifted' ORDER BY asked_at DESC, id DESC";
        let rows = sqlx::query(LIST).bind(lifted_too).fetch_all(&self.readers).await;
        rows.map_err(failed("list kills"))?.iter().map(kills::kill).collect()
    }

    async fn kill(&self, id: KillId) -> Result<Option<Kill>, StoreError> {
        const ONE: &str = "SELECT * FROM kills WHERE id = $1";
        let row = sqlx::query(ONE).bind(id.to_string()).fetch_optional(&self.readers).await;
        row.map_err(failed("read a kill"))?.as_ref().map(kills::kill).transpose()
    }

    async fn live(&self) -> Result<Vec<Live>, StoreError> {
        live(&self.readers).await
    }

    async fn end_cut_off(
        &self,
        which: CutOff,
        now: Timestamp,
        request: Option<RequestId>,
    ) -> Result<Ended, StoreError> {
        self.desk.post(EndCutOff { which, now, request }).await
    }

    async fn tally(&self, leases: &[LeaseId]) -> Result<LeaseTally, StoreError> {
        tally(&self.readers, leases).await
    }
}

struct Write {
    kill: Kill,
    most: u32,
    record: Record,
}

impl Verb for Write {
    type Answer = ();

    fn lane(&self) -> Lane {
        Lane::Kill
    }

    async fn run(&self, tx: &mut Tx) -> Result<(), StoreError> {
        const COUNT: &str = "SELECT count(*) FROM kills WHERE state <> 'lifted'";
        const WRITE: &str = "
            INSERT INTO kills (id, kind, name, reason, state, asked_at, asked_by, asked_on)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
        let row = tx.row("count kills", sqlx::query(COUNT)).await?;
        let count: i64 = row.map_or(Ok(0), |row| row.try_get(0)).map_err(failed("count kills"))?;
        if count >= i64::from(self.most) {
            return Err(StoreError::TooManyKills { limit: self.most });
        }
        let kill = &self.kill;
        let write = sqlx::query(WRITE)
            .bind(kill.id.to_string())
            .bind(kill.target.kind())
            .bind(kill.target.name())
            .bind(kill.reason.clone())
            .bind(kill.state.as_str())
            .bind(kill.asked.at.unix_millis())
            .bind(kill.asked.by.clone())
            .bind(kill.asked.on.to_string());
        tx.write("write a kill", write).await?;
        count_word(tx).await?;
        tx.record(&self.record);
        Ok(())
    }
}

struct Move {
    kill: Kill,
    from: State,
    record: Record,
}

impl Verb for Move {
    type Answer = ();

    fn lane(&self) -> Lane {
        match self.kill.state {
            State::Standing => Lane::Kill,
            State::Proposed | State::Lifted => Lane::Grant,
        }
    }

    async fn run(&self, tx: &mut Tx) -> Result<(), StoreError> {
        // The state that was read is part of the key: of two that decide at once, one is told.
        const MOVE: &str = "
            UPDATE kills
            SET state = $1, approved_at = $2, approved_by = $3, approved_on = $4,
                lifted_at = $5, lifted_by = $6, lifted_on = $7
            WHERE id = $8 AND state = $9";
        let Kill { id, approved, lifted, state, .. } = &self.kill;
        let mut moved = sqlx::query(MOVE).bind(state.as_str());
        for word in [approved, lifted] {
            moved = moved
                .bind(word.as_ref().map(|word| word.at.unix_millis()))
                .bind(word.as_ref().map(|word| word.by.clone()))
                .bind(word.as_ref().map(|word| word.on.to_string()));
        }
        let moved = moved.bind(id.to_string()).bind(self.from.as_str());
        if tx.write("move a kill", moved).await? == 0 {
            return Err(StoreError::KillChanged(*id));
        }
        count_word(tx).await?;
        tx.record(&self.record);
        Ok(())
    }
}

/// The rules of every broker are made from the documents and what was said beside them, kills as well as approvals.
async fn count_word(tx: &mut Tx) -> Result<(), StoreError> {
    const SAID: &str = "UPDATE rules SET approvals = approvals + 1";
    tx.write("count a word on a kill", sqlx::query(SAID)).await?;
    tx.applies_approval();
    Ok(())
}

async fn live(readers: &PgPool) -> Result<Vec<Live>, StoreError> {
    const TASKS: &str = "
        SELECT opened_by AS spiffe_id, node, NULL::TEXT AS scope, NULL::TEXT AS provider, count(*) AS live FROM tasks
        WHERE state = 'open'
        GROUP BY opened_by, node";
    const LEASES: &str = "
        SELECT spiffe_id, node, scope, provider, count(*) AS live FROM leases
        WHERE state <> 'ended' AND state <> 'revoking'
        GROUP BY spiffe_id, node, scope, provider";
    let mut all = Vec::new();
    for sql in [TASKS, LEASES] {
        let rows = sqlx::query(sql).fetch_all(readers).await.map_err(failed("count what is live"))?;
        for row in &rows {
            all.push(kills::live(row)?);
        }
    }
    Ok(all)
}

async fn tally(readers: &PgPool, leases: &[LeaseId]) -> Result<LeaseTally, StoreError> {
    const COUNT: &str = "
        SELECT CASE WHEN state = 'ended' THEN outcome
                    WHEN state = 'revoking' AND runs_out_at IS NOT NULL THEN 'running_out'
                    WHEN state = 'revoking' THEN 'revoking'
                    ELSE 'live' END AS standing,
               count(*) AS leases
        FROM leases
        WHERE id = ANY($1)
        GROUP BY standing";
    const WHAT: &str = "count leases by standing";
    const AT_ONCE: usize = 10_000;
    let mut tally = LeaseTally::default();
    for some in leases.chunks(AT_ONCE) {
        let rows = sqlx::query(COUNT).bind(texts(some)).fetch_all(readers).await.map_err(failed(WHAT))?;
        for row in rows {
            let standing: String = row.try_get("standing").map_err(failed(WHAT))?;
            let count: i64 = row.try_get("leases").map_err(failed(WHAT))?;
            tally.add(&standing, count.unsigned_abs());
        }
    }
    Ok(tally)
}
