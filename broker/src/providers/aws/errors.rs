//! What a failed call to STS means: was it never heard, refused, or is its outcome unknown?

use aws_sdk_sts::config::http::HttpResponse;
use aws_sdk_sts::error::{ProvideErrorMetadata, SdkError};
use hyper_util::client::legacy::Error as ClientError;
use thiserror::Error;

use super::super::{BoxError, IssueError};
use super::NAME;

/// Why a call yielded no session. Holds no request, no assertion and no body of an answer.
#[derive(Debug, Error)]
pub(super) enum CallError {
    /// The request could not be made.
    #[error("the request could not be made")]
    Unmade(#[source] BoxError),
    /// The request was never written: name, connection or TLS failed before.
    #[error("could not connect")]
    Unsent(#[source] BoxError),
    /// It was written, and no whole answer came.
    #[error("no whole answer came")]
    Unanswered(#[source] BoxError),
    /// STS said no, in these words.
    #[error("status {status}, {code}: {message}")]
    Said { status: u16, code: String, message: String },
    /// STS said yes and something else than was expected.
    #[error("the answer could not be read: {0}")]
    Unreadable(&'static str),
}

/// What a failed call left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Nothing exists; asking again is safe.
    NeverHeard,
    /// Nothing exists; asking again will not help.
    Refused,
    /// A session may exist.
    Unknown,
}

/// STS says these before it makes anything: throttling, and keys of ours that it could not fetch
/// (AWS, AssumeRoleWithWebIdentity, Errors: "retry the request").
const NOT_ACTED: [&str; 7] = [
    "IDPCommunicationError",
    "RequestLimitExceeded",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "ThrottledException",
    "TooManyRequestsException",
];

impl CallError {
    /// Where the call left the target.
    pub(super) fn outcome(&self) -> Outcome {
        match self {
            CallError::Unsent(_) => Outcome::NeverHeard,
            CallError::Unmade(_) => Outcome::Refused,
            CallError::Unanswered(_) | CallError::Unreadable(_) => Outcome::Unknown,
            CallError::Said { status: 429, .. } => Outcome::NeverHeard,
            CallError::Said { status: 400..=499, code, .. } if NOT_ACTED.contains(&code.as_str()) => {
                Outcome::NeverHeard
            }
            // A time-out or a failure beyond STS's own door: the session may have been made before.
            CallError::Said { status: 408 | 500.., .. } => Outcome::Unknown,
            CallError::Said { .. } => Outcome::Refused,
        }
    }

    /// Whether the account of the role has no provider for our issuer.
    pub(super) fn says_unknown_issuer(&self) -> bool {
        matches!(self, CallError::Said { message, .. } if message.contains("No OpenIDConnect provider found"))
    }

    /// The target's own words.
    pub(super) fn said(status: u16, code: &str, message: &str) -> Self {
        CallError::Said { status, code: words(code), message: words(message) }
    }

    /// As the error of a call that creates.
    pub(super) fn of_issue(self, role_arn: &str) -> IssueError {
        let what = format!("AssumeRoleWithWebIdentity for {role_arn}: {self}{}", self.advice());
        let outcome = self.outcome();
        let source = self.into_source();
        match outcome {
            Outcome::NeverHeard => IssueError::Unreach { provider: NAME, what, source },
            Outcome::Refused => IssueError::Refuse { provider: NAME, what, source },
            Outcome::Unknown => IssueError::Unresolved { provider: NAME, what, source },
        }
    }

    /// What to do next, where AWS's words do not say.
    fn advice(&self) -> &'static str {
        let CallError::Said { code, .. } = self else { return "" };
        match code.as_str() {
            "AccessDenied" => {
                "; compare the role's trust policy: provider, aud, sub, dayfly-scope, sts:TagSession, sts:SetSourceIdentity"
            }
            "InvalidIdentityToken" => {
                "; check that the issuer is a provider of the role's account and that its documents can be read"
            }
            "ExpiredTokenException" | "ExpiredToken" => "; check the broker's clock",
            "IDPCommunicationError" => "; check that AWS can read the issuer's documents",
            "IDPRejectedClaim" => "; check that the audience is a client id of the provider",
            "PackedPolicyTooLarge" => "; shorten the scope's session policy",
            "ValidationError" => "; check that the role's maximum session duration covers spec.ttl.max",
            _ => "",
        }
    }

    fn into_source(self) -> Option<BoxError> {
        match self {
            CallError::Unmade(source) | CallError::Unsent(source) | CallError::Unanswered(source) => {
                Some(source)
            }
            CallError::Said { .. } | CallError::Unreadable(_) => None,
        }
    }
}

impl<E> From<SdkError<E, HttpResponse>> for CallError
where
    E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
{
    fn from(error: SdkError<E, HttpResponse>) -> Self {
        match error {
            // The SDK keeps the answer's body in this error, so nothing of it is kept but code and message.
            SdkError::ServiceError(said) => {
                let status = said.raw().status().as_u16();
                let (code, message) = (said.err().code(), said.err().message());
                match status {
                    200..=299 => CallError::Unreadable("it is no AssumeRoleWithWebIdentityResponse"),
                    _ => CallError::Said {
                        status,
                        code: words(code.unwrap_or("no code")),
                        message: words(message.unwrap_or("no message")),
                    },
                }
            }
            SdkError::ResponseError(_) => CallError::Unreadable("it is broken off"),
            SdkError::ConstructionFailure(_) => CallError::Unmade(of(error)),
            SdkError::DispatchFailure(_) => {
                let source = of(error);
                let unsent = find::<ClientError>(source.as_ref()).is_some_and(ClientError::is_connect);
                if unsent { CallError::Unsent(source) } else { CallError::Unanswered(source) }
            }
            _ => CallError::Unanswered(of(error)),
        }
    }
}

/// What is beneath the SDK's own error.
fn of<E>(error: SdkError<E, HttpResponse>) -> BoxError
where
    E: std::error::Error + Send + Sync + 'static,
{
    error.into_source().unwrap_or_else(|whole| whole.to_string().into())
}

fn find<'a, E: std::error::Error + 'static>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a E> {
    std::iter::successors(Some(error), |error| error.source()).find_map(|error| error.downcast_ref())
}

/// Longest text of the target's that is passed on.
const LONGEST: usize = 400;

/// The target's own words on one line, cut short, without anything that looks like a token.
fn words(text: &str) -> String {
    let shown = |word: &str| if word.contains("eyJ") { "···".to_owned() } else { word.to_owned() };
    let line = text.split_whitespace().map(shown).collect::<Vec<_>>().join(" ");
    line.chars().filter(|c| !c.is_control()).take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_cannot_have_made_a_session_counts_as_none() {
        let lost = || BoxError::from("lost");
        let said = |status, code: &str| CallError::Said { status, code: code.into(), message: String::new() };
        for (error, outcome) in [
            (CallError::Unsent(lost()), Outcome::NeverHeard),
            (CallError::Unmade(lost()), Outcome::Refused),
            (CallError::Unanswered(lost()), Outcome::Unknown),
            (CallError::Unreadable("x"), Outcome::Unknown),
            (said(302, "no code"), Outcome::Refused),
            (said(400, "MalformedPolicyDocument"), Outcome::Refused),
            (said(400, "PackedPolicyTooLarge"), Outcome::Refused),
            (said(400, "InvalidIdentityToken"), Outcome::Refused),
            (said(400, "IDPCommunicationError"), Outcome::NeverHeard),
            (said(400, "Throttling"), Outcome::NeverHeard),
            (said(403, "AccessDenied"), Outcome::Refused),
            (said(408, "no code"), Outcome::Unknown),
            (said(429, "no code"), Outcome::NeverHeard),
            (said(500, "InternalFailure"), Outcome::Unknown),
            (said(503, "Throttling"), Outcome::Unknown),
        ] {
            assert_eq!(error.outcome(), outcome, "{error}");
        }
    }

    #[test]
    fn the_targets_words_fit_on_a_line_and_hold_no_token() {
        assert_eq!(
            words("not\n\tvalid: eyJhbGciOiJSUzI1NiJ9.eyJ4IjoxfQ.c2ln at all"),
            "not valid: ··· at all"
        );
        assert_eq!(words(&"x".repeat(10_000)).len(), LONGEST);
    }
}
