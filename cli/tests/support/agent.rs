//! An agent that opens any task and remembers what it was asked.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use dayfly_client::Refusal;
use dayfly_client::v1::{self, credential_service_server as service};
use tokio_stream::Empty;
use tonic::transport::server::{Router, UdsConnectInfo};
use tonic::{Code, Request, Response, Status};

/// Handle on the fake; clones share what was seen.
#[derive(Clone, Default)]
pub struct FakeAgent(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    environment: HashMap<String, String>,
    refusal: Option<(&'static str, &'static str, &'static str)>,
    opened: Vec<(i32, v1::OpenTaskRequest)>,
    claimed: Vec<(i32, v1::ClaimTaskRequest)>,
    delegated: Vec<v1::DelegateTaskRequest>,
    ended: Vec<String>,
    authorized: Vec<v1::AuthorizeRequest>,
}

impl FakeAgent {
    pub fn router(&self) -> Router {
        tonic::transport::Server::builder().add_service(service::CredentialServiceServer::new(self.clone()))
    }

    /// What the next task's program finds in its environment.
    pub fn environment(&self, pairs: &[(&str, &str)]) {
        let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        self.0.lock().unwrap().environment = pairs.collect();
    }

    /// Refuses every task and every action from now on: reason, message, next.
    pub fn refuse(&self, reason: &'static str, message: &'static str, next: &'static str) {
        self.0.lock().unwrap().refusal = Some((reason, message, next));
    }

    /// Who opened, by pid, and with what.
    pub fn opened(&self) -> Vec<(i32, v1::OpenTaskRequest)> {
        self.0.lock().unwrap().opened.clone()
    }

    /// What was asked about artifacts.
    pub fn authorized(&self) -> Vec<v1::AuthorizeRequest> {
        self.0.lock().unwrap().authorized.clone()
    }

    /// Who claimed, by pid, and what.
    pub fn claimed(&self) -> Vec<(i32, v1::ClaimTaskRequest)> {
        self.0.lock().unwrap().claimed.clone()
    }

    /// What was delegated.
    pub fn delegated(&self) -> Vec<v1::DelegateTaskRequest> {
        self.0.lock().unwrap().delegated.clone()
    }

    /// Tasks that were ended by EndTask.
    pub fn ended(&self) -> Vec<String> {
        self.0.lock().unwrap().ended.clone()
    }
}

impl State {
    fn refused(&self) -> Result<(), Status> {
        let Some((reason, message, next)) = self.refusal else { return Ok(()) };
        let (message, next) = (message.to_owned(), next.to_owned());
        let request_id = "01JZX0REQ".to_owned();
        let code = Code::PermissionDenied;
        Err(Refusal { code, reason, message, next, request_id, retry_after: None }.into())
    }
}

const DEADLINE: prost_types::Timestamp = prost_types::Timestamp { seconds: 1_800_000_000, nanos: 0 };

fn pid_of<T>(rpc: &Request<T>) -> i32 {
    rpc.extensions().get::<UdsConnectInfo>().unwrap().peer_cred.unwrap().pid().unwrap()
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl service::CredentialService for FakeAgent {
    type WatchTaskStream = Empty<Result<v1::WatchTaskResponse, Status>>;

    async fn open_task(&self, rpc: Request<v1::OpenTaskRequest>) -> Answer<v1::OpenTaskResponse> {
        let mut state = self.0.lock().unwrap();
        state.refused()?;
        state.opened.push((pid_of(&rpc), rpc.into_inner()));
        Ok(Response::new(v1::OpenTaskResponse {
            task_id: "01JZX0TASK".into(),
            session_id: "01JZX0TASK".into(),
            deadline: Some(DEADLINE),
            environment: state.environment.clone(),
            ..v1::OpenTaskResponse::default()
        }))
    }

    async fn claim_task(&self, rpc: Request<v1::ClaimTaskRequest>) -> Answer<v1::ClaimTaskResponse> {
        let mut state = self.0.lock().unwrap();
        state.refused()?;
        let task_id = rpc.get_ref().task_id.clone();
        state.claimed.push((pid_of(&rpc), rpc.into_inner()));
        Ok(Response::new(v1::ClaimTaskResponse {
            task_id,
            session_id: "01JZX0SESSION".into(),
            deadline: Some(DEADLINE),
            environment: state.environment.clone(),
            ..v1::ClaimTaskResponse::default()
        }))
    }

    async fn delegate_task(&self, rpc: Request<v1::DelegateTaskRequest>) -> Answer<v1::DelegateTaskResponse> {
        let mut state = self.0.lock().unwrap();
        state.refused()?;
        state.delegated.push(rpc.into_inner());
        Ok(Response::new(v1::DelegateTaskResponse {
            task_id: "01JZX0OFFER".into(),
            session_id: "01JZX0SESSION".into(),
            claim_until: Some(prost_types::Timestamp { seconds: 1_799_990_000, nanos: 0 }),
            deadline: Some(DEADLINE),
        }))
    }

    async fn end_task(&self, rpc: Request<v1::EndTaskRequest>) -> Answer<v1::EndTaskResponse> {
        self.0.lock().unwrap().ended.push(rpc.into_inner().task_id);
        Ok(Response::new(v1::EndTaskResponse { tasks_ended: 1, leases_queued: 0 }))
    }

    async fn authorize(&self, rpc: Request<v1::AuthorizeRequest>) -> Answer<v1::AuthorizeResponse> {
        let mut state = self.0.lock().unwrap();
        state.refused()?;
        let asked = rpc.into_inner();
        let receipt = if asked.receipt_audience.is_empty() { "" } else { "eyJ.the.receipt" };
        let pinned = asked.artifact.as_ref().is_some_and(|artifact| !artifact.digest.is_empty());
        state.authorized.push(asked);
        let parameters = HashMap::from([("model".to_owned(), "llama".to_owned())]);
        Ok(Response::new(v1::AuthorizeResponse {
            decision_id: "01JZX0REQ".into(),
            scope: Some(v1::ScopeRequest { scope: "model-load".into(), parameters }),
            digest_pinned: pinned,
            valid_until: Some(prost_types::Timestamp { seconds: 1_800_000_000, nanos: 0 }),
            receipt: receipt.into(),
            revision: 7,
            rules_digest: "ab".into(),
        }))
    }

    async fn issue_credential(
        &self,
        _: Request<v1::IssueCredentialRequest>,
    ) -> Answer<v1::IssueCredentialResponse> {
        Err(Status::unimplemented("not asked for by the command line"))
    }

    async fn renew_lease(&self, _: Request<v1::RenewLeaseRequest>) -> Answer<v1::RenewLeaseResponse> {
        Err(Status::unimplemented("not asked for by the command line"))
    }

    async fn revoke_lease(&self, _: Request<v1::RevokeLeaseRequest>) -> Answer<v1::RevokeLeaseResponse> {
        Err(Status::unimplemented("not asked for by the command line"))
    }

    async fn watch_task(&self, _: Request<v1::WatchTaskRequest>) -> Answer<Self::WatchTaskStream> {
        Err(Status::unimplemented("not asked for by the command line"))
    }
}
