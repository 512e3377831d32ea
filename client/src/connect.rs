//! Clients for the broker, for the agent on this machine, and for the broker's break-glass socket.
//!
//! Every connection is made by this process itself: on a Unix socket the kernel tells the other side which process
//! connected (SO_PEERPIDFD), and that is who counts as the caller.

use std::{
    fmt::{self, Debug, Formatter},
    future::Future,
    io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc, PoisonError, RwLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use dayfly_proto::v1::{
    admin_service_client::AdminServiceClient, approval_service_client::ApprovalServiceClient,
    credential_service_client::CredentialServiceClient, key_service_client::KeyServiceClient,
    node_service_client::NodeServiceClient, question_service_client::QuestionServiceClient,
    revocation_service_client::RevocationServiceClient,
};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::{
    net::{TcpStream, UnixStream},
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::Service;
use tracing::debug;

use crate::{
    MAX_ADMIN_ANSWER_BYTES, MAX_MESSAGE_BYTES,
    address::{Address, BrokerEndpoint, EndpointError, unix_path},
    identity::{Identity, IdentityUpdates},
    socket::Socket,
    tls::{ClientTls, HandshakeError, TlsError},
};

/// Name look-up, connection and handshake together.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Until an answer begins. A revocation may wait 30 s for its targets.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(45);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// The metadata in which a node agent shows its epoch.
pub const NODE_EPOCH: &str = "dayfly-node-epoch";

/// Puts a node agent's epoch on every call. Without one it changes nothing.
#[derive(Clone, Copy, Debug)]
pub struct AtEpoch(u64);

impl tonic::service::Interceptor for AtEpoch {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status> {
        if self.0 > 0 {
            request.metadata_mut().insert(NODE_EPOCH, self.0.into());
        }
        Ok(request)
    }
}

/// A connection to the broker, made when first used and remade when lost. Cheap to clone.
///
/// A TLS connection keeps the certificate it began with. When the identity rotates or is withdrawn, calls on service
/// clients taken *from then on* go over a new connection; streams that are open stay on the old one. So take
/// `.credentials()` and its kin for each call, and keep none for long.
#[derive(Clone)]
pub struct BrokerClient(Arc<Broker>);

struct Broker {
    endpoint: BrokerEndpoint,
    channel: RwLock<Channel>,
    /// 0 for a direct caller.
    node_epoch: AtomicU64,
    _renewing: AbortOnDropHandle<()>,
}

impl BrokerClient {
    /// Connects now, so that a wrong address or a wrong broker shows at once.
    ///
    /// # Errors
    /// The identity is not usable, nobody answers, or somebody who is not pinned as the broker.
    pub async fn connect(endpoint: BrokerEndpoint, identity: &Identity) -> Result<Self, ConnectError> {
        // Before the first handshake: a rotation in the midst of it must not be missed.
        let updates = identity.updates();
        let dialer = Dialer::new(&endpoint, identity)?;
        let channel = match transport().connect_with_connector(dialer.clone()).await {
            Ok(channel) => channel,
            Err(source) => return Err(ConnectError::dial(endpoint.address(), source)),
        };
        Ok(Self::over(channel, endpoint, dialer, updates))
    }

    /// Connects at the first call, for those who must start while the broker is away.
    ///
    /// # Errors
    /// The identity is not usable now.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn connect_lazily(endpoint: BrokerEndpoint, identity: &Identity) -> Result<Self, ConnectError> {
        let updates = identity.updates();
        let dialer = Dialer::new(&endpoint, identity)?;
        Ok(Self::over(dialer.channel(), endpoint, dialer, updates))
    }

    fn over(channel: Channel, endpoint: BrokerEndpoint, dialer: Dialer, updates: IdentityUpdates) -> Self {
        BrokerClient(Arc::new_cyclic(|broker| Broker {
            endpoint,
            channel: RwLock::new(channel),
            node_epoch: AtomicU64::new(0),
            _renewing: AbortOnDropHandle::new(tokio::spawn(renew(Weak::clone(broker), dialer, updates))),
        }))
    }

    /// Tasks and credentials, as a direct caller or on behalf of the workloads of a node.
    ///
    /// Calls of a node agent carry the epoch that it was last given.
    pub fn credentials(&self) -> CredentialServiceClient<InterceptedService<Channel, AtEpoch>> {
        let at_epoch = AtEpoch(self.0.node_epoch.load(Ordering::Relaxed));
        CredentialServiceClient::with_interceptor(self.channel(), at_epoch)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// The broker gave this epoch to the node agent that uses this client.
    pub fn set_node_epoch(&self, epoch: u64) {
        self.0.node_epoch.store(epoch, Ordering::Relaxed);
    }

    /// The node agent's stream.
    pub fn node(&self) -> NodeServiceClient<Channel> {
        NodeServiceClient::new(self.channel())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// The platform team's verbs.
    pub fn admin(&self) -> AdminServiceClient<Channel> {
        admin(self.channel())
    }

    /// Requests for approval, and what is said of them.
    pub fn approvals(&self) -> ApprovalServiceClient<Channel> {
        ApprovalServiceClient::new(self.channel())
            .max_decoding_message_size(MAX_ADMIN_ANSWER_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// The life of signing keys.
    pub fn keys(&self) -> KeyServiceClient<Channel> {
        KeyServiceClient::new(self.channel())
            .max_decoding_message_size(MAX_ADMIN_ANSWER_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Questions about access.
    pub fn questions(&self) -> QuestionServiceClient<Channel> {
        questions(self.channel())
    }

    /// The kill switch and the revocation queue.
    pub fn revocations(&self) -> RevocationServiceClient<Channel> {
        revocations(self.channel())
    }

    /// The channel of the moment, for services that are not ours (health, reflection).
    pub fn channel(&self) -> Channel {
        // A panic elsewhere leaves the channel as it was.
        self.0.channel.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where it connects to, and whom it expects there.
    pub fn endpoint(&self) -> &BrokerEndpoint {
        &self.0.endpoint
    }
}

impl Debug for BrokerClient {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("BrokerClient").field("endpoint", &self.0.endpoint).finish_non_exhaustive()
    }
}

/// A connection to the node agent's socket, which knows this process from the kernel.
#[derive(Clone)]
pub struct AgentClient {
    path: PathBuf,
    channel: Channel,
}

impl AgentClient {
    /// Connects to the agent that listens at `path`.
    ///
    /// # Errors
    /// The path cannot be a socket's, or no agent listens there.
    pub async fn connect(path: impl AsRef<Path>) -> Result<Self, ConnectError> {
        let (path, channel) = local(path.as_ref()).await?;
        Ok(AgentClient { path, channel })
    }

    /// Tasks and credentials of the calling process.
    pub fn credentials(&self) -> CredentialServiceClient<Channel> {
        credentials(self.channel.clone())
    }

    /// The channel itself, for services that are not ours (health, reflection).
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }
}

impl Debug for AgentClient {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentClient").field("path", &self.path).finish_non_exhaustive()
    }
}

/// A connection to the broker's break-glass socket: root on the broker's host may list and revoke, without SPIRE.
#[derive(Clone)]
pub struct BreakGlassClient {
    path: PathBuf,
    channel: Channel,
}

impl BreakGlassClient {
    /// Connects to the broker that listens at `path`.
    ///
    /// # Errors
    /// The path cannot be a socket's, or no broker listens there, or not for this user.
    pub async fn connect(path: impl AsRef<Path>) -> Result<Self, ConnectError> {
        let (path, channel) = local(path.as_ref()).await?;
        Ok(BreakGlassClient { path, channel })
    }

    /// The reading verbs and `Revoke`; the broker refuses the rest here.
    pub fn admin(&self) -> AdminServiceClient<Channel> {
        admin(self.channel.clone())
    }

    /// Questions about access.
    pub fn questions(&self) -> QuestionServiceClient<Channel> {
        questions(self.channel.clone())
    }

    /// The kill switch and the revocation queue; the broker refuses to lift here.
    pub fn revocations(&self) -> RevocationServiceClient<Channel> {
        revocations(self.channel.clone())
    }
}

impl Debug for BreakGlassClient {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("BreakGlassClient").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Why there is no connection.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The address or the pins cannot be used.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The identity cannot be used.
    #[error("cannot prepare TLS to the broker")]
    Tls(#[from] TlsError),
    /// Nobody answers, or not the one we came for.
    #[error("cannot connect to {address}")]
    Dial {
        /// Where.
        address: Address,
        /// What failed; a [`DialError`] stands at the end of the chain.
        #[source]
        source: tonic::transport::Error,
    },
}

impl ConnectError {
    fn dial(address: &Address, source: tonic::transport::Error) -> Self {
        ConnectError::Dial { address: address.clone(), source }
    }
}

/// Why one attempt to connect failed. A call that needed the connection carries it in the chain of its status.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DialError {
    /// The socket could not be connected.
    #[error(
        "nothing answers at {address}; check the address, and that the service runs there and may be reached"
    )]
    Connect {
        /// Where.
        address: Address,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Connected, but not agreed.
    #[error("no agreement with whoever answers at {address}")]
    Handshake {
        /// Where.
        address: Address,
        /// What failed.
        #[source]
        source: HandshakeError,
    },
    /// The whole took too long.
    #[error("connecting to {address} took more than {limit:?}")]
    Slow {
        /// Where.
        address: Address,
        /// The limit.
        limit: Duration,
    },
}

/// Makes one connection at a time to one place.
#[derive(Clone)]
struct Dialer {
    address: Address,
    /// Absent on local sockets, where the kernel vouches.
    tls: Option<ClientTls>,
}

impl Dialer {
    fn new(endpoint: &BrokerEndpoint, identity: &Identity) -> Result<Self, TlsError> {
        let tls = ClientTls::new(identity, endpoint.spiffe_ids())?;
        Ok(Dialer { address: endpoint.address().clone(), tls: Some(tls) })
    }

    fn channel(&self) -> Channel {
        transport().connect_with_connector_lazy(self.clone())
    }

    async fn dial(self) -> Result<Box<dyn Io>, DialError> {
        let address = self.address.clone();
        match timeout(DIAL_TIMEOUT, self.connect()).await {
            Ok(connected) => connected,
            Err(_) => Err(DialError::Slow { address, limit: DIAL_TIMEOUT }),
        }
    }

    async fn connect(self) -> Result<Box<dyn Io>, DialError> {
        let Dialer { address, tls } = self;
        let socket = match &address {
            Address::Tcp(host_and_port) => TcpStream::connect(host_and_port).await.and_then(|socket| {
                socket.set_nodelay(true)?;
                Ok(Socket::Tcp(socket))
            }),
            Address::Unix(path) => UnixStream::connect(path).await.map(Socket::Unix),
        };
        let socket = match socket {
            Ok(socket) => socket,
            Err(source) => return Err(DialError::Connect { address, source }),
        };
        let Some(tls) = tls else { return Ok(Box::new(socket)) };
        match tls.connect(socket).await {
            Ok((io, peer)) => {
                debug!(%address, broker = %peer.spiffe_id, serial = %peer.serial, "connected");
                Ok(Box::new(io))
            }
            Err(source) => Err(DialError::Handshake { address, source }),
        }
    }
}

impl Service<Uri> for Dialer {
    type Response = TokioIo<Box<dyn Io>>;
    type Error = DialError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, DialError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let dialer = self.clone();
        Box::pin(async move { dialer.dial().await.map(TokioIo::new) })
    }
}

trait Io: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Io for T {}

/// Puts a fresh channel in place at each change of the identity, withdrawal included: then new calls fail, as they must.
async fn renew(broker: Weak<Broker>, dialer: Dialer, mut updates: IdentityUpdates) {
    while updates.changed().await.is_ok() {
        let Some(broker) = broker.upgrade() else { return };
        *broker.channel.write().unwrap_or_else(PoisonError::into_inner) = dialer.channel();
        debug!(address = %dialer.address, "identity changed; the next call connects anew");
    }
}

async fn local(path: &Path) -> Result<(PathBuf, Channel), ConnectError> {
    let path = unix_path(path.to_owned())?;
    let dialer = Dialer { address: Address::Unix(path.clone()), tls: None };
    let connected = transport().connect_with_connector(dialer.clone()).await;
    let channel = connected.map_err(|source| ConnectError::dial(&dialer.address, source))?;
    Ok((path, channel))
}

/// The scheme says `http` because TLS is ours, inside the connector; the name is nobody's.
fn transport() -> Endpoint {
    Endpoint::from_static("http://dayfly.invalid")
        .timeout(ANSWER_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
}

fn credentials(channel: Channel) -> CredentialServiceClient<Channel> {
    CredentialServiceClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

fn questions(channel: Channel) -> QuestionServiceClient<Channel> {
    QuestionServiceClient::new(channel)
        .max_decoding_message_size(MAX_ADMIN_ANSWER_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

fn revocations(channel: Channel) -> RevocationServiceClient<Channel> {
    RevocationServiceClient::new(channel)
        .max_decoding_message_size(MAX_ADMIN_ANSWER_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

fn admin(channel: Channel) -> AdminServiceClient<Channel> {
    AdminServiceClient::new(channel)
        .max_decoding_message_size(MAX_ADMIN_ANSWER_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}
