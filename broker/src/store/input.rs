//! What verbs are given.

use dayfly_domain::audit::Record;
use dayfly_domain::document::{Document, DocumentKey};
use dayfly_domain::id::{RequestId, SessionId, TaskId};
use dayfly_domain::idempotency::IssueKey;
use dayfly_domain::lease::Lease;
use dayfly_domain::spiffe::SpiffeId;
use dayfly_domain::stage::Stage;
use dayfly_domain::task::Anchor;
use dayfly_domain::time::Timestamp;

/// What one apply changes.
#[derive(Clone, Debug)]
pub struct Change {
    /// The revision the change was made against.
    pub expected_revision: u64,
    /// Documents to write.
    pub puts: Vec<Document>,
    /// Documents to remove. They stay in the history.
    pub deletes: Vec<DocumentKey>,
    /// Who applies.
    pub by: String,
    /// When.
    pub at: Timestamp,
}

/// Which tasks to end. All under them end too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndWhich {
    /// One task.
    Task(TaskId),
    /// A whole tree.
    Session(SessionId),
    /// Every task that this identity opened, and every lease it holds in tasks of others.
    Identity(SpiffeId),
    /// Every task that this node opened.
    Node(SpiffeId),
    /// Every task that this node opened, if it is attached and was silent since before the moment; it lapses in the same
    /// transaction. A task with a live lease of a spared scope stays open, with all above it; what it holds of other scopes
    /// is taken back.
    SilentNode {
        /// The node.
        node: SpiffeId,
        /// Nothing was heard of it since.
        silent_since_before: Timestamp,
        /// Scopes whose leases outlive the silence of an agent.
        spared_scopes: Vec<String>,
    },
    /// Every open task of this node that is not in its inventory and was opened, or claimed, before the moment.
    NodeExcept {
        /// The node.
        node: SpiffeId,
        /// What it still holds.
        inventory: Vec<TaskId>,
        /// Tasks that came to the node later are not judged: the inventory may be older than they are.
        opened_before: Timestamp,
    },
    /// Every open task whose deadline has come.
    Overdue,
}

/// The workload that a task was offered to takes it.
#[derive(Clone, Debug)]
pub struct TaskClaim {
    /// The task.
    pub task: TaskId,
    /// Who claims it, proven.
    pub claimant: SpiffeId,
    /// The stage the claimant fills now.
    pub stage: Stage,
    /// The agent it came through, if it did.
    pub node: Option<SpiffeId>,
    /// What the task's life hangs on from now on.
    pub anchor: Anchor,
    /// SHA-256 of the key of a direct caller.
    pub key_hash: Option<[u8; 32]>,
    /// The latest that the task's deadline may become.
    pub latest_deadline: Timestamp,
    /// The moment of the claim.
    pub now: Timestamp,
}

/// Which tasks to list; empty means all.
#[derive(Clone, Debug, Default)]
pub struct TaskFilter {
    /// Only this tree.
    pub session: Option<SessionId>,
    /// Only those this identity opened.
    pub spiffe_id: Option<SpiffeId>,
    /// Also those that are over.
    pub include_ended: bool,
    /// At most this many, newest first; 0 for all.
    pub limit: u32,
}

/// Which leases to list; empty means all.
#[derive(Clone, Debug, Default)]
pub struct LeaseFilter {
    /// Only of this task.
    pub task: Option<TaskId>,
    /// Only of this tree.
    pub session: Option<SessionId>,
    /// Only those this identity holds.
    pub spiffe_id: Option<SpiffeId>,
    /// Only of this scope.
    pub scope: Option<String>,
    /// Also those that are over.
    pub include_ended: bool,
    /// At most this many, newest first; 0 for all.
    pub limit: u32,
}

/// Which requests for approval to list.
#[derive(Clone, Debug)]
pub struct ApprovalFilter {
    /// Only those that wait or were approved, with an end behind this moment; none for all.
    pub live_at: Option<Timestamp>,
    /// At most this many, newest first; 0 for all.
    pub limit: u32,
}

/// How many live or in-flight leases may stand, a new one among them. One that renews another may be one too many: both
/// stand until it has arrived.
#[derive(Clone, Copy, Debug)]
pub struct LeaseLimits {
    /// Of one identity.
    pub per_identity: u32,
    /// Of one scope, whoever holds them.
    pub per_scope: u32,
    /// Of one session, in whichever of its tasks.
    pub per_session: u32,
    /// Of one node; `u32::MAX` for direct callers.
    pub per_node: u32,
}

/// A lease to open, with the record of the decision that allows it.
#[derive(Clone, Debug)]
pub struct NewLease {
    /// The lease, pending; or active already where issuing is local.
    pub lease: Lease,
    /// The decision's record, written in the same transaction.
    pub decision: Record,
    /// The node the caller came through.
    pub node: Option<SpiffeId>,
    /// How many may stand beside it.
    pub limits: LeaseLimits,
    /// The request that brought it about.
    pub request: RequestId,
    /// The key it is asked for under. What lives under it is taken back in the same step; what is still being issued there
    /// is [`StoreError::KeyInFlight`], and another request under it [`StoreError::KeyReused`].
    pub key: Option<IssueKey>,
}
