//! Issues one credential: decide → open the lease → the provider issues → record → answer.
//!
//! The lease's row stands before the target hears of it. Once begun the operation runs to its end though the client
//! hangs up; an answer that could not be delivered ends its lease.

use std::collections::BTreeMap;
use std::sync::Arc;

use dayfly_domain::audit::Record;
use dayfly_domain::decision::{self, Decision, DenyReason, Grant, Wish};
use dayfly_domain::id::{LeaseId, TaskId};
use dayfly_domain::idempotency::IssueKey;
use dayfly_domain::lease::{Lease, LeaseEvent, LeaseState, RevokeCause};
use dayfly_domain::policy::Narrowing;
use dayfly_domain::schedule;
use dayfly_domain::scope::{Promise, Revocability, Scope};
use dayfly_domain::secret::Secret;
use dayfly_domain::task::{AnchorKind, Task};
use dayfly_domain::time::{Timestamp, Ttl};
use serde_json::Value;

use super::pace::Against;
use super::{Asked, Broker, OperationError, Request, holders};
use crate::fault_point;
use crate::providers::{Credential, IssueError, Issued, Order, Provider};
use crate::store::{LeaseLimits, NewLease, StoreError};

/// What was asked, checked for form.
#[derive(Debug)]
pub struct IssueCredential {
    /// The task.
    pub task: TaskId,
    /// A direct caller's key.
    pub key: Option<Secret>,
    /// Scope, values, time.
    pub wish: Wish,
    /// The lease this one takes the place of.
    pub renews: Option<LeaseId>,
    /// The key it is asked for under, where the caller chose one.
    pub issue_key: Option<IssueKey>,
    /// What the decision's record says was asked: `issue`, `token_exchange`.
    pub what: &'static str,
}

/// A credential with its lease, on the way to the caller.
#[derive(Debug)]
pub struct Answer {
    /// The lease.
    pub lease: LeaseId,
    /// When the credential stops working by itself.
    pub expires_at: Timestamp,
    /// When to renew.
    pub refresh_at: Timestamp,
    /// What can be promised about taking it back.
    pub promise: Promise,
    /// The credential; none where a renewal lengthened the one the caller has.
    pub credential: Option<Credential>,
    /// Digest of the rules the decision was made from.
    pub rules_digest: String,
}

/// Issues one credential.
pub async fn issue(
    broker: &Arc<Broker>,
    request: Request,
    asked: IssueCredential,
) -> Result<Answer, OperationError> {
    broker.pace(&request, &[Against::Caller, Against::Scope(&asked.wish.ask.scope)])?;
    let worker = Arc::clone(broker);
    let owner = Arc::clone(broker);
    let undelivered = move |answer: Answer| async move { revoke_undelivered(&owner, answer.lease).await };
    let operation = async move {
        let lineage = worker.lineage(asked.task, asked.key.as_ref(), &request.caller).await?;
        let session = lineage.first().expect("a lineage holds the task itself").session;
        worker.pace(&request, &[Against::Session(session)])?;
        run(&worker, &request, &lineage, asked).await
    };
    broker.run_to_end(operation, undelivered).await
}

/// The story. [`issue`] runs it to its end; renewal runs it as a part of its own.
pub(super) async fn run(
    broker: &Arc<Broker>,
    request: &Request,
    lineage: &[Task],
    asked: IssueCredential,
) -> Result<Answer, OperationError> {
    let wish = &asked.wish;
    let grant = decide(broker, request, asked.what, lineage, wish).await?;
    let task = lineage.last().expect("decide refuses an empty lineage");
    let provider = broker.catalogue().get(&grant.scope.provider).ok_or_else(|| no_provider(&grant))?;
    if !provider.gives_credentials() {
        return Err(no_credential(&grant));
    }
    let target = render(&grant)?;
    let of = Asked::wish(asked.what, Some(task.id), wish);
    must_narrow(broker, request, &of, provider.as_ref(), &target, &grant.narrowing).await?;
    let lease = new_lease(broker, request, task, &grant, provider.as_ref(), asked.renews);
    let order = Order {
        lease: lease.id,
        task: task.id,
        session: task.session,
        subject: &request.caller.spiffe_id,
        chain: &grant.chain,
        scope: &grant.scope,
        target: &target,
        narrowing: &grant.narrowing,
        ttl: grant.ttl,
        now: request.at,
    };
    let promise = lease.promise.clone();
    fault_point!("issue.before_open");
    let (lease, issued) = if provider.is_local() {
        issue_locally(broker, request, &asked, &grant, lease, provider.as_ref(), &order).await?
    } else {
        issue_at_target(broker, request, &asked, &grant, lease, provider.as_ref(), &order).await?
    };
    fault_point!("issue.before_answer");
    broker.metrics.issued(provider.name());
    tracing::info!(lease_id = %lease, provider = provider.name(), scope = grant.ask.scope, "credential issued");
    Ok(Answer {
        lease,
        expires_at: issued.expires_at,
        refresh_at: schedule::refresh_at(lease, request.at, issued.expires_at),
        promise,
        credential: Some(issued.credential),
        rules_digest: grant.rules_digest,
    })
}

