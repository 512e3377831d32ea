//! The SQLite store: one writer that commits many requests at once, and readers beside it.
//!
//! Every change of state goes through [`writer`]; its verbs are told by subject in `documents`, `tasks`, `ends`,
//! `leases`, `revocations`, `queue`, `slots`, `nodes`, `approvals`, `kills`, `keys` and `assertions`.

mod approvals;
mod assertions;
mod audit;
mod brake;
mod claims;
mod counts;
mod cut_off;
mod documents;
mod ends;
mod files;
mod history;
mod issue_keys;
mod keys;
mod kills;
mod leases;
mod listings;
mod moves;
mod nodes;
mod open;
mod queue;
mod reserve;
mod revocations;
mod slots;
mod tasks;
mod transaction;
mod writer;

#[cfg(test)]
mod tests;

use std::path::Path;

use async_trait::async_trait;
use dayfly_domain::approval::{ApprovalRequest, Said, Verdict};
use dayfly_domain::audit::{Record, Stream};
use dayfly_domain::brake::Brake;
use dayfly_domain::document::Kind;
use dayfly_domain::id::{ApprovalId, LeaseId, RequestId, SessionId, TaskId};
use dayfly_domain::lease::{Handle, Lease, LeaseEvent, RevokeCause};
use dayfly_domain::node::NodeHeard;
use dayfly_domain::spiffe::SpiffeId;
use dayfly_domain::task::{EndCause, Task};
use dayfly_domain::time::{Timestamp, Ttl};
use sqlx::Connection;
use sqlx::sqlite::{SqliteConnection, SqlitePool, SqlitePoolOptions};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::audit::Line;
use self::files::Place;
pub use self::open::{OpenError, Options};
use self::open::{for_reading, for_writing, migration_failed};
use self::reserve::Reserve;
use self::transaction::Tx;
use self::writer::{Desk, Writer};
use super::{
    ApprovalFilter, AuditRow, Change, DueRevocation, EndWhich, Ended, LeaseFilter, LeaseRow, NewLease,
    NodeRow, Store, StoreError, StoredDocument, TaskClaim, TaskFilter, WithheldKey, migrations, rows,
};

/// Keeps state in one SQLite database under a folder of its own.
#[derive(Debug)]
pub struct SqliteStore {
    writer_id: String,
    desk: Desk,
    readers: SqlitePool,
    closing: CancellationToken,
    stopped: CancellationToken,
    writing: Mutex<Option<JoinHandle<()>>>,
}

