//! Tells the world our issuers and their public keys: two documents each (OpenID Connect Discovery 1.0, RFC 7517), by
//! GET alone, from a listener of their own or as static files.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use serde_json::{Value, json};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;

use super::exchange::{self, ExchangeConfig, TokenUrl};
use super::serve::{ServeLimits, serve};
use super::{IntrospectionConfig, Issuers};
use crate::signer::{Signer, Use};

/// How long relying parties may keep what they read. A new key is published for twice that before it signs.
const CACHE: HeaderValue = HeaderValue::from_static("max-age=300");
/// Anybody may knock here.
const LIMITS: ServeLimits = ServeLimits { connections: 256, connection_life: Duration::from_secs(60) };

/// The documents of our issuers.
#[derive(Clone)]
pub struct Discovery {
    issuers: Issuers,
    signer: Arc<dyn Signer>,
    endpoints: Endpoints,
}

/// Where else something is asked about access tokens, or for them.
#[derive(Clone, Debug, Default)]
pub struct Endpoints {
    /// Where services ask about access tokens.
    pub introspection: Option<String>,
    /// Where callers exchange tokens.
    pub token: Option<TokenUrl>,
}

impl Endpoints {
    /// As the configuration says.
    pub fn of(introspection: Option<&IntrospectionConfig>, exchange: Option<&ExchangeConfig>) -> Self {
        Self {
            introspection: introspection.and_then(|config| config.url.clone()),
            token: exchange.map(|config| config.url.clone()),
        }
    }
}

/// A document could not be written.
#[derive(Debug, Error)]
#[error("could not write {path}")]
pub struct ExportError {
    /// Which file.
    pub path: PathBuf,
    /// The cause.
    #[source]
    pub source: io::Error,
}

impl Discovery {
    /// Documents of these issuers, with the signer's keys. The endpoints are told with the issuer of access tokens.
    pub fn new(issuers: Issuers, signer: Arc<dyn Signer>, endpoints: Endpoints) -> Self {
        Self { issuers, signer, endpoints }
    }

    /// The discovery document of one issuer.
    pub fn document(&self, purpose: Use) -> Value {
        let issuer = self.issuers.url(purpose);
        let mut document = json!({
            "issuer": issuer,
            "jwks_uri": self.issuers.jwks_uri(purpose),
            // Nobody answers at these two, unless an exchange takes the place of the second. Readers of the document insist that they are named: OpenID Connect Discovery
            // 1.0 §3 requires them, and MinIO and AWS check.
            "authorization_endpoint": format!("{issuer}/authorize"),
            "token_endpoint": format!("{issuer}/token"),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": [purpose.algorithm()],
            "scopes_supported": ["openid"],
            "claims_supported": claims(purpose),
        });
        if let (Use::Access, Some(url)) = (purpose, &self.endpoints.introspection) {
            // RFC 8414 §2.
            document["introspection_endpoint"] = json!(url);
            document["introspection_endpoint_auth_methods_supported"] = json!(["tls_client_auth"]);
        }
        if let (Use::Access, Some(url)) = (purpose, &self.endpoints.token) {
            exchange::metadata(&mut document, url);
        }
        document
    }

    /// Each document with its path below the base URL.
    fn documents(&self) -> Vec<(String, Value)> {
        let of = |purpose: Use| {
            let name = purpose.name();
            [
                (format!("{name}/.well-known/openid-configuration"), self.document(purpose)),
                (format!("{name}/jwks.json"), self.signer.jwks(purpose)),
            ]
        };
        Use::ALL.into_iter().flat_map(of).collect()
    }

    /// Answers GET of the documents, at the paths that the base URL gives them.
    pub fn router(&self) -> Router {
        let base: http::Uri = self.issuers.base().parse().expect("it was checked when it was read");
        let mut router = Router::new();
        for (index, (path, _)) in self.documents().into_iter().enumerate() {
            let this = self.clone();
            // Made anew each time: the signer may have got a new key meanwhile.
            let answer = move || async move { document_response(&this.documents()[index].1) };
            router = router.route(&format!("{}/{path}", base.path().trim_end_matches('/')), get(answer));
        }
        router
    }

    /// Serves the documents in plain HTTP until stopped.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) {
        let connections = TcpListenerStream::new(listener);
        serve(connections, |_| None, self.router(), LIMITS, stop).await;
    }

    /// Writes the documents as files below `dir`, for a bucket or a CDN to serve under the base URL. Each is replaced
    /// whole. Returns what was written.
    ///
    /// # Errors
    /// The first file that could not be written.
    pub fn export_static(&self, dir: &Path) -> Result<Vec<PathBuf>, ExportError> {
        let mut written = Vec::new();
        for (name, document) in self.documents() {
            let path = dir.join(name);
            replace(&path, &document).map_err(|source| ExportError { path: path.clone(), source })?;
            written.push(path);
        }
        Ok(written)
    }
}

