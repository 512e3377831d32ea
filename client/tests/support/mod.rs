//! A trust domain, a broker that says who called it, and nothing else.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]
#![allow(dead_code, reason = "each test program uses a part")]

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use dayfly_client::{
    BrokerEndpoint, Identity, IdentityOptions, Incoming, IncomingLimits, Listener, Peer, Pick, Refusal,
    ServerTls, Speaks, SpiffeId, TrustDomain,
    v1::{self, credential_service_server as service},
};
use dayfly_devspiffe::{Authority, Entry, Server};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

pub const BROKER: &str = "spiffe://prod.test/dayfly/broker";
pub const TRAINER: &str = "spiffe://prod.test/training/trainer";

/// A Workload API that knows the test program under the given identities.
pub struct Domain {
    pub home: TempDir,
    pub server: Server,
}

impl Domain {
    pub async fn new(ids: &[&str]) -> Self {
        Self::of(Authority::in_memory("prod.test").unwrap(), ids).await
    }

    pub async fn of(authority: Authority, ids: &[&str]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let mut builder = Server::builder(authority).workload_socket(home.path().join("w.sock"));
        for id in ids {
            builder = builder.entry(me(id));
        }
        Domain { server: builder.start().await.unwrap(), home }
    }

    pub async fn identity(&self, id: &str) -> Identity {
        let pick = Pick::Id(SpiffeId::new(id).unwrap());
        let options = IdentityOptions { pick, ..IdentityOptions::default() };
        Identity::from_workload_api(Some(&self.server.workload_endpoint()), options).await.unwrap()
    }
}

/// An entry for the test program.
pub fn me(id: &str) -> Entry {
    Entry::new(id).unwrap().process(std::process::id()).unwrap()
}

pub fn domain(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

/// Says who called: `task_id` is the peer's serial, `session_id` its SPIFFE ID.
pub struct FakeBroker {
    pub address: String,
    /// Holds open streams; what is sent here goes to the first of them.
    pub streams: Streams,
    serving: JoinHandle<()>,
}

impl FakeBroker {
    pub async fn on_tcp(identity: &Identity, accepted: &[TrustDomain]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        Self::on(listener.into(), address, identity, accepted, IncomingLimits::default())
    }

    pub async fn on_unix(path: &Path, identity: &Identity, accepted: &[TrustDomain]) -> Self {
        let listener = tokio::net::UnixListener::bind(path).unwrap();
        let address = format!("unix:{}", path.display());
        Self::on(listener.into(), address, identity, accepted, IncomingLimits::default())
    }

    pub fn on(
        listener: Listener,
        address: String,
        identity: &Identity,
        accepted: &[TrustDomain],
        limits: IncomingLimits,
    ) -> Self {
        let tls = ServerTls::new(identity, accepted, Speaks::Http2).unwrap();
        let incoming = Incoming::new(listener, tls, limits);
        let streams = Arc::default();
        let service = service::CredentialServiceServer::new(Says { streams: Arc::clone(&streams) });
        let router = tonic::transport::Server::builder().add_service(service);
        let serving = tokio::spawn(async move { router.serve_with_incoming(incoming).await.unwrap() });
        FakeBroker { address, streams, serving }
    }

    pub fn endpoint(&self) -> BrokerEndpoint {
        BrokerEndpoint::new(&self.address, [BROKER]).unwrap()
    }
}

impl Drop for FakeBroker {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

type Streams = Arc<Mutex<Vec<mpsc::Sender<Result<v1::WatchTaskResponse, Status>>>>>;

pub struct Says {
    pub streams: Streams,
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl service::CredentialService for Says {
    type WatchTaskStream = ReceiverStream<Result<v1::WatchTaskResponse, Status>>;

    async fn open_task(&self, request: Request<v1::OpenTaskRequest>) -> Answer<v1::OpenTaskResponse> {
        let peer = request.extensions().get::<Arc<Peer>>().cloned();
        let padding = request.get_ref().labels.get("answer_bytes").map(|bytes| bytes.parse().unwrap());
        Ok(Response::new(v1::OpenTaskResponse {
            task_id: peer.as_ref().map(|peer| peer.serial.clone()).unwrap_or_default(),
            session_id: peer.map(|peer| peer.spiffe_id.to_string()).unwrap_or_default(),
            environment: padding
                .map(|bytes| HashMap::from([("PAD".into(), "x".repeat(bytes))]))
                .unwrap_or_default(),
            ..Default::default()
        }))
    }

    async fn delegate_task(&self, _: Request<v1::DelegateTaskRequest>) -> Answer<v1::DelegateTaskResponse> {
        Err(Status::unimplemented("not here"))
    }

    async fn claim_task(&self, _: Request<v1::ClaimTaskRequest>) -> Answer<v1::ClaimTaskResponse> {
        Err(Status::unimplemented("not here"))
    }

    async fn end_task(&self, _: Request<v1::EndTaskRequest>) -> Answer<v1::EndTaskResponse> {
        Err(Status::unimplemented("not here"))
    }

    async fn authorize(&self, _: Request<v1::AuthorizeRequest>) -> Answer<v1::AuthorizeResponse> {
        Err(Status::unimplemented("not here"))
    }

    async fn issue_credential(
        &self,
        _: Request<v1::IssueCredentialRequest>,
    ) -> Answer<v1::IssueCredentialResponse> {
        Err(Refusal {
            code: Code::PermissionDenied,
            reason: "NOT_COVERED",
            message: "no binding covers s3-train-read".into(),
            next: "ask for a binding".into(),
            request_id: "01JZX0".into(),
            retry_after: Some(Duration::from_secs(3)),
        }
        .into())
    }

    async fn renew_lease(&self, _: Request<v1::RenewLeaseRequest>) -> Answer<v1::RenewLeaseResponse> {
        Err(Status::unimplemented("not here"))
    }

    async fn revoke_lease(&self, _: Request<v1::RevokeLeaseRequest>) -> Answer<v1::RevokeLeaseResponse> {
        Err(Status::unimplemented("not here"))
    }

    async fn watch_task(&self, _: Request<v1::WatchTaskRequest>) -> Answer<Self::WatchTaskStream> {
        let (sender, receiver) = mpsc::channel(4);
        sender.send(Ok(watched())).await.unwrap();
        self.streams.lock().unwrap().push(sender);
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

pub fn watched() -> v1::WatchTaskResponse {
    let event = v1::watch_task_response::Event::Watched(v1::TaskWatched::default());
    v1::WatchTaskResponse { event: Some(event) }
}

pub fn over() -> v1::WatchTaskResponse {
    let event =
        v1::watch_task_response::Event::Over(v1::TaskOver { cause: "explicit".into(), ..Default::default() });
    v1::WatchTaskResponse { event: Some(event) }
}

/// Waits until `probe` holds, or fails.
pub async fn until(what: &str, mut probe: impl FnMut() -> bool) {
    for _ in 0..500 {
        if probe() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never came: {what}");
}

pub fn path(home: &TempDir, name: &str) -> PathBuf {
    home.path().join(name)
}
