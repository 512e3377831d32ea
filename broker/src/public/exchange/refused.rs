//! Why an exchange is refused, in the words of OAuth (RFC 6749 §5.2, RFC 8693 §2.2.2, RFC 9396 §5) and in ours.

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::FormRejection;
use axum::response::{IntoResponse, Response};
use dayfly_client::{JwtError, chain};
use dayfly_domain::decision::DenyReason;
use dayfly_domain::id::RequestId;
use http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use serde_json::json;
use tonic::Code;

use super::client_auth::ClientError;
use crate::api::status;
use crate::operations::OperationError;
use crate::providers::IssueError;
use crate::store::StoreError;

/// A refusal without its request.
#[derive(Debug)]
pub(super) struct Fault {
    /// The word of OAuth.
    pub error: &'static str,
    /// Our stable code.
    pub reason: &'static str,
    message: String,
    next: String,
    status: StatusCode,
    retry_after: Option<Duration>,
}

impl Fault {
    pub(super) fn new(error: &'static str, reason: &'static str, message: &str, next: &str) -> Self {
        let (message, next) = (message.to_owned(), next.to_owned());
        Self { error, reason, message, next, status: StatusCode::BAD_REQUEST, retry_after: None }
    }

    /// The request itself is at fault. RFC 8693 §2.2.2 counts subject tokens to it.
    pub(super) fn request(reason: &'static str, message: &str, next: &str) -> Self {
        Self::new("invalid_request", reason, message, next)
    }

    /// The form cannot be read.
    pub(super) fn form(message: &str) -> Self {
        Self::request("FORM_INVALID", message, "correct the form; docs/token-exchange.md lists its fields")
    }

    /// No token is given for that service.
    pub(super) fn target(reason: &'static str, message: &str, next: &str) -> Self {
        Self::new("invalid_target", reason, message, next)
    }

    /// The client is not proven.
    pub(super) fn client(reason: &'static str, message: &str, next: &str) -> Self {
        Self { status: StatusCode::UNAUTHORIZED, ..Self::new("invalid_client", reason, message, next) }
    }

    /// Not now.
    pub(super) fn unavailable(reason: &'static str, message: &str, next: &str) -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let retry_after = Some(Duration::from_secs(1));
        Self { status, retry_after, ..Self::new("temporarily_unavailable", reason, message, next) }
    }

    /// The body is no form, or too large.
    pub(super) fn from_rejection(rejection: &FormRejection) -> Self {
        let status = match rejection.status() {
            status @ (StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNSUPPORTED_MEDIA_TYPE) => status,
            _ => StatusCode::BAD_REQUEST,
        };
        Self { status, ..Self::form("the body is not application/x-www-form-urlencoded of at most 16 KiB") }
    }

    /// The answer. `id` is told, so that logs and records of the request are found.
    pub(super) fn answer(self, id: RequestId) -> Response {
        let description = description(&format!("{}: {}; {}", self.reason, self.message, self.next));
        let body = json!({"error": self.error, "error_description": description, "request_id": id});
        let mut response = (self.status, Json(body)).into_response();
        let headers = response.headers_mut();
        if self.status == StatusCode::UNAUTHORIZED {
            // RFC 9110 §15.5.2 wants a challenge. The ways there are have no scheme of their own.
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("svid"));
        }
        if let Some(wait) = self.retry_after {
            // Whole seconds, never too few.
            headers
                .insert(RETRY_AFTER, HeaderValue::from(wait.as_secs() + u64::from(wait.subsec_nanos() > 0)));
        }
        response
    }
}

/// RFC 6749 §5.2: printable ASCII without quotation mark and backslash.
fn description(text: &str) -> String {
    const LONGEST: usize = 1024;
    let plain = |letter: char| match letter {
        '"' | '\\' => '\'',
        ' '..='~' => letter,
        _ => '?',
    };
    text.chars().take(LONGEST).map(plain).collect()
}

