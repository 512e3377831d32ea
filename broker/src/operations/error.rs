//! Why an operation failed, by what the caller does next.

use std::time::Duration;

use dayfly_domain::approval::NotApprovable;
use dayfly_domain::decision::{Denial, DenyReason};
use dayfly_domain::id::{LeaseId, TaskId};
use dayfly_domain::kill::NotConfirmable;
use dayfly_domain::spiffe::SpiffeId;
use thiserror::Error;

use super::key::NotDone;
use crate::caller::CallerError;
use crate::providers::IssueError;
use crate::signer::SignError;
use crate::store::StoreError;

/// Why an operation failed. `api/status.rs` turns each into a gRPC status.
#[derive(Debug, Error)]
pub enum OperationError {
    /// Who asks could not be proven, or may not speak for whom it says.
    #[error(transparent)]
    Caller(#[from] CallerError),
    /// Decided: no.
    #[error("{}", .0.message)]
    Denied(Denial),
    /// The request makes no sense.
    #[error("{message}")]
    Invalid {
        /// Stable code.
        reason: &'static str,
        /// What is wrong.
        message: String,
        /// What to do.
        next: &'static str,
    },
    /// Nothing is given through this node now.
    #[error(
        "nothing is given through {0}: it is not attached, was silent for too long, or speaks with an older epoch"
    )]
    NodeFenced(SpiffeId),
    /// The lease is unknown, or not the caller's.
    #[error("lease {0} is not yours")]
    LeaseNotYours(LeaseId),
    /// The broker is full, for this caller.
    #[error("{what} has {limit} live leases already")]
    TooMany {
        /// Which limit.
        what: String,
        /// Its value.
        limit: u32,
    },
    /// Asked too often.
    #[error("{kind} {name} asks more than {per_minute} times a minute")]
    TooOften {
        /// `identity`, `scope` or `session`.
        kind: &'static str,
        /// Its name.
        name: String,
        /// The limit.
        per_minute: u32,
        /// How long until the next request is taken.
        wait: Duration,
    },
    /// The target said no, is away, or gave something else than the scope says. Nothing usable exists.
    #[error(transparent)]
    Provider(IssueError),
    /// The target did not answer; what may exist is being hunted down.
    #[error(
        "{provider} did not answer in time; if it issued a credential, nobody holds it and it is taken back"
    )]
    Unresolved {
        /// The provider.
        provider: &'static str,
        /// The lease under which it is hunted.
        lease: LeaseId,
        /// The cause.
        #[source]
        source: IssueError,
    },
    /// The database failed. No grant without a record.
    #[error(transparent)]
    Store(StoreError),
    /// The caller is no admin, or not by this way.
    #[error("{0}")]
    NotAdmin(String),
    /// A yes that does not count, or anything said of what is over.
    #[error(transparent)]
    NotApprovable(#[from] NotApprovable),
    /// A signing key stays as it is.
    #[error(transparent)]
    Key(NotDone),
    /// Nothing was signed, so nothing exists.
    #[error(transparent)]
    Unsigned(SignError),
    /// A yes to a kill that does not count, or a word on one that is over.
    #[error(transparent)]
    NotConfirmable(#[from] NotConfirmable),
    /// There is no such thing.
    #[error("there is no {kind} {name:?}")]
    Unknown {
        /// What was looked for.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// It is done for one at a time, and somebody is at it.
    #[error("{0}")]
    Busy(&'static str),
    /// A fault of ours.
    #[error("internal error: {0}")]
    Bug(&'static str),
}

impl OperationError {
    /// Unknown, over, or somebody else's: the same answer.
    pub fn task_not_open(task: TaskId) -> Self {
        OperationError::Denied(Denial {
            reason: DenyReason::TaskNotOpen,
            message: format!("task {task} is not open to you"),
            next: DenyReason::TaskNotOpen.next().to_owned(),
            trace: Vec::new(),
        })
    }
}

impl From<StoreError> for OperationError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::TooManyLeases { what, limit } => OperationError::TooMany { what, limit },
            other => OperationError::Store(other),
        }
    }
}
