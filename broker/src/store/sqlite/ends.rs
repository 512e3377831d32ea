//! Ends tasks with all under them, and queues the revocation of every lease there, in one transaction.

use dayfly_domain::id::{LeaseId, RequestId, TaskId};
use dayfly_domain::lease::{LeaseEvent, RevokeCause};
use dayfly_domain::task::{EndCause, Task, TaskEvent};
use dayfly_domain::time::Timestamp;
use serde::Serialize;
use sqlx::Row;

use super::moves::Moves;
use super::nodes;
use super::rows::{self, StoredLease, json};
use super::transaction::{Sql, Tx, failed};
use super::writer::{Lane, Verb};
use crate::records;
use crate::store::{EndWhich, Ended, StoreError};

pub(super) struct End {
    pub(super) which: EndWhich,
    pub(super) cause: EndCause,
    pub(super) now: Timestamp,
    pub(super) request: Option<RequestId>,
}

/// The open tasks that are named, and all open tasks under them.
macro_rules! tree_under {
    ($named:literal) => {
        concat!(
            "WITH RECURSIVE
                named (id) AS (
                    SELECT id FROM tasks WHERE state = 'open' AND ",
            $named,
            "
                ),
                tree (id) AS (
                    SELECT id FROM named
                    UNION
                    SELECT tasks.id FROM tasks JOIN tree ON tasks.parent = tree.id WHERE tasks.state = 'open'
                )
            SELECT tasks.*, tasks.id IN (SELECT id FROM named) AS is_named
            FROM tree JOIN tasks USING (id)
            ORDER BY tasks.opened_at, tasks.id"
        )
    };
}
pub(super) use tree_under;

impl Verb for End {
    type Answer = Ended;

    fn lane(&self) -> Lane {
        Lane::of_end(self.cause)
    }

    async fn run(&self, tx: &mut Tx) -> Result<Ended, StoreError> {
        if let EndWhich::SilentNode { node, silent_since_before, .. } = &self.which
            && !nodes::lapse(tx, node, *silent_since_before).await?
        {
            return Ok(Ended::default());
        }
        let tasks = self.tree(tx, self.named()).await?;
        let ended = self.end_all(tx, tasks).await?;
        if let EndWhich::SilentNode { node, .. } = &self.which {
            tx.record(&records::node_lapsed(node, ended.tasks.len(), ended.leases.len(), self.now));
        }
        Ok(ended)
    }
}

impl End {
    /// Ends the tasks that a query of the form of `tree_under` finds, and takes back every lease in them.
    pub(super) async fn found(
        tx: &mut Tx,
        tasks: Sql<'_>,
        cause: EndCause,
        now: Timestamp,
        request: Option<RequestId>,
    ) -> Result<Ended, StoreError> {
        // What is named is what the query finds.
        let end = Self { which: EndWhich::Overdue, cause, now, request };
        let tasks = end.tree(tx, tasks).await?;
        end.end_all(tx, tasks).await
    }

    async fn end_all(&self, tx: &mut Tx, tasks: Vec<(Task, EndCause)>) -> Result<Ended, StoreError> {
        self.end_tasks(tx, &tasks).await?;
        let (leases, elsewhere) = self.take_back(tx, &tasks).await?;
        let ids: Vec<TaskId> = tasks.iter().map(|(task, _)| task.id).collect();
        tx.forget_tasks(&ids);
        Ok(Ended {
            tasks: tasks.into_iter().map(|(task, _)| (task.id, task.node)).collect(),
            leases,
            elsewhere,
        })
    }

    /// The tasks that end now, parents before children, each with the cause of its end.
    async fn tree(&self, tx: &mut Tx, tasks: Sql<'_>) -> Result<Vec<(Task, EndCause)>, StoreError> {
        let rows = tx.rows("find the tasks to end", tasks).await?;
        rows.iter()
            .map(|row| {
                let is_named: bool = row.try_get("is_named").map_err(failed("find the tasks to end"))?;
                let cause = if is_named { self.cause } else { EndCause::ParentEnded };
                Ok((rows::task(row)?, cause))
            })
            .collect()
    }

