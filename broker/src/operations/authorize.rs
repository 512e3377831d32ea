//! Decides whether a workload may do something with an artifact, before it does: decide → record → receipt → answer.
//!
//! Nothing is handed out but the answer, and a receipt where the guard of the artifact wants one. Without its record there
//! is neither; a task that ended meanwhile gets neither.

use dayfly_domain::artifact;
use dayfly_domain::decision::{self, Act, Decision, Denial, DenyReason, Grant, Ruling, Wish};
use dayfly_domain::id::{RequestId, TaskId};
use dayfly_domain::scope::ScopeAsk;
use dayfly_domain::secret::Secret;
use dayfly_domain::spiffe::SpiffeId;
use dayfly_domain::task::Task;
use dayfly_domain::time::Timestamp;
use serde_json::Value;

use super::issue::{allow_record, must_narrow};
use super::pace::Against;
use super::{Asked, Broker, OperationError, Request};
use crate::providers::artifact::ArtifactProvider;
use crate::receipts::{Allowed, LONGEST_LIFE, ReceiptError, Receipts};
use crate::store::StoreError;

/// What was asked, checked for form.
#[derive(Debug)]
pub struct Authorize {
    /// The task.
    pub task: TaskId,
    /// A direct caller's key.
    pub key: Option<Secret>,
    /// What would be done.
    pub act: Act,
    /// The guard that a receipt is wanted for, in the caller's words.
    pub audience: Option<String>,
}

/// It may be done.
#[derive(Debug)]
pub struct Authorized {
    /// The decision's id: that of the request.
    pub decision: RequestId,
    /// The line of the ceiling that allowed it.
    pub ask: ScopeAsk,
    /// Whether the scope names the digest it is for. Else it takes any.
    pub pins_digest: bool,
    /// Until when.
    pub until: Timestamp,
    /// For the guard.
    pub receipt: Option<Secret>,
    /// Revision of the rules.
    pub revision: u64,
    /// Digest of the rules.
    pub rules_digest: String,
}

/// The story.
pub async fn authorize(
    broker: &Broker,
    request: Request,
    asked: Authorize,
) -> Result<Authorized, OperationError> {
    broker.pace(&request, &[Against::Caller])?;
    let receipts = broker.receipts.get().ok_or(OperationError::Bug("nobody signs receipts"))?;
    let audience = asked.audience.as_deref().map(|guard| receipts.audience(guard)).transpose();
    let audience = audience.map_err(no_such_guard)?;
    let lineage = broker.lineage(asked.task, asked.key.as_ref(), &request.caller).await?;
    let task = lineage.last().expect("a lineage holds the task itself");
    broker.pace(&request, &[Against::Session(task.session)])?;
    let (wish, grant, until) = decide(broker, &request, &lineage, &asked.act).await?;
    // Which scope it is for is known only now.
    broker.pace(&request, &[Against::Scope(&grant.scope.name)])?;
    let asks = Asked::wish("authorize", Some(task.id), &wish);
    must_narrow(broker, &request, &asks, &ArtifactProvider, &Value::Null, &grant.narrowing).await?;
    record(broker, &request, task, &wish, &grant, until, audience.as_ref()).await?;
    let receipt = match &audience {
        Some(guard) => Some(sign(receipts, &request, task, &asked.act, &grant, until, guard).await?),
        None => None,
    };
    broker.metrics.authorized();
    tracing::info!(decision_id = %request.id, scope = grant.ask.scope, act = %asked.act, "action authorized");
    Ok(Authorized {
        decision: request.id,
        pins_digest: artifact::pins_digest(&grant.scope),
        ask: grant.ask,
        until,
        receipt,
        revision: grant.revision,
        rules_digest: grant.rules_digest,
    })
}

/// Decides, and records a denial.
async fn decide(
    broker: &Broker,
    request: &Request,
    lineage: &[Task],
    act: &Act,
) -> Result<(Wish, Grant, Timestamp), OperationError> {
    let rules = broker.rules.load();
    let ruling = decision::decide_act(&rules, &request.caller, lineage, act, request.at);
    let (wish, denial) = match ruling {
        Ruling { wish: Some(wish), decision: Decision::Allow(grant) } => match last_moment(request, &grant) {
            Ok(until) => return Ok((wish, grant, until)),
            Err(denial) => (Some(wish), denial),
        },
        Ruling { wish: None, decision: Decision::Allow(_) } => {
            return Err(OperationError::Bug("an action was allowed by no line of the ceiling"));
        }
        Ruling { wish, decision: Decision::Deny(denial) } => (wish, denial),
    };
    let task = lineage.last().map(|task| task.id);
    let asked = match &wish {
        Some(wish) => Asked::wish("authorize", task, wish),
        None => Asked { what: "authorize", task, ask: None, ttl: None, act: Some(act) },
    };
    broker.record_denial(request, &asked, &denial).await;
    Err(OperationError::Denied(denial))
}

/// Until when the decision holds: never past the grant or the caller's proof, and for a minute at most. Receipts count
/// whole seconds.
pub(super) fn last_moment(request: &Request, grant: &Grant) -> Result<Timestamp, Denial> {
    let proof = request.caller.proof_expires_at;
    let until = (request.at + grant.ttl.min(LONGEST_LIFE)).min(proof);
    if until.unix_seconds() > request.at.unix_seconds() {
        return Ok(until);
    }
    let (reason, what) = match until == proof {
        true => (DenyReason::ProofExpired, "the caller's SVID"),
        false => (DenyReason::TaskNotOpen, "the task, or of what grants it the scope,"),
    };
    Err(reason.denial(format!("less than a second of {what} is left")))
}

/// No record, no answer; and none for a task that is over by now.
async fn record(
    broker: &Broker,
    request: &Request,
    task: &Task,
    wish: &Wish,
    grant: &Grant,
    until: Timestamp,
    audience: Option<&SpiffeId>,
) -> Result<(), OperationError> {
    let record = allow_record("authorize", request, task.id, wish, grant)
        .with("session_id", task.session)
        .with("digest_pinned", artifact::pins_digest(&grant.scope))
        .with("valid_until", until.to_string());
    let record = match audience {
        Some(guard) => record.with("receipt_audience", guard),
        None => record,
    };
    match broker.store.record_under(task.id, task.session, record, request.at).await {
        Err(StoreError::TaskNotOpen) => Err(OperationError::task_not_open(task.id)),
        other => Ok(other?),
    }
}

async fn sign(
    receipts: &Receipts,
    request: &Request,
    task: &Task,
    act: &Act,
    grant: &Grant,
    until: Timestamp,
    guard: &SpiffeId,
) -> Result<Secret, OperationError> {
    let allowed = Allowed {
        decision: request.id,
        subject: &request.caller.spiffe_id,
        audience: guard,
        action: &act.action,
        artifact: &act.artifact,
        scope: &grant.scope.name,
        task: task.id,
        session: task.session,
        chain: &grant.chain,
        at: request.at,
        until,
    };
    receipts.sign(&allowed).await.map_err(|error| match error {
        ReceiptError::TooLong(_) => OperationError::Invalid {
            reason: "RECEIPT_TOO_LONG",
            message: error.to_string(),
            next: "nest fewer tasks, or ask without a receipt",
        },
        ReceiptError::Audience(_) => no_such_guard(error),
        ReceiptError::Sign(error) => error.into(),
    })
}

fn no_such_guard(error: ReceiptError) -> OperationError {
    OperationError::Invalid {
        reason: "RECEIPT_AUDIENCE_INVALID",
        message: error.to_string(),
        next: "name the guard's SPIFFE ID, of a trust domain that the broker accepts",
    }
}
