//! Serves both APIs on Unix sockets, and lets its owner change what it serves while it runs.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use spiffe::SpiffeId;
use tokio::net::UnixListener;
use tokio::task::JoinSet;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::server::Router;

use crate::attest::PeerStream;
use crate::authority::Authority;
use crate::delegated_identity::DelegatedIdentityApi;
use crate::entry::Entry;
use crate::error::{AuthorityError, EntryError, ServerError};
use crate::pb::delegated::delegated_identity_server::DelegatedIdentityServer;
use crate::pb::workload::spiffe_workload_api_server::SpiffeWorkloadApiServer;
use crate::socket::Socket;
use crate::state::Shared;
use crate::workload_api::{WorkloadApi, require_security_header};

/// SPIRE's default life of an X.509-SVID.
const X509_TTL: Duration = Duration::from_secs(3600);
/// SPIRE's default life of a JWT-SVID.
const JWT_TTL: Duration = Duration::from_secs(300);
/// How long [`Server::stop`] waits for calls in flight.
const STOP_WITHIN: Duration = Duration::from_secs(3);

/// A running server. Dropping it stops it and removes its sockets.
pub struct Server {
    shared: Arc<Shared>,
    workload: Socket,
    admin: Option<Socket>,
    tasks: JoinSet<()>,
}

/// What a server is started with; see [`Server::builder`].
#[must_use]
pub struct ServerBuilder {
    authority: Authority,
    workload_socket: Option<PathBuf>,
    admin_socket: Option<PathBuf>,
    socket_mode: u32,
    entries: Vec<Entry>,
    delegates: Vec<SpiffeId>,
    x509_ttl: Duration,
    jwt_ttl: Duration,
}

impl ServerBuilder {
    /// Where the Workload API listens. Its folder is made with mode 0700 if it is missing.
    pub fn workload_socket(self, path: impl Into<PathBuf>) -> Self {
        Self { workload_socket: Some(path.into()), ..self }
    }

    /// Where the Delegated Identity API listens; without it there is none.
    pub fn admin_socket(self, path: impl Into<PathBuf>) -> Self {
        Self { admin_socket: Some(path.into()), ..self }
    }

    /// The permission bits of both sockets: 0600 unless told otherwise. Processes of other users need 0666, and
    /// a folder that they may enter.
    pub fn socket_mode(self, mode: u32) -> Self {
        Self { socket_mode: mode, ..self }
    }

    /// Adds an entry.
    pub fn entry(mut self, entry: Entry) -> Self {
        self.entries.push(entry);
        self
    }

    /// Allows processes with this SPIFFE ID to use the Delegated Identity API.
    pub fn authorized_delegate(mut self, spiffe_id: SpiffeId) -> Self {
        self.delegates.push(spiffe_id);
        self
    }

    /// The life of X.509-SVIDs: an hour unless told otherwise, at least a second. They are renewed at half of it.
    pub fn x509_ttl(self, ttl: Duration) -> Self {
        Self { x509_ttl: ttl, ..self }
    }

    /// The life of JWT-SVIDs: five minutes unless told otherwise, at least a second.
    pub fn jwt_ttl(self, ttl: Duration) -> Self {
        Self { jwt_ttl: ttl, ..self }
    }

    /// Starts serving on the current tokio runtime. When it returns, the sockets accept connections.
    ///
    /// # Errors
    /// When an entry is refused or a socket cannot be bound.
    pub async fn start(self) -> Result<Server, ServerError> {
        let workload_path = self.workload_socket.ok_or(ServerError::NoSocket)?;
        let shared = Arc::new(Shared::new(self.authority, self.x509_ttl, self.jwt_ttl));
        check(&self.entries, &shared)?;
        *shared.entries_mut() = self.entries;
        shared.delegates_mut().extend(self.delegates);

        let (listener, workload) = Socket::bind(workload_path, self.socket_mode)?;
        let mut server = Server { shared, workload, admin: None, tasks: JoinSet::new() };
        let api = WorkloadApi { shared: Arc::clone(&server.shared) };
        let service = SpiffeWorkloadApiServer::with_interceptor(api, require_security_header);
        server.serve(listener, tonic::transport::Server::builder().add_service(service));

        if let Some(path) = self.admin_socket {
            let (listener, admin) = Socket::bind(path, self.socket_mode)?;
            server.admin = Some(admin);
            let api = DelegatedIdentityApi { shared: Arc::clone(&server.shared) };
            let service = DelegatedIdentityServer::new(api);
            server.serve(listener, tonic::transport::Server::builder().add_service(service));
        }
        Ok(server)
    }
}

