//! Why a command failed, as a person and a program are told: what failed, its causes, what to do next.

use std::error::Error;

use dayfly_client::{CallError, ConnectError, EndpointError, IdentityError};
use serde::Serialize;
use tonic::Status;

use crate::exit::Exit;
use crate::output::printable;

/// A command's failure. Printed once, by `main`.
#[derive(Debug)]
pub struct Failure {
    /// What the shell is told.
    pub exit: Exit,
    /// The part that is shown, also as JSON.
    pub told: Box<Told>,
}

/// What is shown of a failure. The field names are stable.
#[derive(Debug, Default, Serialize)]
pub struct Told {
    /// What failed.
    pub message: String,
    /// Why, the nearest cause first.
    pub causes: Vec<String>,
    /// What to do next.
    pub next: Option<String>,
    /// The broker's or agent's stable reason.
    pub reason: Option<String>,
    /// The id under which logs and audit tell the same call.
    pub request_id: Option<String>,
}

impl Failure {
    /// A failure without a known cause.
    pub fn new(message: impl Into<String>) -> Self {
        Failure { exit: Exit::Failed, told: Box::new(Told { message: message.into(), ..Told::default() }) }
    }

    /// The command line makes no sense.
    pub fn usage(message: impl Into<String>) -> Self {
        Failure { exit: Exit::Usage, ..Failure::new(message) }
    }

    /// Keeps the cause and all beneath it.
    #[must_use]
    pub fn because(mut self, error: &(dyn Error + 'static)) -> Self {
        let mut cause = Some(error);
        while let Some(error) = cause {
            let text = printable(&error.to_string());
            // Libraries repeat their cause in their own text.
            let told = std::iter::once(&self.told.message)
                .chain(&self.told.causes)
                .any(|line| line.ends_with(&text));
            if !told {
                self.told.causes.push(text);
            }
            cause = error.source();
        }
        self
    }

    /// Says what to do next.
    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.told.next = Some(next.into());
        self
    }

    /// Tells the shell something more exact than "failed".
    #[must_use]
    pub fn exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    fn of(error: &(dyn Error + 'static)) -> Self {
        let mut failure = Failure::new(printable(&error.to_string()));
        if let Some(cause) = error.source() {
            failure = failure.because(cause);
        }
        failure
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        let CallError { message, mut next, reason, request_id, retry_after, .. } = error;
        if let Some(wait) = retry_after {
            let again = format!("ask again after {wait:?}");
            next = Some(next.map_or(again.clone(), |next| format!("{next} ({again})")));
        }
        let told = Told { message, causes: Vec::new(), next, reason, request_id };
        Failure { exit: Exit::Failed, told: Box::new(told) }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        CallError::from(status).into()
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        Failure::of(&error)
    }
}

impl From<EndpointError> for Failure {
    fn from(error: EndpointError) -> Self {
        Failure::of(&error)
    }
}

impl From<IdentityError> for Failure {
    fn from(error: IdentityError) -> Self {
        Failure::of(&error)
    }
}

impl From<std::io::Error> for Failure {
    /// Only writing to the terminal or a pipe ends here; every file is named by whoever opens it.
    fn from(error: std::io::Error) -> Self {
        Failure::new("cannot write the output").because(&error)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_refusal_keeps_reason_request_and_next_step() {
        let failure = Failure::from(CallError {
            code: tonic::Code::PermissionDenied,
            reason: Some("NOT_COVERED".into()),
            message: "no binding covers it".into(),
            next: Some("ask for one".into()),
            request_id: Some("01J".into()),
            retry_after: Some(Duration::from_secs(1)),
        });
        assert_eq!(failure.told.reason.as_deref(), Some("NOT_COVERED"));
        assert_eq!(failure.told.request_id.as_deref(), Some("01J"));
        assert_eq!(failure.told.next.as_deref(), Some("ask for one (ask again after 1s)"));
        assert_eq!(failure.exit, Exit::Failed);
    }

    #[test]
    fn a_cause_is_told_once() {
        let inner = std::io::Error::other("no such file");
        let failure = Failure::new("cannot read x: no such file").because(&inner);
        assert_eq!(failure.told.causes, Vec::<String>::new());
        let failure = Failure::new("cannot read x").because(&inner);
        assert_eq!(failure.told.causes, ["no such file"]);
    }
}
