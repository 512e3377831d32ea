//! A broker's AdminService over rows that stand still.

use std::sync::{Arc, Mutex};

use dayfly_client::Refusal;
use dayfly_client::v1::approval_service_server::ApprovalServiceServer;
use dayfly_client::v1::key_service_server::KeyServiceServer;
use dayfly_client::v1::question_service_server::QuestionServiceServer;
use dayfly_client::v1::{self, admin_service_server as service};
use dayfly_domain::audit::{GENESIS, Record, Stream, chain};
use dayfly_domain::time::Timestamp;
use tonic::transport::server::Router;
use tonic::{Code, Request, Response, Status};

pub const TRAINER: &str = "spiffe://prod.example/training/trainer";

/// Handle on the fake; clones share rows and what was asked.
#[derive(Clone)]
pub struct FakeBroker(Arc<Mutex<State>>);

/// What the fake answers with, and what it was asked.
pub struct State {
    pub leases: Vec<v1::Lease>,
    pub applied: v1::ApplyResponse,
    pub audit: Vec<v1::ReadAuditResponse>,
    pub apply_asked: Vec<v1::ApplyRequest>,
    pub revoke_asked: Vec<v1::RevokeRequest>,
    pub leases_asked: Vec<v1::ListLeasesRequest>,
    pub approvals: super::approvals::Asked,
    /// Documents in place of those it has by heart, and what it answers of them.
    pub stored: Option<String>,
    pub trust_domains: Vec<v1::TrustDomain>,
    pub review: v1::ReviewResponse,
    pub keys: super::keys::Asked,
}

impl Default for FakeBroker {
    fn default() -> Self {
        FakeBroker(Arc::new(Mutex::new(State {
            leases: leases(),
            applied: v1::ApplyResponse { revision: 7, ..v1::ApplyResponse::default() },
            audit: [chained(Stream::Decision, 3), chained(Stream::Lease, 2), chained(Stream::Admin, 1)]
                .concat(),
            apply_asked: Vec::new(),
            revoke_asked: Vec::new(),
            leases_asked: Vec::new(),
            approvals: super::approvals::Asked::default(),
            stored: None,
            trust_domains: Vec::new(),
            review: v1::ReviewResponse::default(),
            keys: super::keys::Asked::default(),
        })))
    }
}

impl FakeBroker {
    pub fn router(&self) -> Router {
        tonic::transport::Server::builder()
            .add_service(service::AdminServiceServer::new(self.clone()))
            .add_service(ApprovalServiceServer::new(self.clone()))
            .add_service(QuestionServiceServer::new(self.clone()))
            .add_service(KeyServiceServer::new(self.clone()))
    }

    pub fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.0.lock().unwrap())
    }
}

pub fn at(seconds: i64) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp { seconds: 1_800_000_000 + seconds, nanos: 250_000_000 })
}

/// One lease of each standing.
fn leases() -> Vec<v1::Lease> {
    let lease = |id: &str, scope: &str, state: &str| v1::Lease {
        lease_id: format!("01JZX0L{id}"),
        task_id: "01JZX0T1".into(),
        session_id: "01JZX0T1".into(),
        spiffe_id: TRAINER.into(),
        scope: scope.into(),
        parameters: [("dataset".to_owned(), "corpus-7".to_owned())].into(),
        provider: "vault".into(),
        state: state.into(),
        promise: Some(v1::RevocationPromise {
            revocability: v1::Revocability::Exact.into(),
            worst_case_after_end: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
            leaves_behind: Vec::new(),
        }),
        opened_at: at(0),
        expires_at: at(300),
        ..v1::Lease::default()
    };
    vec![
        lease("1", "kv-read", "active"),
        v1::Lease {
            outcome: "verified".into(),
            evidence: "auth/token/lookup-accessor: 403".into(),
            revoke_requested_at: at(9),
            ended_at: at(10),
            ..lease("2", "kv-read", "ended")
        },
        v1::Lease {
            runs_out_at: at(300),
            revoke_requested_at: at(9),
            provider: "aws".into(),
            ..lease("3", "s3-train-read", "revoking")
        },
        v1::Lease {
            revoke_requested_at: at(9),
            attempts: 3,
            last_error: "vault: \u{1b}[31m503".into(),
            ..lease("4", "kv-read", "revoking")
        },
    ]
}

