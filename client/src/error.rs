//! How a refusal travels: broker and agent build it as a [`Refusal`], every caller reads it as a [`CallError`].
//!
//! On the wire it is a gRPC status whose details hold a `google.rpc.ErrorInfo` (domain `dayfly`, a stable reason, and
//! the metadata `next` and `request_id`) and, where waiting helps, a `google.rpc.RetryInfo` and the same as `retry-after`
//! among the headers.

use std::{
    collections::HashMap,
    error::Error,
    fmt::{self, Display, Formatter, Write as _},
    time::Duration,
};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// The `domain` of every `ErrorInfo` of ours.
pub const DOMAIN: &str = "dayfly";

const NEXT: &str = "next";
const REQUEST_ID: &str = "request_id";
/// For proxies and meshes, which read no details: whole seconds, as HTTP has it (RFC 9110 §10.2.3).
const RETRY_AFTER: &str = "retry-after";

/// A status travels in HTTP/2 headers, of which a peer takes 16 KiB by default; the text is sent twice, once encoded
/// as percent triples and once as base64. Longer text is cut.
const MAX_MESSAGE: usize = 2048;
const MAX_NEXT: usize = 1024;

/// Why a call was refused, as broker and agent say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The gRPC status code.
    pub code: Code,
    /// Stable reason for programs, `[A-Z0-9_]{1,63}` (google.rpc.ErrorInfo), for example `NOT_COVERED`.
    pub reason: &'static str,
    /// What failed, for a person. No secret belongs here.
    pub message: String,
    /// What the caller can do about it.
    pub next: String,
    /// The id under which logs and audit tell the same call.
    pub request_id: String,
    /// How long to wait before asking again, where waiting can help.
    pub retry_after: Option<Duration>,
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        debug_assert!(is_reason(refusal.reason), "not a reason: {}", refusal.reason);
        let metadata = HashMap::from([
            (NEXT.to_owned(), cut(&refusal.next, MAX_NEXT).to_owned()),
            (REQUEST_ID.to_owned(), refusal.request_id),
        ]);
        let mut details = ErrorDetails::with_error_info(refusal.reason, DOMAIN, metadata);
        if let Some(wait) = refusal.retry_after {
            details.set_retry_info(Some(wait));
        }
        let mut status =
            Status::with_error_details(refusal.code, cut(&refusal.message, MAX_MESSAGE), details);
        if let Some(wait) = refusal.retry_after {
            status.metadata_mut().insert(RETRY_AFTER, whole_seconds(wait).into());
        }
        status
    }
}

/// Why a call failed, as its caller sees it: a refusal by broker or agent, or no answer at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallError {
    /// The gRPC status code.
    pub code: Code,
    /// The stable reason; `None` where the answer did not come from broker or agent (no connection, a proxy).
    pub reason: Option<String>,
    /// What failed. Control characters are replaced, so that it can be shown on a terminal.
    pub message: String,
    /// What to do next, in the answerer's words.
    pub next: Option<String>,
    /// The id under which logs and audit of the answerer tell this call.
    pub request_id: Option<String>,
    /// How long to wait before asking again, where waiting can help.
    pub retry_after: Option<Duration>,
}

impl CallError {
    /// Whether broker or agent gave this answer. If not, nothing is known of what became of the call.
    pub fn is_refusal(&self) -> bool {
        self.reason.is_some()
    }

    /// Whether the same call can succeed later without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        self.retry_after.is_some() || self.code == Code::Unavailable
    }
}

impl From<Status> for CallError {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let retry_after = details.retry_info().and_then(|info| info.retry_delay);
        let ours = details.error_info().filter(|info| info.domain == DOMAIN);
        let said = |key: &str| ours.and_then(|info| info.metadata.get(key)).filter(|text| !text.is_empty());
        CallError {
            code: status.code(),
            reason: ours.map(|info| printable(&info.reason)),
            // Without details it is our own transport that speaks, and the cause lies in the chain.
            message: printable(&if ours.is_some() {
                status.message().to_owned()
            } else {
                unanswered(&status)
            }),
            next: said(NEXT).map(|text| printable(text)),
            request_id: said(REQUEST_ID).map(|text| printable(text)),
            retry_after,
        }
    }
}

