//! Opens a task for a named workload: decide → write the task as an offer → answer. The workload claims it, or it lapses.

use std::collections::BTreeMap;
use std::sync::Arc;

use dayfly_domain::audit::Record;
use dayfly_domain::decision;
use dayfly_domain::id::{SessionId, TaskId};
use dayfly_domain::scope::Ceiling;
use dayfly_domain::secret::Secret;
use dayfly_domain::spiffe::SpiffeId;
use dayfly_domain::task::{Anchor, AnchorKind, EndCause, Offer, Task, TaskState};
use dayfly_domain::time::{Timestamp, Ttl};

use super::open_task::{check_depth, deadline, declared};
use super::pace::Against;
use super::{Asked, Broker, OperationError, Request, decision_record, holders};

/// What was asked, checked for form.
#[derive(Debug)]
pub struct DelegateTask {
    /// The caller's own task.
    pub task: TaskId,
    /// A direct caller's key to it.
    pub key: Option<Secret>,
    /// Who may claim the new task.
    pub to: SpiffeId,
    /// Everything the new task and all under it may ask for.
    pub ceiling: Ceiling,
    /// How long the new task may last.
    pub max_duration: Option<Ttl>,
    /// How long it waits to be claimed.
    pub claim_within: Option<Ttl>,
    /// Claimed.
    pub intent: String,
    /// Claimed.
    pub labels: BTreeMap<String, String>,
}

/// The task that waits.
#[derive(Debug)]
pub struct Offered {
    /// Its id. No secret: it lets nobody in.
    pub task: TaskId,
    /// Its session.
    pub session: SessionId,
    /// Unclaimed by then, it ends.
    pub claim_until: Timestamp,
    /// When the broker ends it once it is claimed, at the latest.
    pub deadline: Timestamp,
}

/// Opens a task for a named workload.
pub async fn delegate_task(
    broker: &Arc<Broker>,
    request: Request,
    wish: DelegateTask,
) -> Result<Offered, OperationError> {
    broker.pace(&request, &[Against::Caller])?;
    let worker = Arc::clone(broker);
    let owner = Arc::clone(broker);
    // Nobody can tell the workload of a task whose id nobody heard.
    let undelivered = move |offered: Offered| async move {
        super::end_task::end_by_signal(&owner, offered.task, EndCause::AnchorGone, None).await;
    };
    broker.run_to_end(async move { offer(&worker, &request, wish).await }, undelivered).await
}

async fn offer(broker: &Broker, request: &Request, wish: DelegateTask) -> Result<Offered, OperationError> {
    let above = broker.lineage(wish.task, wish.key.as_ref(), &request.caller).await?;
    if let Some(root) = above.first() {
        broker.pace(request, &[Against::Session(root.session)])?;
    }
    let rules = broker.rules.load();
    let checked =
        decision::check_delegate(&rules, &request.caller, &above, &wish.to, &wish.ceiling, request.at);
    let checked = checked.and_then(|()| check_depth(broker.limits.task_depth, &above));
    let tell = |record: Record| {
        record.with("chain", holders(&above)).with("delegate_to", &wish.to).with("parent_task_id", wish.task)
    };
    if let Err(denial) = checked {
        let ask = wish.ceiling.lines().first();
        let asked = Asked { what: "delegate_task", task: Some(wish.task), ask, ttl: None, act: None };
        let tell = |record: Record| declared(tell(record), &wish.ceiling);
        broker.record_denial_with(request, &asked, &denial, tell).await;
        return Err(OperationError::Denied(denial));
    }
    let id = TaskId::new(request.at, rand::random());
    let session =
        above.first().map(|root| root.session).ok_or(OperationError::Bug("a task without a root"))?;
    let stage = rules.stage_of(&wish.to).ok_or(OperationError::Bug("the workload fills no stage"))?;
    // How its holder will come is not known yet: a direct caller's own limit is kept when it claims.
    let deadline = deadline(broker, request.at, &above, wish.max_duration, broker.limits.longest_task);
    let waits =
        wish.claim_within.unwrap_or(broker.limits.claim_within).min(broker.limits.longest_claim_within);
    let claim_until = deadline.min(request.at + waits);
    let decision = tell(decision_record("decision.allow", "delegate_task", request))
        .with("task_id", id)
        .with("session_id", session)
        .with("ceiling", &wish.ceiling)
        .with("claim_until", claim_until.to_string())
        .with("deadline", deadline.to_string())
        .with("revision", rules.revision)
        .with("rules_digest", &rules.digest)
        .with("claimed", serde_json::json!({"intent": wish.intent, "labels": wish.labels}));
    tracing::info!(
        task_id = %id, session_id = %session, spiffe_id = %request.caller.spiffe_id, to = %wish.to, "task offered"
    );
    let task = Task {
        id,
        session,
        parent: Some(wish.task),
        opened_by: wish.to,
        stage,
        node: None,
        anchor: Anchor::of_no_process(AnchorKind::Offer),
        key_hash: None,
        ceiling: wish.ceiling,
        intent: wish.intent,
        labels: wish.labels,
        offer: Some(Offer { deadline }),
        opened_at: request.at,
        state: TaskState::Open { deadline: claim_until },
    };
    broker.store.open_task(task, decision, request.id).await?;
    broker.metrics.task_opened();
    Ok(Offered { task: id, session, claim_until, deadline })
}