fn tasks() -> Vec<v1::Task> {
    let task = v1::Task {
        task_id: "01JZX0T1".into(),
        session_id: "01JZX0T1".into(),
        spiffe_id: TRAINER.into(),
        stage: "training".into(),
        node: "spiffe://prod.example/node/n1".into(),
        anchor: "cgroup_owned".into(),
        opened_at: at(0),
        deadline: at(3600),
        state: "open".into(),
        ceiling: vec![v1::ScopeRequest {
            scope: "kv-read".into(),
            parameters: [("dataset".to_owned(), "corpus-7".to_owned())].into(),
        }],
        intent: "nightly training".into(),
        live_leases: 3,
        node_state: "lapsed".into(),
        ..v1::Task::default()
    };
    let child = v1::Task {
        task_id: "01JZX0T2".into(),
        parent_task_id: "01JZX0T1".into(),
        deadline: None,
        state: "ended".into(),
        end_cause: "anchor_gone".into(),
        ended_at: at(60),
        live_leases: 0,
        ..task.clone()
    };
    vec![task, child]
}

fn documents(kind: &str) -> Vec<v1::Document> {
    let document = |name: &str, rest: &str| v1::Document {
        kind: kind.into(),
        name: name.into(),
        yaml: format!("kind: {kind}\nmetadata:\n  labels:\n    team: ml\n  name: {name}\nspec:\n{rest}"),
        revision: 6,
        applied_at: at(-600),
        applied_by: "spiffe://prod.example/admin/ann".into(),
    };
    vec![
        document("kv-read", "  provider: vault\n"),
        document("s3-train-read", "  leaves_behind:\n  - role_sessions\n  - instances\n  provider: aws\n"),
    ]
}

/// The documents of one kind in a text.
fn of_kind(yaml: &str, kind: &str) -> Vec<v1::Document> {
    let (all, faults) = dayfly_domain::document::parse(yaml);
    assert!(faults.is_empty(), "{faults:?}");
    let of_kind = all.into_iter().map(|(_, one)| one).filter(|one| one.key.kind.as_str() == kind);
    let stored = of_kind.map(|one| v1::Document {
        kind: kind.into(),
        name: one.key.name.clone(),
        yaml: one.to_yaml(),
        revision: 6,
        applied_at: at(-600),
        applied_by: "spiffe://prod.example/admin/ann".into(),
    });
    stored.collect()
}

/// Records of one stream, chained as a broker chains them.
pub fn chained(stream: Stream, count: u64) -> Vec<v1::ReadAuditResponse> {
    let mut previous = GENESIS;
    let record = |seq: u64| {
        let ms = 1_800_000_000_000 + i64::try_from(seq).unwrap() * 1000;
        let event = match stream {
            Stream::Decision => "decision.allow",
            Stream::Lease => "lease.active",
            Stream::Admin => "broker.start",
        };
        let record = Record::new(stream, event, Timestamp::from_unix_millis(ms)).with("scope", "kv-read");
        let bytes = record.to_bytes();
        let hash = chain(&previous, &bytes);
        let row = v1::ReadAuditResponse {
            writer: "b1".into(),
            stream: stream.as_str().into(),
            seq,
            prev_hash: previous.to_vec(),
            hash: hash.to_vec(),
            at: Some(prost_types::Timestamp { seconds: ms / 1000, nanos: 0 }),
            bytes,
        };
        previous = hash;
        row
    };
    (1..=count).map(record).collect()
}

