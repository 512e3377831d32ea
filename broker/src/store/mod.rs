//! Where state lives, in the words of the domain. Each verb is one transaction, and the audit records of what it
//! changes are written in that transaction.

mod chain;
mod desk;
mod failure;
mod fresh;
mod holders;
pub mod issue_keys;
pub mod kills;
pub mod migrations;
mod moves;
pub mod postgres;
pub mod queue;
mod rows;
pub mod slots;
pub mod sqlite;

#[cfg(test)]
mod contract;

use async_trait::async_trait;
use dayfly_domain::approval::{ApprovalRequest, Said, Verdict};
use dayfly_domain::audit::{Record, Stream};
use dayfly_domain::brake::Brake;
use dayfly_domain::document::{Document, DocumentKey, Kind};
use dayfly_domain::id::{ApprovalId, KillId, LeaseId, RequestId, SessionId, TaskId};
use dayfly_domain::idempotency::IssueKey;
use dayfly_domain::key::{KeyFacts, Why, Withheld};
use dayfly_domain::lease::{Handle, IllegalTransition, Lease, LeaseEvent, RevokeCause};
use dayfly_domain::node::{NodeHeard, NodeState};
use dayfly_domain::spiffe::SpiffeId;
use dayfly_domain::stage::Stage;
use dayfly_domain::task::{Anchor, AnchorKind, EndCause, Task};
use dayfly_domain::time::{Timestamp, Ttl};
use thiserror::Error;

pub use self::slots::Slots;

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

/// A document as stored.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredDocument {
    /// The document.
    pub document: Document,
    /// Revision that last changed it.
    pub revision: u64,
    /// When that was.
    pub applied_at: Timestamp,
    /// Who applied it.
    pub applied_by: String,
}

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

/// What an end did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// Tasks that were open and are over now, with the node that must be told.
    pub tasks: Vec<(TaskId, Option<SpiffeId>)>,
    /// Leases whose revocation was queued.
    pub leases: Vec<LeaseId>,
    /// Those of them whose task goes on.
    pub elsewhere: Vec<LeaseId>,
}

/// A lease whose revocation is due, claimed for this process for a while.
#[derive(Clone, Debug)]
pub struct DueRevocation {
    /// The lease.
    pub lease: Lease,
    /// Tries in vain, since the target last took the word.
    pub attempts: u32,
    /// Until when nobody else works on it.
    pub claimed_until: Timestamp,
}

/// Where another broker's work may matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hint {
    /// Documents were applied, or something was said of an approval.
    Rules,
    /// Leases are to be taken back.
    Revocations,
    /// Tasks ended.
    Ends,
}

impl Hint {
    const ALL: [Hint; 3] = [Hint::Rules, Hint::Revocations, Hint::Ends];

    /// Its name on the way.
    pub const fn as_str(self) -> &'static str {
        match self {
            Hint::Rules => "rules",
            Hint::Revocations => "revocations",
            Hint::Ends => "ends",
        }
    }

    /// The hint of that name, if there is one.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|hint| hint.as_str() == name)
    }
}

/// What is over, for those who must be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Over {
    /// Tasks that ended, with the node that must be told and why.
    pub tasks: Vec<(TaskId, Option<SpiffeId>, EndCause)>,
    /// Leases that were taken back while their task goes on.
    pub leases: Vec<LeaseId>,
}

/// What is known of a node agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRow {
    /// The agent.
    pub spiffe_id: SpiffeId,
    /// Boot of its last stream.
    pub boot_id: String,
    /// Given at its last Attach.
    pub epoch: u64,
    /// When it last spoke.
    pub last_seen_at: Timestamp,
    /// How it stands.
    pub state: NodeState,
    /// Open tasks it holds.
    pub open_tasks: u32,
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

/// A lease with the state of its place in the revocation queue.
#[derive(Clone, Debug)]
pub struct LeaseRow {
    /// The lease.
    pub lease: Lease,
    /// Tries of its revocation in vain, since the target last took the word.
    pub attempts: u32,
    /// What the last one failed with; empty if none did.
    pub last_error: String,
}

/// Which requests for approval to list.
#[derive(Clone, Debug)]
pub struct ApprovalFilter {
    /// Only those that wait or were approved, with an end behind this moment; none for all.
    pub live_at: Option<Timestamp>,
    /// At most this many, newest first; 0 for all.
    pub limit: u32,
}