/// Puts a document in place whole, readable by a web server of another user whatever the umask is.
fn replace(path: &Path, document: &Value) -> io::Result<()> {
    let folder = path.parent().expect("the name of every document has a folder");
    fs::create_dir_all(folder)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    let draft = path.with_extension("new");
    fs::write(&draft, format!("{document:#}\n"))?;
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o644))?;
    fs::rename(&draft, path)
}

fn document_response(document: &Value) -> Response {
    // Whoever took an empty set would refuse every token for as long as it may be kept.
    if document["keys"].as_array().is_some_and(Vec::is_empty) {
        return (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, HeaderValue::from_static("5"))])
            .into_response();
    }
    let headers = [(CONTENT_TYPE, HeaderValue::from_static("application/json")), (CACHE_CONTROL, CACHE)];
    (headers, document.to_string()).into_response()
}

fn claims(purpose: Use) -> &'static [&'static str] {
    match purpose {
        Use::Access => &[
            "iss",
            "sub",
            "aud",
            "exp",
            "iat",
            "jti",
            "client_id",
            "txn",
            "task",
            "cnf",
            "act",
            "scope",
            "dayfly",
            "dev",
        ],
        Use::Federation | Use::Revocation => &["iss", "sub", "aud", "exp", "iat", "jti"],
        Use::Receipt => &[
            "iss", "sub", "aud", "exp", "iat", "jti", "txn", "task", "cnf", "act", "action", "artifact",
            "scope", "dev",
        ],
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

    use axum::body::{Body, to_bytes};
    use dayfly_domain::key::JWKS_MAX_AGE;
    use http::{Method, Request};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tower::ServiceExt;

    use super::*;
    use crate::providers::token::testkit::World;
    use crate::signer::SignError;

    fn discovery(world: &World, base: &str) -> Discovery {
        let endpoints = Endpoints {
            introspection: Some("https://dayfly.internal:8444/introspect".to_owned()),
            token: None,
        };
        Discovery::new(Issuers::new(base).unwrap(), world.signer.clone(), endpoints)
    }

    async fn ask(router: Router, method: Method, path: &str) -> (StatusCode, String, Value) {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        let response = router.oneshot(request).await.unwrap();
        let cache = response.headers().get(CACHE_CONTROL).map(|v| v.to_str().unwrap().to_owned());
        let status = response.status();
        let body = to_bytes(response.into_body(), 1 << 16).await.unwrap();
        (status, cache.unwrap_or_default(), serde_json::from_slice(&body).unwrap_or_default())
    }

    #[tokio::test]
    async fn each_issuer_tells_its_own_keys_and_nothing_else_is_served() {
        let world = World::new();
        let router = discovery(&world, "https://issuer.example/dayfly").router();
        let get = |path: &str| {
            let (router, path) = (router.clone(), path.to_owned());
            async move { ask(router, Method::GET, &path).await }
        };
        for (purpose, alg) in [
            (Use::Access, "ES256"),
            (Use::Federation, "RS256"),
            (Use::Receipt, "ES256"),
            (Use::Revocation, "ES256"),
        ] {
            let name = purpose.name();
            let (status, cache, document) =
                get(&format!("/dayfly/{name}/.well-known/openid-configuration")).await;
            assert_eq!((status, cache.as_str()), (StatusCode::OK, "max-age=300"));
            assert_eq!(
                CACHE,
                format!("max-age={}", JWKS_MAX_AGE.as_seconds()),
                "what a key's life reckons with"
            );
            assert_eq!(document["issuer"], format!("https://issuer.example/dayfly/{name}"));
            assert_eq!(document["id_token_signing_alg_values_supported"], json!([alg]));
            for key in ["authorization_endpoint", "token_endpoint"] {
                assert!(
                    document[key].as_str().unwrap().starts_with("https://issuer.example/dayfly/"),
                    "{key}"
                );
            }
            let told = document["introspection_endpoint"].is_string();
            assert_eq!(told, purpose == Use::Access);

            let uri = document["jwks_uri"].as_str().unwrap().strip_prefix("https://issuer.example").unwrap();
            let (status, cache, jwks) = get(uri).await;
            assert_eq!((status, cache.as_str()), (StatusCode::OK, "max-age=300"));
            assert_eq!(jwks, world.jwks(purpose));
            assert_eq!(jwks["keys"][0]["alg"], alg);
        }
        for path in [
            "/",
            "/dayfly",
            "/access/jwks.json",
            "/dayfly/access/token",
            "/dayfly/access/../federation/jwks.json",
        ] {
            assert_eq!(get(path).await.0, StatusCode::NOT_FOUND, "{path}");
        }
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
            let (status, ..) = ask(router.clone(), method.clone(), "/dayfly/access/jwks.json").await;
            assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "{method}");
        }
    }

    #[tokio::test]
    async fn a_set_without_keys_is_told_to_nobody() {
        struct Away;

        #[async_trait::async_trait]
        impl Signer for Away {
            async fn sign(&self, purpose: Use, _: &str, _: &Value) -> Result<String, SignError> {
                Err(SignError::NoKey { purpose, usable_from: None })
            }

            fn jwks(&self, _: Use) -> Value {
                json!({"keys": []})
            }
        }

        let issuers = Issuers::new("https://issuer.example").unwrap();
        let router = Discovery::new(issuers, Arc::new(Away), Endpoints::default()).router();
        let (status, cache, _) = ask(router.clone(), Method::GET, "/access/jwks.json").await;
        assert_eq!((status, cache.as_str()), (StatusCode::SERVICE_UNAVAILABLE, ""), "nor kept by anybody");
        let (status, ..) = ask(router, Method::GET, "/access/.well-known/openid-configuration").await;
        assert_eq!(status, StatusCode::OK);
    }

    #[test]
    fn the_token_endpoint_is_told_where_there_is_one_and_with_its_own_issuer() {
        let world = World::new();
        let url: TokenUrl = "https://dayfly.internal:8445/token".to_owned().try_into().unwrap();
        let endpoints = Endpoints { introspection: None, token: Some(url) };
        let issuers = Issuers::new("https://issuer.example").unwrap();
        let discovery = Discovery::new(issuers, world.signer.clone(), endpoints);
        let access = discovery.document(Use::Access);
        assert_eq!(access["token_endpoint"], "https://dayfly.internal:8445/token");
        assert_eq!(access["token_endpoint_auth_methods_supported"], json!(["spiffe_x509", "spiffe_jwt"]));
        let grant = "urn:ietf:params:oauth:grant-type:token-exchange";
        assert_eq!(access["grant_types_supported"], json!([grant]));
        assert_eq!(access["authorization_details_types_supported"], json!(["dayfly_scope"]));
        let federation = discovery.document(Use::Federation);
        assert_eq!(federation["token_endpoint"], "https://issuer.example/federation/token");
        assert!(federation.get("grant_types_supported").is_none());
        for wrong in ["http://dayfly.internal/token", "https://dayfly.internal/x", "https://Dayfly/token", ""]
        {
            assert!(TokenUrl::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn the_listener_answers_over_http_and_stops_when_told() {
        let world = World::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let discovery = discovery(&world, &format!("http://{address}"));
        let serving = tokio::spawn(discovery.serve(listener, stop.clone()));

        let mut idle = TcpStream::connect(address).await.unwrap();
        let mut socket = TcpStream::connect(address).await.unwrap();
        let request = "GET /federation/jwks.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
        assert_eq!(serde_json::from_str::<Value>(body).unwrap(), world.jwks(Use::Federation));

        stop.cancel();
        tokio::time::timeout(Duration::from_secs(10), serving).await.expect("it stops").unwrap();
        assert_eq!(idle.read(&mut [0; 1]).await.unwrap_or(0), 0, "idle connections are closed");
    }

    #[test]
    fn exported_files_lie_where_the_url_says() {
        let world = World::new();
        let home = tempfile::tempdir().unwrap();
        let discovery = discovery(&world, "https://issuer.example");
        discovery.export_static(home.path()).unwrap();
        let written = discovery.export_static(home.path()).unwrap();
        assert_eq!(written.len(), 8);
        for path in &written {
            let below = path.strip_prefix(home.path()).unwrap().to_str().unwrap();
            let text = fs::read_to_string(path).unwrap();
            let value: Value = serde_json::from_str(&text).unwrap();
            let purpose = Use::ALL.into_iter().find(|purpose| below.starts_with(purpose.name())).unwrap();
            let expected =
                if below.ends_with("jwks.json") { world.jwks(purpose) } else { discovery.document(purpose) };
            assert_eq!(value, expected, "{below}");
        }
        let left: Vec<_> = fs::read_dir(home.path().join("access")).unwrap().collect();
        assert_eq!(left.len(), 2, "no draft is left: {left:?}");
    }
}