/// Decides, and records a denial. An allow is recorded with the lease it leads to.
pub(super) async fn decide(
    broker: &Broker,
    request: &Request,
    what: &'static str,
    lineage: &[Task],
    wish: &Wish,
) -> Result<Grant, OperationError> {
    let rules = broker.rules.load();
    match decision::decide(&rules, &request.caller, lineage, wish, request.at) {
        Decision::Allow(grant) => Ok(grant),
        Decision::Deny(denial) => {
            let task = lineage.last().map(|task| task.id);
            let chain = |record: Record| record.with("chain", holders(lineage));
            broker.record_denial_with(request, &Asked::wish(what, task, wish), &denial, chain).await;
            Err(OperationError::Denied(denial))
        }
    }
}

/// What policies took away must be enforced by the target, all of it, or nothing is issued.
pub(super) async fn must_narrow(
    broker: &Broker,
    request: &Request,
    asked: &Asked<'_>,
    provider: &dyn Provider,
    target: &Value,
    narrowing: &Narrowing,
) -> Result<(), OperationError> {
    if *narrowing == Narrowing::default() {
        return Ok(());
    }
    match provider.can_narrow(target, narrowing) {
        Ok(()) => Ok(()),
        Err(problem) => {
            let denial = DenyReason::PolicyCannotNarrow.denial(problem);
            broker.record_denial(request, asked, &denial).await;
            Err(OperationError::Denied(denial))
        }
    }
}

/// Issuing touches nothing outside this process: pending and active are one transaction, committed before the answer.
async fn issue_locally(
    broker: &Broker,
    request: &Request,
    asked: &IssueCredential,
    grant: &Grant,
    mut lease: Lease,
    provider: &dyn Provider,
    order: &Order<'_>,
) -> Result<(LeaseId, Issued), OperationError> {
    let issued = provider.issue(order).await.map_err(OperationError::Provider)?;
    lease.state = LeaseState::Active { expires_at: issued.expires_at, handle: issued.handle.clone() };
    let id = lease.id;
    open_lease(broker, request, asked, grant, lease).await?;
    fault_point!("issue.after_commit");
    Ok((id, issued))
}

/// The row first, the target second, the record third. Active only if the task is still open.
async fn issue_at_target(
    broker: &Broker,
    request: &Request,
    asked: &IssueCredential,
    grant: &Grant,
    lease: Lease,
    provider: &dyn Provider,
    order: &Order<'_>,
) -> Result<(LeaseId, Issued), OperationError> {
    let id = lease.id;
    let task = lease.task;
    open_lease(broker, request, asked, grant, lease).await?;
    fault_point!("issue.after_pending");
    let answered = provider.issue(order).await;
    fault_point!("issue.after_target");
    let record = async |event: LeaseEvent| {
        broker.store.record_lease(id, event, broker.clock.now(), Some(request.id)).await
    };
    match answered {
        Ok(issued) => {
            let event = LeaseEvent::Issue { expires_at: issued.expires_at, handle: issued.handle.clone() };
            let now = record(event).await?;
            fault_point!("issue.after_commit");
            if matches!(now.state, LeaseState::Active { .. }) {
                return Ok((id, issued));
            }
            // The task ended while the target was working: the credential is on its way back, and nobody saw it.
            broker.wake.all();
            Err(OperationError::task_not_open(task))
        }
        Err(IssueError::Unsigned(error)) => {
            record(LeaseEvent::Refuse).await?;
            Err(OperationError::Unsigned(error))
        }
        Err(error @ (IssueError::Refuse { .. } | IssueError::Unreach { .. } | IssueError::Full { .. })) => {
            record(LeaseEvent::Refuse).await?;
            Err(OperationError::Provider(error))
        }
        Err(error @ IssueError::Unresolved { .. }) => {
            record(LeaseEvent::LoseAnswer).await?;
            Err(OperationError::Unresolved { provider: provider.name(), lease: id, source: error })
        }
        Err(IssueError::Misconfigured { provider, what, handle, expires_at }) => {
            record(LeaseEvent::Issue { expires_at, handle: handle.clone() }).await?;
            revoke_undelivered(broker, id).await;
            Err(OperationError::Provider(IssueError::Misconfigured { provider, what, handle, expires_at }))
        }
    }
}

