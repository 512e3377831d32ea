//! `AdminService`, over mTLS and on the break-glass socket.

use std::pin::Pin;
use std::time::Duration;

use dayfly_domain::audit::Stream as AuditStream;
use dayfly_domain::document::Kind;
use dayfly_domain::id::RequestId;
use dayfly_domain::node::TrustDomainRule;
use dayfly_proto::v1;
use dayfly_proto::v1::admin_service_server::AdminService;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::UdsConnectInfo;
use tonic::{Request as Rpc, Response, Status};

use super::{Api, peer_of, status, wire};
use crate::operations::admin::{Admin, Verb, admit, admit_break_glass};
use crate::operations::apply::{self, Apply, Live};
use crate::operations::revoke::{self, Target};
use crate::operations::{OperationError, apply::Verb as Change};
use crate::store::{LeaseFilter, Store, StoreError, StoredDocument, TaskFilter};

/// Longest a revocation waits for its targets.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// Rows of a list, if the caller does not say.
const DEFAULT_LIMIT: u32 = 200;
/// Audit records read at once.
const AUDIT_PAGE: u32 = 500;

type Answer<T> = Result<Response<T>, Status>;

impl Api {
    /// Who the admin is: mTLS peer, or uid 0 on the break-glass socket.
    pub(super) async fn admin<T>(&self, rpc: &Rpc<T>, verb: Verb) -> Result<(RequestId, Admin), Status> {
        let id = self.new_request_id();
        let admitted = match rpc.extensions().get::<UdsConnectInfo>() {
            Some(socket) => {
                let uid = socket.peer_cred.map(|cred| cred.uid());
                admit_break_glass(&self.broker, uid, verb, id).await
            }
            None => admit(&self.broker, &*peer_of(rpc, id)?, verb),
        };
        admitted.map(|admin| (id, admin)).map_err(|error| status::of(error, id))
    }
}

#[tonic::async_trait]
impl AdminService for Api {
    async fn apply(&self, rpc: Rpc<v1::ApplyRequest>) -> Answer<v1::ApplyResponse> {
        let (id, admin) = self.admin(&rpc, Verb::Apply).await?;
        let asked = rpc.into_inner();
        let live = match asked.live() {
            v1::LivePolicy::Revoke => Live::Revoke,
            v1::LivePolicy::Drain | v1::LivePolicy::Unspecified => Live::Drain,
        };
        let wish = Apply {
            expected_revision: (asked.expected_revision != 0).then_some(asked.expected_revision),
            dry_run: asked.dry_run,
            prune: wire::prune(asked.prune, asked.selector, id)?,
            live,
            yaml: asked.yaml,
        };
        let applied = apply::apply(&self.broker, &admin, id, wish).await.map_err(|e| status::of(e, id))?;
        Ok(Response::new(v1::ApplyResponse {
            revision: applied.revision,
            changes: applied.changes.into_iter().map(change).collect(),
            faults: applied.faults.into_iter().map(fault).collect(),
            uncovered_lease_ids: applied.uncovered.iter().map(ToString::to_string).collect(),
        }))
    }

    async fn list_documents(&self, rpc: Rpc<v1::ListDocumentsRequest>) -> Answer<v1::ListDocumentsResponse> {
        let (id, _) = self.admin(&rpc, Verb::Read).await?;
        let kind = kind(&rpc.get_ref().kind, id)?;
        let loaded = self.broker.store.load_documents().await;
        let (revision, rows) = loaded.map_err(|error| status::of(error.into(), id))?;
        let documents = rows.iter().filter(|row| row.document.key.kind == kind).map(document).collect();
        let domains = self.broker.trust_domains.iter().filter(|_| kind == Kind::Stage);
        let trust_domains = domains.map(trust_domain).collect();
        Ok(Response::new(v1::ListDocumentsResponse { documents, revision, trust_domains }))
    }

    async fn get_document(&self, rpc: Rpc<v1::GetDocumentRequest>) -> Answer<v1::GetDocumentResponse> {
        let (id, _) = self.admin(&rpc, Verb::Read).await?;
        let asked = rpc.into_inner();
        let kind = kind(&asked.kind, id)?;
        let loaded = self.broker.store.load_documents().await;
        let (_, rows) = loaded.map_err(|error| status::of(error.into(), id))?;
        let found =
            rows.iter().find(|row| row.document.key.kind == kind && row.document.key.name == asked.name);
        let found = found.ok_or_else(|| unknown(kind.as_str(), &asked.name, id))?;
        Ok(Response::new(v1::GetDocumentResponse { document: Some(document(found)) }))
    }

    async fn list_nodes(&self, rpc: Rpc<v1::ListNodesRequest>) -> Answer<v1::ListNodesResponse> {
        self.nodes(rpc).await
    }

    async fn get_brake(&self, rpc: Rpc<v1::GetBrakeRequest>) -> Answer<v1::GetBrakeResponse> {
        self.brake(rpc).await
    }

