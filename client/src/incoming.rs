//! The accept loop of a TLS server: from a listening socket to a stream of connections whose peer is known.
//!
//! Handshakes run side by side, each in its own task and under a time limit. One that is awaited inside the accept
//! loop would let a single slow client shut everybody else out.

use std::{
    fmt::{self, Debug, Formatter},
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, UnixListener},
    sync::{Semaphore, mpsc},
    time::{sleep, timeout},
};
use tokio_rustls::server::TlsStream;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::server::Connected;
use tracing::{debug, warn};

use crate::{
    error::chain,
    peer::Peer,
    socket::Socket,
    tls::{HandshakeError, OptionalTls, ServerTls},
};

/// How much of the accept loop strangers can occupy.
#[derive(Debug, Clone, Copy)]
pub struct IncomingLimits {
    /// Handshakes in flight; further sockets wait in the kernel's backlog. 512 by default.
    pub handshakes: usize,
    /// How long one handshake may take; 5 s by default.
    pub handshake_timeout: Duration,
}

impl Default for IncomingLimits {
    fn default() -> Self {
        IncomingLimits { handshakes: 512, handshake_timeout: Duration::from_secs(5) }
    }
}

/// A listening socket of either kind.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// Unix. TLS runs inside as well: the socket says who may knock, the SVID says who they are.
    Unix(UnixListener),
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Listener::Tcp(listener)
    }
}

impl From<UnixListener> for Listener {
    fn from(listener: UnixListener) -> Self {
        Listener::Unix(listener)
    }
}

/// Connections whose handshake is done, for `Server::serve_with_incoming`. Dropping it stops the accept loop.
pub struct Incoming<P = Arc<Peer>> {
    ready: ReceiverStream<io::Result<SpiffeIo<P>>>,
    _accepting: AbortOnDropHandle<()>,
}

impl Incoming {
    /// Accepts on `listener` until dropped.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn new(listener: impl Into<Listener>, tls: ServerTls, limits: IncomingLimits) -> Self {
        let shake = move |socket: Socket| {
            let tls = tls.clone();
            async move {
                let host = socket.other_host();
                let (io, peer) = tls.accept(socket).await?;
                Ok(SpiffeIo { io, peer: Arc::new(Peer { host, ..peer }) })
            }
        };
        Self::accepting(listener.into(), shake, limits)
    }
}

impl Incoming<Option<Arc<Peer>>> {
    /// Accepts on `listener` until dropped, also from clients that show no certificate.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn with_optional(listener: impl Into<Listener>, tls: OptionalTls, limits: IncomingLimits) -> Self {
        let shake = move |socket: Socket| {
            let tls = tls.clone();
            async move {
                let host = socket.other_host();
                let (io, peer) = tls.accept(socket).await?;
                let peer = peer.map(|peer| Arc::new(Peer { host, ..peer }));
                Ok(SpiffeIo { io, peer })
            }
        };
        Self::accepting(listener.into(), shake, limits)
    }
}

impl<P: Debug + Send + 'static> Incoming<P> {
    fn accepting<F, H>(listener: Listener, shake: F, limits: IncomingLimits) -> Self
    where
        F: Fn(Socket) -> H + Send + 'static,
        H: Future<Output = Result<SpiffeIo<P>, HandshakeError>> + Send + 'static,
    {
        let (done, ready) = mpsc::channel(64);
        let accepting = tokio::spawn(accept(listener, shake, limits, done));
        Incoming { ready: ReceiverStream::new(ready), _accepting: AbortOnDropHandle::new(accepting) }
    }
}

impl<P> Stream for Incoming<P> {
    type Item = io::Result<SpiffeIo<P>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.ready).poll_next(cx)
    }
}

impl<P> Debug for Incoming<P> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming").finish_non_exhaustive()
    }
}

/// A TLS connection with what is known of the peer. Handlers of gRPC find it as
/// `request.extensions().get::<Arc<Peer>>()`.
pub struct SpiffeIo<P = Arc<Peer>> {
    io: TlsStream<Socket>,
    peer: P,
}

impl<P> SpiffeIo<P> {
    /// Who is at the other end. The certificate may have run out since the handshake.
    pub fn peer(&self) -> &P {
        &self.peer
    }
}

impl Connected for SpiffeIo {
    type ConnectInfo = Arc<Peer>;

    fn connect_info(&self) -> Self::ConnectInfo {
        Arc::clone(&self.peer)
    }
}

impl<P: Debug> Debug for SpiffeIo<P> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpiffeIo").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl<P: Unpin> AsyncRead for SpiffeIo<P> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<P: Unpin> AsyncWrite for SpiffeIo<P> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

async fn accept<P, F, H>(
    listener: Listener,
    shake: F,
    limits: IncomingLimits,
    done: mpsc::Sender<io::Result<SpiffeIo<P>>>,
) where
    P: Debug + Send + 'static,
    F: Fn(Socket) -> H + Send + 'static,
    H: Future<Output = Result<SpiffeIo<P>, HandshakeError>> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(limits.handshakes.max(1)));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("nobody closes the semaphore");
        let (socket, from) = match next(&listener).await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: it passes when connections close, and spinning would not help.
                warn!(%error, "cannot accept a connection");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let handshake = shake(socket);
        let done = done.clone();
        tokio::spawn(async move {
            let _place = place;
            match timeout(limits.handshake_timeout, handshake).await {
                Ok(Ok(io)) => {
                    debug!(%from, peer = ?io.peer, "connection accepted");
                    // Nobody receives any more when the server stops; the socket closes.
                    let _ = done.send(Ok(io)).await;
                }
                Ok(Err(error)) => debug!(%from, error = %chain(&error), "connection refused"),
                Err(_) => debug!(%from, limit = ?limits.handshake_timeout, "handshake took too long"),
            }
        });
    }
}

async fn next(listener: &Listener) -> io::Result<(Socket, String)> {
    match listener {
        Listener::Tcp(listener) => {
            let (socket, from) = listener.accept().await?;
            // It fails only on a socket that is gone already; the handshake will say so.
            let _ = socket.set_nodelay(true);
            Ok((Socket::Tcp(socket), from.to_string()))
        }
        Listener::Unix(listener) => {
            let (socket, _) = listener.accept().await?;
            Ok((Socket::Unix(socket), "unix".to_owned()))
        }
    }
}
