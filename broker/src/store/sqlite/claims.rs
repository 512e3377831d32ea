//! A workload takes the task that was offered to it.

use dayfly_domain::id::RequestId;
use dayfly_domain::task::Task;

use super::audit::Line;
use super::rows::{self, json};
use super::transaction::Tx;
use super::writer::{Lane, Verb};
use crate::records;
use crate::store::{StoreError, TaskClaim};

pub(super) struct ClaimTask {
    pub(super) claim: TaskClaim,
    pub(super) decision: Line,
    pub(super) request: RequestId,
}

impl Verb for ClaimTask {
    type Answer = Task;

    fn lane(&self) -> Lane {
        Lane::Grant
    }

    async fn run(&self, tx: &mut Tx) -> Result<Task, StoreError> {
        // The offer is gone with the first claim. An offer lapses with its own end or with the first deadline above it;
        // an end above has ended it too, so the parent is looked at only for the deadline that holds from now on.
        const CLAIM: &str = "
            UPDATE tasks
            SET stage = $3, node = $4, anchor = $5, key_hash = $6, claimed_at = $8, offer_deadline = NULL,
                deadline = MIN(tasks.offer_deadline, $7),
                lapses_at = MIN(tasks.offer_deadline, $7, above.lapses_at)
            FROM tasks AS above
            WHERE tasks.id = $1
              AND tasks.opened_by = $2
              AND tasks.state = 'open'
              AND tasks.offer_deadline IS NOT NULL
              AND tasks.lapses_at > $8
              AND above.id = tasks.parent
              AND above.state = 'open'
              AND above.lapses_at > $8";
        const CLAIMED: &str = "SELECT * FROM tasks WHERE id = $1";
        let claim = &self.claim;
        let id = claim.task.to_string();
        if claim.latest_deadline <= claim.now {
            return Err(StoreError::TaskNotOpen);
        }
        tx.require_node(claim.node.as_ref())?;
        let sql = sqlx::query(CLAIM)
            .bind(&id)
            .bind(claim.claimant.as_str())
            .bind(claim.stage.as_str())
            .bind(claim.node.as_ref().map(ToString::to_string))
            .bind(json(&claim.anchor))
            .bind(claim.key_hash.map(|hash| hash.to_vec()))
            .bind(claim.latest_deadline.unix_millis())
            .bind(claim.now.unix_millis());
        if tx.write("claim a task", sql).await? == 0 {
            return Err(StoreError::TaskNotOpen);
        }
        let row = tx.row("read a claimed task", sqlx::query(CLAIMED).bind(&id)).await?;
        let task = rows::task(&row.ok_or(StoreError::Unknown("task"))?)?;
        tx.note(self.decision.clone());
        tx.record(&records::task_claimed(&task, claim.now, self.request));
        Ok(task)
    }
}