    async fn release_brake(&self, rpc: Rpc<v1::ReleaseBrakeRequest>) -> Answer<v1::ReleaseBrakeResponse> {
        self.release(rpc).await
    }

    async fn list_tasks(&self, rpc: Rpc<v1::ListTasksRequest>) -> Answer<v1::ListTasksResponse> {
        let (id, _) = self.admin(&rpc, Verb::Read).await?;
        let asked = rpc.into_inner();
        let filter = TaskFilter {
            session: parsed(&asked.session_id, "session_id", id)?,
            spiffe_id: parsed(&asked.spiffe_id, "spiffe_id", id)?,
            include_ended: asked.include_ended,
            limit: limit(asked.limit),
        };
        let rows = self.broker.store.tasks(filter).await.map_err(|error| status::of(error.into(), id))?;
        let mut tasks: Vec<_> = rows.iter().map(|(task, live)| wire::task(task, *live)).collect();
        self.with_node_states(&mut tasks).await.map_err(|error| status::of(error.into(), id))?;
        Ok(Response::new(v1::ListTasksResponse { tasks }))
    }

    async fn get_task(&self, rpc: Rpc<v1::GetTaskRequest>) -> Answer<v1::GetTaskResponse> {
        let (id, _) = self.admin(&rpc, Verb::Read).await?;
        let task = wire::task_id(&rpc.get_ref().task_id, id)?;
        let lineage = self.broker.store.lineage(task).await.map_err(|error| status::of(error.into(), id))?;
        let found = lineage.last().ok_or_else(|| unknown("task", &rpc.get_ref().task_id, id))?;
        let filter =
            LeaseFilter { task: Some(task), include_ended: true, limit: 1_000, ..LeaseFilter::default() };
        let rows = self.broker.store.leases(filter).await.map_err(|error| status::of(error.into(), id))?;
        let live = rows.iter().filter(|row| row.lease.state.name() != "ended").count();
        let mut task = wire::task(found, u32::try_from(live).unwrap_or(u32::MAX));
        let alone = std::slice::from_mut(&mut task);
        self.with_node_states(alone).await.map_err(|error| status::of(error.into(), id))?;
        Ok(Response::new(v1::GetTaskResponse {
            task: Some(task),
            leases: rows.iter().map(|row| self.lease(row)).collect(),
        }))
    }

    async fn list_leases(&self, rpc: Rpc<v1::ListLeasesRequest>) -> Answer<v1::ListLeasesResponse> {
        let (id, _) = self.admin(&rpc, Verb::Read).await?;
        let asked = rpc.into_inner();
        let filter = LeaseFilter {
            task: parsed(&asked.task_id, "task_id", id)?,
            session: parsed(&asked.session_id, "session_id", id)?,
            spiffe_id: parsed(&asked.spiffe_id, "spiffe_id", id)?,
            scope: (!asked.scope.is_empty()).then_some(asked.scope),
            include_ended: asked.include_ended,
            limit: limit(asked.limit),
        };
        let rows = self.broker.store.leases(filter).await.map_err(|error| status::of(error.into(), id))?;
        Ok(Response::new(v1::ListLeasesResponse { leases: rows.iter().map(|row| self.lease(row)).collect() }))
    }

    async fn get_lease(&self, rpc: Rpc<v1::GetLeaseRequest>) -> Answer<v1::GetLeaseResponse> {
        let (id, _) = self.admin(&rpc, Verb::Read).await?;
        let lease = wire::lease_id(&rpc.get_ref().lease_id, id)?;
        let row = self.broker.store.lease(lease).await.map_err(|error| status::of(error.into(), id))?;
        let row = row.ok_or_else(|| unknown("lease", &rpc.get_ref().lease_id, id))?;
        Ok(Response::new(v1::GetLeaseResponse { lease: Some(self.lease(&row)) }))
    }

    async fn revoke(&self, rpc: Rpc<v1::RevokeRequest>) -> Answer<v1::RevokeResponse> {
        use v1::revoke_request::Target as Wire;
        let (id, admin) = self.admin(&rpc, Verb::Revoke).await?;
        let asked = rpc.into_inner();
        let next = "name a lease, a task, a session or a SPIFFE ID";
        let missing = || status::invalid("TARGET_MISSING", "nothing to revoke is named", next, id);
        let target = match asked.target.ok_or_else(missing)? {
            Wire::LeaseId(text) => Target::Lease(wire::lease_id(&text, id)?),
            Wire::TaskId(text) => Target::Task(wire::task_id(&text, id)?),
            Wire::SessionId(text) => Target::Session(wire::task_id(&text, id)?.into()),
            Wire::SpiffeId(text) => Target::Identity(parsed(&text, "spiffe_id", id)?.ok_or_else(missing)?),
        };
        let wait = Duration::from_millis(u64::from(asked.wait_ms)).min(MAX_WAIT);
        let reason: String = asked.reason.chars().take(512).collect();
        let revoked = revoke::revoke(&self.broker, &admin, id, target, &reason, wait).await;
        let revoked = revoked.map_err(|error| status::of(error, id))?;
        Ok(Response::new(v1::RevokeResponse {
            tasks_ended: u32::try_from(revoked.tasks_ended).unwrap_or(u32::MAX),
            leases: revoked.leases.iter().map(|row| self.lease(row)).collect(),
        }))
    }

