//! Whether a task may be opened at all, by whom and for whom. What it may use is decided at each request.

use crate::binding::ViaRule;
use crate::caller::Caller;
use crate::parameter;
use crate::rules::Rules;
use crate::scope::{Ceiling, ScopeAsk};
use crate::spiffe::SpiffeId;
use crate::task::Task;
use crate::time::Timestamp;

use super::binding::first_without_grant;
use super::facts::{check_caller, check_lineage, not_granted};
use super::{Denial, DenyReason};

/// Checks that an identity may open a task with this ceiling for itself. `above` is the tree it stands in, root first.
pub fn check_open(
    rules: &Rules,
    caller: &Caller,
    above: &[Task],
    ceiling: &Ceiling,
    now: Timestamp,
) -> Result<(), Denial> {
    check_caller(rules, caller, now)?;
    if !above.is_empty() {
        check_lineage(caller, above, now)?;
    }
    check_way(rules, caller, ceiling)?;
    check_lines(rules, caller, above, ceiling)
}

/// Checks that the holder of a task may open one below it for a named workload. `above` is the tree down to the holder's
/// own task, root first. All of the chain is held to it now, and again whenever the workload asks.
pub fn check_delegate(
    rules: &Rules,
    caller: &Caller,
    above: &[Task],
    to: &SpiffeId,
    ceiling: &Ceiling,
    now: Timestamp,
) -> Result<(), Denial> {
    check_caller(rules, caller, now)?;
    check_lineage(caller, above, now)?;
    let not_allowed = |what: String| Err(DenyReason::DelegationNotAllowed.denial(what));
    // The chain is asked for the holders of tasks. A process of another identity in the task must not hand on what is
    // the holder's; in a task of its own it is part of the chain.
    if let Some(task) = above.last().filter(|task| task.opened_by != caller.spiffe_id) {
        return not_allowed(format!(
            "task {} is held by another identity, which alone hands on from it",
            task.id
        ));
    }
    if !rules.stage_of(to).is_some_and(|stage| stage.holds_target_scopes()) {
        return not_allowed(format!("{to} fills no stage that holds target scopes"));
    }
    check_lines(rules, caller, above, ceiling)?;
    check_handed_on(rules, above, to, ceiling, now)
}

/// Checks that an identity may open a task for itself below the task of another, who gave it a credential of that task
/// for the purpose. `above` is the tree down to the other's task, root first; `given_by` is whom the credential was
/// issued to. All of the chain is held to it, as where the other opens the task.
pub fn check_on_behalf(
    rules: &Rules,
    caller: &Caller,
    given_by: &SpiffeId,
    above: &[Task],
    ceiling: &Ceiling,
    now: Timestamp,
) -> Result<(), Denial> {
    check_caller(rules, caller, now)?;
    let open = above.iter().all(|task| task.state.is_open(now));
    let Some(task) = above.last().filter(|task| open && task.offer.is_none()) else {
        let what = "the task that the credential belongs to is not open".to_owned();
        return Err(DenyReason::TaskNotOpen.denial(what));
    };
    // As where it opens a task for another: the chain is asked for holders alone.
    if task.opened_by != *given_by {
        let what =
            format!("{given_by} does not hold the task of its credential, so it hands on nothing of it");
        return Err(DenyReason::DelegationNotAllowed.denial(what));
    }
    check_way(rules, caller, ceiling)?;
    check_lines(rules, caller, above, ceiling)?;
    check_handed_on(rules, above, &caller.spiffe_id, ceiling, now)
}

/// Checks that an identity may claim a task: the task was opened for this very identity, nobody has claimed it, and all
/// above it is open. Whatever of this fails answers alike.
pub fn check_claim(rules: &Rules, caller: &Caller, lineage: &[Task], now: Timestamp) -> Result<(), Denial> {
    check_caller(rules, caller, now)?;
    let open = lineage.iter().all(|task| task.state.is_open(now));
    let is_theirs = |task: &Task| task.offer.is_some() && task.opened_by == caller.spiffe_id;
    match lineage.last().filter(|task| open && is_theirs(task)) {
        Some(_) => Ok(()),
        None => Err(DenyReason::TaskNotOpen.denial("no such task is offered to you".to_owned())),
    }
}

/// Who comes without an agent has a binding for that on each scope. Whether it carries is decided at each request. To
/// whom no binding is for, every scope is unknown.
fn check_way(rules: &Rules, caller: &Caller, ceiling: &Ceiling) -> Result<(), Denial> {
    if caller.via.node().is_some() {
        return Ok(());
    }
    for ask in ceiling.lines() {
        let bindings = rules.bindings_on(&ask.scope, &caller.spiffe_id);
        if bindings.is_empty() {
            return Err(not_granted(caller, ask));
        }
        if !bindings.iter().any(|binding| binding.via == ViaRule::Direct) {
            let what = format!("scope {:?} is not given to callers without a node agent", ask.scope);
            return Err(DenyReason::ViaNotAllowed.denial(what));
        }
    }
    Ok(())
}

/// The holder of every task above may use each line, or delegate it down to whom it is handed.
fn check_handed_on(
    rules: &Rules,
    above: &[Task],
    to: &SpiffeId,
    ceiling: &Ceiling,
    now: Timestamp,
) -> Result<(), Denial> {
    let without = |ask: &&ScopeAsk| first_without_grant(rules, above, Some(to), ask, now).is_some();
    match ceiling.lines().iter().find(without) {
        None => Ok(()),
        Some(ask) => {
            let what = format!(
                "scope {:?} with these parameters may not be handed to {to} by this task and those above it",
                ask.scope
            );
            Err(DenyReason::DelegationNotAllowed.denial(what))
        }
    }
}

/// Each line names a scope and values it takes, and every task above declared it.
fn check_lines(rules: &Rules, caller: &Caller, above: &[Task], ceiling: &Ceiling) -> Result<(), Denial> {
    for ask in ceiling.lines() {
        let scope = rules.scope(&ask.scope).ok_or_else(|| not_granted(caller, ask))?;
        if let Err(faults) = parameter::check(&scope.parameters, &ask.parameters) {
            let told: Vec<String> = faults.iter().map(ToString::to_string).collect();
            return Err(DenyReason::ParameterInvalid.denial(told.join("; ")));
        }
    }
    let outside = above.iter().find_map(|task| ceiling.first_outside(&task.ceiling).map(|ask| (task, ask)));
    match outside {
        None => Ok(()),
        Some((task, ask)) => {
            let what =
                format!("task {} did not declare scope {:?} with these parameters", task.id, ask.scope);
            Err(DenyReason::OutsideCeiling.denial(what))
        }
    }
}
