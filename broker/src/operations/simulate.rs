//! Recorded requests, decided once more under the rules that stand and under rules that are proposed: which would newly
//! be denied, newly allowed, or get something else. Nothing is changed, and no target is asked.
//!
//! Of each request stand who asked, the tree of tasks, the approvals and the time as they were; only the rules are others.

mod approvals;
mod question;
mod replay;
mod trees;

use std::collections::BTreeMap;
use std::sync::Arc;

use dayfly_domain::audit::Stream;
use dayfly_domain::document::{Fault, Kind};
use dayfly_domain::rules::Rules;
use dayfly_domain::simulation::{Summary, Tally};
use dayfly_domain::spiffe::SpiffeId;
use dayfly_domain::time::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use self::approvals::Approvals;
use self::question::Read;
use self::trees::Trees;
use super::admin::{Admin, Verb, also_may};
use super::draft::{DocumentChange, Draft, Targets, Verb as Change};
use super::past::LATEST_RECORD;
use super::{Broker, OperationError, blocking};
use crate::store::{ApprovalFilter, AuditRow, StoreError};

/// Records read at once; between two pages it is seen whether anybody still waits.
const RECORDS_AT_ONCE: u32 = 200;
/// Records one simulation reads.
const MOST_RECORDS: u64 = 1_000_000;
/// Groups of one kind of change in one answer.
const MOST_GROUPS: usize = 200;

/// What was asked, checked for form.
#[derive(Debug)]
pub struct Simulate {
    /// The documents, laid over those that stand.
    pub yaml: String,
    /// Remove what matches these labels and is not in the input; none means remove nothing.
    pub prune: Option<BTreeMap<String, String>>,
    /// Requests from this moment on are replayed.
    pub since: Timestamp,
    /// Which of them.
    pub only: Only,
}

/// Which requests are replayed; empty means all.
#[derive(Clone, Debug, Default)]
pub struct Only {
    /// Those of this identity.
    pub spiffe_id: Option<SpiffeId>,
    /// Those whose record names this scope.
    pub scope: Option<String>,
}

/// What is told while it goes on, in this order. After faults nothing comes.
#[derive(Debug)]
pub enum Event {
    /// The proposal was read.
    Proposed {
        /// The revision that stands.
        revision: u64,
        /// Each document of the input, and each that goes.
        changes: Vec<DocumentChange>,
        /// Every fault, as `apply` would tell it.
        faults: Vec<Fault>,
    },
    /// So far it has come.
    Progress(Progress),
    /// It is over.
    Done {
        /// All that was counted.
        summary: Summary,
        /// How far it came.
        progress: Progress,
        /// Whether there are records that were not read.
        more: bool,
    },
}

/// How far a simulation has come.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// Records that were read.
    pub records: u64,
    /// The moment of the last one.
    pub at: Option<Timestamp>,
}

