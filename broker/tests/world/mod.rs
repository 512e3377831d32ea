//! A whole broker in this process, and as many identities as a test wants: each gets a Workload API of its own from one
//! development authority.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::path::Path;
use std::time::Duration;

use dayfly_broker::app::App;
use dayfly_broker::config::Config;
use dayfly_client::{BrokerClient, BrokerEndpoint, CallError, Identity, IdentityOptions, SpiffeId};
use dayfly_devspiffe::{Authority, Entry, Server};
use dayfly_proto::v1;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub const BROKER: &str = "spiffe://example.org/dayfly/broker";
pub const BROKER_HOST: &str = "dayfly.example.org";
pub const ADMIN: &str = "spiffe://example.org/admin/ann";
pub const NODE: &str = "spiffe://example.org/node/n1";
pub const OTHER_NODE: &str = "spiffe://example.org/node/n2";
pub const TRAINER: &str = "spiffe://example.org/train/a";

pub const DOCUMENTS: &str = include_str!("documents.yaml");

/// What differs from the usual configuration.
pub struct Setup<'a> {
    /// Where gRPC is served; empty for a Unix socket.
    pub grpc: &'a str,
    /// Lines of `[admins]`.
    pub admins: &'a str,
    /// Lines of `[limits]`.
    pub limits: &'a str,
    /// Lines of `[issuer]`.
    pub issuer: &'a str,
    /// Further sections.
    pub sections: &'a str,
    /// Who vouches for everybody; an authority of the world's own, if none is named.
    pub authority: Option<Authority>,
    /// Where the signing keys are; in the world's folder, if nothing is said.
    pub keys: Option<&'a Path>,
}

impl Default for Setup<'_> {
    fn default() -> Self {
        let issuer = "url = \"http://127.0.0.1:9/dayfly\"";
        Self { grpc: "", admins: "", limits: "", issuer, sections: "", authority: None, keys: None }
    }
}

/// The broker, its authority, and its folder.
pub struct World {
    pub folder: TempDir,
    pub authority: Authority,
    address: String,
    servers: Vec<Server>,
    stop: Option<oneshot::Sender<()>>,
    running: Option<JoinHandle<()>>,
}

impl World {
    /// A broker with the documents applied.
    pub async fn new() -> Self {
        let world = Self::empty("").await;
        world.apply(DOCUMENTS).await;
        world
    }

    /// A broker without documents; `limits` are lines of `[limits]`.
    pub async fn empty(limits: &str) -> Self {
        Self::configured("", limits).await
    }

    /// A broker without documents; the texts are lines of `[admins]` and `[limits]`.
    pub async fn configured(admins: &str, limits: &str) -> Self {
        Self::set_up(Setup { admins, limits, ..Setup::default() }).await
    }

    /// A broker without documents.
    pub async fn set_up(setup: Setup<'_>) -> Self {
        // A second world in this process finds the provider installed.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let folder = tempfile::Builder::new().prefix("dfb").tempdir_in("/tmp").expect("a folder");
        let own = || Authority::in_memory("example.org").expect("an authority");
        let authority = setup.authority.clone().unwrap_or_else(own);
        let mut world = Self {
            address: match setup.grpc {
                "" => format!("unix:{}", folder.path().join("b.sock").display()),
                address => address.to_owned(),
            },
            folder,
            authority,
            servers: Vec::new(),
            stop: None,
            running: None,
        };
        let endpoint = world.workload_api(BROKER).await;
        let config = world.write_config(&endpoint, &setup);
        world.start(&config).await;
        world
    }

    fn write_config(&self, endpoint: &str, setup: &Setup<'_>) -> std::path::PathBuf {
        let Setup { admins, limits, issuer, sections, .. } = setup;
        let at = |name: &str| self.folder.path().join(name).display().to_string();
        let keys = setup.keys.map_or_else(|| at("keys"), |keys| keys.display().to_string());
        let text = format!(
            r#"
[identity]
workload_api = "{endpoint}"
[listen]
grpc = "{address}"
break_glass = "{glass}"
[state]
dir = "{state}"
{keys}
[[trust_domain]]
name = "example.org"
stages = ["training", "inference", "retrieval", "tool", "node", "admin"]
patterns = ["spiffe://example.org/**"]
[admins]
root = ["{ADMIN}"]
{admins}
[issuer]
{issuer}
[limits]
{limits}
{sections}
"#,
            address = self.address,
            glass = at("glass.sock"),
            state = at("state"),
            // Unless a further section says that they are elsewhere.
            keys =
                if sections.contains("[keys.") { String::new() } else { format!("[keys]\ndir = {keys:?}") },
        );
        let path = self.folder.path().join("broker.toml");
        std::fs::write(&path, text).expect("the folder is writable");
        path
    }

    async fn start(&mut self, config: &Path) {
        let config = Config::load(config).expect("a valid configuration");
        let app = App::start(config).await.expect("a broker that starts");
        let (stop, told) = oneshot::channel();
        self.stop = Some(stop);
        self.running = Some(tokio::spawn(app.run(async {
            let _ = told.await;
        })));
    }

    /// Stops the broker and starts it anew on the same state.
    pub async fn restart(&mut self) {
        self.stop.take().expect("it runs").send(()).expect("it listens");
        self.running.take().expect("it runs").await.expect("it ends in peace");
        let config = self.folder.path().join("broker.toml");
        self.start(&config).await;
    }

