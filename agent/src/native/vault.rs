//! An address that speaks Vault: it swaps the task's placeholder for the task's Vault token.
//!
//! The program never holds the token, so nothing may hand it out either: not `auth/token/lookup-self`, not a wrapping
//! token, not an answer with the token in it. What Vault leases to the task's token is noted and told to the broker.

use std::sync::Arc;

use dayfly_proto::v1::LeaseSeen;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderName, LOCATION, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Bytes};
use serde::Deserialize;
use subtle::ConstantTimeEq;
use tracing::{debug, info, warn};
use zeroize::Zeroizing;

use super::path::{self, PathError};
use super::server::Answers;
use super::upstream::{Answer, Upstream, UpstreamError};
use super::{Door, DoorError, Ends, guard, retry_after};
use crate::credentials::{Credential, Lease, Provider};
use crate::deliver::{DeliverError, Deliverer};
use crate::metrics::Metrics;
use crate::task::Task;
use crate::tasks::Tasks;

/// Vault's own limit is 32 MiB; what a task writes into a secret is far smaller.
const LONGEST_REQUEST: usize = 4 * 1024 * 1024;

const TOKEN: &str = "x-vault-token";
const REQUEST: &str = "x-vault-request";

/// What is sent on besides the token. Everything else stays here.
const SENT_ON: [&str; 5] = [
    "x-vault-request",
    "x-vault-index",
    "x-vault-inconsistent",
    "x-vault-forward",
    "x-vault-no-request-forwarding",
];

/// The endpoint.
#[derive(Debug)]
pub struct Vault {
    /// `127.0.0.1:port`, as clients must name it.
    pub host: String,
    /// Who may come in.
    pub door: Door,
    /// Where tokens come from.
    pub deliverer: Arc<Deliverer>,
    /// Where leases that were seen are noted.
    pub tasks: Arc<Tasks>,
    /// The way to Vault.
    pub upstream: Upstream,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

#[derive(Debug, thiserror::Error)]
enum VaultError {
    #[error(transparent)]
    Door(#[from] DoorError),
    #[error(transparent)]
    Path(#[from] PathError),
    #[error(transparent)]
    Deliver(#[from] DeliverError),
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    #[error("the request could not be read, or is longer than {LONGEST_REQUEST} bytes")]
    Request,
    #[error("the process has exited")]
    Gone,
    #[error("Vault's answer holds the token that is not for the program; it was not passed on")]
    TokenInAnswer,
    #[error("Vault answers in an encoding that was not asked for; it was not passed on")]
    Encoded,
    #[error(
        "this Vault sends its clients elsewhere; let native.vault_address name the active node or allow request forwarding"
    )]
    Redirect,
}

impl VaultError {
    fn metric(&self) -> &'static str {
        match self {
            Self::Door(error) => error.metric(),
            Self::Path(_) => "path",
            Self::Deliver(_) => "not_delivered",
            Self::Upstream(_) | Self::Redirect | Self::Encoded => "vault",
            Self::Request => "request",
            Self::Gone => "gone",
            Self::TokenInAnswer => "token_in_answer",
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Deliver(error) if error.too_much().is_some() => StatusCode::TOO_MANY_REQUESTS,
            Self::Deliver(error) if error.is_transient() => StatusCode::SERVICE_UNAVAILABLE,
            Self::Upstream(_) | Self::TokenInAnswer | Self::Encoded | Self::Redirect => {
                StatusCode::BAD_GATEWAY
            }
            Self::Request => StatusCode::BAD_REQUEST,
            _ => StatusCode::FORBIDDEN,
        }
    }
}

impl Answers for Vault {
    async fn answer(&self, request: Request<hyper::body::Incoming>, ends: Ends) -> Response<Full<Bytes>> {
        let (outcome, response) = match self.pass(request, ends).await {
            Ok(answer) => ("served", answer.map(Full::new)),
            Err(error) => {
                info!(client = %ends.client, error = %dayfly_client::chain(&error), "vault request refused");
                (error.metric(), refused(&error))
            }
        };
        Metrics::count_at(&self.metrics.native_requests, "vault", outcome);
        response
    }
}

impl Vault {
    async fn pass<B>(&self, request: Request<B>, ends: Ends) -> Result<Answer, VaultError>
    where
        B: Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let placeholder = check(&request, &self.host).map_err(DoorError::Header)?;
        let visitor = self.door.admit(Provider::Vault, placeholder, ends).await?;
        // Only now: an outsider learns nothing of what is refused here.
        let path = path::normalise(request.uri().path())?;
        let lease = self.deliverer.obtain(&visitor.task, Provider::Vault, &visitor.process).await?;
        let Credential::Vault { token, address } = &*lease.credential else {
            return Err(DeliverError::Malformed("vault").into());
        };
        let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
        let uri = self.upstream.uri(address, &format!("{path}{query}"))?;
        let onward = onward(request, uri, token).await?;
        // Reading the body may have taken long.
        visitor.process.must_be_alive().map_err(|_| VaultError::Gone)?;
        if !visitor.task.is_open() {
            return Err(DeliverError::Ended.into());
        }
        let answer = self.upstream.ask(onward).await?;
        self.note_lease(&visitor.task, &lease, answer.body());
        let answer = back(answer, token)?;
        visitor.process.must_be_alive().map_err(|_| VaultError::Gone)?;
        debug!(task_id = %visitor.task.id, lease_id = %lease.id, %path, status = %answer.status(), "vault request served");
        Ok(answer)
    }

