//! What both APIs share: the entries, who may delegate, and the streams that follow every change.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use spiffe::SpiffeId;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::attest::{Facts, Peer};
use crate::authority::Authority;
use crate::cache::SvidCache;
use crate::entry::Entry;
use crate::error::AuthorityError;
use crate::jwt::IssuedJwt;
use crate::x509::IssuedX509;

/// The state of a running server.
pub(crate) struct Shared {
    pub(crate) authority: Authority,
    pub(crate) x509_ttl: Duration,
    pub(crate) jwt_ttl: Duration,
    pub(crate) stop: CancellationToken,
    entries: RwLock<Vec<Entry>>,
    delegates: RwLock<BTreeSet<SpiffeId>>,
    federated: RwLock<Vec<Authority>>,
    svids: SvidCache,
    changes: watch::Sender<u64>,
}

impl Shared {
    pub(crate) fn new(authority: Authority, x509_ttl: Duration, jwt_ttl: Duration) -> Self {
        Self {
            authority,
            x509_ttl,
            jwt_ttl,
            stop: CancellationToken::new(),
            entries: RwLock::default(),
            delegates: RwLock::default(),
            federated: RwLock::default(),
            svids: SvidCache::default(),
            changes: watch::Sender::new(0),
        }
    }

    pub(crate) fn entries(&self) -> RwLockReadGuard<'_, Vec<Entry>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn entries_mut(&self) -> RwLockWriteGuard<'_, Vec<Entry>> {
        self.entries.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn delegates_mut(&self) -> RwLockWriteGuard<'_, BTreeSet<SpiffeId>> {
        self.delegates.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn federated_mut(&self) -> RwLockWriteGuard<'_, Vec<Authority>> {
        self.federated.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes every open stream look again and send what has changed for its caller.
    pub(crate) fn push(&self) {
        {
            let entries = self.entries();
            self.svids.retain(|id| entries.iter().any(|entry| entry.spiffe_id == *id));
        }
        self.changes.send_modify(|count| *count += 1);
    }

    /// Makes every open stream send new SVIDs.
    pub(crate) fn push_new_svids(&self) {
        self.svids.retain(|_| false);
        self.push();
    }

    /// The entries of the process that opened the connection; a refusal when there is none.
    pub(crate) fn entries_of_caller(&self, peer: &Peer) -> Result<Vec<Entry>, Status> {
        let facts = facts_of(peer)?;
        let entries = self.matching(&facts);
        if entries.is_empty() {
            tracing::info!(?facts, "no entry matches the caller");
            return Err(no_identity());
        }
        Ok(entries)
    }

    /// Refuses a caller that is not named as a delegate.
    pub(crate) fn must_be_delegate(&self, peer: &Peer) -> Result<(), Status> {
        let entries = self.entries_of_caller(peer)?;
        let delegates = self.delegates.read().unwrap_or_else(PoisonError::into_inner);
        if entries.iter().any(|entry| delegates.contains(&entry.spiffe_id)) {
            return Ok(());
        }
        // SPIRE's words, so that a client cannot tell the two apart.
        Err(Status::permission_denied("caller not configured as an authorized delegate"))
    }

    /// Every entry that matches, in their order.
    pub(crate) fn matching(&self, facts: &Facts) -> Vec<Entry> {
        self.entries().iter().filter(|entry| entry.matches(facts)).cloned().collect()
    }

    /// An entry's X.509-SVID, and how long until the next.
    pub(crate) fn x509_svid_of(&self, entry: &Entry) -> Result<(IssuedX509, Duration), Status> {
        let ttl = entry.x509_ttl.unwrap_or(self.x509_ttl);
        self.svids.get(&self.authority, &entry.spiffe_id, &entry.dns_names, ttl).map_err(could_not_issue)
    }

    /// A new JWT-SVID of an entry.
    pub(crate) fn jwt_svid_of(&self, entry: &Entry, audience: &[String]) -> Result<IssuedJwt, Status> {
        let ttl = entry.jwt_ttl.unwrap_or(self.jwt_ttl);
        self.authority.jwt_svid(&entry.spiffe_id, audience, ttl).map_err(could_not_issue)
    }

    /// The own roots: DER certificates, one after the other (Workload API §5.2.1).
    pub(crate) fn own_roots(&self) -> Vec<u8> {
        self.authority.roots_der().concat()
    }

    /// The roots of every federated trust domain, by its SPIFFE ID.
    pub(crate) fn federated_roots(&self) -> HashMap<String, Vec<u8>> {
        self.map_federated(|authority| authority.roots_der().concat())
    }

    /// The roots of every trust domain known here, by its SPIFFE ID.
    pub(crate) fn all_roots(&self) -> HashMap<String, Vec<u8>> {
        let mut roots = self.federated_roots();
        roots.insert(self.authority.trust_domain().id_string(), self.own_roots());
        roots
    }

    /// The JWK set of every trust domain known here, by its SPIFFE ID.
    pub(crate) fn all_jwks(&self) -> HashMap<String, Vec<u8>> {
        let mut jwks = self.map_federated(|authority| authority.jwks().to_string().into_bytes());
        jwks.insert(
            self.authority.trust_domain().id_string(),
            self.authority.jwks().to_string().into_bytes(),
        );
        jwks
    }

    fn map_federated(&self, bundle: impl Fn(&Authority) -> Vec<u8>) -> HashMap<String, Vec<u8>> {
        let federated = self.federated.read().unwrap_or_else(PoisonError::into_inner);
        federated.iter().map(|one| (one.trust_domain().id_string(), bundle(one))).collect()
    }
}

/// What SPIRE answers a process that no entry matches. Clients look for these words.
pub(crate) fn no_identity() -> Status {
    Status::permission_denied("no identity issued")
}

fn could_not_issue(error: AuthorityError) -> Status {
    tracing::error!(%error, "could not issue an SVID");
    Status::unavailable("could not issue an SVID")
}

fn facts_of(peer: &Peer) -> Result<Facts, Status> {
    let process = peer.as_ref().ok_or_else(no_identity)?;
    process.observe().map_err(|error| {
        tracing::info!(pid = process.pid(), %error, "the caller has ended");
        no_identity()
    })
}

/// One message of a stream, and when to send the next if nothing changes before.
pub(crate) struct Update<T> {
    pub(crate) message: T,
    pub(crate) renew_after: Option<Duration>,
}

/// A stream that sends now, at every change, and when the last message asks for it. Equal messages are sent once.
///
/// `compose` looks at the world anew each time; its refusal ends the stream.
pub(crate) fn follow<T, F>(shared: Arc<Shared>, mut compose: F) -> Result<Updates<T>, Status>
where
    T: Clone + PartialEq + Send + 'static,
    F: FnMut(&Shared) -> Result<Update<T>, Status> + Send + 'static,
{
    let mut changes = shared.changes.subscribe();
    let mut keys = shared.authority.changes();
    let mut update = compose(&shared)?;
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut sent: Option<T> = None;
        loop {
            if sent.as_ref() != Some(&update.message) {
                sent = Some(update.message.clone());
                if sender.send(Ok(update.message)).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                _ = changes.changed() => {}
                _ = keys.changed() => {}
                () = sleep_for(update.renew_after) => {}
                () = sender.closed() => return,
                () = shared.stop.cancelled() => {
                    let _ = sender.send(Err(Status::unavailable("the server is stopping"))).await;
                    return;
                }
            }
            update = match compose(&shared) {
                Ok(update) => update,
                Err(refusal) => {
                    let _ = sender.send(Err(refusal)).await;
                    return;
                }
            };
        }
    });
    Ok(ReceiverStream::new(receiver))
}

/// The stream type of both services.
pub(crate) type Updates<T> = ReceiverStream<Result<T, Status>>;

async fn sleep_for(duration: Option<Duration>) {
    match duration {
        Some(duration) => tokio::time::sleep(duration).await,
        None => std::future::pending().await,
    }
}
