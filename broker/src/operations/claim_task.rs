//! A workload takes the task that was opened for it. From then on it is a task like any other.

use std::collections::BTreeMap;
use std::sync::Arc;

use dayfly_domain::audit::Record;
use dayfly_domain::caller::Via;
use dayfly_domain::decision::{self, Denial, DenyReason};
use dayfly_domain::id::{SessionId, TaskId};
use dayfly_domain::scope::Ceiling;
use dayfly_domain::secret::Secret;
use dayfly_domain::task::{Anchor, AnchorKind, EndCause, Task, TaskState};
use dayfly_domain::time::Timestamp;
use sha2::{Digest, Sha256};

use super::open_task::{check_anchor, longest, new_key, providers};
use super::pace::Against;
use super::{Asked, Broker, OperationError, Request, decision_record, holders};
use crate::store::{StoreError, TaskClaim};

/// What was asked, checked for form.
#[derive(Debug)]
pub struct ClaimTask {
    /// The task.
    pub task: TaskId,
    /// What the agent observed; none from a direct caller.
    pub anchor: Option<Anchor>,
    /// Claimed.
    pub labels: BTreeMap<String, String>,
}

/// The claimed task.
#[derive(Debug)]
pub struct Claimed {
    /// Its id.
    pub task: TaskId,
    /// Its session.
    pub session: SessionId,
    /// When the broker ends it.
    pub deadline: Timestamp,
    /// What a direct caller shows from now on.
    pub key: Option<Secret>,
    /// Each scope of the ceiling with its provider.
    pub providers: Vec<(String, String)>,
    /// Everything it may ask for.
    pub ceiling: Ceiling,
}

/// Claims a task that was opened for the caller.
pub async fn claim_task(
    broker: &Arc<Broker>,
    request: Request,
    wish: ClaimTask,
) -> Result<Claimed, OperationError> {
    broker.pace(&request, &[Against::Caller])?;
    let worker = Arc::clone(broker);
    let owner = Arc::clone(broker);
    let undelivered = move |claimed: Claimed| async move {
        super::end_task::end_by_signal(&owner, claimed.task, EndCause::AnchorGone, None).await;
    };
    broker.run_to_end(async move { claim(&worker, &request, wish).await }, undelivered).await
}

async fn claim(broker: &Broker, request: &Request, wish: ClaimTask) -> Result<Claimed, OperationError> {
    let caller = &request.caller;
    let rules = broker.rules.load();
    let anchor = check_anchor(&rules, request, wish.anchor)?;
    let lineage = broker.store.lineage(wish.task).await?;
    if let Err(denial) = decision::check_claim(&rules, caller, &lineage, request.at) {
        return Err(deny(broker, request, wish.task, denial, |record| record).await);
    }
    let key = matches!(caller.via, Via::Direct { .. }).then(new_key);
    let decision = decision_record("decision.allow", "claim_task", request)
        .with("task_id", wish.task)
        .with("chain", holders(&lineage))
        .with("revision", rules.revision)
        .with("rules_digest", &rules.digest)
        .with("claimed", serde_json::json!({"labels": wish.labels}));
    let claim = TaskClaim {
        task: wish.task,
        claimant: caller.spiffe_id.clone(),
        stage: caller.stage,
        node: caller.via.node().cloned(),
        anchor,
        key_hash: key.as_ref().map(|key| Sha256::digest(key.expose()).into()),
        latest_deadline: request.at + longest(broker, &caller.via),
        now: request.at,
    };
    let task = match broker.store.claim_task(claim, decision, request.id).await {
        // Another claim was first, or an end.
        Err(StoreError::TaskNotOpen) => {
            let denial = DenyReason::TaskNotOpen.denial("the task was taken or ended meanwhile".to_owned());
            let tell = |record: Record| record.with("meanwhile", true);
            return Err(deny(broker, request, wish.task, denial, tell).await);
        }
        other => other?,
    };
    if task.anchor.kind == AnchorKind::Stream {
        broker.stream_anchors.expect(task.id);
    }
    let Task { id, session, ceiling, state: TaskState::Open { deadline }, .. } = task else {
        return Err(OperationError::Bug("a claimed task is not open"));
    };
    tracing::info!(task_id = %id, session_id = %session, spiffe_id = %caller.spiffe_id, "task claimed");
    let providers = providers(&rules, &ceiling);
    Ok(Claimed { task: id, session, deadline, key, providers, ceiling })
}

/// Not for the caller, unknown, over and taken already answer alike.
async fn deny(
    broker: &Broker,
    request: &Request,
    task: TaskId,
    denial: Denial,
    tell: impl FnOnce(Record) -> Record,
) -> OperationError {
    let asked = Asked { what: "claim_task", task: Some(task), ask: None, ttl: None, act: None };
    broker.record_denial_with(request, &asked, &denial, tell).await;
    match denial.reason {
        DenyReason::TaskNotOpen => OperationError::task_not_open(task),
        _ => OperationError::Denied(denial),
    }
}
