//! What a task, a session or an identity can get now, what is still out, and until when.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use dayfly_domain::binding::ViaRule;
use dayfly_domain::decision::Decision;
use dayfly_domain::id::{SessionId, TaskId};
use dayfly_domain::pattern::SpiffePattern;
use dayfly_domain::reach::{self, Entry, Horizon, Line};
use dayfly_domain::rules::Rules;
use dayfly_domain::scope::{Promise, Scope};
use dayfly_domain::spiffe::SpiffeId;
use dayfly_domain::stage::Stage;
use dayfly_domain::task::{AnchorKind, Task, TaskState};
use dayfly_domain::time::{Timestamp, Ttl};

use super::explain::enforced;
use super::{Broker, OperationError, blocking, issue};
use crate::store::{LeaseFilter, LeaseRow, TaskFilter};

/// Tasks in one answer.
const MOST_TASKS: usize = 500;
/// Leases in one answer.
const MOST_LEASES: u32 = 5_000;

/// Whose reach.
#[derive(Debug)]
pub enum Subject {
    /// An identity, anywhere.
    Identity(SpiffeId),
    /// A task and all below it.
    Task(TaskId),
    /// A whole tree.
    Session(SessionId),
}

/// What is in reach.
#[derive(Debug)]
pub struct Reached {
    /// When.
    pub at: Timestamp,
    /// Under which revision of the documents.
    pub revision: u64,
    /// Of an identity: what it does.
    pub stage: Option<Stage>,
    /// Of an identity: which agents may speak for it.
    pub agents: Vec<SpiffePattern>,
    /// Of an identity: what its bindings give.
    pub entries: Vec<(Entry, Option<Promise>)>,
    /// Tasks that are open or still hold something.
    pub tasks: Vec<ReachedTask>,
    /// Of an identity: its live leases in tasks of others.
    pub elsewhere: Vec<LeaseRow>,
    /// Of all of it.
    pub horizon: Horizon,
    /// Whether some was left out.
    pub more: bool,
}

/// What one task may get and holds.
#[derive(Debug)]
pub struct ReachedTask {
    /// The task.
    pub task: Task,
    /// Its ceiling, line by line, with what is promised where a line is allowed.
    pub lines: Vec<(Line, Option<Promise>)>,
    /// What is out.
    pub leases: Vec<LeaseRow>,
    /// Of task and leases.
    pub horizon: Horizon,
}

/// Reads what there is → decides each line, or each binding.
pub async fn reach(broker: &Arc<Broker>, subject: Subject) -> Result<Reached, OperationError> {
    let (rules, now) = (broker.rules.load_full(), broker.clock.now());
    let of = match &subject {
        Subject::Identity(id) => LeaseFilter { spiffe_id: Some(id.clone()), ..LeaseFilter::default() },
        Subject::Session(session) => LeaseFilter { session: Some(*session), ..LeaseFilter::default() },
        Subject::Task(task) => {
            let session = broker.store.lineage(*task).await?.last().map(|task| task.session);
            LeaseFilter {
                session: Some(session.ok_or_else(|| unknown("task", task))?),
                ..LeaseFilter::default()
            }
        }
    };
    let tasks = TaskFilter { session: of.session, spiffe_id: of.spiffe_id.clone(), ..TaskFilter::default() };
    let mut leases = broker.store.leases(LeaseFilter { limit: MOST_LEASES + 1, ..of }).await?;
    let mut more = leases.len() > MOST_LEASES as usize;
    leases.truncate(MOST_LEASES as usize);
    let open = broker.store.tasks(tasks).await?.into_iter().map(|(task, _)| task).collect();
    let mut trees = Trees::load(broker, open, &leases).await?;
    if let Subject::Session(session) = &subject {
        // A session that is over and holds nothing is known all the same.
        trees
            .add_if_there(broker, TaskId::from(*session))
            .await?
            .ok_or_else(|| unknown("session", session))?;
    }
    if let Subject::Task(task) = &subject {
        trees.add_if_there(broker, *task).await?.ok_or_else(|| unknown("task", task))?;
        trees.lineages.retain(|lineage| lineage.iter().any(|above| above.id == *task));
    }
    if let Subject::Identity(id) = &subject {
        trees.lineages.retain(|lineage| lineage.last().is_some_and(|own| own.opened_by == *id));
    }
    more |= trees.more;
    let worker = Arc::clone(broker);
    blocking(move || reached(&worker, &rules, &subject, trees, leases, more, now)).await
}

/// Trees above tasks, each root first; oldest task first.
struct Trees {
    lineages: Vec<Vec<Task>>,
    /// Whether some were left out.
    more: bool,
}

impl Trees {
    /// Of every open task, and of those that leases are out under.
    async fn load(broker: &Broker, open: Vec<Task>, leases: &[LeaseRow]) -> Result<Self, OperationError> {
        let mut known: HashMap<TaskId, Task> = open.into_iter().map(|task| (task.id, task)).collect();
        let mut wanted: HashSet<TaskId> = known.keys().copied().collect();
        wanted.extend(leases.iter().map(|row| row.lease.task));
        let mut wanted: Vec<TaskId> = wanted.into_iter().collect();
        // Ids begin with the time they were made at.
        wanted.sort_unstable();
        let more = wanted.len() > MOST_TASKS;
        wanted.truncate(MOST_TASKS);
        let mut lineages = Vec::new();
        for task in wanted {
            lineages.push(lineage(broker, &mut known, task).await?);
        }
        Ok(Self { lineages, more })
    }