    type ReadAuditStream = Pin<Box<dyn Stream<Item = Result<v1::ReadAuditResponse, Status>> + Send>>;

    async fn read_audit(&self, rpc: Rpc<v1::ReadAuditRequest>) -> Answer<Self::ReadAuditStream> {
        let (id, _) = self.admin(&rpc, Verb::Read).await?;
        let asked = rpc.into_inner();
        let stream = AuditStream::ALL.into_iter().find(|stream| stream.as_str() == asked.stream);
        let stream = stream.ok_or_else(|| {
            let next = "the streams are decision, lease and admin";
            status::invalid("STREAM_UNKNOWN", "there is no such audit stream", next, id)
        })?;
        let (sender, receiver) = tokio::sync::mpsc::channel(64);
        let store = std::sync::Arc::clone(&self.broker.store);
        self.broker.tracker.spawn(async move {
            if let Err(error) = send_chains(store.as_ref(), stream, asked.from_seq.max(1), &sender).await {
                let _ = sender.send(Err(status::of(error.into(), id))).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

fn kind(name: &str, id: RequestId) -> Result<Kind, Status> {
    let next = "the kinds are Stage, Scope, Binding and Node";
    Kind::from_name(name).ok_or_else(|| status::invalid("KIND_UNKNOWN", "there is no such kind", next, id))
}

fn parsed<T: std::str::FromStr>(text: &str, field: &str, id: RequestId) -> Result<Option<T>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    let fault = |_| {
        status::invalid("FILTER_INVALID", format!("{field} is malformed"), "correct it or leave it out", id)
    };
    text.parse().map(Some).map_err(fault)
}

fn limit(asked: u32) -> u32 {
    if asked == 0 { DEFAULT_LIMIT } else { asked.min(10_000) }
}

fn unknown(kind: &'static str, name: &str, id: RequestId) -> Status {
    status::of(OperationError::Unknown { kind, name: name.chars().take(128).collect() }, id)
}

fn trust_domain(rule: &TrustDomainRule) -> v1::TrustDomain {
    v1::TrustDomain {
        name: rule.name.clone(),
        stages: rule.stages.iter().map(ToString::to_string).collect(),
        patterns: rule.patterns.iter().map(ToString::to_string).collect(),
    }
}

fn document(row: &StoredDocument) -> v1::Document {
    v1::Document {
        kind: row.document.key.kind.to_string(),
        name: row.document.key.name.clone(),
        yaml: row.document.to_yaml(),
        revision: row.revision,
        applied_at: Some(wire::time(row.applied_at)),
        applied_by: row.applied_by.clone(),
    }
}

pub(super) fn change(change: apply::DocumentChange) -> v1::DocumentChange {
    let verb = match change.verb {
        Change::Create => v1::document_change::Verb::Create,
        Change::Update => v1::document_change::Verb::Update,
        Change::Delete => v1::document_change::Verb::Delete,
        Change::Unchanged => v1::document_change::Verb::Unchanged,
    };
    v1::DocumentChange {
        kind: change.key.kind.to_string(),
        name: change.key.name,
        verb: verb.into(),
        diff: change.diff,
    }
}

pub(super) fn fault(fault: dayfly_domain::document::Fault) -> v1::DocumentFault {
    let dayfly_domain::document::Fault { document, subject, path, problem } = fault;
    v1::DocumentFault { document, subject, path, problem }
}

fn audit_row(row: crate::store::AuditRow) -> v1::ReadAuditResponse {
    v1::ReadAuditResponse {
        writer: row.writer,
        stream: row.stream.as_str().to_owned(),
        seq: row.seq,
        prev_hash: row.prev_hash,
        hash: row.hash,
        at: Some(wire::time(row.at)),
        bytes: row.bytes,
    }
}

/// The chains of every broker that shares the state, one after another, each from a number on.
async fn send_chains(
    store: &dyn Store,
    stream: AuditStream,
    from_seq: u64,
    sender: &tokio::sync::mpsc::Sender<Result<v1::ReadAuditResponse, Status>>,
) -> Result<(), StoreError> {
    for writer in store.writers().await? {
        let mut from = from_seq;
        loop {
            let page = store.audit_of(&writer, stream, from, AUDIT_PAGE).await?;
            let Some(last) = page.last() else { break };
            from = last.seq + 1;
            for row in page {
                if sender.send(Ok(audit_row(row))).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}