impl SqliteStore {
    /// Opens the database under `folder`, which must be the broker's own, and brings its schema up to date. Audit records
    /// are chained under `writer_id`.
    pub async fn open(folder: &Path, writer_id: &str, options: Options) -> Result<Self, OpenError> {
        let place = Place::prepare(folder)?;
        let mut connection =
            SqliteConnection::connect_with(&for_writing(&place.database(), options.reserve_bytes))
                .await
                .map_err(OpenError::Database)?;
        migrations::sqlite().run_direct(None, &mut connection, false).await.map_err(migration_failed)?;
        place.check_files()?;
        revocations::free_claims(&mut connection).await;
        let reserve = Reserve::new(place.reserve(), place.log(), options.reserve_bytes);
        let tx = Tx::new(connection, writer_id, options.max_bytes).await.map_err(OpenError::State)?;
        let readers = SqlitePoolOptions::new()
            .max_connections(options.readers)
            .connect_with(for_reading(&place.database()))
            .await
            .map_err(OpenError::Database)?;

        let (closing, stopped) = (CancellationToken::new(), CancellationToken::new());
        let (desk, queues) = writer::queues(closing.clone());
        let writer = Writer::new(queues, tx, reserve, place);
        let says_so = stopped.clone().drop_guard();
        let writing = tokio::spawn(async move {
            let _says_so = says_so;
            writer.run().await;
        });
        let writer_id = writer_id.to_owned();
        Ok(Self { writer_id, desk, readers, closing, stopped, writing: Mutex::new(Some(writing)) })
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn load_documents(&self) -> Result<(u64, Vec<StoredDocument>), StoreError> {
        documents::load(&self.readers).await
    }

    async fn apply(&self, change: Change, records: Vec<Record>) -> Result<u64, StoreError> {
        self.desk.post(documents::Apply { change, records }).await
    }

    async fn document_history(&self, kind: Kind, name: &str) -> Result<Vec<StoredDocument>, StoreError> {
        documents::history(&self.readers, kind, name).await
    }

    async fn documents_at(&self, revision: u64) -> Result<Vec<StoredDocument>, StoreError> {
        documents::at(&self.readers, revision).await
    }

    async fn request_approval(
        &self,
        asked: ApprovalRequest,
        most: u32,
        record: Record,
    ) -> Result<(), StoreError> {
        self.desk.post(approvals::Request { asked, most, record }).await
    }

    async fn decide_approval(
        &self,
        id: ApprovalId,
        after: Option<Said>,
        verdict: Verdict,
        record: Record,
    ) -> Result<(), StoreError> {
        self.desk.post(approvals::Decide { id, after, verdict, record }).await
    }

    async fn approval(&self, id: ApprovalId) -> Result<Option<ApprovalRequest>, StoreError> {
        approvals::one(&self.readers, id).await
    }

    async fn approvals(&self, filter: ApprovalFilter) -> Result<Vec<ApprovalRequest>, StoreError> {
        approvals::list(&self.readers, &filter).await
    }

    async fn withhold_key(&self, key: WithheldKey, record: Record) -> Result<(), StoreError> {
        self.desk.post(keys::Withhold { key, record }).await
    }

    async fn withheld_keys(&self) -> Result<Vec<WithheldKey>, StoreError> {
        keys::list(&self.readers).await
    }

    async fn open_task(&self, task: Task, decision: Record, request: RequestId) -> Result<(), StoreError> {
        self.desk.post(tasks::OpenTask::new(task, &decision, request)).await
    }

    async fn claim_task(
        &self,
        claim: TaskClaim,
        decision: Record,
        request: RequestId,
    ) -> Result<Task, StoreError> {
        self.desk.post(claims::ClaimTask { claim, decision: Line::new(&decision), request }).await
    }

    async fn lineage(&self, task: TaskId) -> Result<Vec<Task>, StoreError> {
        tasks::lineage(&self.readers, task, None).await
    }

    async fn lineage_at(&self, task: TaskId, at: Timestamp) -> Result<Vec<Task>, StoreError> {
        tasks::lineage(&self.readers, task, Some(at)).await
    }

    async fn end(
        &self,
        which: EndWhich,
        cause: EndCause,
        now: Timestamp,
        request: Option<RequestId>,
    ) -> Result<Ended, StoreError> {
        self.desk.post(ends::End { which, cause, now, request }).await
    }

    async fn open_lease(&self, new: NewLease, now: Timestamp) -> Result<(), StoreError> {
        self.desk.post(leases::OpenLease::new(new, now)?).await
    }

    async fn record_lease(
        &self,
        lease: LeaseId,
        event: LeaseEvent,
        now: Timestamp,
        request: Option<RequestId>,
    ) -> Result<Lease, StoreError> {
        self.desk.post(leases::RecordLease { lease, event, now, request }).await
    }

    async fn amend_handle(&self, lease: LeaseId, handle: Handle) -> Result<(), StoreError> {
        self.desk.post(revocations::AmendHandle { lease, handle }).await
    }

    async fn lease(&self, id: LeaseId) -> Result<Option<LeaseRow>, StoreError> {
        listings::lease(&self.readers, id).await
    }

    async fn queue_revocations(
        &self,
        leases: Vec<LeaseId>,
        cause: RevokeCause,
        now: Timestamp,
        request: Option<RequestId>,
    ) -> Result<Vec<LeaseId>, StoreError> {
        self.desk.post(revocations::Queue { leases, cause, now, request }).await
    }

    async fn claim_revocations(
        &self,
        provider: &str,
        limit: u32,
        claim_for: Ttl,
        now: Timestamp,
    ) -> Result<Vec<DueRevocation>, StoreError> {
        let provider = provider.to_owned();
        self.desk.post(revocations::Claim { provider, limit, claim_for, now }).await
    }

    async fn postpone_revocation(
        &self,
        lease: LeaseId,
        next_at: Timestamp,
        error: String,
    ) -> Result<(), StoreError> {
        self.desk.post(revocations::Postpone { lease, next_at, error }).await
    }

    async fn sweep_leases(&self, now: Timestamp, limit: u32) -> Result<u32, StoreError> {
        self.desk.post(revocations::SweepPast { now, limit }).await
    }

    async fn sweep_pending(
        &self,
        pending_since_before: Timestamp,
        now: Timestamp,
    ) -> Result<u32, StoreError> {
        self.desk.post(revocations::SweepPending { pending_since_before, now }).await
    }

    async fn tasks(&self, filter: TaskFilter) -> Result<Vec<(Task, u32)>, StoreError> {
        listings::tasks(&self.readers, &filter).await
    }

    async fn leases(&self, filter: LeaseFilter) -> Result<Vec<LeaseRow>, StoreError> {
        listings::leases(&self.readers, &filter).await
    }

    async fn attach_node(
        &self,
        node: &SpiffeId,
        boot_id: &str,
        now: Timestamp,
        live_since: Timestamp,
    ) -> Result<u64, StoreError> {
        let (node, boot_id) = (node.clone(), boot_id.to_owned());
        self.desk.post(nodes::Attach { node, boot_id, now, live_since }).await
    }

    async fn touch_node(&self, node: &SpiffeId, epoch: u64, now: Timestamp) -> Result<bool, StoreError> {
        self.desk.post(nodes::Touch { node: node.clone(), epoch, now }).await
    }

    async fn nodes_heard(&self, node: Option<&SpiffeId>) -> Result<Vec<NodeHeard>, StoreError> {
        nodes::heard(&self.readers, node).await
    }

    async fn brake(&self) -> Result<Brake, StoreError> {
        brake::read(&self.readers).await
    }

    async fn move_brake(&self, from: Brake, to: Brake, record: Record) -> Result<bool, StoreError> {
        self.desk.post(brake::Move { from, to, record }).await
    }

    async fn nodes(&self) -> Result<Vec<NodeRow>, StoreError> {
        nodes::all(&self.readers).await
    }

    async fn take_assertion(
        &self,
        hash: [u8; 32],
        expires_at: Timestamp,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        self.desk.post(assertions::Take { hash, expires_at, now }).await
    }

    async fn sweep_assertions(&self, expired_before: Timestamp, limit: u32) -> Result<u32, StoreError> {
        self.desk.post(assertions::Sweep { expired_before, limit }).await
    }

    async fn write_records(&self, records: Vec<Record>) -> Result<(), StoreError> {
        self.desk.post(audit::Write::new(&records)).await
    }

    async fn record_under(
        &self,
        task: TaskId,
        session: SessionId,
        record: Record,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.desk.post(tasks::RecordUnder { task, session, line: audit::Line::new(&record), now }).await
    }

    async fn audit(&self, stream: Stream, from_seq: u64, limit: u32) -> Result<Vec<AuditRow>, StoreError> {
        audit::read(&self.readers, &self.writer_id, stream, from_seq, limit).await
    }

    async fn audit_since(&self, stream: Stream, moment: Timestamp) -> Result<Option<u64>, StoreError> {
        history::since(&self.readers, &self.writer_id, stream, moment).await
    }

    async fn audit_holding(
        &self,
        stream: Stream,
        from_seq: u64,
        within: u64,
        text: &str,
    ) -> Result<Vec<AuditRow>, StoreError> {
        history::holding(&self.readers, &self.writer_id, stream, from_seq, within, text).await
    }

    async fn writers(&self) -> Result<Vec<String>, StoreError> {
        Ok(vec![self.writer_id.clone()])
    }

    async fn audit_of(
        &self,
        writer: &str,
        stream: Stream,
        from_seq: u64,
        limit: u32,
    ) -> Result<Vec<AuditRow>, StoreError> {
        audit::read(&self.readers, writer, stream, from_seq, limit).await
    }

    async fn close(&self) {
        self.closing.cancel();
        if let Some(writing) = self.writing.lock().await.take() {
            // A writer that panicked has nothing left to close.
            let _ = writing.await;
        }
        self.readers.close().await;
    }

    async fn stopped(&self) {
        self.stopped.cancelled().await;
    }
}
