//! Listens, and cuts connections where that is asked for.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt as _;

use crate::admin;
use crate::cloud::Cloud;
use crate::door::{Cut, serve};

/// Binds at once, so that the caller knows the address.
///
/// # Errors
/// An address that cannot be had.
pub(crate) fn bind(listen: SocketAddr) -> io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(listen)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves until the runtime ends.
///
/// # Errors
/// A listener that the runtime does not take.
pub(crate) async fn run(listener: std::net::TcpListener, cloud: Arc<Cloud>) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let router = admin::routes().fallback(serve).with_state(cloud);
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(connection(stream, router.clone()));
        }
    }
}

async fn connection(stream: TcpStream, router: Router) {
    let service = service_fn(move |request| {
        let router = router.clone();
        async move {
            let Ok(answer) = router.oneshot(request).await;
            match answer.extensions().get::<Cut>() {
                Some(Cut) => Err(io::Error::other("the answer is lost, as the test wants it")),
                None => Ok(answer),
            }
        }
    });
    // An error is a client that went away, or an answer that was to be lost.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}
