//! Sends requests to Vault.
//!
//! `vaultrs` gives the requests and puts token and namespace on them; the sending is ours. Its own client follows
//! redirects with the token on them, adds the named CA to those of the system, takes a proxy from the environment, and
//! logs every refusal as an error, though here a refusal is the proof that a token is gone.

use std::time::{Duration, Instant};

use dayfly_domain::secret::Secret;
use reqwest::redirect;
use rustify::Endpoint;
use serde::de::DeserializeOwned;
use vaultrs::api::EndpointMiddleware;
use zeroize::{Zeroize, Zeroizing};

use super::BoxError;
use super::config::{Reach, VaultConfigError};
use super::errors::{CallError, words};

/// Largest answer that is read.
const LARGEST_ANSWER: usize = 1 << 20;
/// Unused connections are closed after this long: before Vault does it (after five minutes) and loses a request.
const IDLE: Duration = Duration::from_secs(60);

/// Connections to one Vault, kept open between calls.
pub(super) struct Wire {
    http: reqwest::Client,
    base: String,
    namespace: Option<String>,
}

/// An answer of success.
pub(super) struct Answer {
    body: Zeroizing<Vec<u8>>,
}

impl Answer {
    /// Reads the body.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, CallError> {
        // The parser's error may quote what it read, a token perhaps: it is dropped.
        serde_json::from_slice(&self.body)
            .map_err(|_| CallError::Unreadable("it is not the JSON that Vault documents"))
    }
}

impl Wire {
    /// Opens nothing yet.
    pub(super) fn new(reach: &Reach<'_>) -> Result<Self, VaultConfigError> {
        let url = reach.check()?;
        let http = reqwest::Client::builder()
            .tls_certs_only(reach.roots()?)
            .https_only(url.scheme() == "https")
            .redirect(redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .referer(false)
            .connect_timeout(reach.timeout.as_duration())
            .pool_idle_timeout(IDLE)
            .build()
            .map_err(|source| VaultConfigError::Client { source })?;
        let base = url.as_str().trim_end_matches('/').to_owned();
        Ok(Self { http, base, namespace: reach.namespace.map(str::to_owned) })
    }

    /// Where Vault is: scheme, host and port.
    pub(super) fn address(&self) -> &str {
        &self.base
    }

    /// Makes one call, which ends by `deadline`.
    pub(super) async fn call<E: Endpoint>(
        &self,
        token: Option<&Secret>,
        endpoint: E,
        deadline: Instant,
    ) -> Result<Answer, CallError> {
        let mut request = self.request(token, endpoint).map_err(CallError::Unsent)?;
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(CallError::Unsent("no time was left for it".into()));
        }
        *request.timeout_mut() = Some(left);
        let mut response = self.http.execute(request).await.map_err(not_sent_or_not_answered)?;
        let status = response.status();
        let mut body = Zeroizing::new(Vec::new());
        while let Some(chunk) = response.chunk().await.map_err(not_sent_or_not_answered)? {
            if body.len() + chunk.len() > LARGEST_ANSWER {
                return Err(CallError::Unreadable("it is over 1 MiB"));
            }
            body.extend_from_slice(&chunk);
        }
        if status.is_success() {
            return Ok(Answer { body });
        }
        Err(CallError::Said { status: status.as_u16(), errors: words(&body) })
    }

    fn request<E: Endpoint>(
        &self,
        token: Option<&Secret>,
        endpoint: E,
    ) -> Result<reqwest::Request, BoxError> {
        let mut middleware = EndpointMiddleware {
            token: token.map(|token| token.expose().to_owned()).unwrap_or_default(),
            version: "v1".to_owned(),
            wrap: None,
            namespace: self.namespace.clone(),
        };
        let request = endpoint.with_middleware(&middleware).request(&self.base);
        middleware.token.zeroize();
        let mut request = request?;
        if let Some(token) = request.headers_mut().get_mut("X-Vault-Token") {
            token.set_sensitive(true);
        }
        Ok(reqwest::Request::try_from(request)?)
    }
}

