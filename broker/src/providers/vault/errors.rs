//! What a failed call to Vault means: was it never heard, refused, or is its outcome unknown?

use thiserror::Error;

use super::super::{BoxError, IssueError, RevokeError};
use super::NAME;

/// Why a call yielded no answer to work with. Holds no request, no token and no body.
#[derive(Debug, Error)]
pub(super) enum CallError {
    /// There was no login to make the call with.
    #[error("could not log in with the role {role}")]
    NoLogin {
        /// Role at the jwt auth method.
        role: String,
        #[source]
        source: BoxError,
    },
    /// The request was never written: name, connection or TLS failed before.
    #[error("could not connect")]
    Unsent(#[source] BoxError),
    /// It was written, and no whole answer came.
    #[error("no whole answer came")]
    Unanswered(#[source] BoxError),
    /// Vault said no, in these words.
    #[error("status {status}: {}", .errors.join("; "))]
    Said { status: u16, errors: Vec<String> },
    /// Vault said yes and something else than was expected.
    #[error("the answer could not be read: {0}")]
    Unreadable(&'static str),
}

impl CallError {
    /// Whether Vault's own words contain this.
    pub(super) fn says(&self, text: &str) -> bool {
        matches!(self, CallError::Said { errors, .. } if errors.iter().any(|error| error.contains(text)))
    }

    /// Whether Vault refused the token that the call was made with, or what it may do.
    pub(super) fn is_forbidden(&self) -> bool {
        matches!(self, CallError::Said { status: 403, .. })
    }

    /// Whether the target did nothing.
    pub(super) fn never_heard(&self) -> bool {
        self.outcome() == Outcome::NeverHeard
    }

    /// Where the call left the target.
    fn outcome(&self) -> Outcome {
        match self {
            CallError::NoLogin { .. } | CallError::Unsent(_) => Outcome::NeverHeard,
            CallError::Unanswered(_) | CallError::Unreadable(_) => Outcome::Unknown,
            CallError::Said { status, .. } => match status {
                // A redirect is a standby's way to say that it did nothing. It is not followed: the token would go with it.
                300..=399 => Outcome::NeverHeard,
                // Standby nodes, by their health codes.
                472 | 473 => Outcome::NeverHeard,
                429 if self.says("rate limit quota exceeded") => Outcome::NeverHeard,
                503 if NOT_ACTED.iter().any(|words| self.says(words)) => Outcome::NeverHeard,
                // Also Vault's 429 for lease counts, and whatever a proxy in between may say.
                408 | 429 | 500.. => Outcome::Unknown,
                _ => Outcome::Refused,
            },
        }
    }

    /// As the error of a call that creates or lengthens.
    pub(super) fn of_issue(self, asked: &str) -> IssueError {
        let what = format!("{asked}: {self}");
        let outcome = self.outcome();
        let source = self.into_source();
        match outcome {
            Outcome::NeverHeard => IssueError::Unreach { provider: NAME, what, source },
            Outcome::Refused => IssueError::Refuse { provider: NAME, what, source },
            Outcome::Unknown => IssueError::Unresolved { provider: NAME, what, source },
        }
    }

    /// As the error of a call that takes back: whatever it was, it is tried again.
    pub(super) fn of_revoke(self, asked: &str) -> RevokeError {
        let what = format!("{asked}: {self}");
        RevokeError { provider: NAME, what, source: self.into_source() }
    }

    pub(super) fn into_source(self) -> Option<BoxError> {
        match self {
            CallError::NoLogin { source, .. } | CallError::Unsent(source) | CallError::Unanswered(source) => {
                Some(source)
            }
            CallError::Said { .. } | CallError::Unreadable(_) => None,
        }
    }
}

/// What a failed call left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    NeverHeard,
    Refused,
    Unknown,
}

/// Vault 1.19, `sdk/helper/consts/error.go` and `http/handler.go`: said before the request is looked at.
const NOT_ACTED: [&str; 6] = [
    "Vault is sealed",
    "Vault is in standby mode",
    "node is not active",
    "no active Vault instance found",
    "API access to this namespace has been locked",
    "overloaded, try again later",
];

/// Longest text of Vault's that is passed on.
const LONGEST: usize = 400;

/// Vault's own words from an error body (`{"errors": […]}`), on one line and cut short.
pub(super) fn words(body: &[u8]) -> Vec<String> {
    #[derive(serde::Deserialize)]
    struct Body {
        errors: Vec<String>,
    }
    let Ok(Body { errors }) = serde_json::from_slice(body) else { return Vec::new() };
    let plain = |error: String| {
        let line = error.split_whitespace().collect::<Vec<_>>().join(" ");
        line.chars().filter(|c| !c.is_control()).take(LONGEST).collect::<String>()
    };
    errors.into_iter().take(8).map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(status: u16, error: &str) -> CallError {
        CallError::Said { status, errors: vec![error.to_owned()] }
    }

    #[test]
    fn only_what_vault_says_before_acting_counts_as_never_heard() {
        let lost = || BoxError::from("lost");
        for (error, outcome) in [
            (CallError::Unsent(lost()), Outcome::NeverHeard),
            (CallError::NoLogin { role: "r".into(), source: lost() }, Outcome::NeverHeard),
            (CallError::Unanswered(lost()), Outcome::Unknown),
            (CallError::Unreadable("no auth"), Outcome::Unknown),
            (said(307, ""), Outcome::NeverHeard),
            (said(400, "unknown role x"), Outcome::Refused),
            (said(403, "permission denied"), Outcome::Refused),
            (said(404, ""), Outcome::Refused),
            (
                said(429, "request path \"auth/token/create/x\": rate limit quota exceeded"),
                Outcome::NeverHeard,
            ),
            (said(429, "request path \"auth/token/create/x\": lease count quota exceeded"), Outcome::Unknown),
            (said(473, ""), Outcome::NeverHeard),
            (said(500, "internal error"), Outcome::Unknown),
            (said(502, ""), Outcome::Unknown),
            (said(503, "Vault is sealed"), Outcome::NeverHeard),
            (said(503, "upstream connect error"), Outcome::Unknown),
            (said(504, ""), Outcome::Unknown),
        ] {
            assert_eq!(error.outcome(), outcome, "{error}");
        }
    }

    #[test]
    fn vaults_words_fit_on_a_line() {
        let body = br#"{"errors": ["1 error occurred:\n\t* invalid accessor\n\n"]}"#;
        assert_eq!(words(body), ["1 error occurred: * invalid accessor"]);
        assert_eq!(words(b"<html>"), Vec::<String>::new());
        let long = format!(r#"{{"errors": ["{}"]}}"#, "x".repeat(10_000));
        assert_eq!(words(long.as_bytes())[0].len(), LONGEST);
    }
}
