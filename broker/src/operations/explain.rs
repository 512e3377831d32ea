//! Why a request was decided as it was: what the record says, and the same decision once more with every step; or how a
//! request would be decided that nobody made.

use std::sync::Arc;

use dayfly_domain::artifact;
use dayfly_domain::binding::ViaRule;
use dayfly_domain::caller::Caller;
use dayfly_domain::decision::{
    self, Act, Decision, Denial, DenyReason, Explanation, Opening, Ruling, Step, Wish,
};
use dayfly_domain::hypothesis::{Hypothesis, caller_in};
use dayfly_domain::id::TaskId;
use dayfly_domain::policy::Narrowing;
use dayfly_domain::rules::Rules;
use dayfly_domain::scope::{Ceiling, ScopeAsk};
use dayfly_domain::spiffe::SpiffeId;
use dayfly_domain::task::{Task, TaskState};
use dayfly_domain::time::{Timestamp, Ttl};

use super::exchange::new_task;
use super::open_task::check_depth;
use super::past::{self, Recorded};
use super::{Broker, OperationError, blocking};
use crate::store::AuditRow;

/// A decision with its steps, and the tree it was taken in.
#[derive(Debug)]
pub struct Explained {
    /// What was decided.
    pub verdict: Verdict,
    /// In the order they were taken; bindings with the fewest misses first.
    pub steps: Vec<Step>,
    /// Who holds each task, root first.
    pub chain: Vec<SpiffeId>,
    /// Whether the tasks are made up.
    pub hypothetical: bool,
    /// Revision of the documents.
    pub revision: u64,
}

/// What was decided.
#[derive(Debug)]
pub enum Verdict {
    /// On a request under a task.
    Request(Decision),
    /// On a task that was to be opened or claimed, which grants nothing by itself.
    Task(Result<(), Denial>),
}

/// A decision on record, and what it is if it is taken again.
#[derive(Debug)]
pub struct PastDecision {
    /// The record.
    pub row: AuditRow,
    /// Once more under what stood then; or why that cannot be.
    pub then: Result<Explained, String>,
    /// Whether that says other than the record.
    pub differs: bool,
    /// Now.
    pub today: Option<Explained>,
}

/// A request that nobody made.
#[derive(Debug)]
pub struct Supposed {
    /// Who would ask; of a task its holder, if nobody is named.
    pub asker: Option<SpiffeId>,
    /// Where it would stand.
    pub stand: Stand,
    /// Scope and values. For an action in a task that is there, the line of its ceiling is found if none is named.
    pub ask: Option<ScopeAsk>,
    /// How long.
    pub ttl: Option<Ttl>,
    /// For an action.
    pub act: Option<Act>,
}

/// Where a supposed asker stands.
#[derive(Debug)]
pub enum Stand {
    /// In a task that is there.
    Task(TaskId),
    /// In tasks that are made up: of these holders, root first, then of its own; by this way.
    Under(Vec<SpiffeId>, ViaRule),
}

/// Every decision that was recorded under the id of a request, or of a lease.
pub async fn explain_past(broker: &Arc<Broker>, id: &str) -> Result<Vec<PastDecision>, OperationError> {
    let mut decisions = Vec::new();
    for row in past::find(broker, id).await? {
        decisions.push(once_more(broker, row).await?);
    }
    Ok(decisions)
}

async fn once_more(broker: &Arc<Broker>, row: AuditRow) -> Result<PastDecision, OperationError> {
    let without = |row, why: String| PastDecision { row, then: Err(why), differs: false, today: None };
    let recorded = match Recorded::read(&row) {
        Ok(recorded) => recorded,
        Err(why) => return Ok(without(row, why)),
    };
    let rules = match past::rules_at(broker, &recorded).await? {
        Ok(rules) => rules,
        Err(why) => return Ok(without(row, why)),
    };
    let lineage = match recorded.task {
        Some(task) => broker.store.lineage_at(task, recorded.at).await?,
        None => Vec::new(),
    };
    if let Some(task) = recorded.task.filter(|_| lineage.is_empty() && !recorded.asked.is_claim()) {
        return Ok(without(row, format!("there is no task {task}")));
    }
    let worker = Arc::clone(broker);
    let explained = blocking(move || {
        let depth = recorded.deepest(&lineage);
        let then = explain(&worker, &rules, &recorded.caller, &lineage, &recorded.asked, depth, recorded.at);
        let differs = recorded.differs(&then.verdict);
        let now = worker.clock.now();
        let today = worker.rules.load_full();
        let (caller, tree) = as_of_now(&recorded, &today, lineage, now);
        let depth = worker.limits.task_depth;
        let today = explain(&worker, &today, &caller, &tree, &recorded.asked, depth, now);
        (then, differs, today)
    });
    let (then, differs, today) = explained.await?;
    Ok(PastDecision { row, then: Ok(then), differs, today: Some(today) })
}

