//! Renews a lease: a full decision, now. A denial ends the lease; a new secret is a new lease.

use std::sync::Arc;

use dayfly_domain::decision::{Grant, Wish};
use dayfly_domain::id::{LeaseId, TaskId};
use dayfly_domain::lease::{Lease, LeaseEvent, LeaseState, RevokeCause};
use dayfly_domain::schedule;
use dayfly_domain::scope::ScopeAsk;
use dayfly_domain::secret::Secret;

use super::issue::{self, Answer, IssueCredential};
use super::pace::Against;
use super::{Asked, Broker, OperationError, Request};
use crate::fault_point;
use crate::providers::{IssueError, Provider, Renewal};

/// What was asked, checked for form.
#[derive(Debug)]
pub struct RenewLease {
    /// The task.
    pub task: TaskId,
    /// A direct caller's key.
    pub key: Option<Secret>,
    /// The lease.
    pub lease: LeaseId,
}

/// Renews a lease.
pub async fn renew(
    broker: &Arc<Broker>,
    request: Request,
    asked: RenewLease,
) -> Result<Answer, OperationError> {
    broker.pace(&request, &[Against::Caller])?;
    let worker = Arc::clone(broker);
    let owner = Arc::clone(broker);
    // Only a new secret can be lost on the way; a longer life of what the caller holds is not.
    let undelivered = move |answer: Answer| async move {
        if answer.credential.is_some() {
            issue::revoke_undelivered(&owner, answer.lease).await;
        }
    };
    broker.run_to_end(async move { run(&worker, &request, asked).await }, undelivered).await
}

async fn run(broker: &Arc<Broker>, request: &Request, asked: RenewLease) -> Result<Answer, OperationError> {
    let lineage = broker.lineage(asked.task, asked.key.as_ref(), &request.caller).await?;
    let lease = own_lease(broker, request, &asked).await?;
    broker.pace(request, &[Against::Scope(&lease.scope), Against::Session(lease.session)])?;
    let wish = Wish {
        ask: ScopeAsk { scope: lease.scope.clone(), parameters: lease.parameters.clone() },
        ttl: None,
        act: None,
    };
    let provider =
        broker.catalogue().get(&lease.provider).ok_or(OperationError::Bug("the provider went away"))?;
    let decided = match issue::decide(broker, request, "renew", &lineage, &wish).await {
        Ok(grant) => {
            let target = issue::render(&grant)?;
            let of = Asked::wish("renew", Some(lease.task), &wish);
            let narrowed =
                issue::must_narrow(broker, request, &of, provider.as_ref(), &target, &grant.narrowing);
            narrowed.await.map(|()| grant)
        }
        Err(denied) => Err(denied),
    };
    let grant = match decided {
        Ok(grant) => grant,
        Err(denied) => {
            take_back(broker, request, lease.id).await?;
            return Err(denied);
        }
    };
    match provider.renewal(&grant.scope) {
        Renewal::InPlace if carries_the_same(&lease, &grant) => {
            extend(broker, request, &wish, &lease, &grant, provider.as_ref()).await
        }
        Renewal::InPlace | Renewal::Reissue => {
            let anew = IssueCredential {
                task: asked.task,
                key: asked.key,
                wish,
                renews: Some(lease.id),
                issue_key: None,
                what: "issue",
            };
            let answer = issue::run(broker, request, &lineage, anew).await?;
            take_back(broker, request, lease.id).await?;
            Ok(answer)
        }
    }
}

/// Whether the credential that is out is the one that would be given now: what policies put into it and what is promised of
/// it stay as they were when it went out, however long it lives.
fn carries_the_same(lease: &Lease, grant: &Grant) -> bool {
    lease.narrowed == grant.narrowing.digest() && lease.promise.leaves_behind == grant.scope.leaves_behind
}

/// The latest moment it could live is on record before the target is asked.
async fn extend(
    broker: &Broker,
    request: &Request,
    wish: &Wish,
    lease: &Lease,
    grant: &Grant,
    provider: &dyn Provider,
) -> Result<Answer, OperationError> {
    let latest = broker.clock.now() + grant.ttl;
    let decision = issue::allow_record("renew", request, lease.task, wish, grant).with("lease_id", lease.id);
    broker.store.write_records(vec![decision]).await?;
    let stands = broker
        .store
        .record_lease(lease.id, LeaseEvent::Extend { expires_at: latest }, request.at, Some(request.id))
        .await?;
    if !matches!(stands.state, LeaseState::Active { .. }) {
        return Err(OperationError::task_not_open(lease.task));
    }
    fault_point!("renew.before_target");
    let extended = provider.extend(&stands, &grant.scope, grant.ttl, request.at).await;
    fault_point!("renew.after_target");
    match extended {
        Ok(expires_at) => Ok(Answer {
            lease: lease.id,
            expires_at,
            refresh_at: schedule::refresh_at(lease.id, request.at, expires_at),
            promise: lease.promise.clone(),
            credential: None,
            rules_digest: grant.rules_digest.clone(),
        }),
        Err(IssueError::Misconfigured { provider, what, handle, expires_at }) => {
            take_back(broker, request, lease.id).await?;
            Err(OperationError::Provider(IssueError::Misconfigured { provider, what, handle, expires_at }))
        }
        Err(error) => Err(OperationError::Provider(error)),
    }
}

/// The caller's own live lease in that task; anything else answers alike.
async fn own_lease(broker: &Broker, request: &Request, asked: &RenewLease) -> Result<Lease, OperationError> {
    let row = broker.store.lease(asked.lease).await?;
    row.map(|row| row.lease)
        .filter(|lease| lease.task == asked.task && lease.spiffe_id == request.caller.spiffe_id)
        .filter(|lease| matches!(lease.state, LeaseState::Active { .. }))
        .ok_or(OperationError::LeaseNotYours(asked.lease))
}

async fn take_back(broker: &Broker, request: &Request, lease: LeaseId) -> Result<(), OperationError> {
    let now = broker.clock.now();
    broker.store.queue_revocations(vec![lease], RevokeCause::Renewal, now, Some(request.id)).await?;
    broker.wake.all();
    Ok(())
}
