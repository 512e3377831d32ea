//! A broker that grants everything, remembers everything, and can be told to order ends.

use std::collections::HashMap;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use dayfly_client::v1::credential_service_server::{CredentialService, CredentialServiceServer};
use dayfly_client::v1::node_service_server::{NodeService, NodeServiceServer};
use dayfly_client::v1::{self, attach_request::Message as Up, attach_response::Message as Down};
use dayfly_client::{Identity, Incoming, IncomingLimits, Refusal, ServerTls, Speaks};
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

/// What the broker has seen, and how it behaves.
#[derive(Default)]
pub struct Book {
    pub opened: Vec<v1::OpenTaskRequest>,
    pub delegated: Vec<v1::DelegateTaskRequest>,
    pub claimed: Vec<v1::ClaimTaskRequest>,
    /// Ceilings of tasks that nobody has claimed.
    pub offers: HashMap<String, Vec<v1::ScopeRequest>>,
    /// The idempotency key of each request for a credential.
    pub keys: Vec<String>,
    /// How long a request for a credential takes.
    pub slow: Duration,
    /// Whether credentials are issued and their answers lost.
    pub loses: bool,
    /// Task and subject of each credential issued.
    pub issued: Vec<(String, String)>,
    /// Task, subject, action and guard of each decision about an artifact.
    pub authorized: Vec<[String; 4]>,
    pub renewed: Vec<String>,
    pub ended_by_call: Vec<String>,
    pub told: Vec<v1::TaskEnded>,
    pub acknowledged: Vec<String>,
    /// Kills the agent said it has dropped.
    pub dropped: Vec<String>,
    pub seen: Vec<v1::LeaseSeen>,
    pub inventories: Vec<Vec<String>>,
    pub attached: u32,
    /// Scope to provider.
    pub providers: HashMap<String, String>,
    pub vault_address: String,
    /// How long credentials live, and when they are to be renewed.
    pub life: Duration,
    pub refresh: Duration,
    /// Whether calls that give something are refused.
    pub denies: bool,
    /// Whether ends are put on record.
    pub records: bool,
    pub lapse_after: Duration,
    /// Whether heartbeats, and attaches, are answered.
    pub answers: bool,
    /// What restarted agents found again.
    pub adopted: Vec<v1::AdoptedTask>,
    /// Tasks that the broker does not hold open any more, or with another anchor.
    pub disowned: Vec<String>,
    /// The epoch that each issue showed.
    pub epochs: Vec<String>,
    /// Digest of the rules.
    pub rules: String,
    next: u32,
    down: Option<mpsc::Sender<Result<v1::AttachResponse, Status>>>,
}

/// The broker's state outlives its listeners, as a database would.
#[derive(Clone)]
pub struct Broker {
    book: Arc<Mutex<Book>>,
    identity: Identity,
    audience: String,
}

/// A listening broker in a runtime of its own; dropping it is its crash, open connections included.
pub struct Listening(Option<Runtime>);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.take().unwrap().shutdown_background();
    }
}

impl Broker {
    pub async fn new(identity: Identity, audience: String) -> Self {
        // Opened here, so that it does not end with the first broker's runtime.
        identity.jwt_source().await.unwrap();
        let book = Book {
            life: Duration::from_secs(600),
            refresh: Duration::from_secs(300),
            lapse_after: Duration::from_secs(3),
            rules: "r1".to_owned(),
            records: true,
            answers: true,
            ..Book::default()
        };
        Self { book: Arc::new(Mutex::new(book)), identity, audience }
    }

    pub fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap()
    }

    pub fn listen(&self, at: &Path) -> Listening {
        let _ = std::fs::remove_file(at);
        let tls =
            ServerTls::new(&self.identity, &[self.identity.trust_domain().clone()], Speaks::Http2).unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let _inside = runtime.enter();
        let incoming = Incoming::new(UnixListener::bind(at).unwrap(), tls, IncomingLimits::default());
        let router = tonic::transport::Server::builder()
            .add_service(CredentialServiceServer::new(self.clone()))
            .add_service(NodeServiceServer::new(self.clone()));
        runtime.spawn(async move { router.serve_with_incoming(incoming).await.unwrap() });
        Listening(Some(runtime))
    }

    pub async fn order(&self, order: Down) {
        let down = self.book().down.clone().expect("an agent is attached");
        down.send(Ok(v1::AttachResponse { message: Some(order) })).await.unwrap();
    }

    async fn subject(&self, token: &str) -> Result<String, Status> {
        let accepted = [self.identity.trust_domain().clone()];
        match self.identity.verify_jwt_svid(token, &self.audience, &accepted).await {
            Ok(verified) => Ok(verified.spiffe_id.to_string()),
            Err(error) => Err(Status::unauthenticated(error.to_string())),
        }
    }

    fn refuse(reason: &'static str) -> Status {
        let text = "the broker says no".to_owned();
        let (next, request_id) = ("ask an admin".to_owned(), "r1".to_owned());
        Refusal { code: Code::PermissionDenied, reason, message: text, next, request_id, retry_after: None }
            .into()
    }
}