/// The same caller with a fresh proof, and the tree as old as it was.
fn as_of_now(recorded: &Recorded, rules: &Rules, lineage: Vec<Task>, now: Timestamp) -> (Caller, Vec<Task>) {
    let since = recorded.at.until(now);
    let younger = |task: Task| Task {
        opened_at: task.opened_at + since,
        state: match task.state {
            TaskState::Open { deadline } => TaskState::Open { deadline: deadline + since },
            over @ TaskState::Ended { .. } => over,
        },
        ..task
    };
    let caller = &recorded.caller;
    let stage = rules.stage_of(&caller.spiffe_id).unwrap_or(caller.stage);
    let caller = Caller { stage, proof_expires_at: caller.proof_expires_at + since, ..caller.clone() };
    (caller, lineage.into_iter().map(younger).collect())
}

/// What the supposed request would be told now.
pub async fn explain_supposed(broker: &Arc<Broker>, asked: Supposed) -> Result<Explained, OperationError> {
    let (rules, now) = (broker.rules.load_full(), broker.clock.now());
    let Supposed { asker, stand, ask, ttl, act } = asked;
    let wanted = check_wanted(&rules, ask, ttl, act)?;
    let (caller, lineage, hypothetical) = match stand {
        Stand::Task(task) => {
            let lineage = broker.store.lineage(task).await?;
            let own = lineage.last();
            let own = own.ok_or_else(|| OperationError::Unknown { kind: "task", name: task.to_string() })?;
            let asker = asker.unwrap_or_else(|| own.opened_by.clone());
            (caller_in(&rules, asker, own, now), lineage, false)
        }
        Stand::Under(above, via) => {
            let asker = asker.ok_or_else(|| incomplete("nobody is named who would ask"))?;
            let Wanted::Wish(wish) = &wanted else { return Err(incomplete("no scope is named")) };
            let anchor = rules.scope(&wish.ask.scope).and_then(|scope| scope.anchor);
            let hypothesis = Hypothesis { above, anchor, ..Hypothesis::root(asker, via) };
            let (caller, lineage) = hypothesis.stand(&rules, &wish.ask, now);
            (caller, lineage, true)
        }
    };
    let worker = Arc::clone(broker);
    let depth = broker.limits.task_depth;
    let explained =
        blocking(move || explain(&worker, &rules, &caller, &lineage, &wanted, depth, now)).await?;
    Ok(Explained { hypothetical, ..explained })
}

fn check_wanted(
    rules: &Rules,
    ask: Option<ScopeAsk>,
    ttl: Option<Ttl>,
    act: Option<Act>,
) -> Result<Wanted, OperationError> {
    let is_for_actions =
        |ask: &ScopeAsk| rules.scope(&ask.scope).is_some_and(|scope| scope.provider == artifact::PROVIDER);
    match (ask, act) {
        (None, None) => Err(incomplete("neither a scope nor an action is named")),
        (None, Some(act)) => Ok(Wanted::Act(act)),
        (Some(ask), None) if is_for_actions(&ask) => {
            Err(incomplete("the scope gives no credential: it allows actions on an artifact"))
        }
        (Some(ask), act) => Ok(Wanted::Wish(Wish { ask, ttl, act })),
    }
}

fn incomplete(message: &str) -> OperationError {
    OperationError::Invalid {
        reason: "HYPOTHESIS_INVALID",
        message: message.to_owned(),
        next: "name who asks and for which scope, and for an action what it is on",
    }
}

/// What is asked for.
#[derive(Clone, Debug)]
pub(super) enum Wanted {
    /// A credential, or an action under a scope.
    Wish(Wish),
    /// An action, under whatever line of the ceiling is for it.
    Act(Act),
    /// A task, opened or claimed.
    Task(Opening),
    /// A token in a task of its own, which is opened for it.
    Exchange(Opening, ScopeAsk),
}

impl Wanted {
    /// Whether it is a claim: of a task that is not there it is denied as of any other that is not offered.
    fn is_claim(&self) -> bool {
        matches!(self, Wanted::Task(Opening::Claimed))
    }
}

