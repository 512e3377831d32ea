//! A loopback web server with fixed documents, for what only has to be fetched: discovery documents, key sets, bundles.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

/// Serves JSON documents by path over plain HTTP until dropped.
#[derive(Debug)]
pub struct StaticSite {
    address: SocketAddr,
    documents: Arc<Mutex<HashMap<String, serde_json::Value>>>,
    _server: AbortOnDropHandle<()>,
}

impl StaticSite {
    /// Listens on a free loopback port.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let documents = Arc::<Mutex<HashMap<_, _>>>::default();
        let server = tokio::spawn(serve(listener, documents.clone()));
        Ok(Self { address, documents, _server: AbortOnDropHandle::new(server) })
    }

    /// Puts a document at a path such as `/.well-known/openid-configuration`; a second call replaces it.
    pub fn put(&self, path: &str, document: serde_json::Value) {
        self.documents.lock().expect("no holder of this lock panics").insert(path.to_owned(), document);
    }

    /// The address of the site, without a path.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

async fn serve(listener: TcpListener, documents: Arc<Mutex<HashMap<String, serde_json::Value>>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let documents = documents.clone();
        tokio::spawn(async move {
            let answer = service_fn(|request: Request<Incoming>| {
                let found = documents
                    .lock()
                    .expect("no holder of this lock panics")
                    .get(request.uri().path())
                    .cloned();
                async move { Ok::<_, Infallible>(response(found)) }
            });
            let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            let _client_hung_up = server.serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

fn response(document: Option<serde_json::Value>) -> Response<Full<Bytes>> {
    let response = Response::builder().header(http::header::CONTENT_TYPE, "application/json");
    match document {
        Some(document) => response.body(Full::from(document.to_string())),
        None => response.status(StatusCode::NOT_FOUND).body(Full::default()),
    }
    .expect("a fixed header is valid")
}