/// The right to simulate; the next one may when it is dropped.
#[derive(Debug)]
pub struct Turn(#[expect(dead_code, reason = "held")] OwnedSemaphorePermit);

/// Takes the only turn there is, or refuses: it costs a processor while it lasts.
pub fn take_turn(broker: &Broker) -> Result<Turn, OperationError> {
    let permit = Arc::clone(&broker.simulating).try_acquire_owned();
    permit.map(Turn).map_err(|_| OperationError::Busy("another simulation is going on"))
}

/// Reads the proposal → reads the records page by page → decides each request twice → counts. Ends early, and tells nothing
/// more, once nobody listens.
pub async fn simulate(
    broker: &Arc<Broker>,
    admin: &Admin,
    _turn: Turn,
    asked: Simulate,
    tell: &mpsc::Sender<Result<Event, OperationError>>,
) -> Result<(), OperationError> {
    let begun = broker.clock.now();
    let draft = Draft::read(broker, &asked.yaml, asked.prune.as_ref()).await?;
    let brings_rego = |change: &DocumentChange| {
        change.key.kind == Kind::Policy && matches!(change.verb, Change::Create | Change::Update)
    };
    // Checking runs what was written: nobody's Rego runs before it is known that they may apply it.
    if draft.changes.iter().any(brings_rego) && !also_may(broker, admin, Verb::Apply) {
        let what = format!("{} may not apply, so no policy runs for it that is not in force", admin.name());
        return Err(OperationError::NotAdmin(what));
    }
    let (draft, checked) = draft.check(broker, Targets::LeftAlone).await?;
    let Draft { revision, changes, .. } = draft;
    let (proposed, faults) = match checked {
        Ok(rules) => (Some(rules), Vec::new()),
        Err(faults) => (None, faults),
    };
    if tell.send(Ok(Event::Proposed { revision, changes, faults })).await.is_err() {
        return Ok(());
    }
    let Some(proposed) = proposed else { return Ok(()) };
    let stands = Rules::clone(&broker.rules.load());
    if stands.revision != revision {
        return Err(StoreError::StaleRevision { expected: revision, actual: stands.revision }.into());
    }
    let all = broker.store.approvals(ApprovalFilter { live_at: None, limit: 0 }).await?;
    let approvals = Approvals::new(&all, asked.since);
    let replay =
        Replay { stands, proposed, approvals, trees: Trees::default(), tally: Tally::new(MOST_GROUPS) };
    match all_records(broker, &asked, replay, begun, tell).await? {
        Some(done) => drop(tell.send(Ok(done)).await),
        None => tracing::info!("a simulation was left before its end"),
    }
    Ok(())
}

/// Goes through the records up to the moment it was asked. None if nobody listens any more.
async fn all_records(
    broker: &Arc<Broker>,
    asked: &Simulate,
    mut replay: Replay,
    until: Timestamp,
    tell: &mpsc::Sender<Result<Event, OperationError>>,
) -> Result<Option<Event>, OperationError> {
    let mut progress = Progress::default();
    let mut next = broker.store.audit_since(Stream::Decision, asked.since - LATEST_RECORD).await?;
    while let Some(from) = next {
        if progress.records >= MOST_RECORDS {
            break;
        }
        if broker.tracker.is_closed() {
            tracing::info!("the broker is stopping, and a simulation with it");
            return Ok(None);
        }
        let mut rows = broker.store.audit(Stream::Decision, from, RECORDS_AT_ONCE).await?;
        // Records are almost in the order of time: a page of nothing but younger ones is the end.
        let over = rows.iter().all(|row| row.at > until);
        next = rows.last().filter(|_| !over).map(|last| last.seq + 1);
        rows.retain(|row| row.at >= asked.since && row.at <= until);
        progress.records += u64::try_from(rows.len()).unwrap_or_default();
        progress.at = rows.last().map(|last| last.at).or(progress.at);
        replay = replay.page(broker, rows, asked.only.clone()).await?;
        if tell.send(Ok(Event::Progress(progress))).await.is_err() {
            return Ok(None);
        }
    }
    Ok(Some(Event::Done { summary: replay.tally.finish(), progress, more: next.is_some() }))
}

/// Both rules, and what was found so far.
struct Replay {
    stands: Rules,
    proposed: Rules,
    approvals: Approvals,
    /// Of the page at hand.
    trees: Trees,
    tally: Tally,
}

impl Replay {
    /// Decides the requests of one page, beside the threads that serve.
    async fn page(
        mut self,
        broker: &Arc<Broker>,
        rows: Vec<AuditRow>,
        only: Only,
    ) -> Result<Self, OperationError> {
        let read = blocking(move || rows.iter().map(|row| Read::of(row, &only)).collect::<Vec<_>>()).await?;
        let asked = read.iter().filter_map(|one| match one {
            Read::Asked(asked) => Some(asked),
            Read::Repeated(_) | Read::Lost(..) | Read::Nothing => None,
        });
        let wanted = asked.flat_map(|asked| asked.trees());
        self.trees = Trees::read(&*broker.store, wanted).await?;
        let broker = Arc::clone(broker);
        blocking(move || {
            read.into_iter().for_each(|one| self.one(&broker, one));
            self
        })
        .await
    }

    fn one(&mut self, broker: &Broker, read: Read) {
        let asked = match read {
            Read::Asked(asked) => asked,
            Read::Repeated(repeated) => return self.tally.repeat(repeated),
            Read::Lost(why, requests) => return self.tally.skip(why, requests),
            Read::Nothing => return,
        };
        let stand = match replay::stand(&asked, &self.trees) {
            Ok(stand) => stand,
            Err(why) => return self.tally.skip(why, 1),
        };
        let recorded = &asked.recorded;
        let named = recorded.approval.as_deref();
        self.approvals.lay(recorded.at, named, [&mut self.stands, &mut self.proposed]);
        let before = replay::outcome(broker, &self.stands, &asked, &stand);
        let after = replay::outcome(broker, &self.proposed, &asked, &stand);
        self.tally.add(replay::replayed(&asked), &before, &after);
    }
}