impl Server {
    /// Begins the description of a server for this authority's trust domain. Several servers may share an authority.
    pub fn builder(authority: Authority) -> ServerBuilder {
        ServerBuilder {
            authority,
            workload_socket: None,
            admin_socket: None,
            socket_mode: 0o600,
            entries: Vec::new(),
            delegates: Vec::new(),
            x509_ttl: X509_TTL,
            jwt_ttl: JWT_TTL,
        }
    }

    /// The Workload API's address as `SPIFFE_ENDPOINT_SOCKET` takes it: `unix:///path`.
    #[must_use]
    pub fn workload_endpoint(&self) -> String {
        self.workload.endpoint()
    }

    /// The Delegated Identity API's address, if there is one: `unix:///path`.
    #[must_use]
    pub fn admin_endpoint(&self) -> Option<String> {
        self.admin.as_ref().map(Socket::endpoint)
    }

    /// The authority that signs here.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.shared.authority
    }

    /// The present entries.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        self.shared.entries().clone()
    }

    /// Replaces all entries. Open streams send what their callers get now; one that gets nothing is ended.
    ///
    /// # Errors
    /// When an entry has no selector or is of another trust domain. Nothing has changed then.
    pub fn set_entries(&self, entries: Vec<Entry>) -> Result<(), EntryError> {
        check(&entries, &self.shared)?;
        *self.shared.entries_mut() = entries;
        self.shared.push();
        Ok(())
    }

    /// Adds an entry, behind those that are there.
    ///
    /// # Errors
    /// As [`Self::set_entries`].
    pub fn add_entry(&self, entry: Entry) -> Result<(), EntryError> {
        check(std::slice::from_ref(&entry), &self.shared)?;
        self.shared.entries_mut().push(entry);
        self.shared.push();
        Ok(())
    }

    /// Removes every entry of a SPIFFE ID and says how many there were. What was issued stays valid until it expires.
    pub fn withdraw(&self, spiffe_id: &SpiffeId) -> usize {
        let mut entries = self.shared.entries_mut();
        let before = entries.len();
        entries.retain(|entry| entry.spiffe_id != *spiffe_id);
        let removed = before - entries.len();
        drop(entries);
        self.shared.push();
        removed
    }

    /// Replaces the SPIFFE IDs that may use the Delegated Identity API.
    pub fn set_authorized_delegates(&self, spiffe_ids: impl IntoIterator<Item = SpiffeId>) {
        *self.shared.delegates_mut() = spiffe_ids.into_iter().collect();
        self.shared.push();
    }

    /// Hands out the bundles of these other trust domains too. Their later rotations show at this server's next push.
    pub fn federate_with(&self, authorities: impl IntoIterator<Item = Authority>) {
        *self.shared.federated_mut() = authorities.into_iter().collect();
        self.shared.push();
    }

    /// Sends every open X.509-SVID stream new SVIDs, with new keys, without waiting for their half-life.
    pub fn rotate_now(&self) {
        self.shared.push_new_svids();
    }

    /// Makes new signing keys and pushes new SVIDs and bundles; the old root and JWT key stay in the bundles.
    ///
    /// [`Authority::retire_old`] removes them. See [`Authority::rotate`] for doing it in two steps.
    ///
    /// # Errors
    /// When no key can be made, or the authority's folder cannot be written.
    pub fn rotate_ca(&self) -> Result<(), AuthorityError> {
        self.shared.authority.rotate()
    }

    /// Ends open streams, waits up to three seconds for calls in flight, and removes the sockets.
    pub async fn stop(mut self) {
        self.shared.stop.cancel();
        let all_done = async { while self.tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(STOP_WITHIN, all_done).await;
    }

    fn serve(&mut self, listener: UnixListener, router: Router) {
        let incoming = UnixListenerStream::new(listener).map(|accepted| accepted.map(PeerStream::new));
        let stop = self.shared.stop.clone();
        self.tasks.spawn(async move {
            if let Err(error) = router.serve_with_incoming_shutdown(incoming, stop.cancelled_owned()).await {
                tracing::error!(%error, "a socket stopped serving");
            }
        });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("workload", &self.workload.endpoint()).finish_non_exhaustive()
    }
}

fn check(entries: &[Entry], shared: &Shared) -> Result<(), EntryError> {
    entries.iter().try_for_each(|entry| entry.check(shared.authority.trust_domain()))
}