impl Display for CallError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(next) = &self.next {
            write!(f, "; next: {next}")?;
        }
        if let Some(wait) = self.retry_after {
            write!(f, "; retry after {wait:?}")?;
        }
        match (&self.reason, &self.request_id) {
            (Some(reason), Some(id)) => write!(f, " ({reason}, request {id})"),
            (Some(reason), None) => write!(f, " ({reason})"),
            (None, Some(id)) => write!(f, " (request {id})"),
            (None, None) => Ok(()),
        }
    }
}

impl Error for CallError {}

/// Never sooner than was said.
pub fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

/// An error and its causes on one line, each cause once: for the edge of a program.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let text = next.to_string();
        // Libraries repeat their cause in their own text.
        if !line.ends_with(&text) {
            let _ = write!(line, ": {text}");
        }
        cause = next.source();
    }
    line
}

fn unanswered(status: &Status) -> String {
    match (status.message().is_empty(), status.source()) {
        (true, None) => format!("the call failed with {:?} and no message", status.code()),
        (true, Some(cause)) => chain(cause),
        (false, None) => status.message().to_owned(),
        (false, Some(cause)) => {
            let causes = chain(cause);
            if causes.contains(status.message()) { causes } else { format!("{}: {causes}", status.message()) }
        }
    }
}

/// What came over the wire may hold what a workload claimed; on a terminal an escape sequence would act.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

fn cut(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

fn is_reason(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal() -> Refusal {
        Refusal {
            code: Code::PermissionDenied,
            reason: "NOT_COVERED",
            message: "no binding covers s3-train-read(dataset=corpus-7)".into(),
            next: "ask the platform team for a binding".into(),
            request_id: "01JZX0".into(),
            retry_after: None,
        }
    }

    /// Through the header form and back, as over the wire.
    fn travel(refusal: Refusal) -> CallError {
        let headers = Status::from(refusal).into_http::<()>().headers().clone();
        CallError::from(Status::from_header_map(&headers).expect("a status was written one line up"))
    }

    #[test]
    fn a_refusal_arrives_whole() {
        let wait = Some(Duration::from_millis(1500));
        let arrived = travel(Refusal { retry_after: wait, ..refusal() });
        assert_eq!(arrived.code, Code::PermissionDenied);
        assert_eq!(arrived.reason.as_deref(), Some("NOT_COVERED"));
        assert_eq!(arrived.message, "no binding covers s3-train-read(dataset=corpus-7)");
        assert_eq!(arrived.next.as_deref(), Some("ask the platform team for a binding"));
        assert_eq!(arrived.request_id.as_deref(), Some("01JZX0"));
        assert_eq!(arrived.retry_after, wait);
        let headers = Status::from(Refusal { retry_after: wait, ..refusal() }).into_http::<()>();
        assert_eq!(headers.headers()["retry-after"], "2", "whole seconds, never sooner");
        assert!(arrived.is_refusal() && arrived.is_transient());
    }

    #[test]
    fn a_call_error_shows_message_next_step_and_request_id() {
        assert_eq!(
            travel(refusal()).to_string(),
            "no binding covers s3-train-read(dataset=corpus-7); next: ask the platform team for a binding \
             (NOT_COVERED, request 01JZX0)"
        );
        assert!(!travel(refusal()).is_transient());
    }

    #[test]
    fn a_foreign_status_is_no_refusal_of_ours() {
        let details = ErrorDetails::with_error_info("NOT_COVERED", "proxy.example", HashMap::new());
        let foreign = CallError::from(Status::with_error_details(Code::Unavailable, "try later", details));
        assert!(!foreign.is_refusal());
        assert_eq!(foreign.to_string(), "try later");
        assert!(CallError::from(Status::new(Code::Internal, "")).to_string().contains("Internal"));
    }

    #[test]
    fn control_characters_do_not_reach_a_terminal() {
        let arrived = travel(Refusal { message: "scope \u{1b}[2Jx\u{9b}y".into(), ..refusal() });
        assert_eq!(arrived.message, "scope \u{fffd}[2Jx\u{fffd}y");
    }

    #[test]
    fn long_text_is_cut_so_that_the_status_still_fits_in_headers() {
        let long = "ä".repeat(10_000);
        let response =
            Status::from(Refusal { message: long.clone(), next: long, ..refusal() }).into_http::<()>();
        let bytes: usize =
            response.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        assert!(bytes < 16 * 1024, "{bytes}");
    }
}
