//! What other brokers did: for agents and watchers that are connected here.

use dayfly_domain::id::TaskId;
use dayfly_domain::task::{EndCause, TaskState};
use dayfly_domain::time::Timestamp;
use sqlx::Row;
use sqlx::postgres::{PgPool, PgRow};

use super::transaction::{Tx, texts};
use super::verb::Verb;
use crate::store::desk::Lane;
use crate::store::failure::{corrupt, failed};
use crate::store::{Over, StoreError, rows};

const WHAT: &str = "read what ended";

/// Tasks that ended since a moment, and leases of open tasks that were taken back.
pub(super) async fn over_since(readers: &PgPool, moment: Timestamp) -> Result<Over, StoreError> {
    const TASKS: &str = "SELECT * FROM tasks WHERE state = 'ended' AND ended_at >= $1";
    const LEASES: &str = "
        SELECT leases.id FROM leases JOIN tasks ON tasks.id = leases.task AND tasks.state = 'open'
        WHERE leases.state = 'revoking' AND leases.requested_at >= $1
        UNION
        SELECT leases.id FROM leases JOIN tasks ON tasks.id = leases.task AND tasks.state = 'open'
        WHERE leases.state = 'ended' AND leases.outcome = 'verified' AND leases.ended_at >= $1";
    let moment = moment.unix_millis();
    let mut over = Over::default();
    for row in sqlx::query(TASKS).bind(moment).fetch_all(readers).await.map_err(failed(WHAT))? {
        let task = rows::task(&row)?;
        let cause = match task.state {
            TaskState::Ended { cause, .. } => cause,
            TaskState::Open { .. } => EndCause::Explicit,
        };
        over.tasks.push((task.id, task.node, cause));
    }
    for row in sqlx::query(LEASES).bind(moment).fetch_all(readers).await.map_err(failed(WHAT))? {
        let id: String = row.try_get(0).map_err(failed(WHAT))?;
        over.leases.push(id.parse().map_err(|error| corrupt("leases.id", error))?);
    }
    Ok(over)
}

/// Streams of these tasks stand at this broker.
pub(super) struct SeeStreams {
    pub(super) tasks: Vec<TaskId>,
    pub(super) now: Timestamp,
}

impl Verb for SeeStreams {
    type Answer = ();

    fn lane(&self) -> Lane {
        Lane::End
    }

    async fn run(&self, tx: &mut Tx) -> Result<(), StoreError> {
        const SEE: &str = "
            UPDATE tasks SET stream_seen_at = GREATEST(COALESCE(stream_seen_at, 0), $1)
            WHERE id IN (SELECT id FROM tasks WHERE id = ANY($2) AND state = 'open' ORDER BY id FOR NO KEY UPDATE)";
        let see = sqlx::query(SEE).bind(self.now.unix_millis()).bind(texts(&self.tasks));
        tx.write("note that streams stand", see).await.map(|_| ())
    }
}

/// Open tasks that live as long as a stream.
pub(super) async fn stream_tasks(readers: &PgPool) -> Result<Vec<TaskId>, StoreError> {
    const STREAMS: &str = "SELECT id FROM tasks WHERE state = 'open' AND anchor ->> 'kind' = 'stream'";
    ids(sqlx::query(STREAMS).fetch_all(readers).await.map_err(failed("list streams"))?)
}

/// Those of the tasks whose stream no broker saw since a moment.
pub(super) async fn unseen_since(
    readers: &PgPool,
    tasks: &[TaskId],
    moment: Timestamp,
) -> Result<Vec<TaskId>, StoreError> {
    const UNSEEN: &str = "
        SELECT id FROM tasks
        WHERE id = ANY($1) AND state = 'open' AND COALESCE(stream_seen_at, 0) < $2";
    let unseen = sqlx::query(UNSEEN).bind(texts(tasks)).bind(moment.unix_millis());
    ids(unseen.fetch_all(readers).await.map_err(failed("look for streams"))?)
}

fn ids(rows: Vec<PgRow>) -> Result<Vec<TaskId>, StoreError> {
    let id = |row: &PgRow| {
        let id: String = row.try_get(0).map_err(failed("read a task's id"))?;
        id.parse().map_err(|error| corrupt("tasks.id", error))
    };
    rows.iter().map(id).collect()
}
