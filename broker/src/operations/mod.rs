//! What the broker does, one file per story. Handlers call these with a proven [`Caller`]; nothing here knows protobuf.

pub mod admin;
pub mod apply;
pub mod approval;
pub mod authorize;
pub mod claim_task;
pub mod delegate_task;
pub mod draft;
pub mod elsewhere;
pub mod end_task;
pub mod error;
pub mod exchange;
pub mod explain;
pub mod issue;
pub mod key;
pub mod kill;
pub mod lapse;
pub mod node;
pub mod notice;
pub mod open_task;
pub mod pace;
mod past;
pub mod reach;
pub mod renew;
pub mod review;
pub mod revocations;
pub mod revoke;
pub mod settle;
pub mod simulate;
pub mod stream_anchor;
pub mod who_can;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use dayfly_domain::audit::{Record, Stream};
use dayfly_domain::caller::Caller;
use dayfly_domain::decision::{Act, Denial, Wish};
use dayfly_domain::id::{LeaseId, RequestId, TaskId};
use dayfly_domain::lease::Lease;
use dayfly_domain::node::TrustDomainRule;
use dayfly_domain::parameter::{MAX_PARAMETERS, MAX_PATH};
use dayfly_domain::rules::Rules;
use dayfly_domain::scope::{Scope, ScopeAsk};
use dayfly_domain::secret::Secret;
use dayfly_domain::spiffe::SpiffeId;
use dayfly_domain::task::Task;
use dayfly_domain::time::{Timestamp, Ttl};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::task::TaskTracker;

pub use self::error::OperationError;
use self::lapse::Lapses;
use self::notice::Notices;
use self::settle::KillsSettle;
use self::stream_anchor::StreamAnchors;
use crate::clock::Clock;
use crate::denials::Denials;
use crate::limited::Limited;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::providers::{Catalogue, NO_PROVIDERS};
use crate::public::{Issuers, Ledger};
use crate::rate::Rate;
use crate::receipts::Receipts;
use crate::revoker::{Breakers, Wake};
use crate::signer::Keyring;
use crate::store::{LeaseRow, Store, StoreError};

/// Everything operations work with. One per process, shared.
pub struct Broker {
    /// Where state lives.
    pub store: Arc<dyn Store>,
    /// The rules in force; swapped whole.
    pub rules: ArcSwap<Rules>,
    /// What gives credentials. Set once the broker knows who it is; until then it can only take away.
    pub providers: OnceLock<Catalogue>,
    /// What signs receipts. Set once the broker knows who it is.
    pub receipts: OnceLock<Receipts>,
    /// The keys, and the issuers they sign for. Set once they can be reached.
    pub signing: OnceLock<Signing>,
    /// The only reader of time.
    pub clock: Clock,
    /// Default times and limits.
    pub limits: Limits,
    /// Trust domains by configuration; never from the database.
    pub trust_domains: Vec<TrustDomainRule>,
    /// Exact SPIFFE IDs of the root admins, from the configuration.
    pub root_admins: Vec<SpiffeId>,
    /// Whether an approval may come from the host that the request came from.
    pub approvals_from_one_host: bool,
    /// Held while the rules are read and swapped: of two that do, the later reader swaps last.
    pub reloading: tokio::sync::Mutex<()>,
    /// Held while recorded requests are replayed: one simulation at a time, so that it takes one processor at most.
    pub simulating: Arc<Semaphore>,
    /// Until when what a kill cuts off is looked for again.
    pub kills_settle: KillsSettle,
    /// Which targets are away, as far as revocations tell.
    pub breakers: Breakers,
    /// Wakes the revocation queue's workers.
    pub wake: Wake,
    /// Tells node agents and watchers what ended.
    pub notices: Notices,
    /// Tasks of direct callers, which live as long as their stream.
    pub stream_anchors: StreamAnchors,
    /// Who is silent, and whether that is held back.
    pub lapses: Lapses,
    /// Counts equal denials, so that a loop cannot fill the audit.
    pub denials: Denials,
    /// How often each identity, scope and session may ask.
    pub rate: Rate,
    /// Counts what was refused because it was too much.
    pub limited: Limited,
    /// Figures for the operator.
    pub metrics: Metrics,
    /// Operations that run to their end though the client hung up.
    pub tracker: TaskTracker,
}

/// What signs tokens, and what they say they come from.
pub struct Signing {
    /// The keys.
    pub keyring: Arc<Keyring>,
    /// One issuer for each use of them.
    pub issuers: Issuers,
}

/// Who asks, and under which name the request is found again.
#[derive(Clone, Debug)]
pub struct Request {
    /// The request's id, in the answer, the log and the record.
    pub id: RequestId,
    /// Who asks, proven.
    pub caller: Caller,
    /// When it came.
    pub at: Timestamp,
}

impl Broker {
    /// What gives credentials; nothing before the broker knows who it is.
    pub fn catalogue(&self) -> &Catalogue {
        self.providers.get().unwrap_or(&NO_PROVIDERS)
    }

    /// Runs an operation to its end, though the caller hangs up meanwhile. What it yields when nobody waits for it any
    /// more is handed to `undelivered`.
    pub async fn run_to_end<T, O, U, F>(&self, operation: O, undelivered: U) -> Result<T, OperationError>
    where
        T: Send + 'static,
        O: Future<Output = Result<T, OperationError>> + Send + 'static,
        U: FnOnce(T) -> F + Send + 'static,
        F: Future<Output = ()> + Send,
    {
        let (answer, waiting) = oneshot::channel();
        self.tracker.spawn(async move {
            let result = operation.await;
            if let Err(Ok(orphan)) = answer.send(result) {
                undelivered(orphan).await;
            }
        });
        waiting.await.unwrap_or(Err(OperationError::Bug("the operation was dropped")))
    }

