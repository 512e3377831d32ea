//! Why a verb did not happen.

use dayfly_domain::id::{ApprovalId, KillId};
use dayfly_domain::lease::IllegalTransition;
use dayfly_domain::spiffe::SpiffeId;
use thiserror::Error;

/// Why a verb did not happen. Nothing of it was written.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The task, or one above it, is over or unknown.
    #[error("the task is not open")]
    TaskNotOpen,
    /// No such row.
    #[error("there is no such {0}")]
    Unknown(&'static str),
    /// The rules changed since the caller read them.
    #[error("the rules are at revision {actual}, not {expected}; read them again and apply anew")]
    StaleRevision {
        /// What the caller expected.
        expected: u64,
        /// What stands.
        actual: u64,
    },
    /// The node has a live stream under another boot.
    #[error("node {node} is attached under another boot; it must lapse first")]
    NodeAttachedElsewhere {
        /// The node.
        node: SpiffeId,
    },
    /// The node lapsed: nothing is given through it until it attaches anew.
    #[error("node {node} was silent for too long and has not attached anew")]
    NodeLapsed {
        /// The node.
        node: SpiffeId,
    },
    /// The request for approval was decided, or taken back, in between.
    #[error("approval {0} was decided in between")]
    DecidedInBetween(ApprovalId),
    /// Too many requests for approval wait.
    #[error("{limit} requests for approval wait already")]
    TooManyRequests {
        /// How many may.
        limit: u32,
    },
    /// The kill is not where it was when it was read.
    #[error("kill {0} was approved or lifted in between")]
    KillChanged(KillId),
    /// Too many kills stand, or wait.
    #[error("{limit} kills stand or wait already; lift those that are over")]
    TooManyKills {
        /// How many may.
        limit: u32,
    },
    /// Too many live or in-flight leases.
    #[error("{what} has {limit} live leases already")]
    TooManyLeases {
        /// Which limit.
        what: String,
        /// Its value.
        limit: u32,
    },
    /// Another broker took this one for dead. It begins anew by itself.
    #[error("broker {writer} was silent for too long and may not write until it has begun anew")]
    Fenced {
        /// The broker's name.
        writer: String,
    },
    /// Something else was asked for under the idempotency key before.
    #[error("something else was asked for under this idempotency key")]
    KeyReused,
    /// A credential is being issued under the idempotency key.
    #[error("a credential is being issued under this idempotency key")]
    KeyInFlight,
    /// The decision was made by rules that do not stand any more.
    #[error("other rules stand since this was decided")]
    RulesChanged,
    /// No role has a place for one more session that could be ended.
    #[error("all {roles} roles of the scope are full")]
    RolesFull {
        /// How many were asked.
        roles: usize,
    },
    /// The event makes no sense in the lease's state.
    #[error(transparent)]
    Illegal(#[from] IllegalTransition),
    /// The database failed: full disk, lost connection, corrupt row.
    #[error("the database failed: {what}")]
    Database {
        /// What was being done.
        what: &'static str,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
