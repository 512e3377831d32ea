//! Introspection over HTTP: mutual TLS with X.509-SVIDs; a JWT-SVID may name the service instead.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use axum::extract::rejection::FormRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Form, Json, Router};
use dayfly_client::{
    Identity, Incoming, IncomingLimits, JwtError, Peer, ServerTls, Speaks, SpiffeIo, TlsError, TrustDomain,
    chain,
};
use dayfly_domain::secret::Secret;
use dayfly_domain::spiffe::SpiffeId;
use http::header::{AUTHORIZATION, CACHE_CONTROL, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use super::Introspector;
use crate::public::serve::{self, ServeLimits};
use crate::signer::Use;

/// Largest question, in bytes. A token has half of it at most.
const MAX_BODY: usize = 16 * 1024;
/// Services keep their connections; each proves itself anew once an hour at least.
const LIMITS: ServeLimits = ServeLimits { connections: 1024, connection_life: Duration::from_secs(3600) };

/// Serves `POST /introspect` until stopped, to whoever proves an identity in an accepted trust domain.
///
/// # Errors
/// The broker has no certificate now, or no trust domain is accepted.
pub async fn serve(
    introspector: Arc<Introspector>,
    identity: Identity,
    accepted: Vec<TrustDomain>,
    listener: TcpListener,
    stop: CancellationToken,
) -> Result<(), TlsError> {
    let tls = ServerTls::new(&identity, &accepted, Speaks::Http1Or2)?;
    let connections = Incoming::new(listener, tls, IncomingLimits::default());
    let peer = |io: &SpiffeIo| Some(Arc::clone(io.peer()));
    let desk = Arc::new(Desk { introspector, identity, accepted });
    serve::serve(connections, peer, router(desk), LIMITS, stop).await;
    Ok(())
}

/// Where a question arrives.
struct Desk {
    introspector: Arc<Introspector>,
    identity: Identity,
    accepted: Vec<TrustDomain>,
}

fn router(desk: Arc<Desk>) -> Router {
    Router::new()
        .route("/introspect", post(introspect))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        // RFC 7662 §4: an answer that is kept outlives the token's end.
        .layer(axum::middleware::map_response(no_store))
        .with_state(desk)
}

async fn no_store(mut response: Response) -> Response {
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// RFC 7662 §2.1. `token_type_hint` and whatever else comes is not needed.
#[derive(Deserialize)]
struct Question {
    token: String,
}

async fn introspect(
    State(desk): State<Arc<Desk>>,
    Extension(peer): Extension<Arc<Peer>>,
    headers: HeaderMap,
    question: Result<Form<Question>, FormRejection>,
) -> Result<Json<Value>, Refused> {
    let service = desk.who_asks(&peer, &headers).await?;
    let Form(question) = question.map_err(Refused::from_form)?;
    let token = Secret::new(question.token);
    match desk.introspector.answer(&service, token.expose()).await {
        Ok(answer) => Ok(Json(answer)),
        Err(failed) => {
            error!(error = %chain(&failed), "introspection could not read the lease");
            Err(Refused::unavailable("the broker cannot read its leases now; ask again"))
        }
    }
}

impl Desk {
    /// The JWT-SVID names the service if there is one, else the certificate: behind a mesh the two differ.
    async fn who_asks(&self, peer: &Peer, headers: &HeaderMap) -> Result<SpiffeId, Refused> {
        let now =
            UNIX_EPOCH + Duration::from_millis(self.introspector.ledger.now().unix_millis().unsigned_abs());
        if !peer.is_fresh(now) {
            // The connection outlived the certificate it was opened with.
            return Err(Refused::client("the client certificate ran out; connect anew with a fresh one"));
        }
        let mut shown = headers.get_all(AUTHORIZATION).iter();
        let spiffe_id = match (shown.next(), shown.next()) {
            (None, _) => peer.spiffe_id.clone(),
            (Some(value), None) => self.bearer(value).await?,
            (Some(_), Some(_)) => return Err(Refused::client("send one Authorization header")),
        };
        spiffe_id.to_string().parse().map_err(|_| Refused::client("the client's SPIFFE ID has no path"))
    }

    async fn bearer(&self, value: &HeaderValue) -> Result<dayfly_client::SpiffeId, Refused> {
        let audience = self.introspector.issuers.url(Use::Access);
        // RFC 9110 §11.1: the scheme's case does not matter.
        let token = value.to_str().ok().and_then(|text| {
            let (scheme, token) = text.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_start())
        });
        let token = token
            .ok_or_else(|| Refused::client("the Authorization header must be Bearer with a JWT-SVID"))?;
        match self.identity.verify_jwt_svid(token, audience, &self.accepted).await {
            Ok(verified) => Ok(verified.spiffe_id),
            Err(failed @ JwtError::NoKeys { .. }) => {
                error!(error = %chain(&failed), "introspection cannot verify JWT-SVIDs");
                Err(Refused::unavailable(
                    "JWT-SVIDs cannot be verified now; use mutual TLS alone, or ask again",
                ))
            }
            Err(failed) => {
                debug!(error = %chain(&failed), "a service showed a JWT-SVID that proves nothing");
                Err(Refused::client(
                    "the bearer token is not a JWT-SVID with the issuer as its sole audience",
                ))
            }
        }
    }
}

/// A question that gets no answer (RFC 6749 §5.2).
struct Refused {
    status: StatusCode,
    error: &'static str,
    description: &'static str,
}

impl Refused {
    fn client(description: &'static str) -> Self {
        Self { status: StatusCode::UNAUTHORIZED, error: "invalid_client", description }
    }

    fn unavailable(description: &'static str) -> Self {
        Self { status: StatusCode::SERVICE_UNAVAILABLE, error: "temporarily_unavailable", description }
    }

    fn from_form(rejection: FormRejection) -> Self {
        let status = match rejection.status() {
            status @ (StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNSUPPORTED_MEDIA_TYPE) => status,
            _ => StatusCode::BAD_REQUEST,
        };
        let description = "send application/x-www-form-urlencoded with one field token, at most 16 KiB";
        Self { status, error: "invalid_request", description }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let body = Json(json!({"error": self.error, "error_description": self.description}));
        let mut response = (self.status, body).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            // RFC 9110 §15.5.2 wants a challenge.
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
