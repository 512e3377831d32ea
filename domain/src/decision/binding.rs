//! Which binding carries a request; if none does, which comes nearest.

use std::fmt;
use std::sync::Arc;

use crate::binding::{AllowedValues, Binding, Start, ViaRule};
use crate::caller::Via;
use crate::rules::Rules;
use crate::scope::{Scope, ScopeAsk};
use crate::spiffe::SpiffeId;
use crate::task::Task;
use crate::time::Timestamp;

use super::facts::{Facts, not_granted};
use super::witness::Witness;
use super::{Denial, DenyReason};

/// Bindings named in the trace of one denial.
pub(super) const TRACED_BINDINGS: usize = 16;

/// One thing that keeps a binding from carrying a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Miss<'a> {
    Identity,
    Use,
    Parameter(&'a str),
    Over(Timestamp),
    Way,
    Root,
    Age,
}

impl fmt::Display for Miss<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Miss::Identity => f.write_str("is for other identities"),
            Miss::Use => f.write_str("delegates but does not use"),
            Miss::Parameter(name) => write!(f, "does not allow this {name}"),
            Miss::Over(until) => write!(f, "ended at {until}"),
            Miss::Way => f.write_str("wants another way to the broker"),
            Miss::Root => f.write_str("wants a task that another task opened"),
            Miss::Age => f.write_str("does not carry a task this old"),
        }
    }
}

/// Everything that keeps the binding from carrying the request.
pub(super) fn misses<'b>(
    binding: &'b Binding,
    facts: &Facts<'_>,
    task: &Task,
) -> impl Iterator<Item = Miss<'b>> {
    let asked = &facts.wish.ask.parameters;
    let refuses = |(name, allowed): (&'b String, &'b AllowedValues)| {
        (!asked.get(name).is_some_and(|value| allowed.takes(value))).then_some(Miss::Parameter(name))
    };
    let way_fits = matches!(
        (binding.via, &facts.caller.via),
        (ViaRule::Agent, Via::Agent { .. }) | (ViaRule::Direct, Via::Direct { .. })
    );
    let identity = (!binding.is_for(&facts.caller.spiffe_id)).then_some(Miss::Identity);
    let of_use = (!binding.may_use).then_some(Miss::Use);
    let over = binding.until.filter(|_| !binding.stands(facts.now)).map(Miss::Over);
    let way = (!way_fits).then_some(Miss::Way);
    let root = (binding.start == Start::UnderParent && task.parent.is_none()).then_some(Miss::Root);
    let age = (facts.now >= task.opened_at + binding.max_task).then_some(Miss::Age);
    let values: Vec<Miss<'b>> = binding.parameters.iter().filter_map(refuses).collect();
    identity.into_iter().chain(of_use).chain(values).chain(over).chain(way).chain(root).chain(age)
}

/// The binding that carries the request: of several, the one that does so longest.
pub(super) fn find<'a, W: Witness>(
    facts: &Facts<'a>,
    scope: &Scope,
    task: &Task,
    witness: &mut W,
) -> Result<&'a Arc<Binding>, Denial> {
    let (ask, caller) = (&facts.wish.ask, facts.caller);
    if W::WRITES {
        note_bindings(facts, task, witness);
    }
    if !facts.serves_stage(scope) {
        witness.step(
            false,
            || "stages",
            || format!("scope {} does not serve the caller's stage", scope.name),
        );
        return Err(not_granted(caller, ask));
    }
    let candidates = facts.rules.bindings_fitting(&ask.scope, &caller.spiffe_id, &ask.parameters);
    let carrying = candidates.iter().filter(|binding| misses(binding, facts, task).next().is_none());
    // `max_by` takes the last of equals, so by falling name the first.
    let longest =
        carrying.max_by(|a, b| (last_moment(a, task)).cmp(&last_moment(b, task)).then(b.name.cmp(&a.name)));
    longest.copied().ok_or_else(|| nearest(facts, &candidates, task))
}

/// The moment from which on the binding grants nothing more under the task.
pub(super) fn last_moment(binding: &Binding, task: &Task) -> Timestamp {
    let of_task = task.opened_at + binding.max_task;
    binding.until.map_or(of_task, |until| until.min(of_task))
}

