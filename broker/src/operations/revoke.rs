//! Takes single leases back: on their holder's word, or an admin's.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use dayfly_domain::audit::{Record, Stream};
use dayfly_domain::id::{LeaseId, RequestId, SessionId, TaskId};
use dayfly_domain::lease::{LeaseState, RevokeCause};
use dayfly_domain::secret::Secret;
use dayfly_domain::spiffe::SpiffeId;
use dayfly_domain::task::EndCause;
use tokio::time::Instant;

use super::admin::Admin;
use super::{Broker, OperationError, Request, end_task};
use crate::store::{EndWhich, LeaseRow};

/// Ends one lease of the caller's own.
pub async fn revoke_own(
    broker: &Arc<Broker>,
    request: Request,
    task: TaskId,
    key: Option<Secret>,
    lease: LeaseId,
) -> Result<&'static str, OperationError> {
    broker.lineage(task, key.as_ref(), &request.caller).await?;
    let row = broker.store.lease(lease).await?;
    row.filter(|row| row.lease.task == task && row.lease.spiffe_id == request.caller.spiffe_id)
        .ok_or(OperationError::LeaseNotYours(lease))?;
    broker.store.queue_revocations(vec![lease], RevokeCause::Holder, request.at, Some(request.id)).await?;
    broker.wake.all();
    let row = broker.store.lease(lease).await?;
    Ok(row.map_or("ended", |row| row.lease.state.name()))
}

/// What an admin takes back.
#[derive(Clone, Debug)]
pub enum Target {
    /// One lease; its task goes on.
    Lease(LeaseId),
    /// A task and all under it.
    Task(TaskId),
    /// A whole tree.
    Session(SessionId),
    /// Every task this identity opened and every lease it holds.
    Identity(SpiffeId),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Lease(id) => write!(f, "lease {id}"),
            Target::Task(id) => write!(f, "task {id}"),
            Target::Session(id) => write!(f, "session {id}"),
            Target::Identity(id) => write!(f, "{id}"),
        }
    }
}

/// What a revocation did.
#[derive(Debug)]
pub struct Revoked {
    /// Tasks that were open and are over now.
    pub tasks_ended: usize,
    /// Every lease concerned, as it stood when the wait was over.
    pub leases: Vec<LeaseRow>,
}

/// Ends what an admin names, and waits a while for what the targets say.
pub async fn revoke(
    broker: &Arc<Broker>,
    admin: &Admin,
    request: RequestId,
    target: Target,
    reason: &str,
    wait: Duration,
) -> Result<Revoked, OperationError> {
    let now = broker.clock.now();
    let record = Record::new(Stream::Admin, "admin.revoke", now)
        .request(request)
        .with("by", admin.name())
        .with("target", target.to_string())
        .with("reason", reason);
    // Taking away is never refused for want of a record.
    if let Err(error) = broker.store.write_records(vec![record]).await {
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "an admin's revocation could not be recorded"
        );
    }
    let (tasks_ended, leases) = match target {
        Target::Lease(lease) => {
            let known = broker.store.lease(lease).await?;
            known.ok_or_else(|| OperationError::Unknown { kind: "lease", name: lease.to_string() })?;
            broker.store.queue_revocations(vec![lease], RevokeCause::Admin, now, Some(request)).await?;
            broker.wake.all();
            broker.notices.lease_revoked(lease);
            (0, vec![lease])
        }
        Target::Task(task) => {
            if broker.store.lineage(task).await?.is_empty() {
                return Err(OperationError::Unknown { kind: "task", name: task.to_string() });
            }
            end_all(broker, EndWhich::Task(task), request).await?
        }
        Target::Session(session) => {
            if broker.store.lineage(session.into()).await?.is_empty() {
                return Err(OperationError::Unknown { kind: "session", name: session.to_string() });
            }
            end_all(broker, EndWhich::Session(session), request).await?
        }
        Target::Identity(identity) => end_all(broker, EndWhich::Identity(identity), request).await?,
    };
    let leases = wait_for(broker, leases, wait).await?;
    Ok(Revoked { tasks_ended, leases })
}

async fn end_all(
    broker: &Broker,
    which: EndWhich,
    request: RequestId,
) -> Result<(usize, Vec<LeaseId>), OperationError> {
    let ended = end_task::end(broker, which, EndCause::Admin, Some(request)).await?;
    Ok((ended.tasks.len(), ended.leases))
}

/// Reads the leases until none can still be verified, or the time is over.
async fn wait_for(
    broker: &Broker,
    leases: Vec<LeaseId>,
    wait: Duration,
) -> Result<Vec<LeaseRow>, OperationError> {
    let until = Instant::now() + wait;
    loop {
        let mut rows = Vec::with_capacity(leases.len());
        for lease in &leases {
            rows.extend(broker.store.lease(*lease).await?);
        }
        let open = rows.iter().any(|row| {
            matches!(
                row.lease.state,
                LeaseState::Revoking { runs_out_at: None, .. } | LeaseState::Active { .. }
            )
        });
        if !open || Instant::now() >= until {
            return Ok(rows);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