    /// A Workload API at which this very process has that identity.
    pub async fn workload_api(&mut self, id: &str) -> String {
        let socket = self.folder.path().join(format!("w{}.sock", self.servers.len()));
        let uid = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").expect("proc"));
        let entry = Entry::new(id).expect("an id").uid(uid);
        // Clients without SPIFFE know the broker by its host name.
        let entry = if id == BROKER { entry.dns(BROKER_HOST) } else { entry };
        let server =
            Server::builder(self.authority.clone()).workload_socket(socket).entry(entry).start().await;
        let server = server.expect("a Workload API");
        let endpoint = server.workload_endpoint();
        self.servers.push(server);
        endpoint
    }

    /// Has the broker's Workload API hand out the bundle of another trust domain too.
    pub fn federate(&self, other: &Authority) {
        self.servers[0].federate_with([other.clone()]);
    }

    /// An identity of this authority.
    pub async fn identity(&mut self, id: &str) -> Identity {
        let endpoint = self.workload_api(id).await;
        Identity::from_workload_api(Some(&endpoint), IdentityOptions::default()).await.expect("an identity")
    }

    /// A connection to the broker under that identity. A node is attached under the boot `boot-1`, if it is admitted, and
    /// then says nothing.
    pub async fn connect(&mut self, id: &str) -> BrokerClient {
        let identity = self.identity(id).await;
        let endpoint = BrokerEndpoint::new(&self.address, [BROKER]).expect("an endpoint");
        let client = BrokerClient::connect(endpoint, &identity).await.expect("a connection");
        if id.starts_with("spiffe://example.org/node/") {
            attach(&client).await;
        }
        client
    }

    /// Applies documents as the admin; panics on faults.
    pub async fn apply(&self, yaml: &str) -> v1::ApplyResponse {
        let answer = self.try_apply(v1::ApplyRequest { yaml: yaml.to_owned(), ..Default::default() }).await;
        let answer = answer.expect("an admin may apply");
        assert!(answer.faults.is_empty(), "{:#?}", answer.faults);
        answer
    }

    /// Applies as the admin, over a connection of its own.
    pub async fn try_apply(&self, request: v1::ApplyRequest) -> Result<v1::ApplyResponse, CallError> {
        let folder = tempfile::Builder::new().prefix("dfa").tempdir_in("/tmp").expect("a folder");
        let uid = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").expect("proc"));
        let entry = Entry::new(ADMIN).expect("an id").uid(uid);
        let socket = folder.path().join("w.sock");
        let server =
            Server::builder(self.authority.clone()).workload_socket(socket).entry(entry).start().await;
        let server = server.expect("a Workload API");
        let options = IdentityOptions::default();
        let identity = Identity::from_workload_api(Some(&server.workload_endpoint()), options).await;
        let endpoint = BrokerEndpoint::new(&self.address, [BROKER]).expect("an endpoint");
        let client =
            BrokerClient::connect(endpoint, &identity.expect("an identity")).await.expect("a connection");
        let answer = client.admin().apply(request).await.map_err(CallError::from)?;
        Ok(answer.into_inner())
    }

    /// A workload's JWT-SVID as an agent on `node` would fetch it.
    pub fn subject_token(&self, workload: &str, node: &str) -> String {
        self.jwt(workload, &[format!("{BROKER}?via={node}")])
    }

    /// A JWT-SVID of any kind.
    pub fn jwt(&self, workload: &str, audiences: &[String]) -> String {
        let id = SpiffeId::new(workload).expect("an id");
        let issued = self.authority.jwt_svid(&id, audiences, Duration::from_secs(300)).expect("a token");
        issued.token().to_owned()
    }

    /// Where the broker listens.
    pub fn address(&self) -> &str {
        &self.address
    }
}

/// The stream goes at once; that the node was heard stays.
async fn attach(client: &BrokerClient) {
    use v1::attach_request::Message;
    let hello = v1::Hello { boot_id: "boot-1".to_owned(), agent_version: "test".to_owned() };
    let hello = v1::AttachRequest { message: Some(Message::Hello(hello)) };
    let Ok(answer) = client.node().attach(tokio_stream::iter([hello])).await else { return };
    let first = answer.into_inner().message().await.expect("a welcome").expect("a welcome").message;
    let Some(v1::attach_response::Message::Welcome(welcome)) = first else { panic!("{first:?}") };
    client.set_node_epoch(welcome.epoch);
}

/// One line of a ceiling.
pub fn scope(name: &str, parameters: &[(&str, &str)]) -> v1::ScopeRequest {
    let owned = parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    v1::ScopeRequest { scope: name.to_owned(), parameters: owned.collect() }
}

/// An anchor as an agent would observe it.
pub fn anchor() -> v1::Anchor {
    v1::Anchor {
        kind: v1::anchor::Kind::Process.into(),
        boot_id: "boot".to_owned(),
        attested_by: "pidfd".to_owned(),
        pidfd_inode: 7,
        ..Default::default()
    }
}

/// The stable reason of a refusal.
pub fn reason<T: std::fmt::Debug>(answer: Result<T, tonic::Status>) -> String {
    let error = CallError::from(answer.expect_err("a refusal"));
    let next = error.next.clone().unwrap_or_default();
    assert!(!next.is_empty(), "a refusal says what to do next: {error:?}");
    assert!(error.request_id.is_some(), "a refusal names its request: {error:?}");
    error.reason.expect("a refusal has a stable reason")
}
