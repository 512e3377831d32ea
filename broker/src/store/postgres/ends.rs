//! Ends tasks with all under them, and queues the revocation of every lease there, in one transaction.

use std::collections::HashMap;

use dayfly_domain::id::{LeaseId, RequestId, TaskId};
use dayfly_domain::lease::{LeaseEvent, RevokeCause};
use dayfly_domain::task::{EndCause, Task, TaskEvent};
use dayfly_domain::time::Timestamp;
use sqlx::Row;

use super::moves::save;
use super::nodes;
use super::transaction::{Needs, Sql, Tx, texts};
use super::verb::Verb;
use crate::records;
use crate::store::desk::Lane;
use crate::store::failure::failed;
use crate::store::moves::{Journal, Moves};
use crate::store::rows::{self, StoredLease};
use crate::store::{EndWhich, Ended, Hint, StoreError};

pub(super) struct End {
    pub(super) which: EndWhich,
    pub(super) cause: EndCause,
    pub(super) now: Timestamp,
    pub(super) request: Option<RequestId>,
}

/// The open tasks that are named.
macro_rules! named {
    ($named:literal) => {
        concat!("SELECT DISTINCT session FROM tasks WHERE state = 'open' AND ", $named)
    };
}

/// The open tasks that are named and stand in these trees, and all open tasks under them.
macro_rules! tree_under {
    ($named:literal) => {
        concat!(
            "WITH RECURSIVE
                named (id) AS (
                    SELECT id FROM tasks WHERE state = 'open' AND session = ANY($1) AND ",
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
pub(super) use {named, tree_under};

const WHAT: &str = "find the tasks to end";

impl Verb for End {
    type Answer = Ended;

    fn lane(&self) -> Lane {
        Lane::of_end(self.cause)
    }

    fn needs(&self) -> Needs {
        let ends = match &self.which {
            EndWhich::Task(task) => vec![*task],
            EndWhich::Session(session) => vec![TaskId::from(*session)],
            EndWhich::Identity(_)
            | EndWhich::Node(_)
            | EndWhich::SilentNode { .. }
            | EndWhich::NodeExcept { .. }
            | EndWhich::Overdue => Vec::new(),
        };
        Needs { ends, ..Needs::default() }
    }

    async fn run(&self, tx: &mut Tx) -> Result<Ended, StoreError> {
        let sessions = lock(tx, self.sessions()).await?;
        if let EndWhich::SilentNode { node, silent_since_before, .. } = &self.which
            && !nodes::lapse(tx, node, *silent_since_before).await?
        {
            return Ok(Ended::default());
        }
        let named = if sessions.is_empty() { None } else { Some(self.named(sessions)) };
        let ended = self.end_named(tx, named).await?;
        if let EndWhich::SilentNode { node, .. } = &self.which {
            tx.record(&records::node_lapsed(node, ended.tasks.len(), ended.leases.len(), self.now));
        }
        Ok(ended)
    }
}

impl End {
    /// Ends the tasks that queries of the forms of `named` and `tree_under` find, and takes back every lease in them.
    pub(super) async fn found(
        tx: &mut Tx,
        sessions: Sql<'_>,
        tasks: impl FnOnce(Vec<String>) -> Sql<'static> + Send,
        cause: EndCause,
        (now, request): (Timestamp, Option<RequestId>),
    ) -> Result<Ended, StoreError> {
        let sessions = lock(tx, sessions).await?;
        if sessions.is_empty() {
            return Ok(Ended::default());
        }
        // What is named is what the queries find.
        let end = Self { which: EndWhich::Overdue, cause, now, request };
        end.end_named(tx, Some(tasks(sessions))).await
    }

    async fn end_named(&self, tx: &mut Tx, named: Option<Sql<'_>>) -> Result<Ended, StoreError> {
        let tasks = match named {
            Some(named) => self.tree(tx, named).await?,
            None => Vec::new(),
        };
        self.end_tasks(tx, &tasks).await?;
        let (leases, elsewhere) = self.take_back(tx, &tasks).await?;
        let tasks = tasks.into_iter().map(|(task, _)| (task.id, task.node)).collect();
        Ok(Ended { tasks, leases, elsewhere })
    }

    /// The tasks that end now, parents before children, each with the cause of its end.
    async fn tree(&self, tx: &mut Tx, named: Sql<'_>) -> Result<Vec<(Task, EndCause)>, StoreError> {
        let rows = tx.rows(WHAT, named).await?;
        rows.iter()
            .map(|row| {
                let is_named: bool = row.try_get("is_named").map_err(failed(WHAT))?;
                let cause = if is_named { self.cause } else { EndCause::ParentEnded };
                Ok((rows::task(row)?, cause))
            })
            .collect()
    }

    /// The trees in which something is named.
    fn sessions(&self) -> Sql<'static> {
        match &self.which {
            EndWhich::Task(task) => sqlx::query(named!("id = $1")).bind(task.to_string()),
            EndWhich::Session(session) => sqlx::query(named!("id = $1")).bind(session.to_string()),
            EndWhich::Identity(identity) => sqlx::query(named!("opened_by = $1")).bind(identity.to_string()),
            // What is spared loses leases: its trees are locked as well.
            EndWhich::Node(node) | EndWhich::SilentNode { node, .. } => {
                sqlx::query(named!("node = $1")).bind(node.to_string())
            }
            EndWhich::NodeExcept { node, inventory, opened_before } => {
                sqlx::query(named!("node = $1 AND COALESCE(claimed_at, opened_at) < $2 AND id <> ALL($3)"))
                    .bind(node.to_string())
                    .bind(opened_before.unix_millis())
                    .bind(texts(inventory))
            }
            EndWhich::Overdue => sqlx::query(named!("deadline <= $1")).bind(self.now.unix_millis()),
        }
    }

    fn named(&self, sessions: Vec<String>) -> Sql<'static> {
        let query = |sql: &'static str| sqlx::query(sql).bind(sessions);
        match &self.which {
            EndWhich::Task(task) => query(tree_under!("id = $2")).bind(task.to_string()),
            EndWhich::Session(session) => query(tree_under!("id = $2")).bind(session.to_string()),
            EndWhich::Identity(identity) => query(tree_under!("opened_by = $2")).bind(identity.to_string()),
            EndWhich::Node(node) => query(tree_under!("node = $2")).bind(node.to_string()),
            EndWhich::SilentNode { node, spared_scopes, .. } => query(tree_under!(
                "node = $2 AND id NOT IN (
                    WITH RECURSIVE spared (id) AS (
                        SELECT leases.task
                        FROM tasks JOIN leases ON leases.task = tasks.id
                        WHERE tasks.node = $2
                          AND tasks.state = 'open'
                          AND leases.state IN ('pending', 'active')
                          AND leases.scope = ANY($3)
                        UNION
                        SELECT tasks.parent
                        FROM tasks JOIN spared ON tasks.id = spared.id
                        WHERE tasks.parent IS NOT NULL
                    )
                    SELECT id FROM spared
                )"
            ))
            .bind(node.to_string())
            .bind(spared_scopes.clone()),
            EndWhich::NodeExcept { node, inventory, opened_before } => {
                query(tree_under!("node = $2 AND COALESCE(claimed_at, opened_at) < $3 AND id <> ALL($4)"))
                    .bind(node.to_string())
                    .bind(opened_before.unix_millis())
                    .bind(texts(inventory))
            }
            EndWhich::Overdue => query(tree_under!("deadline <= $2")).bind(self.now.unix_millis()),
        }
    }

    async fn end_tasks(&self, tx: &mut Tx, tasks: &[(Task, EndCause)]) -> Result<(), StoreError> {
        const END: &str = "
            UPDATE tasks
            SET state = 'ended', ended_at = $1, end_cause = new.cause
            FROM unnest($2::TEXT[], $3::TEXT[]) AS new (id, cause)
            WHERE tasks.id = new.id";
        if tasks.is_empty() {
            return Ok(());
        }
        let end = sqlx::query(END)
            .bind(self.now.unix_millis())
            .bind(Vec::from_iter(tasks.iter().map(|(task, _)| task.id.to_string())))
            .bind(Vec::from_iter(tasks.iter().map(|(_, cause)| cause.as_str())));
        tx.write("end tasks", end).await?;
        tx.hint(Hint::Ends);
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
              AND task = ANY($1)
            ORDER BY id
            FOR UPDATE";
        const OF_IDENTITY: &str = "
            SELECT * FROM leases
            WHERE state <> 'ended'
              AND state <> 'revoking'
              AND spiffe_id = $1
              AND task <> ALL($2)
            ORDER BY id
            FOR UPDATE";
        const OF_SPARED: &str = "
            SELECT leases.*
            FROM tasks JOIN leases ON leases.task = tasks.id
            WHERE tasks.node = $1
              AND tasks.state = 'open'
              AND leases.state NOT IN ('ended', 'revoking')
              AND leases.scope <> ALL($2)
            ORDER BY leases.id
            FOR UPDATE OF leases";
        let ids = Vec::from_iter(tasks.iter().map(|(task, _)| task.id.to_string()));
        let causes: HashMap<TaskId, EndCause> = tasks.iter().map(|(task, cause)| (task.id, *cause)).collect();
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
            let lost = sqlx::query(OF_SPARED).bind(node.to_string()).bind(spared_scopes);
            for row in tx.rows("find what spared tasks lose", lost).await? {
                elsewhere.extend(ask(tx, &mut moves, rows::lease(&row)?, RevokeCause::NodeSilent)?);
            }
        }
        save(moves, tx).await?;
        queued.extend(&elsewhere);
        Ok((queued, elsewhere))
    }
}

/// Locks the trees in which something is named. Nothing is added to them until this is committed; what begins
/// elsewhere meanwhile begins after the end.
async fn lock(tx: &mut Tx, sessions: Sql<'_>) -> Result<Vec<String>, StoreError> {
    let found = tx.rows(WHAT, sessions).await?;
    let mut sessions = Vec::new();
    for row in found {
        sessions.push(row.try_get::<String, _>(0).map_err(failed(WHAT))?);
    }
    tx.lock_trees(&sessions).await?;
    Ok(sessions)
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