    fn named(&self) -> Sql<'static> {
        match &self.which {
            EndWhich::Task(task) => sqlx::query(tree_under!("id = $1")).bind(task.to_string()),
            EndWhich::Session(session) => sqlx::query(tree_under!("id = $1")).bind(session.to_string()),
            EndWhich::Identity(identity) => {
                sqlx::query(tree_under!("opened_by = $1")).bind(identity.to_string())
            }
            EndWhich::Node(node) => sqlx::query(tree_under!("node = $1")).bind(node.to_string()),
            EndWhich::SilentNode { node, spared_scopes, .. } => sqlx::query(tree_under!(
                "node = $1 AND id NOT IN (
                    WITH RECURSIVE spared (id) AS (
                        SELECT leases.task
                        FROM tasks JOIN leases ON leases.task = tasks.id
                        WHERE tasks.node = $1
                          AND tasks.state = 'open'
                          AND leases.state IN ('pending', 'active')
                          AND leases.scope IN (SELECT value FROM json_each($2))
                        UNION
                        SELECT tasks.parent
                        FROM tasks JOIN spared ON tasks.id = spared.id
                        WHERE tasks.parent IS NOT NULL
                    )
                    SELECT id FROM spared
                )"
            ))
            .bind(node.to_string())
            .bind(json(spared_scopes)),
            EndWhich::NodeExcept { node, inventory, opened_before } => sqlx::query(tree_under!(
                "node = $1 AND COALESCE(claimed_at, opened_at) < $2 AND id NOT IN (SELECT value FROM json_each($3))"
            ))
            .bind(node.to_string())
            .bind(opened_before.unix_millis())
            .bind(json(inventory)),
            EndWhich::Overdue => sqlx::query(tree_under!("deadline <= $1")).bind(self.now.unix_millis()),
        }
    }

    async fn end_tasks(&self, tx: &mut Tx, tasks: &[(Task, EndCause)]) -> Result<(), StoreError> {
        const END: &str = "
            UPDATE tasks
            SET state = 'ended', ended_at = $1, end_cause = new.value ->> 'cause'
            FROM json_each($2) AS new
            WHERE tasks.id = new.value ->> 'id'";
        #[derive(Serialize)]
        struct EndedTask {
            id: TaskId,
            cause: &'static str,
        }
        if tasks.is_empty() {
            return Ok(());
        }
        let rows: Vec<EndedTask> =
            tasks.iter().map(|(task, cause)| EndedTask { id: task.id, cause: cause.as_str() }).collect();
        tx.write("end tasks", sqlx::query(END).bind(self.now.unix_millis()).bind(json(&rows))).await?;
        for (task, cause) in tasks {
            let state = task.state.on(TaskEvent::End(*cause), self.now);
            tx.record(&records::task_ended(&Task { state, ..task.clone() }, *cause, self.now, self.request));
        }
        Ok(())
    }

    /// Queues the revocation of every lease of those tasks, of those that a named identity holds elsewhere, and of those that
    /// a silent node's tasks lose although they stay open. The last two are told apart.
    async fn take_back(
        &self,
        tx: &mut Tx,
        tasks: &[(Task, EndCause)],
    ) -> Result<(Vec<LeaseId>, Vec<LeaseId>), StoreError> {
        const OF_TASKS: &str = "
            SELECT * FROM leases
            WHERE state <> 'ended'
              AND state <> 'revoking'
              AND task IN (SELECT value FROM json_each($1))";
        const OF_IDENTITY: &str = "
            SELECT * FROM leases
            WHERE state <> 'ended'
              AND state <> 'revoking'
              AND spiffe_id = $1
              AND task NOT IN (SELECT value FROM json_each($2))";
        const OF_SPARED: &str = "
            SELECT leases.*
            FROM tasks JOIN leases ON leases.task = tasks.id
            WHERE tasks.node = $1
              AND tasks.state = 'open'
              AND leases.state NOT IN ('ended', 'revoking')
              AND leases.scope NOT IN (SELECT value FROM json_each($2))";
        let ids = json(&tasks.iter().map(|(task, _)| task.id).collect::<Vec<TaskId>>());
        let causes: std::collections::HashMap<TaskId, EndCause> =
            tasks.iter().map(|(task, cause)| (task.id, *cause)).collect();
        let mut moves = Moves::new(self.now, self.request);
        let mut queued = Vec::new();
        if !tasks.is_empty() {
            for row in tx.rows("find the leases of ended tasks", sqlx::query(OF_TASKS).bind(&ids)).await? {
                let lease = rows::lease(&row)?;
                let cause = causes.get(&lease.lease.task).copied().unwrap_or(self.cause);
                queued.extend(ask(tx, &mut moves, lease, RevokeCause::TaskEnded(cause))?);
            }
        }
        let mut elsewhere = Vec::new();
        if let EndWhich::Identity(identity) = &self.which {
            let held = sqlx::query(OF_IDENTITY).bind(identity.to_string()).bind(&ids);
            for row in tx.rows("find the leases of an identity", held).await? {
                elsewhere.extend(ask(tx, &mut moves, rows::lease(&row)?, RevokeCause::Admin)?);
            }
        }
        if let EndWhich::SilentNode { node, spared_scopes, .. } = &self.which {
            let lost = sqlx::query(OF_SPARED).bind(node.to_string()).bind(json(spared_scopes));
            for row in tx.rows("find what spared tasks lose", lost).await? {
                elsewhere.extend(ask(tx, &mut moves, rows::lease(&row)?, RevokeCause::NodeSilent)?);
            }
        }
        moves.save(tx).await?;
        queued.extend(&elsewhere);
        Ok((queued, elsewhere))
    }
}

fn ask(
    tx: &mut Tx,
    moves: &mut Moves,
    mut lease: StoredLease,
    cause: RevokeCause,
) -> Result<Option<LeaseId>, StoreError> {
    let moved = moves.take(tx, &mut lease, LeaseEvent::AskRevoke(cause))?;
    Ok(moved.then_some(lease.lease.id))
}