fn unknown(what: &str) -> Status {
    Refusal {
        code: Code::NotFound,
        reason: "UNKNOWN",
        message: format!("there is no {what}"),
        next: "list what there is".into(),
        request_id: "01JZX0REQ".into(),
        retry_after: None,
    }
    .into()
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl service::AdminService for FakeBroker {
    async fn apply(&self, rpc: Request<v1::ApplyRequest>) -> Answer<v1::ApplyResponse> {
        let asked = rpc.into_inner();
        Ok(Response::new(self.with(|state| {
            state.apply_asked.push(asked);
            state.applied.clone()
        })))
    }

    async fn list_documents(
        &self,
        rpc: Request<v1::ListDocumentsRequest>,
    ) -> Answer<v1::ListDocumentsResponse> {
        let kind = rpc.into_inner().kind;
        let (stored, trust_domains) = self.with(|state| (state.stored.clone(), state.trust_domains.clone()));
        let documents = match stored {
            Some(yaml) => of_kind(&yaml, &kind),
            None => documents(&kind),
        };
        Ok(Response::new(v1::ListDocumentsResponse { documents, revision: 7, trust_domains }))
    }

    async fn get_document(&self, rpc: Request<v1::GetDocumentRequest>) -> Answer<v1::GetDocumentResponse> {
        let v1::GetDocumentRequest { kind, name } = rpc.into_inner();
        let document = documents(&kind).into_iter().find(|document| document.name == name);
        let document = document.ok_or_else(|| unknown(&format!("{kind} {name}")))?;
        Ok(Response::new(v1::GetDocumentResponse { document: Some(document) }))
    }

    async fn list_nodes(&self, _: Request<v1::ListNodesRequest>) -> Answer<v1::ListNodesResponse> {
        let node = v1::NodeStatus {
            spiffe_id: "spiffe://prod.example/node/n1".into(),
            state: "attached".into(),
            boot_id: "b0".into(),
            epoch: 4,
            last_seen_at: at(0),
            open_tasks: 2,
        };
        Ok(Response::new(v1::ListNodesResponse { nodes: vec![node] }))
    }

    async fn get_brake(&self, _: Request<v1::GetBrakeRequest>) -> Answer<v1::GetBrakeResponse> {
        let brake = v1::Brake {
            nodes: vec!["spiffe://prod.example/node/n1".into(), "spiffe://prod.example/node/n2".into()],
            reason: "many_silent".into(),
            open_tasks: 5,
            silent: 4,
            of: 12,
            engaged_at: at(0),
            holds_until: at(3600),
            released_at: None,
            released_by: String::new(),
        };
        Ok(Response::new(v1::GetBrakeResponse { brake: Some(brake) }))
    }

    async fn release_brake(&self, _: Request<v1::ReleaseBrakeRequest>) -> Answer<v1::ReleaseBrakeResponse> {
        Ok(Response::new(v1::ReleaseBrakeResponse { nodes: vec!["spiffe://prod.example/node/n1".into()] }))
    }

    async fn list_tasks(&self, rpc: Request<v1::ListTasksRequest>) -> Answer<v1::ListTasksResponse> {
        let all = rpc.into_inner().include_ended;
        let tasks = tasks().into_iter().filter(|task| all || task.state == "open").collect();
        Ok(Response::new(v1::ListTasksResponse { tasks }))
    }

    async fn get_task(&self, rpc: Request<v1::GetTaskRequest>) -> Answer<v1::GetTaskResponse> {
        let id = rpc.into_inner().task_id;
        let task = tasks().into_iter().find(|task| task.task_id == id);
        let task = task.ok_or_else(|| unknown(&format!("task {id}")))?;
        let leases = self.with(|state| state.leases.clone());
        Ok(Response::new(v1::GetTaskResponse { task: Some(task), leases }))
    }

    async fn list_leases(&self, rpc: Request<v1::ListLeasesRequest>) -> Answer<v1::ListLeasesResponse> {
        let leases = self.with(|state| {
            state.leases_asked.push(rpc.into_inner());
            state.leases.clone()
        });
        Ok(Response::new(v1::ListLeasesResponse { leases }))
    }

    async fn get_lease(&self, rpc: Request<v1::GetLeaseRequest>) -> Answer<v1::GetLeaseResponse> {
        let id = rpc.into_inner().lease_id;
        let lease = self.with(|state| state.leases.iter().find(|lease| lease.lease_id == id).cloned());
        let lease = lease.ok_or_else(|| unknown(&format!("lease {id}")))?;
        Ok(Response::new(v1::GetLeaseResponse { lease: Some(lease) }))
    }

    async fn revoke(&self, rpc: Request<v1::RevokeRequest>) -> Answer<v1::RevokeResponse> {
        let leases = self.with(|state| {
            state.revoke_asked.push(rpc.into_inner());
            state.leases.clone()
        });
        Ok(Response::new(v1::RevokeResponse { tasks_ended: 1, leases }))
    }

    type ReadAuditStream = tokio_stream::Iter<std::vec::IntoIter<Result<v1::ReadAuditResponse, Status>>>;

    async fn read_audit(&self, rpc: Request<v1::ReadAuditRequest>) -> Answer<Self::ReadAuditStream> {
        let v1::ReadAuditRequest { stream, from_seq } = rpc.into_inner();
        let rows = self.with(|state| state.audit.clone());
        let rows: Vec<_> =
            rows.into_iter().filter(|row| row.stream == stream && row.seq >= from_seq).map(Ok).collect();
        Ok(Response::new(tokio_stream::iter(rows)))
    }
}
