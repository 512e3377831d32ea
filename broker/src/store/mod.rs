//! Where state lives, in the words of the domain. Each verb is one transaction, and the audit records of what it
//! changes are written in that transaction.

mod chain;
mod desk;
mod error;
mod failure;
mod fresh;
mod holders;
mod input;
pub mod issue_keys;
pub mod kills;
pub mod migrations;
mod moves;
mod output;
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
use dayfly_domain::document::Kind;
use dayfly_domain::id::{ApprovalId, LeaseId, RequestId, SessionId, TaskId};
use dayfly_domain::lease::{Handle, Lease, LeaseEvent, RevokeCause};
use dayfly_domain::node::NodeHeard;
use dayfly_domain::spiffe::SpiffeId;
use dayfly_domain::task::{AnchorKind, EndCause, Task};
use dayfly_domain::time::{Timestamp, Ttl};

pub use self::error::StoreError;
pub use self::input::{
    ApprovalFilter, Change, EndWhich, LeaseFilter, LeaseLimits, NewLease, TaskClaim, TaskFilter,
};
pub use self::output::{
    AuditRow, DueRevocation, Ended, Hint, LeaseRow, NodeRow, Over, StoredDocument, WithheldKey,
};
pub use self::slots::Slots;

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