impl Book {
    fn id(&mut self, kind: &str) -> String {
        self.next += 1;
        format!("{kind}{:04}", self.next)
    }

    fn providers_of(&self, ceiling: &[v1::ScopeRequest]) -> Vec<v1::ScopeProvider> {
        let provider = |scope: &v1::ScopeRequest| {
            let provider = self.providers.get(&scope.scope)?.clone();
            Some(v1::ScopeProvider { scope: scope.scope.clone(), provider })
        };
        ceiling.iter().filter_map(provider).collect()
    }

    fn times(&self) -> (Option<prost_types::Timestamp>, Option<prost_types::Timestamp>) {
        let now = SystemTime::now();
        (Some((now + self.life).into()), Some((now + self.refresh).into()))
    }
}

#[tonic::async_trait]
impl CredentialService for Broker {
    async fn open_task(
        &self,
        request: Request<v1::OpenTaskRequest>,
    ) -> Result<Response<v1::OpenTaskResponse>, Status> {
        let mut request = request.into_inner();
        let subject = self.subject(&request.subject_token).await?;
        request.subject_token = subject;
        let mut book = self.book();
        if book.denies {
            return Err(Self::refuse("NOT_COVERED"));
        }
        let providers = book.providers_of(&request.ceiling);
        book.opened.push(request);
        let task_id = book.id("T");
        Ok(Response::new(v1::OpenTaskResponse {
            session_id: task_id.clone(),
            task_id,
            deadline: Some((SystemTime::now() + Duration::from_secs(900)).into()),
            providers,
            ..Default::default()
        }))
    }

    async fn delegate_task(
        &self,
        request: Request<v1::DelegateTaskRequest>,
    ) -> Result<Response<v1::DelegateTaskResponse>, Status> {
        let mut request = request.into_inner();
        request.subject_token = self.subject(&request.subject_token).await?;
        let mut book = self.book();
        if book.denies {
            return Err(Self::refuse("NOT_COVERED"));
        }
        let task_id = book.id("T");
        book.offers.insert(task_id.clone(), request.ceiling.clone());
        let session_id = request.task_id.clone();
        book.delegated.push(request);
        Ok(Response::new(v1::DelegateTaskResponse { task_id, session_id, ..Default::default() }))
    }

    async fn claim_task(
        &self,
        request: Request<v1::ClaimTaskRequest>,
    ) -> Result<Response<v1::ClaimTaskResponse>, Status> {
        let mut request = request.into_inner();
        request.subject_token = self.subject(&request.subject_token).await?;
        let mut book = self.book();
        let Some(ceiling) = book.offers.remove(&request.task_id) else {
            return Err(Self::refuse("TASK_NOT_OPEN"));
        };
        let (task_id, providers) = (request.task_id.clone(), book.providers_of(&ceiling));
        book.claimed.push(request);
        Ok(Response::new(v1::ClaimTaskResponse {
            session_id: "T0000".to_owned(),
            task_id,
            deadline: Some((SystemTime::now() + Duration::from_secs(900)).into()),
            providers,
            ceiling,
            ..Default::default()
        }))
    }

    async fn end_task(
        &self,
        request: Request<v1::EndTaskRequest>,
    ) -> Result<Response<v1::EndTaskResponse>, Status> {
        let request = request.into_inner();
        self.subject(&request.subject_token).await?;
        self.book().ended_by_call.push(request.task_id);
        Ok(Response::new(v1::EndTaskResponse { tasks_ended: 1, leases_queued: 7 }))
    }

    async fn authorize(
        &self,
        request: Request<v1::AuthorizeRequest>,
    ) -> Result<Response<v1::AuthorizeResponse>, Status> {
        let request = request.into_inner();
        let subject = self.subject(&request.subject_token).await?;
        let mut book = self.book();
        if book.denies {
            return Err(Self::refuse("NOT_COVERED"));
        }
        let decision_id = book.id("D");
        book.authorized.push([request.task_id, subject, request.action, request.receipt_audience]);
        Ok(Response::new(v1::AuthorizeResponse {
            decision_id,
            receipt: "a.receipt".to_owned(),
            ..Default::default()
        }))
    }

