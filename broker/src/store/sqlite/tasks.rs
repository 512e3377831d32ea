//! Opens tasks, and reads the tree above one.

use dayfly_domain::audit::Record;
use dayfly_domain::id::{RequestId, SessionId, TaskId};
use dayfly_domain::task::{Task, TaskState};
use dayfly_domain::time::Timestamp;
use sqlx::sqlite::SqlitePool;

use super::audit::Line;
use super::rows::{self, json};
use super::transaction::{Tx, failed};
use super::writer::{Lane, Verb};
use crate::records;
use crate::store::StoreError;

pub(super) struct OpenTask {
    task: Task,
    lines: [Line; 2],
}

impl OpenTask {
    pub(super) fn new(task: Task, decision: &Record, request: RequestId) -> Self {
        let opened = records::task_opened(&task, task.opened_at, request);
        Self { lines: [Line::new(decision), Line::new(&opened)], task }
    }
}

impl Verb for OpenTask {
    type Answer = ();

    fn lane(&self) -> Lane {
        Lane::Grant
    }

    async fn run(&self, tx: &mut Tx) -> Result<(), StoreError> {
        const ROOT: &str = "
            INSERT INTO tasks
                (id, session, opened_by, stage, node, anchor, key_hash, ceiling, intent, opened_at, deadline, parent,
                 labels, offer_deadline, lapses_at, state)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $11, 'open')";
        // The parent is open only while all above it are: an end takes the whole tree. Their deadlines may come before
        // the end does, so the earliest of them is kept in every task. Under an offer nobody stands.
        const CHILD: &str = "
            INSERT INTO tasks
                (id, session, opened_by, stage, node, anchor, key_hash, ceiling, intent, opened_at, deadline, parent,
                 labels, offer_deadline, lapses_at, state)
            SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, id, $13, $14, MIN($11, lapses_at), 'open'
            FROM tasks
            WHERE id = $12
              AND session = $2
              AND state = 'open'
              AND offer_deadline IS NULL
              AND lapses_at > $10";
        let task = &self.task;
        let TaskState::Open { deadline } = task.state else { return Err(StoreError::TaskNotOpen) };
        if deadline <= task.opened_at {
            return Err(StoreError::TaskNotOpen);
        }
        tx.require_node(task.node.as_ref())?;
        let sql = sqlx::query(if task.parent.is_some() { CHILD } else { ROOT })
            .bind(task.id.to_string())
            .bind(task.session.to_string())
            .bind(task.opened_by.as_str())
            .bind(task.stage.as_str())
            .bind(task.node.as_ref().map(ToString::to_string))
            .bind(json(&task.anchor))
            .bind(task.key_hash.map(|hash| hash.to_vec()))
            .bind(json(&task.ceiling))
            .bind(&task.intent)
            .bind(task.opened_at.unix_millis())
            .bind(deadline.unix_millis())
            .bind(task.parent.map(|parent| parent.to_string()))
            .bind(json(&task.labels))
            .bind(task.offer.map(|offer| offer.deadline.unix_millis()));
        if tx.write("open a task", sql).await? == 0 {
            return Err(StoreError::TaskNotOpen);
        }
        for line in &self.lines {
            tx.note(line.clone());
        }
        Ok(())
    }
}

pub(super) struct RecordUnder {
    pub(super) task: TaskId,
    pub(super) session: SessionId,
    pub(super) line: Line,
    pub(super) now: Timestamp,
}

impl Verb for RecordUnder {
    type Answer = ();

    fn lane(&self) -> Lane {
        Lane::Grant
    }

    async fn run(&self, tx: &mut Tx) -> Result<(), StoreError> {
        tx.require_open(self.task, self.session, self.now).await?;
        tx.note(self.line.clone());
        Ok(())
    }
}

/// The tree above a task, as it stands or as it stood at a moment.
pub(super) async fn lineage(
    readers: &SqlitePool,
    task: TaskId,
    at: Option<Timestamp>,
) -> Result<Vec<Task>, StoreError> {
    const LINEAGE: &str = "
        WITH RECURSIVE above (id, parent, steps) AS (
            SELECT id, parent, 0 FROM tasks WHERE id = $1
            UNION ALL
            SELECT tasks.id, tasks.parent, steps + 1 FROM tasks JOIN above ON tasks.id = above.parent
        )
        SELECT tasks.* FROM above JOIN tasks USING (id)
        ORDER BY steps DESC";
    let rows = sqlx::query(LINEAGE).bind(task.to_string()).fetch_all(readers).await;
    let as_of = |row| match at {
        Some(at) => rows::task_at(row, at),
        None => rows::task(row),
    };
    rows.map_err(failed("read the tasks above"))?.iter().map(as_of).collect()
}
