//! The token endpoint over HTTP. Clients may show an X.509-SVID in the handshake; those that do not prove themselves by
//! the form.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::FormRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Form as FormBody, Json, Router};
use dayfly_client::{
    Identity, Incoming, IncomingLimits, JwtError, OptionalTls, Peer, Speaks, SpiffeIo, TlsError, TrustDomain,
    chain,
};
use dayfly_domain::caller::Caller;
use dayfly_domain::id::RequestId;
use dayfly_domain::secret::Secret;
use http::header::{AUTHORIZATION, CACHE_CONTROL, PRAGMA};
use http::{HeaderMap, HeaderValue};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::client_auth::{ClientError, Clients, Shown};
use super::details;
use super::form::{ACCESS_TOKEN, Form, Subject};
use super::refused::{self, Fault};
use crate::caller::Bundles;
use crate::operations::exchange::{Exchange, Given, exchange};
use crate::operations::{Broker, OperationError, Request};
use crate::public::Introspector;
use crate::public::serve::{self, ServeLimits};

/// Where the endpoint is.
pub(super) const PATH: &str = "/token";
/// Largest request, in bytes: a JWT-SVID, an access token and a scope with its parameters fit.
const MAX_BODY: usize = 16 * 1024;
/// Strangers may knock here.
const LIMITS: ServeLimits = ServeLimits { connections: 1024, connection_life: Duration::from_secs(3600) };

/// What a token endpoint works with.
pub struct TokenEndpoint {
    /// The broker.
    pub broker: Arc<Broker>,
    /// What knows a good access token of ours.
    pub introspector: Introspector,
    /// The issuer of access tokens: the sole audience of every JWT-SVID that comes here.
    pub issuer: String,
}

/// Serves `POST /token` until stopped.
///
/// # Errors
/// The broker has no certificate now, or no trust domain is accepted.
pub async fn serve(
    endpoint: TokenEndpoint,
    identity: Identity,
    accepted: Vec<TrustDomain>,
    listener: TcpListener,
    stop: CancellationToken,
) -> Result<(), TlsError> {
    let tls = OptionalTls::new(&identity, &accepted, Speaks::Http1Or2)?;
    let connections = Incoming::with_optional(listener, tls, IncomingLimits::default());
    let peer = |io: &SpiffeIo<Option<Arc<Peer>>>| io.peer().clone();
    let TokenEndpoint { broker, introspector, issuer } = endpoint;
    let clients = Clients {
        verifier: Arc::new(Bundles { identity, accepted }),
        store: Arc::clone(&broker.store),
        issuer,
        subject_token_age: broker.limits.subject_token_age,
    };
    let desk = Arc::new(Desk { broker, introspector, clients });
    serve::serve(connections, peer, router(desk), LIMITS, stop).await;
    Ok(())
}

/// Where a request arrives.
struct Desk {
    broker: Arc<Broker>,
    introspector: Introspector,
    clients: Clients,
}

fn router(desk: Arc<Desk>) -> Router {
    Router::new()
        .route(PATH, post(token))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(axum::middleware::map_response(no_store))
        .with_state(desk)
}

/// RFC 6749 §5.1.
async fn no_store(mut response: Response) -> Response {
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.headers_mut().insert(PRAGMA, HeaderValue::from_static("no-cache"));
    response
}

async fn token(
    State(desk): State<Arc<Desk>>,
    peer: Option<Extension<Arc<Peer>>>,
    headers: HeaderMap,
    body: Result<FormBody<Vec<(String, String)>>, FormRejection>,
) -> Response {
    let id = RequestId::new(desk.broker.clock.now(), rand::random());
    let peer = peer.as_ref().map(|Extension(peer)| peer.as_ref());
    match desk.answer(id, peer, &headers, body).await {
        Ok(answer) => {
            desk.broker.metrics.token_exchange("given");
            Json(answer).into_response()
        }
        Err(fault) => {
            tracing::debug!(request_id = %id, error = fault.error, reason = fault.reason, "no token was given");
            desk.broker.metrics.token_exchange(fault.error);
            fault.answer(id)
        }
    }
}

impl Desk {
    async fn answer(
        &self,
        id: RequestId,
        peer: Option<&Peer>,
        headers: &HeaderMap,
        body: Result<FormBody<Vec<(String, String)>>, FormRejection>,
    ) -> Result<Value, Fault> {
        let FormBody(fields) = body.map_err(|rejection| Fault::from_rejection(&rejection))?;
        if headers.contains_key(AUTHORIZATION) {
            // RFC 6749 §2.3: one way of authentication, and this one is none of ours.
            return Err(refused::of_client(ClientError::Nobody, id));
        }
        let form = Form::read(fields)?;
        let now = self.broker.clock.now();
        let rules = self.broker.rules.load_full();
        let assertion = form.assertion.as_ref();
        let shown = Shown { peer, assertion, client_id: form.client_id.as_deref() };
        let caller = self.clients.prove(&rules, shown, now).await;
        let caller = caller.map_err(|error| refused::of_client(error, id))?;
        let on_behalf_of = match &form.subject {
            Subject::Own(token) => {
                let own = self.clients.is_own(&caller, assertion, token, now).await;
                self.must_be_own(own, id)?;
                None
            }
            Subject::Given(token) => Some(self.given(&caller, token, id).await?),
        };
        let asked = Exchange { ask: form.ask.clone(), audience: form.audience, on_behalf_of };
        let request = Request { id, caller, at: now };
        let given = exchange(&self.broker, request, asked).await;
        let given = given.map_err(|error| refused::of(error, form.by_details, id))?;
        // RFC 8693 §2.2.1.
        let left = self.broker.clock.now().until(given.expires_at);
        let mut answer = json!({
            "access_token": given.access_token.expose(),
            "issued_token_type": ACCESS_TOKEN,
            "token_type": "Bearer",
            "expires_in": left.as_seconds(),
            "scope": form.ask.scope,
        });
        if form.by_details {
            answer["authorization_details"] = details::shown(&form.ask);
        }
        Ok(answer)
    }

    fn must_be_own(&self, own: Result<bool, JwtError>, id: RequestId) -> Result<(), Fault> {
        match own {
            Ok(true) => Ok(()),
            Ok(false) => Err(refused::of_subject()),
            Err(error) => {
                tracing::info!(request_id = %id, error = chain(&error), "a subject token proves nothing");
                match error {
                    JwtError::NoKeys { .. } => Err(refused::no_bundles()),
                    _ => Err(refused::of_subject()),
                }
            }
        }
    }

    /// An access token that is good now, and for the client alone: somebody gave it to the client.
    async fn given(&self, caller: &Caller, token: &Secret, id: RequestId) -> Result<Given, Fault> {
        let live = self.introspector.live(&caller.spiffe_id, token.expose()).await;
        let live = live.map_err(|error| refused::of(OperationError::Store(error), false, id))?;
        let (claims, lease) = live.ok_or_else(refused::of_subject)?;
        if claims.aud != caller.spiffe_id.as_str() {
            return Err(refused::of_subject());
        }
        Ok(Given { lease: lease.id, task: lease.task, by: lease.spiffe_id })
    }
}