    /// The tree above a task, as it stands now, if the caller may act in the task.
    ///
    /// Through an agent the kernel said who stands in the task; a direct caller shows the task's key. Unknown and
    /// not-yours answer alike.
    pub async fn lineage(
        &self,
        task: TaskId,
        key: Option<&Secret>,
        caller: &Caller,
    ) -> Result<Vec<Task>, OperationError> {
        let lineage = self.store.lineage(task).await?;
        let Some(own) = lineage.last() else { return Err(OperationError::task_not_open(task)) };
        let yours = match (&own.node, caller.via.node()) {
            (Some(owner), Some(speaker)) => owner == speaker,
            (None, None) => own.opened_by == caller.spiffe_id && key_fits(own, key),
            _ => false,
        };
        if yours { Ok(lineage) } else { Err(OperationError::task_not_open(task)) }
    }

    /// Writes the record of a denial, or counts it where equal ones came too often.
    pub async fn record_denial(&self, request: &Request, asked: &Asked<'_>, denial: &Denial) {
        self.record_denial_with(request, asked, denial, |record| record).await;
    }

    /// The same, with what else there is to tell.
    pub async fn record_denial_with(
        &self,
        request: &Request,
        asked: &Asked<'_>,
        denial: &Denial,
        tell: impl FnOnce(Record) -> Record,
    ) {
        self.metrics.denied(denial.reason);
        let scope = asked.ask.map_or("", |ask| ask.scope.as_str());
        if !self.denials.admit(&request.caller.spiffe_id, denial.reason, scope, request.at) {
            return;
        }
        let record = asked
            .record("decision.deny", request)
            .with("reason", denial.reason)
            .with("message", &denial.message)
            .with("trace", &denial.trace)
            .with("revision", self.rules.load().revision);
        if let Err(error) = self.store.write_records(vec![tell(record)]).await {
            tracing::error!(error = &error as &dyn std::error::Error, "a denial could not be recorded");
        }
    }

    /// A new lease id.
    pub fn new_lease_id(&self, now: Timestamp) -> LeaseId {
        LeaseId::new(now, rand::random())
    }
}

#[async_trait]
impl Ledger for Broker {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn scope(&self, name: &str) -> Option<Arc<Scope>> {
        self.rules.load().scope(name).cloned()
    }

    fn is_cut_off(&self, lease: &Lease) -> bool {
        let rules = self.rules.load();
        rules.cuts_off(&lease.spiffe_id) || rules.kills().strike_scope(&lease.scope, &lease.provider)
    }

    async fn lease(&self, id: LeaseId) -> Result<Option<LeaseRow>, StoreError> {
        self.store.lease(id).await
    }
}

/// Works out an answer beside the threads that serve: questions about many bindings must not make a grant wait.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, OperationError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| OperationError::Bug("an answer could not be worked out"))
}

/// What a request asked for: enough to decide it once more.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// `open_task`, `issue`, `renew` …
    pub what: &'static str,
    /// The task it was asked under.
    pub task: Option<TaskId>,
    /// Scope and values.
    pub ask: Option<&'a ScopeAsk>,
    /// How long it was wanted for.
    pub ttl: Option<Ttl>,
    /// The action, where no credential was asked for.
    pub act: Option<&'a Act>,
}

impl<'a> Asked<'a> {
    /// A wish under a task.
    pub fn wish(what: &'static str, task: Option<TaskId>, wish: &'a Wish) -> Self {
        Self { what, task, ask: Some(&wish.ask), ttl: wish.ttl, act: wish.act.as_ref() }
    }

    /// The beginning of its decision's record. What a caller wrote is cut to a bounded length.
    pub fn record(&self, event: &'static str, request: &Request) -> Record {
        let mut record = decision_record(event, self.what, request);
        if let Some(task) = self.task {
            record = record.with("task_id", task);
        }
        if let Some(ask) = self.ask {
            let values = ask.parameters.iter().take(MAX_PARAMETERS);
            let values: BTreeMap<String, String> = values.map(|(k, v)| (cut(k), cut(v))).collect();
            record = record.with("scope", cut(&ask.scope)).with("parameters", values);
        }
        if let Some(ttl) = self.ttl {
            record = record.with("asked_ttl", ttl);
        }
        match self.act {
            Some(act) => record.with("action", cut(&act.action)).with("artifact", &act.artifact),
            None => record,
        }
    }
}

/// The longest text of a caller that a record holds.
const LONGEST_CLAIM: usize = MAX_PATH;

fn cut(text: &str) -> String {
    text.chars().take(LONGEST_CLAIM).collect()
}

/// The beginning of every decision's record.
pub fn decision_record(event: &'static str, what: &str, request: &Request) -> Record {
    let record = Record::new(Stream::Decision, event, request.at)
        .request(request.id)
        .with("what", what)
        .with("spiffe_id", &request.caller.spiffe_id)
        .with("stage", request.caller.stage)
        .with("via", request.caller.via.name());
    match request.caller.via.node() {
        Some(node) => record.with("node", node),
        None => record,
    }
}

/// Who holds each task, root first: on whose behalf the last one acts.
pub fn holders(lineage: &[Task]) -> Vec<&SpiffeId> {
    lineage.iter().map(|task| &task.opened_by).collect()
}

fn key_fits(task: &Task, key: Option<&Secret>) -> bool {
    let (Some(expected), Some(shown)) = (&task.key_hash, key) else { return false };
    Sha256::digest(shown.expose()).ct_eq(expected).into()
}