async fn open_lease(
    broker: &Broker,
    request: &Request,
    asked: &IssueCredential,
    grant: &Grant,
    lease: Lease,
) -> Result<(), OperationError> {
    let task = lease.task;
    let node = request.caller.via.node().cloned();
    let of_node =
        node.as_ref().and_then(|node| broker.rules.load().node(node).map(|rule| rule.max_live_leases));
    let decision = allow_record(asked.what, request, task, &asked.wish, grant)
        .with("lease_id", lease.id)
        .with("session_id", lease.session);
    let of_scope = grant.scope.limits.live_leases.unwrap_or(u32::MAX);
    let limits = LeaseLimits {
        per_identity: broker.limits.live_leases_per_identity,
        per_scope: of_scope.min(broker.limits.live_leases_per_scope),
        per_session: broker.limits.live_leases_per_session,
        per_node: of_node.unwrap_or(u32::MAX),
    };
    let key = asked.issue_key.clone();
    let is_keyed = key.is_some();
    let new = NewLease { lease, decision, node, limits, request: request.id, key };
    match broker.store.open_lease(new, request.at).await {
        Err(StoreError::TaskNotOpen) => Err(OperationError::task_not_open(task)),
        Err(StoreError::TooManyLeases { what, limit }) => {
            broker.held_back("live_leases", &what, request);
            Err(OperationError::TooMany { what, limit })
        }
        other => {
            other?;
            if is_keyed {
                // What lived under the key is on its way back.
                broker.wake.all();
            }
            Ok(())
        }
    }
}

/// The record of an allow: what was asked, what was granted, and the digests of everything it was made from.
pub(super) fn allow_record(
    what: &'static str,
    request: &Request,
    task: TaskId,
    wish: &Wish,
    grant: &Grant,
) -> Record {
    let policies: BTreeMap<&str, &str> =
        grant.policies.iter().map(|(n, d)| (n.as_str(), d.as_str())).collect();
    let record = Asked::wish(what, Some(task), wish)
        .record("decision.allow", request)
        .with("ttl", grant.ttl)
        .with("binding", &grant.binding)
        .with("chain", &grant.chain)
        .with(
            "digests",
            serde_json::json!({
                "rules": grant.rules_digest,
                "scope": grant.scope.digest,
                "binding": grant.binding_digest,
                "policies": policies,
            }),
        )
        .with("revision", grant.revision);
    let record = match grant.narrowing == Narrowing::default() {
        true => record,
        false => record.with("narrowing", &grant.narrowing),
    };
    match &grant.approval {
        Some(approval) => record.with("approval", approval),
        None => record,
    }
}

fn new_lease(
    broker: &Broker,
    request: &Request,
    task: &Task,
    grant: &Grant,
    provider: &dyn Provider,
    renews: Option<LeaseId>,
) -> Lease {
    Lease {
        id: broker.new_lease_id(request.at),
        task: task.id,
        session: task.session,
        spiffe_id: request.caller.spiffe_id.clone(),
        scope: grant.ask.scope.clone(),
        parameters: grant.ask.parameters.clone(),
        provider: grant.scope.provider.clone(),
        promise: promise(broker, task.anchor.kind, &grant.scope, provider),
        narrowed: grant.narrowing.digest(),
        renews,
        opened_at: request.at,
        state: LeaseState::Pending {
            since: request.at,
            residue_until: request.at + provider.residue(&grant.scope, grant.ttl),
        },
    }
}

/// The provider's promise, and what it takes to notice that a node fell silent. Never more than the credential's life.
pub(super) fn promise(
    broker: &Broker,
    anchor: AnchorKind,
    scope: &Scope,
    provider: &dyn Provider,
) -> Promise {
    let of_target = provider.promise(scope);
    let notice = match anchor {
        AnchorKind::CgroupOwned | AnchorKind::Process => broker.limits.lapse_after,
        AnchorKind::Stream => broker.limits.stream_grace,
        // Nobody is watched: the task ends when it was said to.
        AnchorKind::Offer | AnchorKind::Deadline => Ttl::ZERO,
    };
    let late = Ttl::millis(of_target.worst_case_after_end.as_millis().saturating_add(notice.as_millis()));
    let worst_case_after_end = match of_target.revocability {
        Revocability::ExpiryOnly => of_target.worst_case_after_end,
        Revocability::Exact | Revocability::Deny | Revocability::Proxied => late,
    };
    Promise { worst_case_after_end, ..of_target }
}

pub(super) fn render(grant: &Grant) -> Result<Value, OperationError> {
    grant.scope.target.render(&grant.ask.parameters).map_err(|changed| {
        tracing::error!(
            scope = grant.ask.scope,
            path = changed.path,
            "a template changed its shape when rendered"
        );
        OperationError::Bug("a template changed its shape when rendered")
    })
}

fn no_provider(grant: &Grant) -> OperationError {
    OperationError::Invalid {
        reason: "PROVIDER_NOT_CONFIGURED",
        message: format!("this broker has no provider {:?}", grant.scope.provider),
        next: "ask the platform team to configure the provider",
    }
}

fn no_credential(grant: &Grant) -> OperationError {
    OperationError::Invalid {
        reason: "SCOPE_HAS_NO_CREDENTIAL",
        message: format!("scope {:?} is for actions on an artifact and has no credential", grant.scope.name),
        next: "ask Authorize (dayfly check)",
    }
}

/// Nobody got the credential: it is taken back at once.
pub(super) async fn revoke_undelivered(broker: &Broker, lease: LeaseId) {
    let now = broker.clock.now();
    match broker.store.queue_revocations(vec![lease], RevokeCause::Undelivered, now, None).await {
        Ok(_) => broker.wake.all(),
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::error!(lease_id = %lease, error, "an undelivered credential could not be queued; it ends with its task");
        }
    }
}
