//! One attached node agent: what it holds, what ended there. Taking away does not need a fresh identity.

use std::collections::HashSet;
use std::sync::Arc;

use dayfly_domain::audit::{Record, Stream};
use dayfly_domain::id::{KillId, LeaseId, TaskId};
use dayfly_domain::lease::LeaseState;
use dayfly_domain::spiffe::SpiffeId;
use dayfly_domain::task::{Anchor, EndCause, TaskState};
use dayfly_domain::time::{Timestamp, Ttl};
use tokio::sync::mpsc;

use super::notice::Notice;
use super::{Broker, OperationError, end_task};
use crate::store::{EndWhich, StoreError};

/// Tasks opened within this span before a heartbeat are not judged by it: the two crossed on the way.
const INVENTORY_CROSSING: Ttl = Ttl::seconds(5);
/// The same for tasks opened before the agent attached: an agent that comes back without them has lost them.
const ATTACH_CROSSING: Ttl = Ttl::seconds(1);

/// A node's stream, once it is welcome.
pub struct Attached {
    broker: Arc<Broker>,
    node: SpiffeId,
    /// Given by the broker; grows with each Attach.
    pub epoch: u64,
    held_tasks: bool,
    attached_at: Timestamp,
    /// What the agent must be told.
    pub notices: mpsc::UnboundedReceiver<Notice>,
}

/// Whether a heartbeat counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoke {
    /// It is on record that the node spoke.
    Yes,
    /// It was taken for silence.
    No,
}

