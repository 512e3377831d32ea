//! A TCP proxy that stands before a peer and breaks the connection in the ways networks do.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// What happens to the peer's answers. A change holds at once, on open connections too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answers {
    /// They pass.
    Pass,
    /// They pass, each this much later.
    Delayed(Duration),
    /// Requests reach the peer; the answers vanish and the connection stays open.
    Swallowed,
    /// Like `Swallowed`, but only on a connection whose request holds this text; the connection is closed when its answer comes.
    LostFor(String),
    /// Connections are closed, and new ones as soon as they are made.
    Refused,
    /// Nothing passes in either direction, as when a cable is pulled. What was said meanwhile passes afterwards.
    Cut,
}

/// A proxy on a loopback port before one address.
#[derive(Debug)]
pub struct TcpProxy {
    address: SocketAddr,
    answers: watch::Sender<Answers>,
    peer: watch::Sender<SocketAddr>,
    counts: Arc<Counts>,
    _server: AbortOnDropHandle<()>,
}

#[derive(Debug, Default)]
struct Counts {
    connections: AtomicUsize,
    lost: AtomicUsize,
}

impl TcpProxy {
    /// Listens before `peer`, and passes all.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn before(peer: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (answers, _) = watch::channel(Answers::Pass);
        let counts = Arc::<Counts>::default();
        let (peer, peers) = watch::channel(peer);
        let server = tokio::spawn(accept(listener, peers, answers.clone(), counts.clone()));
        Ok(Self { address, answers, peer, counts, _server: AbortOnDropHandle::new(server) })
    }

    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same as an address for HTTP.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Says what happens to the peer's answers from now on.
    pub fn set(&self, answers: Answers) {
        self.answers.send_replace(answers);
    }

    /// Leads new connections elsewhere, and closes those that stand.
    pub fn lead_to(&self, peer: SocketAddr) {
        self.peer.send_replace(peer);
    }

    /// How many connections were made up to now.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.counts.connections.load(Ordering::SeqCst)
    }

    /// How many pieces of an answer were kept from the client up to now.
    #[must_use]
    pub fn lost(&self) -> usize {
        self.counts.lost.load(Ordering::SeqCst)
    }
}

async fn accept(
    listener: TcpListener,
    peer: watch::Receiver<SocketAddr>,
    answers: watch::Sender<Answers>,
    counts: Arc<Counts>,
) {
    // Owned here, so that dropping the proxy closes what it carries.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        counts.connections.fetch_add(1, Ordering::SeqCst);
        let (peer, answers, counts) = (peer.clone(), answers.subscribe(), counts.clone());
        connections.spawn(carry(client, peer, answers, counts));
        while connections.try_join_next().is_some() {}
    }
}

async fn carry(
    client: TcpStream,
    mut peers: watch::Receiver<SocketAddr>,
    answers: watch::Receiver<Answers>,
    counts: Arc<Counts>,
) {
    let mut refused = answers.clone();
    let peer = *peers.borrow_and_update();
    if *refused.borrow() == Answers::Refused {
        return;
    }
    let Ok(peer) = TcpStream::connect(peer).await else { return };
    let (from_client, to_client) = client.into_split();
    let (from_peer, to_peer) = peer.into_split();
    let (marked, mark) = watch::channel(false);
    tokio::select! {
        () = requests(from_client, to_peer, answers.clone(), marked) => {}
        () = deliver(from_peer, to_client, answers, mark, &counts) => {}
        _ = refused.wait_for(|answers| *answers == Answers::Refused) => {}
        _ = peers.changed() => {}
    }
}

async fn requests(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut answers: watch::Receiver<Answers>,
    mark: watch::Sender<bool>,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if let Answers::LostFor(text) = &*answers.borrow()
            && contains(&buffer[..read], text.as_bytes())
        {
            mark.send_replace(true);
        }
        if uncut(&mut answers).await.is_none() {
            return;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
    // The client has said all it will; the answer may still be on its way.
    let _gone = to.shutdown().await;
    std::future::pending::<()>().await;
}

async fn deliver(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut answers: watch::Receiver<Answers>,
    mark: watch::Receiver<bool>,
    counts: &Counts,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if *mark.borrow() {
            counts.lost.fetch_add(1, Ordering::SeqCst);
            return;
        }
        let Some(now) = uncut(&mut answers).await else { return };
        match now {
            Answers::Pass | Answers::LostFor(_) | Answers::Cut => {}
            Answers::Delayed(by) => tokio::time::sleep(by).await,
            Answers::Swallowed => {
                counts.lost.fetch_add(1, Ordering::SeqCst);
                continue;
            }
            Answers::Refused => return,
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
    let _gone = to.shutdown().await;
}

/// Waits while nothing passes, and tells what happens then; none when the proxy is gone.
async fn uncut(answers: &mut watch::Receiver<Answers>) -> Option<Answers> {
    let now = answers.wait_for(|answers| *answers != Answers::Cut).await.ok()?;
    Some(now.clone())
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    !needle.is_empty() && haystack.windows(needle.len()).any(|window| window == needle)
}
