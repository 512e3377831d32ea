//! Audit records of what happens to tasks and leases, built in one place so that every store writes the same.

use dayfly_domain::audit::{Record, Stream};
use dayfly_domain::id::RequestId;
use dayfly_domain::lease::{Lease, LeaseState, Outcome};
use dayfly_domain::spiffe::SpiffeId;
use dayfly_domain::task::{EndCause, Task, TaskState};
use dayfly_domain::time::Timestamp;

/// A lease came to stand where it stands now.
pub fn lease(lease: &Lease, at: Timestamp, request: Option<RequestId>) -> Record {
    let event = match &lease.state {
        LeaseState::Pending { .. } => "lease.pending",
        LeaseState::Active { .. } => "lease.active",
        LeaseState::Revoking { .. } => "lease.revoking",
        LeaseState::Ended { .. } => "lease.ended",
    };
    let record = Record::new(Stream::Lease, event, at)
        .with("lease_id", lease.id)
        .with("task_id", lease.task)
        .with("session_id", lease.session)
        .with("spiffe_id", &lease.spiffe_id)
        .with("scope", &lease.scope)
        .with("parameters", &lease.parameters)
        .with("provider", &lease.provider);
    let record = match lease.promise.leaves_behind.as_slice() {
        [] => record,
        stays => record.with("leaves_behind", stays),
    };
    let record = match request {
        Some(request) => record.request(request),
        None => record,
    };
    match &lease.state {
        LeaseState::Pending { residue_until, .. } => record.with("residue_until", residue_until.to_string()),
        LeaseState::Active { expires_at, handle } => {
            let record = record.with("expires_at", expires_at.to_string()).with("handle", handle);
            match lease.renews {
                Some(renewed) => record.with("renews", renewed),
                None => record,
            }
        }
        LeaseState::Revoking { cause, runs_out_at, applied_at, .. } => {
            let record = record.with("cause", cause);
            let record = match runs_out_at {
                Some(at) => record.with("runs_out_at", at.to_string()),
                None => record,
            };
            match applied_at {
                Some(at) => record.with("applied_at", at.to_string()),
                None => record,
            }
        }
        LeaseState::Ended { outcome, .. } => {
            let record = record.with("outcome", outcome.as_str());
            match outcome {
                Outcome::Verified { evidence } => record.with("evidence", evidence),
                Outcome::RanOut | Outcome::NeverIssued => record,
            }
        }
    }
}

/// A task was opened, or offered to a workload.
pub fn task_opened(task: &Task, at: Timestamp, request: RequestId) -> Record {
    let event = if task.offer.is_some() { "task.offered" } else { "task.open" };
    let record =
        of_task(event, task, at, request).with("ceiling", &task.ceiling).with("intent", &task.intent);
    let record = match task.parent {
        Some(parent) => record.with("parent_task_id", parent),
        None => record,
    };
    match task.offer {
        Some(offer) => record.with("deadline_if_claimed", offer.deadline.to_string()),
        None => record,
    }
}

/// A task was claimed by the workload it was offered to.
pub fn task_claimed(task: &Task, at: Timestamp, request: RequestId) -> Record {
    of_task("task.claimed", task, at, request)
}

/// Whose it is, and what its life hangs on.
fn of_task(event: &'static str, task: &Task, at: Timestamp, request: RequestId) -> Record {
    let record = Record::new(Stream::Lease, event, at)
        .request(request)
        .with("task_id", task.id)
        .with("session_id", task.session)
        .with("spiffe_id", &task.opened_by)
        .with("stage", task.stage)
        .with("anchor", &task.anchor);
    let record = match task.state {
        TaskState::Open { deadline } => record.with("deadline", deadline.to_string()),
        TaskState::Ended { .. } => record,
    };
    match &task.node {
        Some(node) => record.with("node", node),
        None => record,
    }
}

/// A task ended.
pub fn task_ended(task: &Task, cause: EndCause, at: Timestamp, request: Option<RequestId>) -> Record {
    let record = Record::new(Stream::Lease, "task.ended", at)
        .with("task_id", task.id)
        .with("session_id", task.session)
        .with("spiffe_id", &task.opened_by)
        .with("cause", cause);
    match request {
        Some(request) => record.request(request),
        None => record,
    }
}

/// A node lapsed, and what that took back.
pub fn node_lapsed(node: &SpiffeId, tasks_ended: usize, leases_queued: usize, at: Timestamp) -> Record {
    Record::new(Stream::Admin, "node.lapsed", at)
        .with("node", node)
        .with("tasks_ended", tasks_ended)
        .with("leases_queued", leases_queued)
}