/// A signing key that was taken out. It names a key and holds none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WithheldKey {
    /// What the key was for.
    pub purpose: String,
    /// What is known of it, this included.
    pub facts: KeyFacts,
    /// When and why.
    pub withheld: Withheld,
}

impl WithheldKey {
    /// From the columns of its row; none if it was withheld for no reason that is known.
    pub(crate) fn of(
        (purpose, kid): (String, String),
        announced_at: Timestamp,
        first: bool,
        why: &str,
        at: Timestamp,
    ) -> Option<Self> {
        let why = Why::ALL.into_iter().find(|one| one.as_str() == why)?;
        let withheld = Withheld { at, why };
        let facts = KeyFacts { kid, announced_at, first, withheld: Some(withheld) };
        Some(Self { purpose, facts, withheld })
    }
}

/// One audit record as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRow {
    /// The broker that wrote it.
    pub writer: String,
    /// Its chain.
    pub stream: Stream,
    /// Its number, counted from 1 without gaps.
    pub seq: u64,
    /// Hash of the record before.
    pub prev_hash: Vec<u8>,
    /// Hash of this one.
    pub hash: Vec<u8>,
    /// When it was written.
    pub at: Timestamp,
    /// The bytes that were hashed.
    pub bytes: Vec<u8>,
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

/// The verbs. Three queues of one writer: `kill` and `end` are never starved by `grant`.
#[async_trait]
pub trait Store: kills::KillStore + queue::QueueStore + issue_keys::IssueKeyStore + Slots {
    /// Every document, and the revision they stand at.
    async fn load_documents(&self) -> Result<(u64, Vec<StoredDocument>), StoreError>;

    /// Changes documents in one transaction against a revision. Returns the new revision.
    async fn apply(&self, change: Change, records: Vec<Record>) -> Result<u64, StoreError>;

    /// Every stored version of one document, oldest first.
    async fn document_history(&self, kind: Kind, name: &str) -> Result<Vec<StoredDocument>, StoreError>;

    /// Every document as it stood at a revision, by kind and name. What was removed since is there again.
    async fn documents_at(&self, revision: u64) -> Result<Vec<StoredDocument>, StoreError>;

    /// Writes a request for approval, unless `most` of them wait already.
    async fn request_approval(
        &self,
        asked: ApprovalRequest,
        most: u32,
        record: Record,
    ) -> Result<(), StoreError>;

    /// Writes what was said of a request for approval, if nothing was said in between: `after` is what had been said when
    /// it was read. A no, or taking it back, goes on where a record cannot be written.
    async fn decide_approval(
        &self,
        id: ApprovalId,
        after: Option<Said>,
        verdict: Verdict,
        record: Record,
    ) -> Result<(), StoreError>;

    /// One request for approval.
    async fn approval(&self, id: ApprovalId) -> Result<Option<ApprovalRequest>, StoreError>;

    /// Requests for approval by filter.
    async fn approvals(&self, filter: ApprovalFilter) -> Result<Vec<ApprovalRequest>, StoreError>;

    /// Takes a signing key out, for good. It goes on where the record cannot be written.
    async fn withhold_key(&self, key: WithheldKey, record: Record) -> Result<(), StoreError>;

    /// Every signing key that was taken out, oldest first.
    async fn withheld_keys(&self) -> Result<Vec<WithheldKey>, StoreError>;

    /// Writes a task, if every task above it is open and claimed (else [`StoreError::TaskNotOpen`]), and the node it comes
    /// through has not lapsed.
    async fn open_task(&self, task: Task, decision: Record, request: RequestId) -> Result<(), StoreError>;

    /// Takes a task that was offered to the claimant, and returns it as it then stands. Of several claims one succeeds; a
    /// claim by anybody else, of what is no offer, after the offer's end or under what is over is
    /// [`StoreError::TaskNotOpen`].
    async fn claim_task(
        &self,
        claim: TaskClaim,
        decision: Record,
        request: RequestId,
    ) -> Result<Task, StoreError>;

    /// The tree above a task, root first, the task itself last. Empty if there is no such task.
    async fn lineage(&self, task: TaskId) -> Result<Vec<Task>, StoreError>;

    /// The same tree as it stood at a moment: what ended later was open, with the deadline it had last; what was claimed
    /// at that moment or later was an offer.
    async fn lineage_at(&self, task: TaskId, at: Timestamp) -> Result<Vec<Task>, StoreError>;