/// Why the client is not known.
pub(super) fn of_client(error: ClientError, id: RequestId) -> Fault {
    tracing::info!(request_id = %id, error = chain(&error), "a client was not proven");
    let message = error.to_string();
    match error {
        ClientError::Nobody => Fault::client(
            "CLIENT_UNPROVEN",
            &message,
            "connect with an X.509-SVID, or send a JWT-SVID as client_assertion; no Authorization header",
        ),
        ClientError::PeerExpired => Fault::client("PEER_EXPIRED", &message, "connect anew with a fresh SVID"),
        ClientError::Assertion(JwtError::NoKeys { .. }) => no_bundles(),
        ClientError::Assertion(_) => Fault::client(
            "CLIENT_ASSERTION_INVALID",
            &message,
            "fetch a JWT-SVID whose sole audience is the issuer of the discovery document",
        ),
        ClientError::Stale => Fault::client("CLIENT_ASSERTION_STALE", &message, "fetch a fresh JWT-SVID"),
        ClientError::Replayed(_) => Fault::client(
            "CLIENT_ASSERTION_REPLAYED",
            &message,
            "fetch a new JWT-SVID for each request, or connect with an X.509-SVID",
        ),
        ClientError::Differ(..) => Fault::client(
            "CLIENTS_DIFFER",
            &message,
            "let certificate, client_assertion and client_id name one SPIFFE ID, or leave some out",
        ),
        ClientError::NoStage(_) => Fault::new(
            "unauthorized_client",
            "IDENTITY_UNKNOWN",
            &message,
            "ask the platform team to add your SPIFFE ID to a Stage document",
        ),
        ClientError::Store(error) => of(OperationError::Store(error), false, id),
    }
}

pub(super) fn no_bundles() -> Fault {
    Fault::unavailable("NO_BUNDLES", "the broker has no trust bundles now", "ask again in a moment")
}

/// Whatever is wrong with a subject token answers alike: not its audience, not its lease, not whose it is.
pub(super) fn of_subject() -> Fault {
    Fault::request(
        "SUBJECT_TOKEN_INVALID",
        "the subject token is not the client's own JWT-SVID for this issuer, or not an access token that is good now \
         and for this client alone",
        "fetch a fresh one, or have yourself given a token with your SPIFFE ID as its audience",
    )
}

/// Why the exchange itself came to nothing. `by_details`: how the scope was asked for.
pub(super) fn of(error: OperationError, by_details: bool, id: RequestId) -> Fault {
    let word = word(&error, by_details);
    let told = status::refusal(error, id);
    // What OAuth has no word of its own for goes by the status that gRPC callers get.
    let (error, http) = match (word, told.code) {
        (Some(error @ "invalid_client"), _) => (error, StatusCode::UNAUTHORIZED),
        (Some(error), _) => (error, StatusCode::BAD_REQUEST),
        (None, Code::ResourceExhausted) => ("temporarily_unavailable", StatusCode::TOO_MANY_REQUESTS),
        (None, Code::Unavailable | Code::Aborted) => {
            ("temporarily_unavailable", StatusCode::SERVICE_UNAVAILABLE)
        }
        (None, Code::Internal) => ("server_error", StatusCode::INTERNAL_SERVER_ERROR),
        (None, _) => ("invalid_request", StatusCode::BAD_REQUEST),
    };
    let fault = Fault::new(error, told.reason, &told.message, &told.next);
    Fault { status: http, retry_after: told.retry_after, ..fault }
}

fn word(error: &OperationError, by_details: bool) -> Option<&'static str> {
    match error {
        OperationError::Denied(denial) => of_denial(denial.reason, by_details),
        OperationError::Invalid { .. }
        | OperationError::Provider(IssueError::Refuse { .. } | IssueError::Misconfigured { .. }) => {
            Some("invalid_target")
        }
        OperationError::Store(StoreError::TaskNotOpen) => Some("invalid_grant"),
        OperationError::Caller(_) => Some("invalid_client"),
        _ => None,
    }
}

fn of_denial(reason: DenyReason, by_details: bool) -> Option<&'static str> {
    match reason {
        DenyReason::ProofExpired => Some("invalid_client"),
        DenyReason::IdentityUnknown
        | DenyReason::StageHoldsNoScopes
        | DenyReason::ViaNotAllowed
        | DenyReason::RootNotAllowed
        | DenyReason::AnchorTooWeak => Some("unauthorized_client"),
        DenyReason::TaskNotOpen => Some("invalid_grant"),
        DenyReason::ParameterInvalid if by_details => Some("invalid_authorization_details"),
        // The scope, or these values of it, are not for this client now.
        _ => Some("invalid_scope"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_is_what_oauth_lets_it_be() {
        let told = description("no scope \"a\\b\" is granted\n\u{e9} …");
        assert_eq!(told, "no scope 'a'b' is granted?? ?");
        assert_eq!(description(&"x".repeat(5_000)).len(), 1024);
    }
}
