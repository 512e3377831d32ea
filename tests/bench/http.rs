//! One keep-alive HTTP/1.1 connection, with as little between bench and socket as can be: what it costs counts against the
//! peer.

use std::net::SocketAddr;

use anyhow::{Context, ensure};
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

/// A connection to a Vault, or to something that speaks like one.
pub struct Http {
    requests: SendRequest<Full<Bytes>>,
    host: String,
    _connection: AbortOnDropHandle<()>,
}

impl Http {
    /// Connects.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        let stream =
            TcpStream::connect(address).await.with_context(|| format!("nobody answers at {address}"))?;
        stream.set_nodelay(true)?;
        let (requests, connection) = handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(async move {
            // Its end shows in the next request.
            let _ = connection.await;
        });
        Ok(Self { requests, host: address.to_string(), _connection: AbortOnDropHandle::new(connection) })
    }

    /// One request to `/v1/<path>`; returns the status and the body. An empty body is not sent.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn ask(
        &mut self,
        method: Method,
        path: &str,
        token: &str,
        body: Bytes,
    ) -> anyhow::Result<(u16, Bytes)> {
        let request = Request::builder()
            .method(method)
            .uri(format!("/v1/{path}"))
            .header(HOST, &self.host)
            .header("X-Vault-Request", "true")
            .header("X-Vault-Token", HeaderValue::from_str(token)?)
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(Full::new(body))?;
        self.requests.ready().await?;
        let response = self.requests.send_request(request).await?;
        let status = response.status().as_u16();
        Ok((status, response.into_body().collect().await?.to_bytes()))
    }

    /// The same where only 2xx will do, with JSON on both sides; null sends no body.
    ///
    /// # Errors
    /// When the connection breaks or the answer is no success, with its words.
    pub async fn api(
        &mut self,
        method: Method,
        path: &str,
        token: &str,
        body: &Value,
    ) -> anyhow::Result<Value> {
        let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        let (status, answer) = self.ask(method, path, token, body).await?;
        let answer: Value = serde_json::from_slice(&answer).unwrap_or(Value::Null);
        ensure!((200..300).contains(&status), "{path}: {status}: {answer}");
        Ok(answer)
    }
}
