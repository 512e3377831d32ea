//! Answers and refusals, as the query protocol and S3 write them.

use axum::body::Body;
use axum::response::Response;
use http::StatusCode;
use rand::Rng;

use crate::policy::PolicyError;
use crate::wire::escape;

/// A refusal with AWS's own code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) code: &'static str,
    pub(crate) message: String,
}

/// The code of what the fake does not know. No AWS service uses it, so no client takes it for an answer.
pub(crate) const NOT_KNOWN: &str = "FakeCloudDoesNotKnow";

impl Refusal {
    pub(crate) fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    /// Something that AWS has and the fake has not: kept, and told when the cloud is dropped.
    pub(crate) fn not_known(what: impl std::fmt::Display) -> Self {
        Self::new(501, NOT_KNOWN, format!("the fake cloud does not know {what}"))
    }

    pub(crate) fn validation(message: impl Into<String>) -> Self {
        Self::new(400, "ValidationError", message)
    }

    /// A policy that cannot be used.
    pub(crate) fn policy(error: PolicyError) -> Self {
        match error {
            PolicyError::Malformed(what) => Self::new(400, "MalformedPolicyDocument", what),
            PolicyError::Unknown(what) => Self::not_known(what),
        }
    }
}

/// The services, each with its own way to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    Sts,
    Iam,
    S3,
}

impl Service {
    /// As a signature's scope and an action's prefix name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Service::Sts => "sts",
            Service::Iam => "iam",
            Service::S3 => "s3",
        }
    }

    fn namespace(self) -> &'static str {
        match self {
            Service::Sts => "https://sts.amazonaws.com/doc/2011-06-15/",
            Service::Iam => "https://iam.amazonaws.com/doc/2010-05-08/",
            Service::S3 => "http://s3.amazonaws.com/doc/2006-03-01/",
        }
    }

    /// The answer to a query: `result` is XML.
    pub(crate) fn answer(self, action: &str, result: &str) -> Response {
        let (id, namespace) = (request_id(), self.namespace());
        let result = match result {
            "" => String::new(),
            some => format!("<{action}Result>{some}</{action}Result>"),
        };
        xml(
            200,
            &id,
            format!(
                "<{action}Response xmlns=\"{namespace}\">{result}<ResponseMetadata><RequestId>{id}</RequestId></ResponseMetadata></{action}Response>"
            ),
        )
    }

    /// A refusal.
    pub(crate) fn refuse(self, refusal: &Refusal) -> Response {
        let (id, code, message) = (request_id(), refusal.code, escape(&refusal.message));
        let side = if refusal.status < 500 { "Sender" } else { "Receiver" };
        let body = match self {
            Service::S3 => format!(
                "<Error><Code>{code}</Code><Message>{message}</Message><RequestId>{id}</RequestId></Error>"
            ),
            Service::Sts | Service::Iam => format!(
                "<ErrorResponse xmlns=\"{}\"><Error><Type>{side}</Type><Code>{code}</Code><Message>{message}</Message></Error><RequestId>{id}</RequestId></ErrorResponse>",
                self.namespace()
            ),
        };
        xml(refusal.status, &id, body)
    }

    /// "Rate exceeded", as this service says it.
    pub(crate) fn throttled(self) -> Refusal {
        match self {
            Service::Sts | Service::Iam => Refusal::new(400, "Throttling", "Rate exceeded"),
            Service::S3 => Refusal::new(503, "SlowDown", "Please reduce your request rate."),
        }
    }
}

/// An XML document.
pub(crate) fn xml(status: u16, id: &str, body: String) -> Response {
    Response::builder()
        .status(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR))
        .header("content-type", "text/xml")
        .header("x-amzn-requestid", id)
        .body(Body::from(body))
        .expect("fixed headers")
}

/// A new request id, in the shape of a UUID.
pub(crate) fn request_id() -> String {
    let id: u128 = rand::rng().random();
    let hex = format!("{id:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}