/// Whether a failed request had been written. When in doubt it had.
fn not_sent_or_not_answered(error: reqwest::Error) -> CallError {
    if error.is_connect() || error.is_builder() {
        CallError::Unsent(error.into())
    } else {
        CallError::Unanswered(error.into())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_rustls::TlsAcceptor;

    use super::super::config::VaultConfig;
    use super::super::endpoints::Health;
    use super::*;

    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";

    fn wire(address: &str, ca_file: Option<std::path::PathBuf>) -> Wire {
        let config = VaultConfig {
            address: address.to_owned(),
            ca_file,
            namespace: Some("team".to_owned()),
            auth_mount: "jwt".to_owned(),
            audience: "vault".to_owned(),
            mint_role: "m".to_owned(),
            revoke_role: "r".to_owned(),
            timeout: dayfly_domain::time::Ttl::seconds(5),
        };
        Wire::new(&config.reach()).expect("a legal configuration")
    }

    async fn ask(wire: &Wire, within: Duration) -> Result<Answer, CallError> {
        let token = Secret::new("hvs.secret".to_owned());
        wire.call(Some(&token), Health {}, Instant::now() + within).await
    }

    /// Serves one connection after the other.
    async fn server<F: Future<Output = ()> + Send + 'static>(serve: fn(TcpStream) -> F) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("bound"));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serve(stream).await;
            }
        });
        address
    }

    async fn read_head(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("a request"));
        }
        String::from_utf8(head).expect("ASCII")
    }

    #[tokio::test]
    async fn a_refused_connection_was_never_heard() {
        let closed = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = format!("http://{}", closed.local_addr().expect("bound"));
        drop(closed);
        let error = ask(&wire(&address, None), Duration::from_secs(5)).await.err();
        assert!(matches!(error, Some(CallError::Unsent(_))), "{error:?}");
    }

    #[tokio::test]
    async fn a_connection_lost_after_the_request_leaves_the_outcome_open() {
        let address = server(|mut stream| async move {
            read_head(&mut stream).await;
        })
        .await;
        let error = ask(&wire(&address, None), Duration::from_secs(5)).await.err();
        assert!(matches!(error, Some(CallError::Unanswered(_))), "{error:?}");
    }

    #[tokio::test]
    async fn half_an_answer_leaves_the_outcome_open() {
        let address = server(|mut stream| async move {
            read_head(&mut stream).await;
            let half = &ANSWER[..ANSWER.len() - 1];
            stream.write_all(half).await.expect("written");
        })
        .await;
        let error = ask(&wire(&address, None), Duration::from_secs(5)).await.err();
        assert!(matches!(error, Some(CallError::Unanswered(_))), "{error:?}");
    }

    #[tokio::test]
    async fn silence_ends_at_the_deadline_and_leaves_the_outcome_open() {
        let address = server(|mut stream| async move {
            read_head(&mut stream).await;
            tokio::time::sleep(Duration::from_secs(60)).await;
        })
        .await;
        let error = ask(&wire(&address, None), Duration::from_millis(200)).await.err();
        assert!(matches!(error, Some(CallError::Unanswered(_))), "{error:?}");
    }

    #[tokio::test]
    async fn a_redirect_is_not_followed() {
        let address = server(|mut stream| async move {
            let head = read_head(&mut stream).await;
            assert!(head.starts_with("GET /v1/sys/health HTTP/1.1\r\n"), "{head}");
            assert!(head.contains("x-vault-token: hvs.secret") && head.contains("x-vault-namespace: team"), "{head}");
            let answer = "HTTP/1.1 307 Temporary Redirect\r\nlocation: http://127.0.0.1:1/v1/sys/health\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.expect("written");
        })
        .await;
        let error = ask(&wire(&address, None), Duration::from_secs(5)).await.err();
        assert!(matches!(error, Some(CallError::Said { status: 307, .. })), "{error:?}");
    }

    #[tokio::test]
    async fn one_connection_carries_many_calls() {
        let address = server(|mut stream| async move {
            for _ in 0..3 {
                read_head(&mut stream).await;
                stream.write_all(ANSWER).await.expect("written");
            }
            // A second connection would be served only now.
            tokio::time::sleep(Duration::from_secs(60)).await;
        })
        .await;
        let wire = wire(&address, None);
        for _ in 0..3 {
            assert!(ask(&wire, Duration::from_secs(5)).await.is_ok());
        }
    }

    #[tokio::test]
    async fn only_the_named_ca_vouches_for_the_server() {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let make = || generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).expect("a certificate");
        let (CertifiedKey { cert, signing_key }, stranger) = (make(), make());
        let key = rustls::pki_types::PrivateKeyDer::try_from(signing_key.serialize_der()).expect("a key");
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .expect("a pair");
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = format!("https://{}", listener.local_addr().expect("bound"));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                read_head(&mut stream).await;
                stream.write_all(ANSWER).await.expect("written");
                let _closed = stream.shutdown().await;
            }
        });
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str, pem: String| {
            let path = folder.path().join(name);
            std::fs::write(&path, pem).expect("written");
            Some(path)
        };
        let named = wire(&address, file("named.pem", cert.pem()));
        assert!(ask(&named, Duration::from_secs(5)).await.is_ok());
        let other = wire(&address, file("other.pem", stranger.cert.pem()));
        let error = ask(&other, Duration::from_secs(5)).await.err();
        assert!(matches!(error, Some(CallError::Unsent(_))), "{error:?}");
    }
}
