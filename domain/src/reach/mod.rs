//! What a task or an identity can get now. Every yes and every no is a decision: of a task as it stands, or of the
//! tree of tasks that is most favourable to an identity.

mod horizon;
mod lineages;
mod values;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::binding::Binding;
use crate::caller::Caller;
use crate::decision::{self, Act, Decision, Denial, Grant, Wish};
use crate::hypothesis::{caller_in, wishes};
use crate::parameter::Parameters;
use crate::rules::Rules;
use crate::scope::{Scope, ScopeAsk};
use crate::spiffe::SpiffeId;
use crate::task::{Task, TaskState};
use crate::time::Timestamp;

pub use self::horizon::Horizon;
pub use self::values::Values;

/// One line of a task's ceiling, decided now: for a credential, or for an action that the line allows.
#[derive(Clone, Debug)]
pub struct Line {
    /// Scope and values, and the action.
    pub wish: Wish,
    /// What the holder of the task would be told now.
    pub decision: Decision,
}

/// What a binding gives an identity.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The scope.
    pub scope: Arc<Scope>,
    /// The binding.
    pub binding: Arc<Binding>,
    /// Values that scope and binding both take, by parameter.
    pub values: BTreeMap<String, Values>,
    /// What was decided: each combination of values where they are few and listed, else one example. Empty where the
    /// binding gives its holder no use, or no values fit.
    pub outcomes: Vec<Outcome>,
    /// Whether every combination of values was decided.
    pub complete: bool,
    /// Names of the policies that are asked.
    pub policies: Vec<String>,
}

/// What was decided about one ask.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Scope and values.
    pub ask: ScopeAsk,
    /// The action, where the scope is for actions.
    pub act: Option<Act>,
    /// The answer.
    pub standing: Standing,
    /// Where the answer is that one. One way, if it is a root task; a bounded number, if it takes a parent.
    pub ways: Vec<Way>,
}

/// The best answer that the binding gets anywhere.
#[derive(Clone, Debug)]
pub enum Standing {
    /// It may have it.
    Allowed(Grant),
    /// All holds but the approval of a second admin.
    ApprovalMissing,
    /// Bindings carry it; policies say no to a task without intent and labels.
    PolicyDenied(Denial),
    /// Nowhere does the binding carry it.
    Nowhere(String),
    /// The values are open, and none was found that everything takes. It may still be had.
    NoExample,
}

/// A place where the identity gets an answer.
#[derive(Clone, Debug)]
pub struct Way {
    /// Whose task it takes above; none where a root task of its own suffices.
    pub parent: Option<Parent>,
    /// What was decided there: the outcome's own ask, or where values are open an example that the parent takes too.
    pub ask: ScopeAsk,
    /// The caller that was decided for.
    pub caller: Caller,
    /// The tree it stood in, root first.
    pub lineage: Vec<Task>,
}

/// Whose task must stand above.
#[derive(Clone, Debug)]
pub struct Parent {
    /// The binding that lets its holders use the scope or hand it on.
    pub binding: Arc<Binding>,
    /// One such holder.
    pub example: SpiffeId,
    /// Set where the scope is handed on only to others, in whose task the identity must then stand.
    pub in_task_of: Option<SpiffeId>,
}

/// Decides every line of a task's ceiling for its holder, who comes as the task came, with a fresh proof. An offer is
/// decided as if it were claimed. `lineage` is the tree above, root first, the task itself last.
///
/// Another identity that stands in the task is decided as itself; see [`of_identity`].
pub fn of_task(rules: &Rules, lineage: &[Task], now: Timestamp) -> Vec<Line> {
    let Some((own, above)) = lineage.split_last() else { return Vec::new() };
    let own = claimed(own, above);
    let caller = caller_in(rules, own.opened_by.clone(), &own, now);
    let lines = own.ceiling.lines().to_vec();
    let lineage: Vec<Task> = above.iter().cloned().chain([own]).collect();
    let decide = |wish: Wish| {
        let decision = decision::decide(rules, &caller, &lineage, &wish, now);
        Line { wish, decision }
    };
    lines.iter().flat_map(|ask| wishes(rules, ask)).map(decide).collect()
}

/// The task as it will be once its workload claims it: through the agent of the task above.
fn claimed(task: &Task, above: &[Task]) -> Task {
    let Some(offer) = task.offer else { return task.clone() };
    let parent = above.last();
    Task {
        offer: None,
        node: task.node.clone().or_else(|| parent.and_then(|parent| parent.node.clone())),
        anchor: parent.map_or_else(|| task.anchor.clone(), |parent| parent.anchor.clone()),
        state: match task.state {
            TaskState::Open { .. } => TaskState::Open { deadline: offer.deadline },
            over @ TaskState::Ended { .. } => over,
        },
        ..task.clone()
    }
}

/// Every scope and binding that is for an identity, with what it gives in the tree most favourable to it: a root task if
/// that suffices, else a task below any that may use the scope or hand it on.
///
/// Any ask that is allowed to the identity anywhere is covered by an entry that does not say [`Standing::Nowhere`].
pub fn of_identity(rules: &Rules, id: &SpiffeId, now: Timestamp) -> Vec<Entry> {
    let none = Parameters::new();
    let mut entries = Vec::new();
    for scope in rules.scopes() {
        for binding in rules.bindings_on(&scope.name, id) {
            entries.push(entry(rules, id, scope, binding, &none, now));
        }
    }
    entries
}

/// What one binding gives an identity, with some values already chosen.
pub fn entry(
    rules: &Rules,
    id: &SpiffeId,
    scope: &Arc<Scope>,
    binding: &Arc<Binding>,
    chosen: &Parameters,
    now: Timestamp,
) -> Entry {
    let values = values::of(scope, binding, chosen);
    let all = values::combinations(&values);
    let complete = all.is_some();
    let favourable = lineages::Favourable { rules, id, scope, binding, chosen, now };
    let outcomes = match (binding.may_use, all) {
        (false, _) => Vec::new(),
        (true, Some(all)) => all.into_iter().flat_map(|values| favourable.outcomes(Some(values))).collect(),
        (true, None) => favourable.outcomes(None),
    };
    let asked = rules.judge().map(|judge| judge.of_scope(&scope.name)).unwrap_or_default();
    let policies = asked.into_iter().map(|(name, _)| name).collect();
    Entry { scope: Arc::clone(scope), binding: Arc::clone(binding), values, outcomes, complete, policies }
}

impl Entry {
    /// Whether the identity may ask this by the binding, as far as scope, use and values go.
    pub fn covers(&self, ask: &ScopeAsk) -> bool {
        let takes = |(name, values): (&String, &Values)| {
            ask.parameters.get(name).is_some_and(|value| {
                values.take(value)
                    && self.scope.parameters.get(name).is_some_and(|spec| spec.takes(value))
                    && self.binding.parameters.get(name).is_none_or(|allowed| allowed.takes(value))
            })
        };
        self.scope.name == ask.scope
            && self.binding.may_use
            && ask.parameters.len() == self.values.len()
            && self.values.iter().all(takes)
    }

    /// What was decided about this ask: about the very values, or about the example that stands for all. One for each
    /// action, where the scope is for actions.
    pub fn outcomes_of(&self, ask: &ScopeAsk) -> Vec<&Outcome> {
        let about = |outcome: &&Outcome| if self.complete { outcome.ask == *ask } else { self.covers(ask) };
        self.outcomes.iter().filter(about).collect()
    }
}

impl Standing {
    /// Whether somewhere, some time, with some intent, the identity may have it.
    pub fn is_possible(&self) -> bool {
        !matches!(self, Standing::Nowhere(_))
    }
}
