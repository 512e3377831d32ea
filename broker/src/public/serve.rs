//! Serves HTTP on accepted connections, within limits that strangers cannot stretch.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::IntoResponse;
use dayfly_client::Peer;
use http::{Request, StatusCode};
use hyper::body::Incoming as HyperBody;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tracing::{debug, warn};

/// How long a client may take over the head of a request.
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// How long one request may take, its body and its answer included.
const REQUEST_WITHIN: Duration = Duration::from_secs(10);
/// Largest head of a request, in bytes: a JWT-SVID as a bearer token fits.
const MAX_HEAD: usize = 16 * 1024;
/// How long requests in flight may take once the listener stops or the connection is old.
const FINISH_WITHIN: Duration = Duration::from_secs(5);

/// What one listener takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct ServeLimits {
    /// Connections at once; further ones are closed unread.
    pub connections: usize,
    /// How long one connection lives, however busy it is.
    pub connection_life: Duration,
}

/// Serves until stopped. `peer` tells who is at the other end, where that is known; handlers find it as
/// `Extension<Arc<Peer>>`.
pub(super) async fn serve<I>(
    connections: impl Stream<Item = io::Result<I>>,
    peer: fn(&I) -> Option<Arc<Peer>>,
    router: Router,
    limits: ServeLimits,
    stop: CancellationToken,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    tokio::pin!(connections);
    let places = Arc::new(Semaphore::new(limits.connections));
    let mut open = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = open.join_next() => continue,
            accepted = connections.next() => accepted,
        };
        let io = match accepted {
            Some(Ok(io)) => io,
            Some(Err(error)) => {
                // Out of descriptors, most likely: it passes when connections close, and spinning would not help.
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
            None => break,
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            debug!(limit = limits.connections, "too many connections; one is closed unread");
            continue;
        };
        let (peer, router, stop) = (peer(&io), router.clone(), stop.clone());
        open.spawn(async move {
            converse(io, peer, router, limits.connection_life, stop).await;
            drop(place);
        });
    }
    // Each ends by itself: it heard the same word.
    while open.join_next().await.is_some() {}
}

async fn converse<I>(io: I, peer: Option<Arc<Peer>>, router: Router, life: Duration, stop: CancellationToken)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: Request<HyperBody>| {
        let mut request = request.map(Body::new);
        if let Some(peer) = &peer {
            request.extensions_mut().insert(Arc::clone(peer));
        }
        let router = router.clone();
        async move {
            // Here and not in a handler: a body that trickles in keeps a handler from ever being called.
            let answered = timeout(REQUEST_WITHIN, router.oneshot(request)).await;
            answered.unwrap_or_else(|_| Ok(StatusCode::REQUEST_TIMEOUT.into_response()))
        }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN).max_buf_size(MAX_HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(64)
        .max_header_list_size(MAX_HEAD as u32)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(HEAD_WITHIN);
    let connection = builder.serve_connection(TokioIo::new(io), service);
    tokio::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return log(ended),
        () = stop.cancelled() => {}
        () = tokio::time::sleep(life) => {}
    }
    connection.as_mut().graceful_shutdown();
    if let Ok(ended) = timeout(FINISH_WITHIN, connection).await {
        log(ended);
    }
}

fn log(ended: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
    if let Err(error) = ended {
        debug!(%error, "a connection broke");
    }
}