    async fn add_if_there(&mut self, broker: &Broker, task: TaskId) -> Result<Option<()>, OperationError> {
        if self.lineages.iter().any(|lineage| lineage.last().is_some_and(|own| own.id == task)) {
            return Ok(Some(()));
        }
        let lineage = broker.store.lineage(task).await?;
        if lineage.is_empty() {
            return Ok(None);
        }
        self.lineages.insert(0, lineage);
        Ok(Some(()))
    }
}

/// The tree above, from what is known; asked of the store where a task above is not.
async fn lineage(
    broker: &Broker,
    known: &mut HashMap<TaskId, Task>,
    task: TaskId,
) -> Result<Vec<Task>, OperationError> {
    let mut lineage = Vec::new();
    let mut next = Some(task);
    while let Some(id) = next {
        let Some(found) = known.get(&id) else {
            let lineage = broker.store.lineage(task).await?;
            known.extend(lineage.iter().map(|task| (task.id, task.clone())));
            return Ok(lineage);
        };
        next = found.parent;
        lineage.insert(0, found.clone());
    }
    Ok(lineage)
}

fn reached(
    broker: &Broker,
    rules: &Rules,
    subject: &Subject,
    trees: Trees,
    mut leases: Vec<LeaseRow>,
    more: bool,
    now: Timestamp,
) -> Reached {
    let mut tasks = Vec::new();
    for lineage in trees.lineages {
        let Some(own) = lineage.last() else { continue };
        let of_task = |row: &LeaseRow| row.lease.task == own.id;
        let (held, others): (Vec<LeaseRow>, Vec<LeaseRow>) = leases.into_iter().partition(of_task);
        leases = others;
        tasks.push(reached_task(broker, rules, &lineage, held, now));
    }
    let (id, elsewhere) = match subject {
        Subject::Identity(id) => (Some(id), leases),
        // What is left is of tasks beside the one that was asked for.
        Subject::Task(_) | Subject::Session(_) => (None, Vec::new()),
    };
    let entry = |entry: Entry| {
        let anchor = entry.scope.anchor.unwrap_or(match entry.binding.via {
            ViaRule::Agent => AnchorKind::CgroupOwned,
            ViaRule::Direct => AnchorKind::Stream,
        });
        let promise = promise(broker, anchor, &entry.scope);
        (entry, promise)
    };
    let entries = id.map(|id| reach::of_identity(rules, id, now)).unwrap_or_default();
    let of_leases = elsewhere.iter().map(|row| Horizon::of_lease(&row.lease, now));
    let horizon =
        tasks.iter().map(|task| task.horizon).chain(of_leases).fold(Horizon::default(), Horizon::and);
    Reached {
        at: now,
        revision: rules.revision,
        stage: id.and_then(|id| rules.stage_of(id)),
        agents: id.map(|id| agents(rules, id)).unwrap_or_default(),
        entries: entries.into_iter().map(entry).collect(),
        tasks,
        elsewhere,
        horizon,
        more,
    }
}

fn reached_task(
    broker: &Broker,
    rules: &Rules,
    lineage: &[Task],
    leases: Vec<LeaseRow>,
    now: Timestamp,
) -> ReachedTask {
    let task = lineage.last().expect("whoever calls has looked").clone();
    // A task that is over gets nothing more: no line of it is worth a decision.
    let lines = match task.state {
        TaskState::Open { .. } => reach::of_task(rules, lineage, now),
        TaskState::Ended { .. } => Vec::new(),
    };
    let of_leases = leases.iter().map(|row| Horizon::of_lease(&row.lease, now));
    let over = |scope: &Scope| {
        let provider = broker.catalogue().get(&scope.provider);
        provider.map_or(Ttl::ZERO, |provider| provider.residue(scope, Ttl::ZERO))
    };
    let horizon = of_leases.fold(Horizon::of_task(&task, &lines, now, over), Horizon::and);
    let anchor = task.anchor.kind;
    let promised = |line: Line| {
        let decision = enforced(broker, line.decision);
        let promise = match &decision {
            Decision::Allow(grant) => promise(broker, anchor, &grant.scope),
            Decision::Deny(_) => None,
        };
        (Line { decision, ..line }, promise)
    };
    ReachedTask { lines: lines.into_iter().map(promised).collect(), task, leases, horizon }
}

/// What can be promised about taking a credential of the scope back; none where it gives none, or this broker cannot.
fn promise(broker: &Broker, anchor: AnchorKind, scope: &Scope) -> Option<Promise> {
    let provider = broker.catalogue().get(&scope.provider)?;
    provider.gives_credentials().then(|| issue::promise(broker, anchor, scope, provider.as_ref()))
}

fn agents(rules: &Rules, id: &SpiffeId) -> Vec<SpiffePattern> {
    rules.nodes().iter().filter(|rule| rule.speaks_for(id)).map(|rule| rule.agents.clone()).collect()
}

fn unknown(kind: &'static str, id: &impl ToString) -> OperationError {
    OperationError::Unknown { kind, name: id.to_string() }
}