    async fn issue_credential(
        &self,
        request: Request<v1::IssueCredentialRequest>,
    ) -> Result<Response<v1::IssueCredentialResponse>, Status> {
        let shown = request.metadata().get(dayfly_client::NODE_EPOCH).cloned();
        let request = request.into_inner();
        let subject = self.subject(&request.subject_token).await?;
        let slow = {
            let mut book = self.book();
            book.keys.push(request.idempotency_key.clone());
            book.slow
        };
        tokio::time::sleep(slow).await;
        let mut book = self.book();
        if book.denies {
            return Err(Self::refuse("NOT_COVERED"));
        }
        book.epochs.extend(shown.and_then(|shown| shown.to_str().map(str::to_owned).ok()));
        let lease_id = book.id("L");
        book.issued.push((request.task_id.clone(), subject));
        if book.loses {
            return Err(Status::unavailable("the connection broke"));
        }
        let (expires_at, refresh_at) = book.times();
        use v1::issue_credential_response::Credential;
        let provider =
            request.scope.and_then(|scope| book.providers.get(&scope.scope).cloned()).unwrap_or_default();
        let credential = match &*provider {
            "aws" => Credential::Aws(v1::AwsCredential {
                access_key_id: format!("AKIA-{lease_id}"),
                secret_access_key: "aws-secret".to_owned(),
                session_token: "aws-session".to_owned(),
                region: "eu-central-1".to_owned(),
            }),
            "vault" => Credential::Vault(v1::VaultCredential {
                token: format!("hvs.real-{lease_id}"),
                address: book.vault_address.clone(),
            }),
            _ => Credential::Token(v1::TokenCredential {
                access_token: format!("access-{lease_id}"),
                token_type: "Bearer".to_owned(),
                audience: "https://index.example".to_owned(),
            }),
        };
        Ok(Response::new(v1::IssueCredentialResponse {
            lease_id,
            expires_at,
            refresh_at,
            promise: None,
            credential: Some(credential),
            rules_digest: book.rules.clone(),
        }))
    }

    async fn renew_lease(
        &self,
        request: Request<v1::RenewLeaseRequest>,
    ) -> Result<Response<v1::RenewLeaseResponse>, Status> {
        let request = request.into_inner();
        self.subject(&request.subject_token).await?;
        let mut book = self.book();
        if book.denies {
            return Err(Self::refuse("NOT_COVERED"));
        }
        book.renewed.push(request.lease_id.clone());
        let (expires_at, refresh_at) = book.times();
        Ok(Response::new(v1::RenewLeaseResponse {
            lease_id: request.lease_id,
            expires_at,
            refresh_at,
            promise: None,
            credential: None,
            rules_digest: book.rules.clone(),
        }))
    }

    async fn revoke_lease(
        &self,
        request: Request<v1::RevokeLeaseRequest>,
    ) -> Result<Response<v1::RevokeLeaseResponse>, Status> {
        self.subject(&request.into_inner().subject_token).await?;
        Ok(Response::new(v1::RevokeLeaseResponse { state: "revoking".to_owned() }))
    }

    type WatchTaskStream = Pin<Box<dyn Stream<Item = Result<v1::WatchTaskResponse, Status>> + Send>>;

    async fn watch_task(
        &self,
        _: Request<v1::WatchTaskRequest>,
    ) -> Result<Response<Self::WatchTaskStream>, Status> {
        Err(Status::internal("the agent answers this itself"))
    }
}

#[tonic::async_trait]
impl NodeService for Broker {
    type AttachStream = ReceiverStream<Result<v1::AttachResponse, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<v1::AttachRequest>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let mut up = request.into_inner();
        let Some(Up::Hello(hello)) = up.message().await?.and_then(|first| first.message) else {
            return Err(Status::invalid_argument("hello comes first"));
        };
        assert!(!hello.boot_id.is_empty());
        while !self.book().answers {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let (down, out) = mpsc::channel(16);
        let welcome = {
            let mut book = self.book();
            book.attached += 1;
            book.down = Some(down.clone());
            v1::Welcome {
                epoch: book.attached.into(),
                heartbeat_interval: Some(Duration::from_millis(200).try_into().unwrap()),
                lapse_after: Some(book.lapse_after.try_into().unwrap()),
                rules_digest: book.rules.clone(),
            }
        };
        down.send(Ok(v1::AttachResponse { message: Some(Down::Welcome(welcome)) })).await.unwrap();
        let (this, down) = (self.clone(), down.downgrade());
        tokio::spawn(async move {
            while let Ok(Some(v1::AttachRequest { message: Some(message) })) = up.message().await {
                let Some(down) = down.upgrade() else { return };
                if let Some(answer) = this.hear(message) {
                    let _ = down.send(Ok(v1::AttachResponse { message: Some(answer) })).await;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(out)))
    }
}

impl Broker {
    fn hear(&self, message: Up) -> Option<Down> {
        let mut book = self.book();
        match message {
            Up::Hello(_) => None,
            Up::Heartbeat(beat) => {
                book.inventories.push(beat.task_ids);
                let sequence = beat.sequence;
                book.answers.then_some(Down::HeartbeatHeard(v1::HeartbeatHeard { sequence }))
            }
            Up::Adopt(adopt) => {
                let asked: Vec<String> = adopt.tasks.iter().map(|task| task.task_id.clone()).collect();
                book.adopted.extend(adopt.tasks);
                let task_ids = asked.into_iter().filter(|id| !book.disowned.contains(id)).collect();
                Some(Down::Adopted(v1::Adopted { task_ids }))
            }
            Up::TaskEnded(ended) => {
                let task_id = ended.task_id.clone();
                book.told.push(ended);
                book.records.then_some(Down::EndRecorded(v1::EndRecorded { task_id }))
            }
            Up::EndAcknowledged(acknowledged) => {
                book.acknowledged.push(acknowledged.task_id);
                None
            }
            Up::LeaseSeen(seen) => {
                book.seen.push(seen);
                None
            }
            Up::KillAcknowledged(dropped) => {
                book.dropped.push(dropped.kill_id);
                None
            }
        }
    }
}