/// The denial that tells what is nearest at hand. Only what the holder of a binding may know is told: a binding whose
/// identity, values or end do not fit is as good as none.
fn nearest(facts: &Facts<'_>, candidates: &[&Arc<Binding>], task: &Task) -> Denial {
    let (ask, caller) = (&facts.wish.ask, facts.caller);
    let told = candidates.iter().filter_map(|binding| {
        let misses: Vec<Miss<'_>> = misses(binding, facts, task).collect();
        let fits = misses.iter().all(|miss| matches!(miss, Miss::Way | Miss::Root | Miss::Age));
        fits.then_some((misses.len(), misses[0], binding.max_task))
    });
    match told.min_by_key(|(count, ..)| *count) {
        Some((_, Miss::Way, _)) => {
            let what =
                format!("scope {:?} is granted to {}, but not by this way", ask.scope, caller.spiffe_id);
            DenyReason::ViaNotAllowed.denial(what)
        }
        Some((_, Miss::Root, _)) => {
            let what = format!("scope {:?} is given only to tasks that another task opened", ask.scope);
            DenyReason::RootNotAllowed.denial(what)
        }
        Some((_, Miss::Age, longest)) => {
            let what = format!("scope {:?} is given for {longest} after a task was opened", ask.scope);
            DenyReason::TaskTooOld.denial(what)
        }
        _ => not_granted(caller, ask),
    }
}

/// Bindings with what keeps each from carrying the request, those that miss least first.
fn note_bindings<W: Witness>(facts: &Facts<'_>, task: &Task, witness: &mut W) {
    let (ask, id) = (&facts.wish.ask, &facts.caller.spiffe_id);
    let mut told: Vec<(&Arc<Binding>, Vec<Miss<'_>>)> = match W::EVERY_BINDING {
        true => facts.rules.bindings_of(&ask.scope).iter().collect(),
        false => {
            facts.rules.bindings_on(&ask.scope, id).into_iter().take(TRACED_BINDINGS).collect::<Vec<_>>()
        }
    }
    .into_iter()
    .map(|binding| (binding, misses(binding, facts, task).collect()))
    .collect();
    told.sort_by_key(|(binding, misses)| {
        (misses.len(), misses.contains(&Miss::Identity), binding.name.clone())
    });
    if told.is_empty() {
        witness.step(false, || "bindings", || format!("no binding on scope {} is for the caller", ask.scope));
    }
    for (binding, misses) in told {
        let what = || match misses.is_empty() {
            true => "carries the request".to_owned(),
            false => misses.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
        };
        witness.step(misses.is_empty(), || format!("binding {}", binding.name), what);
    }
}

/// Whether every task above may use the scope itself, or delegate it to all who hold a task below it, `last` included:
/// the holder of a task that is yet to be opened. A binding counts for a task above as it would for the task's own
/// requests: one that wants a parent counts for no root, or a tool would be its own parent.
pub(super) fn first_without_grant<'t>(
    rules: &Rules,
    lineage: &'t [Task],
    last: Option<&SpiffeId>,
    ask: &ScopeAsk,
    now: Timestamp,
) -> Option<&'t Task> {
    let above = if last.is_some() { lineage.len() } else { lineage.len().saturating_sub(1) };
    (0..above).map(|at| (at, &lineage[at])).find_map(|(at, task)| {
        let holders: Vec<&SpiffeId> =
            lineage[at + 1..].iter().map(|task| &task.opened_by).chain(last).collect();
        let stage = rules.stage_of(&task.opened_by).filter(|stage| stage.holds_target_scopes());
        let serves = |stage| rules.scope(&ask.scope).is_some_and(|scope| scope.stages.contains(&stage));
        let carries = |binding: &&Arc<Binding>| {
            let hands_on = || binding.delegate.as_ref().is_some_and(|to| to.reaches(holders.iter().copied()));
            binding.allows(&ask.parameters)
                && binding.stands(now)
                && now < task.opened_at + binding.max_task
                && (binding.start == Start::Root || task.parent.is_some())
                && (binding.may_use && stage.is_some_and(serves) || hands_on())
        };
        let bindings = rules.bindings_fitting(&ask.scope, &task.opened_by, &ask.parameters);
        (stage.is_none() || !bindings.iter().any(carries)).then_some(task)
    })
}