    /// Ends tasks and all under them, and queues the revocation of every lease that is pending or active, in one
    /// transaction. Ending what is over changes nothing. Audit must not stop it: where a record cannot be written, it
    /// goes on from its reserve.
    async fn end(
        &self,
        which: EndWhich,
        cause: EndCause,
        now: Timestamp,
        request: Option<RequestId>,
    ) -> Result<Ended, StoreError>;

    /// Writes a lease, only while its task and all above it are open, and the node it comes through has not lapsed, with
    /// the decision's record. A lease that renews another is written only while that one lives.
    async fn open_lease(&self, new: NewLease, now: Timestamp) -> Result<(), StoreError>;

    /// Takes a lease through an event and returns it as it then stands. [`LeaseEvent::Issue`] on a lease whose task is
    /// over leads to revoking, never to active.
    async fn record_lease(
        &self,
        lease: LeaseId,
        event: LeaseEvent,
        now: Timestamp,
        request: Option<RequestId>,
    ) -> Result<Lease, StoreError>;

    /// Puts what was learnt since into the handle of a lease that is active or revoking; else changes nothing.
    async fn amend_handle(&self, lease: LeaseId, handle: Handle) -> Result<(), StoreError>;

    /// One lease.
    async fn lease(&self, id: LeaseId) -> Result<Option<LeaseRow>, StoreError>;

    /// Asks for the revocation of single leases, whatever becomes of their tasks.
    async fn queue_revocations(
        &self,
        leases: Vec<LeaseId>,
        cause: RevokeCause,
        now: Timestamp,
        request: Option<RequestId>,
    ) -> Result<Vec<LeaseId>, StoreError>;

    /// Claims due revocations of one provider for this process: leases in `revoking` with a handle, not declared to run
    /// out, whose next try has come and which nobody else holds. The most urgent first, of these the oldest.
    async fn claim_revocations(
        &self,
        provider: &str,
        limit: u32,
        claim_for: Ttl,
        now: Timestamp,
    ) -> Result<Vec<DueRevocation>, StoreError>;

    /// Notes a failed try and when to try again. Without an error the target took the word and is only looked at again:
    /// tries in vain begin anew.
    async fn postpone_revocation(
        &self,
        lease: LeaseId,
        next_at: Timestamp,
        error: String,
    ) -> Result<(), StoreError>;

    /// Takes through [`LeaseEvent::Tick`] every lease whose last moment is past, and returns how many ended.
    async fn sweep_leases(&self, now: Timestamp, limit: u32) -> Result<u32, StoreError>;

    /// Takes through [`LeaseEvent::LoseAnswer`] every lease pending since before the moment: its issuer crashed.
    async fn sweep_pending(&self, pending_since_before: Timestamp, now: Timestamp)
    -> Result<u32, StoreError>;

    /// Tasks by filter, each with the number of leases under it and all below it that are not over.
    async fn tasks(&self, filter: TaskFilter) -> Result<Vec<(Task, u32)>, StoreError>;

    /// Leases by filter.
    async fn leases(&self, filter: LeaseFilter) -> Result<Vec<LeaseRow>, StoreError>;

    /// A node attaches: the epoch grows. Refused while a stream under another boot has spoken since `live_since`.
    async fn attach_node(
        &self,
        node: &SpiffeId,
        boot_id: &str,
        now: Timestamp,
        live_since: Timestamp,
    ) -> Result<u64, StoreError>;

    /// A node spoke. False if its epoch is not the newest, or it has lapsed.
    async fn touch_node(&self, node: &SpiffeId, epoch: u64, now: Timestamp) -> Result<bool, StoreError>;

    /// How one node stands, or every node.
    async fn nodes_heard(&self, node: Option<&SpiffeId>) -> Result<Vec<NodeHeard>, StoreError>;

    /// The brake on mass lapse.
    async fn brake(&self) -> Result<Brake, StoreError>;

    /// Moves the brake from one state to another with the record of it. False, and nothing is written, if it stands
    /// otherwise by now. Goes on where the record cannot be written.
    async fn move_brake(&self, from: Brake, to: Brake, record: Record) -> Result<bool, StoreError>;

    /// Every node seen, with what it holds.
    async fn nodes(&self) -> Result<Vec<NodeRow>, StoreError>;

    /// Takes a client assertion, known by a hash, unless it was taken before or has run out. False: it proves nothing.
    async fn take_assertion(
        &self,
        hash: [u8; 32],
        expires_at: Timestamp,
        now: Timestamp,
    ) -> Result<bool, StoreError>;