    /// Vault's answers to reads of dynamic secrets name the lease at the top.
    fn note_lease(&self, task: &Task, lease: &Lease, body: &[u8]) {
        #[derive(Deserialize)]
        struct Leased {
            lease_id: String,
        }
        let Ok(Leased { lease_id }) = serde_json::from_slice(body) else { return };
        if lease_id.is_empty() || !task.is_open() {
            return;
        }
        info!(task_id = %task.id, lease_id = %lease.id, target_lease_id = %lease_id, "vault leased a secret");
        let (task_id, ours) = (task.id.clone(), lease.id.clone());
        self.tasks.outbox.lease_seen(LeaseSeen { task_id, lease_id: ours, target_lease_id: lease_id });
    }
}

/// The placeholder of a request that looks as a Vault client's does.
fn check<'a, B>(request: &'a Request<B>, host: &str) -> Result<&'a [u8], &'static str> {
    let methods = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::HEAD];
    if !methods.contains(request.method()) && request.method().as_str() != "LIST" {
        return Err("this method is not passed on");
    }
    if request.uri().authority().is_some() {
        return Err("this is no proxy");
    }
    let headers = request.headers();
    guard::check(headers, host)?;
    // Vault's own guard against requests that somebody was talked into: a fetcher of URLs sends no such header.
    if guard::only(headers, REQUEST)? != b"true" {
        return Err("X-Vault-Request must be true");
    }
    for name in headers.keys() {
        if name.as_str().starts_with("x-vault-wrap-") {
            return Err("wrapping is not passed on: a wrapped answer would outlive the task");
        }
        if name == "x-vault-namespace" {
            return Err("the namespace is the scope's, not the program's");
        }
    }
    guard::only(headers, TOKEN)
}

async fn onward<B>(
    request: Request<B>,
    uri: http::Uri,
    token: &str,
) -> Result<Request<Full<Bytes>>, VaultError>
where
    B: Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (head, body) = request.into_parts();
    let body =
        Limited::new(body, LONGEST_REQUEST).collect().await.map_err(|_| VaultError::Request)?.to_bytes();
    let mut onward = Request::new(Full::new(body));
    *onward.method_mut() = head.method;
    *onward.uri_mut() = uri;
    let sent_on = SENT_ON.iter().map(|name| HeaderName::from_static(name));
    for name in sent_on.chain([ACCEPT, CONTENT_TYPE, USER_AGENT]) {
        if let Some(value) = head.headers.get(&name) {
            onward.headers_mut().insert(name, value.clone());
        }
    }
    let mut value = HeaderValue::from_str(token).map_err(|_| DeliverError::Malformed("vault"))?;
    value.set_sensitive(true);
    onward.headers_mut().insert(HeaderName::from_static(TOKEN), value);
    Ok(onward)
}

/// What of Vault's answer goes to the program.
fn back(answer: Answer, token: &str) -> Result<Answer, VaultError> {
    let (head, body) = answer.into_parts();
    if head.status.is_redirection() || head.headers.contains_key(LOCATION) {
        return Err(VaultError::Redirect);
    }
    if head.headers.contains_key(http::header::CONTENT_ENCODING) {
        return Err(VaultError::Encoded);
    }
    let in_headers = head.headers.values().any(|value| holds(value.as_bytes(), token.as_bytes()));
    if in_headers || holds(&body, token.as_bytes()) {
        warn!("vault answered with the token itself; the answer was held back");
        return Err(VaultError::TokenInAnswer);
    }
    let mut headers = HeaderMap::new();
    for (name, value) in &head.headers {
        let is_vaults = name.as_str().starts_with("x-vault-") || name == http::header::WARNING;
        if is_vaults || name == CONTENT_TYPE || name == http::header::CACHE_CONTROL {
            headers.append(name, value.clone());
        }
    }
    let mut answer = Response::new(body);
    *answer.status_mut() = head.status;
    *answer.headers_mut() = headers;
    Ok(answer)
}

fn holds(haystack: &[u8], needle: &[u8]) -> bool {
    !needle.is_empty() && haystack.windows(needle.len()).any(|part| part.ct_eq(needle).into())
}

/// Vault's shape of an error.
fn refused(error: &VaultError) -> Response<Full<Bytes>> {
    let text = match error {
        VaultError::Door(DoorError::UnknownBearer | DoorError::NotAMember(_)) => "not for you".to_owned(),
        error => dayfly_client::chain(error),
    };
    let body = Zeroizing::new(serde_json::json!({ "errors": [format!("dayfly-agent: {text}")] }).to_string());
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(body.as_bytes())));
    *response.status_mut() = error.status();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let VaultError::Deliver(error) = error
        && let Some(wait) = retry_after(error)
    {
        response.headers_mut().insert(RETRY_AFTER, wait);
    }
    response
}

#[cfg(test)]
mod tests;
