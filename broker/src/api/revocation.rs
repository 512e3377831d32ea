//! `RevocationService`: the kill switch and the revocation queue, over mTLS and on the break-glass socket.

use std::time::Duration;

use dayfly_domain::approval::Host;
use dayfly_domain::id::{KillId, RequestId};
use dayfly_domain::kill::{Kill, Target};
use dayfly_proto::v1;
use dayfly_proto::v1::revocation_service_server::RevocationService;
use tonic::{Request as Rpc, Response, Status};

use super::{Api, status, wire};
use crate::operations::admin::Verb;
use crate::operations::kill::{self, By, Done, Preview};
use crate::operations::revocations;
use crate::store::kills::LeaseTally;

/// Longest a kill waits for agents and targets.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// Rows of a list, if the caller does not say.
const DEFAULT_LIMIT: u32 = 200;
/// Most rows of a list.
const MOST_ROWS: u32 = 10_000;
/// Most holders, and most scopes, that are named one by one.
const MOST_NAMED: usize = 200;

type Answer<T> = Result<Response<T>, Status>;

impl Api {
    async fn by<T>(&self, rpc: &Rpc<T>, verb: Verb) -> Result<By, Status> {
        let (request, admin) = self.admin(rpc, verb).await?;
        let peer = rpc.extensions().get::<std::sync::Arc<dayfly_client::Peer>>();
        let host = peer.and_then(|peer| peer.host).map_or(Host::Broker, Host::At);
        Ok(By { admin, host, request })
    }
}

#[tonic::async_trait]
impl RevocationService for Api {
    async fn kill(&self, rpc: Rpc<v1::KillRequest>) -> Answer<v1::KillResponse> {
        let verb = if rpc.get_ref().dry_run { Verb::Read } else { Verb::Revoke };
        let by = self.by(&rpc, verb).await?;
        let asked = rpc.into_inner();
        let target = target(asked.target, by.request)?;
        let told = |error| status::of(error, by.request);
        if asked.dry_run {
            let preview = kill::preview(&self.broker, &target).await.map_err(told)?;
            let outcome = v1::KillOutcome { width: Some(width(&preview)), ..Default::default() };
            return Ok(Response::new(v1::KillResponse { outcome: Some(outcome) }));
        }
        let done = kill::kill(&self.broker, &by, target, &asked.reason, wait(asked.wait_ms)).await;
        Ok(Response::new(v1::KillResponse { outcome: Some(outcome(&done.map_err(told)?)) }))
    }

    async fn approve_kill(&self, rpc: Rpc<v1::ApproveKillRequest>) -> Answer<v1::ApproveKillResponse> {
        let by = self.by(&rpc, Verb::Revoke).await?;
        let asked = rpc.into_inner();
        let id = kill_id(&asked.kill_id, by.request)?;
        let done = kill::approve(&self.broker, &by, id, &asked.digest, wait(asked.wait_ms)).await;
        let done = done.map_err(|error| status::of(error, by.request))?;
        Ok(Response::new(v1::ApproveKillResponse { outcome: Some(outcome(&done)) }))
    }

    async fn lift_kill(&self, rpc: Rpc<v1::LiftKillRequest>) -> Answer<v1::LiftKillResponse> {
        // It gives back what was taken: the verb for giving is wanted.
        let by = self.by(&rpc, Verb::Apply).await?;
        let id = kill_id(&rpc.get_ref().kill_id, by.request)?;
        let lifted = kill::lift(&self.broker, &by, id).await.map_err(|e| status::of(e, by.request))?;
        Ok(Response::new(v1::LiftKillResponse { kill: Some(told(&lifted)) }))
    }

    async fn list_kills(&self, rpc: Rpc<v1::ListKillsRequest>) -> Answer<v1::ListKillsResponse> {
        let (request, _) = self.admin(&rpc, Verb::Read).await?;
        let kills = self.broker.store.kills(rpc.get_ref().include_lifted).await;
        let kills = kills.map_err(|error| status::of(error.into(), request))?;
        Ok(Response::new(v1::ListKillsResponse { kills: kills.iter().map(told).collect() }))
    }