    /// Forgets assertions that ran out before the moment, the oldest first, and returns how many.
    async fn sweep_assertions(&self, expired_before: Timestamp, limit: u32) -> Result<u32, StoreError>;

    /// Writes records that go with no change of state: denials, reads, starts.
    async fn write_records(&self, records: Vec<Record>) -> Result<(), StoreError>;

    /// Writes the record of something that is allowed only while a task and all above it are open; else nothing is
    /// written ([`StoreError::TaskNotOpen`]).
    async fn record_under(
        &self,
        task: TaskId,
        session: SessionId,
        record: Record,
        now: Timestamp,
    ) -> Result<(), StoreError>;

    /// Records of one chain from a number on, in order.
    async fn audit(&self, stream: Stream, from_seq: u64, limit: u32) -> Result<Vec<AuditRow>, StoreError>;

    /// Number of a record of one chain such that every record before it was written before the moment, and found without
    /// reading the chain through. None where the chain ends before the moment. Records carry the time of their request,
    /// so one that is written late stands behind younger ones: ask for a moment that is earlier by as much.
    async fn audit_since(&self, stream: Stream, moment: Timestamp) -> Result<Option<u64>, StoreError>;

    /// Those of `within` records of one chain, from a number on, that hold this text.
    async fn audit_holding(
        &self,
        stream: Stream,
        from_seq: u64,
        within: u64,
        text: &str,
    ) -> Result<Vec<AuditRow>, StoreError>;

    /// The documents that were read last are what is decided by from now on.
    fn rules_in_force(&self) {}

    /// Whether other documents, or words on approvals, stand than what is decided by.
    async fn rules_moved(&self) -> Result<bool, StoreError> {
        Ok(false)
    }

    /// Waits until another broker says where to look. A hint may be lost: look from time to time in any case.
    async fn hint(&self) -> Hint {
        std::future::pending().await
    }

    /// Tasks that ended since a moment, whichever broker ended them, and leases of open tasks that were taken back.
    async fn over_since(&self, _moment: Timestamp) -> Result<Over, StoreError> {
        Ok(Over::default())
    }

    /// Streams of these tasks stand at this broker.
    async fn see_streams(&self, _tasks: Vec<TaskId>, _now: Timestamp) -> Result<(), StoreError> {
        Ok(())
    }

    /// Those of the tasks, which have no stream at this broker, that had none at any other since a moment.
    async fn streams_unseen_since(
        &self,
        tasks: Vec<TaskId>,
        _moment: Timestamp,
    ) -> Result<Vec<TaskId>, StoreError> {
        Ok(tasks)
    }

    /// Open tasks that live as long as a stream.
    async fn stream_tasks(&self) -> Result<Vec<TaskId>, StoreError> {
        let filter = TaskFilter { limit: u32::MAX, ..TaskFilter::default() };
        let tasks = self.tasks(filter).await?;
        Ok(tasks.into_iter().map(|(task, _)| task).filter(on_stream).map(|task| task.id).collect())
    }

    /// Records of one stream that hold this text, of every broker that shares the state: of each, those of `within` records
    /// from the moment on.
    async fn find_records(
        &self,
        stream: Stream,
        moment: Timestamp,
        within: u64,
        text: &str,
    ) -> Result<Vec<AuditRow>, StoreError> {
        match self.audit_since(stream, moment).await? {
            Some(from) => self.audit_holding(stream, from, within, text).await,
            None => Ok(Vec::new()),
        }
    }

    /// The brokers whose chains this store holds.
    async fn writers(&self) -> Result<Vec<String>, StoreError>;

    /// Records of one chain of a broker from a number on, in order.
    async fn audit_of(
        &self,
        writer: &str,
        stream: Stream,
        from_seq: u64,
        limit: u32,
    ) -> Result<Vec<AuditRow>, StoreError>;

    /// Puts on record where the chains of the other brokers stand: whoever rewrites one of them must rewrite this one too.
    async fn witness(&self, _now: Timestamp) -> Result<(), StoreError> {
        Ok(())
    }

    /// Whether other brokers may work on the same state.
    fn is_shared(&self) -> bool {
        false
    }

    /// Commits what was asked so far and closes the database. Verbs that come later fail.
    async fn close(&self);

    /// Returns once nothing can be changed any more: the broker should stop.
    async fn stopped(&self);
}

fn on_stream(task: &Task) -> bool {
    task.anchor.kind == AnchorKind::Stream
}