/// Why a node is not welcome, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// No Node document is for this identity.
    #[error("{0} is no node agent here")]
    NotANode(SpiffeId),
    /// An admin cut it off.
    #[error("{0} is cut off")]
    CutOff(SpiffeId),
    /// A newer stream took its place, or the node lapsed: it must attach anew.
    #[error("this stream of {0} is over: a newer one stands, or the node was silent for too long")]
    Superseded(SpiffeId),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Attached {
    /// A node attaches. Refused while a stream of the same identity under another boot is alive.
    pub async fn new(broker: &Arc<Broker>, node: SpiffeId, boot_id: &str) -> Result<Self, NodeError> {
        let rules = broker.rules.load();
        if rules.node(&node).is_none() {
            return Err(NodeError::NotANode(node));
        }
        if rules.kills().strike_node(&node) {
            return Err(NodeError::CutOff(node));
        }
        drop(rules);
        let now = broker.clock.now();
        let live_since = now - broker.limits.lapse_after;
        let attached = broker.store.attach_node(&node, boot_id, now, live_since).await;
        if let Err(StoreError::NodeAttachedElsewhere { node }) = &attached {
            // Two machines under one identity, or a thief of it: worth a page.
            tracing::error!(%node, boot_id, alarm = "node_identity_shared", "a second boot claims a live node's identity");
            broker.metrics.attach_refused();
            record_refusal(broker, node, boot_id, now).await;
        }
        let epoch = attached?;
        tracing::info!(%node, epoch, "node attached");
        let notices = broker.notices.for_node(node.clone());
        Ok(Self { broker: Arc::clone(broker), node, epoch, held_tasks: false, attached_at: now, notices })
    }

    /// The agent is alive and holds these tasks; what it should hold and does not has ended.
    pub async fn heartbeat(&mut self, inventory: Vec<TaskId>) -> Result<Spoke, NodeError> {
        // An agent that forgot everything is one that failed, not one whose every task ended at once.
        if inventory.is_empty() && self.held_tasks {
            tracing::warn!(node = %self.node, "empty inventory after a non-empty one: taken for silence");
            self.held_tasks = false;
            return Ok(Spoke::No);
        }
        self.held_tasks = !inventory.is_empty();
        self.touch().await?;
        let crossed = self.broker.clock.now() - INVENTORY_CROSSING;
        self.end_missing(inventory, crossed.max(self.attached_at - ATTACH_CROSSING)).await?;
        Ok(Spoke::Yes)
    }

    /// The agent is alive; nothing is said of its tasks.
    pub async fn alive(&self) -> Result<(), NodeError> {
        self.touch().await
    }

    async fn end_missing(&self, inventory: Vec<TaskId>, opened_before: Timestamp) -> Result<(), NodeError> {
        let which = EndWhich::NodeExcept { node: self.node.clone(), inventory, opened_before };
        end_task::end(&self.broker, which, EndCause::MissingFromInventory, None).await?;
        Ok(())
    }

    /// A restarted agent found tasks again. Says which are open with that very anchor, and of the others why they are over:
    /// those whose anchor is another by now end here.
    pub async fn adopt(
        &self,
        found: Vec<(TaskId, Anchor)>,
    ) -> Result<(Vec<TaskId>, Vec<(TaskId, EndCause)>), NodeError> {
        self.touch().await?;
        let (mut adopted, mut over) = (Vec::new(), Vec::new());
        for (task, seen) in found {
            let lineage = self.broker.store.lineage(task).await?;
            let own = lineage.last().filter(|task| task.node.as_ref() == Some(&self.node));
            match own.map(|own| (own.state, own.anchor.is_still(&seen))) {
                Some((TaskState::Open { .. }, true)) => adopted.push(task),
                Some((TaskState::Open { .. }, false)) => {
                    tracing::error!(
                        node = %self.node,
                        task_id = %task,
                        alarm = "anchor_changed",
                        "a restarted agent found something else in a task's place: the task ends"
                    );
                    let cause = EndCause::AnchorChanged;
                    end_task::end(&self.broker, EndWhich::Task(task), cause, None).await?;
                    over.push((task, cause));
                }
                Some((TaskState::Ended { cause, .. }, _)) => over.push((task, cause)),
                None => over.push((task, EndCause::MissingFromInventory)),
            }
        }
        tracing::info!(node = %self.node, adopted = adopted.len(), over = over.len(), "a restarted agent is back");
        Ok((adopted, over))
    }

    /// A task's anchor is gone, or its caller is done. Only this node's own tasks are ended by it, and only on its newest
    /// stream: an older one knows of what another life of the agent took over.
    pub async fn task_ended(&self, task: TaskId, signal: &str) -> Result<(), NodeError> {
        self.touch().await?;
        let cause = match signal {
            "explicit" => EndCause::Explicit,
            "anchor_changed" => EndCause::AnchorChanged,
            _ => EndCause::AnchorGone,
        };
        let lineage = self.broker.store.lineage(task).await?;
        let own = lineage.last().is_some_and(|task| task.node.as_ref() == Some(&self.node));
        if own {
            end_task::end(&self.broker, EndWhich::Task(task), cause, None).await?;
        } else if !lineage.is_empty() {
            tracing::error!(node = %self.node, task_id = %task, alarm = "foreign_task_end", "a node reported another's task");
        }
        Ok(())
    }

    /// The target handed out something of its own under a lease of this node: its name goes into the lease's handle.
    pub async fn target_lease_seen(
        &self,
        task: TaskId,
        lease: LeaseId,
        target_lease: &str,
    ) -> Result<(), NodeError> {
        self.touch().await?;
        let lineage = self.broker.store.lineage(task).await?;
        let own = lineage.last().is_some_and(|task| task.node.as_ref() == Some(&self.node));
        let row = self.broker.store.lease(lease).await?.filter(|row| own && row.lease.task == task);
        let Some(row) = row else { return Ok(()) };
        let (LeaseState::Active { handle, .. } | LeaseState::Revoking { handle: Some(handle), .. }) =
            &row.lease.state
        else {
            return Ok(());
        };
        let provider = self.broker.catalogue().get(&row.lease.provider);
        if let Some(amended) = provider.and_then(|provider| provider.note_target_lease(handle, target_lease))
        {
            self.broker.store.amend_handle(lease, amended).await?;
        }
        Ok(())
    }

    /// The open tasks of this node that the agent does not know to be over.
    pub async fn not_held(
        &self,
        inventory: &HashSet<TaskId>,
    ) -> Result<Vec<(TaskId, EndCause)>, OperationError> {
        let mut over = Vec::new();
        for task in inventory {
            let lineage = self.broker.store.lineage(*task).await?;
            match lineage.last().map(|task| task.state) {
                Some(TaskState::Open { .. }) => {}
                Some(TaskState::Ended { cause, .. }) => over.push((*task, cause)),
                None => over.push((*task, EndCause::MissingFromInventory)),
            }
        }
        Ok(over)
    }

    /// The agent has dropped what a kill cut off.
    pub fn dropped(&self, kill: KillId) {
        self.broker.notices.acknowledge(kill, &self.node);
    }

    async fn touch(&self) -> Result<(), NodeError> {
        if self.broker.rules.load().kills().strike_node(&self.node) {
            return Err(NodeError::CutOff(self.node.clone()));
        }
        let now = self.broker.clock.now();
        if self.broker.store.touch_node(&self.node, self.epoch, now).await? {
            Ok(())
        } else {
            Err(NodeError::Superseded(self.node.clone()))
        }
    }
}

/// Nothing is given by it, so a failure is logged and no more.
async fn record_refusal(broker: &Broker, node: &SpiffeId, boot_id: &str, now: Timestamp) {
    if !broker.lapses.refusal_is_news(node, now) {
        return;
    }
    let record =
        Record::new(Stream::Admin, "node.attach_refused", now).with("node", node).with("boot_id", boot_id);
    if let Err(error) = broker.store.write_records(vec![record]).await {
        tracing::error!(error = &error as &dyn std::error::Error, "a refused attach could not be recorded");
    }
}