    async fn list_revocations(
        &self,
        rpc: Rpc<v1::ListRevocationsRequest>,
    ) -> Answer<v1::ListRevocationsResponse> {
        let (request, _) = self.admin(&rpc, Verb::Read).await?;
        let v1::ListRevocationsRequest { provider, stuck, limit } = rpc.into_inner();
        let limit = if limit == 0 { DEFAULT_LIMIT } else { limit.min(MOST_ROWS) };
        let waiting = revocations::list(&self.broker, named(provider), stuck, limit).await;
        let waiting = waiting.map_err(|error| status::of(error, request))?;
        let stuck_after = self.broker.limits.revocation_stuck_after;
        let queue = |queue: revocations::Queue| v1::RevocationQueue {
            provider: queue.depth.provider,
            queued: queue.depth.queued,
            stuck: queue.depth.stuck,
            oldest: Some(wire::time(queue.depth.oldest)),
            paused_until: queue.paused_until.map(wire::time),
        };
        let row = |queued: crate::store::queue::QueuedRow| v1::QueuedRevocation {
            lease: Some(wire::lease(&queued.row)),
            urgency: queued.urgency.as_str().to_owned(),
            attempts: queued.row.attempts,
            next_at: queued.next_at.map(wire::time),
            stuck: queued.row.attempts >= stuck_after,
            last_error: queued.row.last_error,
        };
        Ok(Response::new(v1::ListRevocationsResponse {
            queues: waiting.queues.into_iter().map(queue).collect(),
            revocations: waiting.rows.into_iter().map(row).collect(),
        }))
    }

    async fn retry_revocations(
        &self,
        rpc: Rpc<v1::RetryRevocationsRequest>,
    ) -> Answer<v1::RetryRevocationsResponse> {
        let (request, _) = self.admin(&rpc, Verb::Revoke).await?;
        let provider = named(rpc.into_inner().provider);
        let retried = revocations::retry(&self.broker, provider.as_deref()).await;
        let revocations = retried.map_err(|error| status::of(error, request))?;
        Ok(Response::new(v1::RetryRevocationsResponse { revocations }))
    }
}

fn wait(millis: u32) -> Duration {
    Duration::from_millis(u64::from(millis)).min(MAX_WAIT)
}

fn named(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn target(wire: Option<v1::KillTarget>, request: RequestId) -> Result<Target, Status> {
    let next = "name an identity, a pattern, a trust domain, a node, a scope, a provider or everything";
    let missing = || status::invalid("TARGET_MISSING", "nothing to cut off is named", next, request);
    let v1::KillTarget { kind, name } = wire.ok_or_else(missing)?;
    Target::read(&kind, &name)
        .map_err(|fault| status::invalid("TARGET_INVALID", fault.to_string(), next, request))
}

fn kill_id(text: &str, request: RequestId) -> Result<KillId, Status> {
    let next = "`dayfly kill list` shows them";
    text.parse().map_err(|_| status::invalid("ID_INVALID", "kill_id is not a kill's id", next, request))
}

fn told(kill: &Kill) -> v1::Kill {
    let target = v1::KillTarget { kind: kill.target.kind().to_owned(), name: kill.target.name() };
    v1::Kill {
        kill_id: kill.id.to_string(),
        target: Some(target),
        reason: kill.reason.clone(),
        state: kill.state.as_str().to_owned(),
        digest: kill.digest(),
        asked_at: Some(wire::time(kill.asked.at)),
        asked_by: kill.asked.by.clone(),
        approved_at: kill.approved.as_ref().map(|word| wire::time(word.at)),
        approved_by: kill.approved.as_ref().map(|word| word.by.clone()).unwrap_or_default(),
        lifted_at: kill.lifted.as_ref().map(|word| wire::time(word.at)),
        lifted_by: kill.lifted.as_ref().map(|word| word.by.clone()).unwrap_or_default(),
    }
}

fn width(preview: &Preview) -> v1::KillWidth {
    let Preview { width, owners, wide } = preview;
    let mut holders: Vec<v1::KilledHolder> = width
        .identities
        .iter()
        .map(|(id, (tasks, leases))| v1::KilledHolder {
            spiffe_id: id.to_string(),
            tasks: *tasks,
            leases: *leases,
        })
        .collect();
    holders.sort_by_key(|holder| std::cmp::Reverse((holder.leases, holder.tasks)));
    holders.truncate(MOST_NAMED);
    let mut scopes: Vec<v1::KilledScope> = width
        .scopes
        .iter()
        .map(|(scope, leases)| v1::KilledScope {
            scope: scope.clone(),
            leases: *leases,
            owners: owners.get(scope).into_iter().flatten().cloned().collect(),
        })
        .collect();
    scopes.sort_by_key(|scope| std::cmp::Reverse(scope.leases));
    scopes.truncate(MOST_NAMED);
    v1::KillWidth {
        tasks: width.tasks.0,
        tasks_of: width.tasks.1,
        leases: width.leases.0,
        leases_of: width.leases.1,
        holders,
        scopes,
        wide: *wide,
    }
}

fn outcome(done: &Done) -> v1::KillOutcome {
    let LeaseTally { live, revoking, running_out, verified, ran_out, never_issued } = done.leases;
    v1::KillOutcome {
        kill: Some(told(&done.kill)),
        width: Some(width(&done.preview)),
        tasks_ended: done.tasks_ended,
        leases: Some(v1::LeaseTally { live, revoking, running_out, verified, ran_out, never_issued }),
        nodes_told: done.nodes_told,
        nodes_acknowledged: done.nodes_acknowledged,
    }
}