/// `lineage` is the tree that the request was made in; where a task is opened, the tree above it. `depth`: how many tasks
/// may stand in a line.
fn explain(
    broker: &Broker,
    rules: &Rules,
    caller: &Caller,
    lineage: &[Task],
    wanted: &Wanted,
    depth: u32,
    now: Timestamp,
) -> Explained {
    let request = |lineage: &[Task], wish: &Wish| {
        let explanation = carried_out(broker, decision::explain(rules, caller, lineage, wish, now));
        (Verdict::Request(explanation.decision), explanation.steps)
    };
    let (verdict, steps) = match wanted {
        Wanted::Wish(wish) => request(lineage, wish),
        Wanted::Act(act) => match decision::decide_act(rules, caller, lineage, act, now) {
            Ruling { wish: Some(wish), .. } => request(lineage, &wish),
            Ruling { wish: None, decision } => by_its_trace(decision),
        },
        Wanted::Task(opening) => {
            let (checked, steps) = opened(rules, caller, lineage, opening, depth, now);
            (Verdict::Task(checked), steps)
        }
        Wanted::Exchange(opening, ask) => match opened(rules, caller, lineage, opening, depth, now) {
            (Ok(()), mut steps) => {
                let ceiling = Ceiling::new(vec![ask.clone()]);
                let mut tree = lineage.to_vec();
                tree.push(new_task(broker, caller, lineage, ceiling, None, now));
                let wish = Wish { ask: ask.clone(), ttl: None, act: None };
                let (verdict, more) = request(&tree, &wish);
                steps.extend(more);
                (verdict, steps)
            }
            (denied, steps) => (Verdict::Task(denied), steps),
        },
    };
    let holder = match wanted {
        Wanted::Wish(_) | Wanted::Act(_) | Wanted::Task(Opening::Claimed) => None,
        Wanted::Task(Opening::Delegated { to, .. }) => Some(to),
        Wanted::Task(_) | Wanted::Exchange(..) => Some(&caller.spiffe_id),
    };
    Explained {
        verdict,
        steps,
        chain: lineage.iter().map(|task| &task.opened_by).chain(holder).cloned().collect(),
        hypothetical: false,
        revision: rules.revision,
    }
}

/// Whether the task may be opened or claimed. How deep it would stand is asked last, as where it is opened.
fn opened(
    rules: &Rules,
    caller: &Caller,
    above: &[Task],
    opening: &Opening,
    depth: u32,
    now: Timestamp,
) -> (Result<(), Denial>, Vec<Step>) {
    let (checked, mut steps) = decision::explain_opening(rules, caller, above, opening, now);
    if *opening == Opening::Claimed {
        return (checked, steps);
    }
    let shallow = check_depth(depth, above);
    let what = shallow.as_ref().map_or_else(|denial| denial.message.clone(), |()| "holds".to_owned());
    steps.push(Step { rule: "depth".to_owned(), matched: shallow.is_ok(), what });
    (checked.and(shallow), steps)
}

/// A denial that fell before there was a scope to walk for has told its steps itself.
fn by_its_trace(decision: Decision) -> (Verdict, Vec<Step>) {
    let steps = match &decision {
        Decision::Allow(_) => Vec::new(),
        Decision::Deny(denial) => denial.trace.iter().map(|line| step(line)).collect(),
    };
    (Verdict::Request(decision), steps)
}

/// A step as a trace writes it: `- scope models: it allows other actions`.
fn step(line: &str) -> Step {
    let (matched, rest) = match line.split_once(' ') {
        Some(("+", rest)) => (true, rest),
        Some(("-", rest)) => (false, rest),
        _ => (false, line),
    };
    let (rule, what) = rest.split_once(": ").unwrap_or((rest, ""));
    Step { rule: rule.to_owned(), matched, what: what.to_owned() }
}

/// What policies take away must be enforced by the target; where it cannot, nothing is issued.
fn carried_out(broker: &Broker, explanation: Explanation) -> Explanation {
    let Explanation { decision, mut steps } = explanation;
    let decision = enforced(broker, decision);
    if let Decision::Deny(denial) = &decision
        && denial.reason == DenyReason::PolicyCannotNarrow
    {
        steps.push(Step { rule: "provider".to_owned(), matched: false, what: denial.message.clone() });
    }
    Explanation { decision, steps }
}

/// The decision, unless the target cannot enforce what policies took away.
pub(super) fn enforced(broker: &Broker, decision: Decision) -> Decision {
    let Decision::Allow(grant) = &decision else { return decision };
    let provider = broker.catalogue().get(&grant.scope.provider);
    let Some(provider) = provider.filter(|_| grant.narrowing != Narrowing::default()) else {
        return decision;
    };
    let target = grant.scope.target.render(&grant.ask.parameters).unwrap_or_default();
    match provider.can_narrow(&target, &grant.narrowing) {
        Ok(()) => decision,
        Err(problem) => Decision::Deny(DenyReason::PolicyCannotNarrow.denial(problem)),
    }
}
