//! The PostgreSQL store: several brokers on one database.
//!
//! Every change of state goes through a lane ([`lanes`]); its verbs are told by subject in `documents`, `tasks`, `ends`,
//! `leases`, `revocations`, `queue`, `slots`, `nodes`, `approvals`, `kills` and `assertions`. What keeps brokers from getting in each other's way is
//! in [`transaction`] (who locks what), [`membership`] (who may write) and [`guard`] (who is alive).

mod approvals;
mod assertions;
mod audit;
mod brake;
mod claims;
mod counts;
mod cut_off;
mod documents;
mod elsewhere;
mod ends;
mod guard;
mod history;
mod issue_keys;
mod keys;
mod kills;
mod lanes;
mod leases;
mod ledger;
mod listings;
mod membership;
mod migrate;
mod moves;
mod nodes;
mod open;
mod queue;
mod revocations;
mod slots;
mod tasks;
mod transaction;
mod verb;
mod witness;

#[cfg(all(test, feature = "peers"))]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

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
use sqlx::postgres::{PgConnectOptions, PgConnection, PgListener, PgPool, PgPoolOptions};
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::guard::Guard;
use self::lanes::{Queue, Worker};
use self::ledger::Ledger;
use self::membership::Membership;
pub use self::migrate::migrate;
use self::open::{NAME_PATIENCE, check_role, check_schema};
pub use self::open::{OpenError, Options, Tls};
use self::transaction::Tx;
use super::chain::Line;
use super::desk::{self, Desk};
use super::{
    ApprovalFilter, AuditRow, Change, DueRevocation, EndWhich, Ended, Hint, LeaseFilter, LeaseRow, NewLease,
    NodeRow, Over, Store, StoreError, StoredDocument, TaskClaim, TaskFilter, WithheldKey,
};
use crate::clock::Clock;

/// The channel on which brokers tell each other where to look.
const CHANNEL: &str = "dayfly";
/// Hints that wait. They are only hints.
const HINTS_WAITING: usize = 64;

/// Keeps state in a PostgreSQL database that it shares with other brokers.
#[derive(Debug)]
pub struct PostgresStore {
    member: Arc<Membership>,
    desk: Desk<Tx>,
    readers: PgPool,
    hints: Mutex<mpsc::Receiver<Hint>>,
    closing: CancellationToken,
    stopped: CancellationToken,
    working: TaskTracker,
}

impl PostgresStore {
    /// Joins the brokers on a database whose schema stands. Audit records are chained under `writer`, which no other
    /// broker may have.
    pub async fn open(options: &Options, writer: &str) -> Result<Self, OpenError> {
        let connect = options.connect_options()?;
        let mut session = PgConnection::connect_with(&connect).await?;
        check_schema(&mut session).await?;
        check_role(&mut session).await?;
        take_name(&mut session, writer).await?;
        let epoch = guard::begin_epoch(&mut session, writer).await?;
        let readers = PgPoolOptions::new()
            .max_connections(options.readers)
            .acquire_timeout(Duration::from_secs(5))
            .connect_with(connect.clone())
            .await?;
        let stands = documents::version(&readers).await.map_err(OpenError::State)?;
        let member = Arc::new(Membership::new(writer, epoch, stands));
        Self::start(connect, member, readers, session).await
    }

    async fn start(
        connect: PgConnectOptions,
        member: Arc<Membership>,
        readers: PgPool,
        session: PgConnection,
    ) -> Result<Self, OpenError> {
        let (closing, stopped) = (CancellationToken::new(), CancellationToken::new());
        let (desk, queues) = desk::queues();
        let (hinted, hints) = mpsc::channel(HINTS_WAITING);
        let chains = Arc::new(Mutex::new(Ledger::new(&member.writer)));
        let working = TaskTracker::new();
        let store = Self {
            member: Arc::clone(&member),
            desk: desk.clone(),
            readers,
            hints: Mutex::new(hints),
            closing: closing.clone(),
            stopped,
            working,
        };
        for queue in Queue::all(queues) {
            let tx = Tx::new(connect.clone(), Arc::clone(&member), Arc::clone(&chains));
            store.spawn(Worker::new(queue, tx, closing.clone()).run());
        }
        let listener = listen(&connect).await?;
        store.spawn(follow(listener, hinted.clone(), closing.clone()));
        let guard =
            Guard { options: connect, member, chains, desk, hints: hinted, closing, clock: Clock::default() };
        store.spawn(guard.run(session));
        store.working.close();
        Ok(store)
    }

    /// Runs a part. When one of them is gone, the store is.
    fn spawn(&self, part: impl Future<Output = ()> + Send + 'static) {
        let says_so = self.stopped.clone().drop_guard();
        self.working.spawn(async move {
            let _says_so = says_so;
            part.await;
        });
    }
}

