//! Ends tasks: one transaction ends the tree and queues every lease; the revoker asks the targets at once.

use std::sync::Arc;

use dayfly_domain::id::{RequestId, TaskId};
use dayfly_domain::secret::Secret;
use dayfly_domain::task::EndCause;

use super::{Broker, OperationError, Request};
use crate::fault_point;
use crate::store::{EndWhich, Ended, StoreError};

/// What was asked, checked for form.
#[derive(Debug)]
pub struct EndTask {
    /// The task.
    pub task: TaskId,
    /// A direct caller's key.
    pub key: Option<Secret>,
}

/// Ends a task because its caller says so. A second call changes nothing.
pub async fn end_task(
    broker: &Arc<Broker>,
    request: Request,
    asked: EndTask,
) -> Result<Ended, OperationError> {
    broker.lineage(asked.task, asked.key.as_ref(), &request.caller).await?;
    let which = EndWhich::Task(asked.task);
    Ok(end(broker, which, EndCause::Explicit, Some(request.id)).await?)
}

/// Ends what the selector names, wakes the revoker and tells agents and watchers.
pub async fn end(
    broker: &Broker,
    which: EndWhich,
    cause: EndCause,
    request: Option<RequestId>,
) -> Result<Ended, StoreError> {
    // What only looks whether something is to be ended comes by twice a second.
    fault_point!("end.before_commit" if !matches!(which, EndWhich::Overdue | EndWhich::NodeExcept { .. }));
    let ended = broker.store.end(which, cause, broker.clock.now(), request).await?;
    fault_point!("end.after_commit" if !ended.tasks.is_empty());
    broker.wake.all();
    for (task, node) in &ended.tasks {
        tracing::info!(task_id = %task, %cause, "task ended");
        broker.stream_anchors.forget(*task);
        broker.notices.task_over(*task, node.as_ref(), cause);
    }
    broker.metrics.tasks_ended(ended.tasks.len());
    Ok(ended)
}

/// Ends a task on a signal that has nobody to answer to. A failure is logged: the deadline ends the task in any case.
pub async fn end_by_signal(broker: &Broker, task: TaskId, cause: EndCause, request: Option<RequestId>) {
    if let Err(error) = end(broker, EndWhich::Task(task), cause, request).await {
        let error = &error as &dyn std::error::Error;
        tracing::error!(task_id = %task, %cause, error, "an end could not be written; the deadline will end it");
    }
}