/// Takes the name for a session, once an earlier process under it is gone.
async fn take_name(session: &mut PgConnection, writer: &str) -> Result<(), OpenError> {
    let since = Instant::now();
    while !guard::try_lock(session, writer).await? {
        if since.elapsed() > NAME_PATIENCE {
            return Err(OpenError::InUse { writer: writer.to_owned() });
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

async fn listen(connect: &PgConnectOptions) -> Result<PgListener, sqlx::Error> {
    // A listener waits on its connection for good, so it has a pool of its own.
    let pool = PgPoolOptions::new().max_connections(1).max_lifetime(None).idle_timeout(None);
    let mut listener = PgListener::connect_with(&pool.connect_lazy_with(connect.clone())).await?;
    listener.listen(CHANNEL).await?;
    Ok(listener)
}

/// Passes hints on. Whoever follows them reads the database; that they come is not relied on.
async fn follow(mut listener: PgListener, hints: mpsc::Sender<Hint>, closing: CancellationToken) {
    loop {
        let heard = tokio::select! {
            () = closing.cancelled() => return,
            heard = listener.recv() => heard,
        };
        match heard {
            Ok(told) => {
                if let Some(hint) = Hint::from_name(told.payload()) {
                    // Full: whoever reads them will look soon.
                    let _ = hints.try_send(hint);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "hints of other brokers are not heard; what they did is still read in time");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn load_documents(&self) -> Result<(u64, Vec<StoredDocument>), StoreError> {
        let (version, documents) = documents::load(&self.readers).await?;
        self.member.read(version);
        Ok((version.revision.unsigned_abs(), documents))
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
        self.desk.post(tasks::RecordUnder { task, session, line: Line::new(&record), now }).await
    }

    async fn audit(&self, stream: Stream, from_seq: u64, limit: u32) -> Result<Vec<AuditRow>, StoreError> {
        audit::read(&self.readers, &self.member.writer, stream, from_seq, limit).await
    }
    async fn audit_since(&self, stream: Stream, moment: Timestamp) -> Result<Option<u64>, StoreError> {
        history::since(&self.readers, &self.member.writer, stream, moment).await
    }

    async fn audit_holding(
        &self,
        stream: Stream,
        from_seq: u64,
        within: u64,
        text: &str,
    ) -> Result<Vec<AuditRow>, StoreError> {
        history::holding(&self.readers, &self.member.writer, stream, from_seq, within, text).await
    }

    fn rules_in_force(&self) {
        self.member.in_force();
    }

    async fn rules_moved(&self) -> Result<bool, StoreError> {
        Ok(!self.member.holds(documents::version(&self.readers).await?))
    }

    async fn hint(&self) -> Hint {
        match self.hints.lock().await.recv().await {
            Some(hint) => hint,
            None => std::future::pending().await,
        }
    }

    async fn over_since(&self, moment: Timestamp) -> Result<Over, StoreError> {
        elsewhere::over_since(&self.readers, moment).await
    }

    async fn see_streams(&self, tasks: Vec<TaskId>, now: Timestamp) -> Result<(), StoreError> {
        self.desk.post(elsewhere::SeeStreams { tasks, now }).await
    }

    async fn streams_unseen_since(
        &self,
        tasks: Vec<TaskId>,
        moment: Timestamp,
    ) -> Result<Vec<TaskId>, StoreError> {
        elsewhere::unseen_since(&self.readers, &tasks, moment).await
    }

    async fn stream_tasks(&self) -> Result<Vec<TaskId>, StoreError> {
        elsewhere::stream_tasks(&self.readers).await
    }

    async fn find_records(
        &self,
        stream: Stream,
        moment: Timestamp,
        within: u64,
        text: &str,
    ) -> Result<Vec<AuditRow>, StoreError> {
        let mut found = Vec::new();
        for writer in self.writers().await? {
            if let Some(from) = history::since(&self.readers, &writer, stream, moment).await? {
                found.extend(history::holding(&self.readers, &writer, stream, from, within, text).await?);
            }
        }
        Ok(found)
    }

    async fn writers(&self) -> Result<Vec<String>, StoreError> {
        audit::writers(&self.readers).await
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

    async fn witness(&self, now: Timestamp) -> Result<(), StoreError> {
        self.desk.post(witness::Witness { now }).await
    }

    fn is_shared(&self) -> bool {
        true
    }

    async fn close(&self) {
        self.closing.cancel();
        self.working.wait().await;
        self.readers.close().await;
    }

    async fn stopped(&self) {
        self.stopped.cancelled().await;
    }
}
