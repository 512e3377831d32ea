//! What a decision is made from, and the questions that hang on no binding.

use crate::caller::Caller;
use crate::id::TaskId;
use crate::rules::Rules;
use crate::scope::{Scope, ScopeAsk};
use crate::task::{Task, TaskState};
use crate::time::Timestamp;

use super::{Denial, DenyReason, Wish};

/// Everything one decision is made from.
pub(super) struct Facts<'a> {
    pub(super) rules: &'a Rules,
    pub(super) caller: &'a Caller,
    pub(super) lineage: &'a [Task],
    pub(super) wish: &'a Wish,
    pub(super) now: Timestamp,
}

impl Facts<'_> {
    /// Whether the scope serves the stage that the caller fills now.
    pub(super) fn serves_stage(&self, scope: &Scope) -> bool {
        self.rules.stage_of(&self.caller.spiffe_id).is_some_and(|stage| scope.stages.contains(&stage))
    }
}

/// The proof holds, and the identity fills a stage that may hold scopes.
pub(super) fn check_caller(rules: &Rules, caller: &Caller, now: Timestamp) -> Result<(), Denial> {
    if now >= caller.proof_expires_at {
        let what = format!("the SVID of {} ran out at {}", caller.spiffe_id, caller.proof_expires_at);
        return Err(DenyReason::ProofExpired.denial(what));
    }
    // The stage is looked up anew: it may have been taken away since the connection was made.
    match rules.stage_of(&caller.spiffe_id) {
        None => {
            let what = format!("{} fills no stage", caller.spiffe_id);
            Err(DenyReason::IdentityUnknown.denial(what))
        }
        Some(stage) if !stage.holds_target_scopes() => {
            let what = format!("{} fills stage {stage}, which holds no target scopes", caller.spiffe_id);
            Err(DenyReason::StageHoldsNoScopes.denial(what))
        }
        Some(_) => check_not_cut_off(rules, caller),
    }
}

/// Neither the identity is cut off, nor the node it comes through.
fn check_not_cut_off(rules: &Rules, caller: &Caller) -> Result<(), Denial> {
    let node = caller.via.node().filter(|node| rules.kills().strike_node(node));
    let struck = if rules.cuts_off(&caller.spiffe_id) { Some(&caller.spiffe_id) } else { node };
    match struck {
        None => Ok(()),
        Some(id) => Err(DenyReason::CutOff.denial(format!("{id} is cut off"))),
    }
}

/// No task above is held by whom was cut off. Such a task ends; the request may come before its end does.
pub(super) fn check_chain_not_cut_off(rules: &Rules, above: &[Task]) -> Result<(), Denial> {
    let is_struck = |task: &&Task| {
        rules.cuts_off(&task.opened_by)
            || task.node.as_ref().is_some_and(|node| rules.kills().strike_node(node))
    };
    match above.iter().find(is_struck) {
        None => Ok(()),
        Some(task) => {
            Err(DenyReason::CutOff.denial(format!("the holder of task {} above is cut off", task.id)))
        }
    }
}

/// Neither the scope is cut off, nor its provider. Asked only of a scope that is granted: else it would tell what there is.
pub(super) fn check_scope_not_cut_off(rules: &Rules, scope: &Scope) -> Result<(), Denial> {
    match rules.kills().strike_scope(&scope.name, &scope.provider) {
        false => Ok(()),
        true => Err(DenyReason::CutOff.denial(format!("scope {:?} is cut off", scope.name))),
    }
}

/// The whole tree is open, and the caller comes the way the task came. Returns the task.
pub(super) fn check_lineage<'a>(
    caller: &Caller,
    lineage: &'a [Task],
    now: Timestamp,
) -> Result<&'a Task, Denial> {
    // Unknown, over and somebody else's answer alike.
    let closed = |id: Option<TaskId>| {
        let named =
            id.map_or_else(|| "no such task".to_owned(), |id| format!("task {id} is not open to you"));
        Err(DenyReason::TaskNotOpen.denial(named))
    };
    let Some(task) = lineage.last() else { return closed(None) };
    let open = lineage.iter().all(|above| above.state.is_open(now));
    // An offer nobody has claimed is nobody's to act in.
    if !open || task.offer.is_some() || task.node.as_ref() != caller.via.node() {
        return closed(Some(task.id));
    }
    // Through an agent the kernel says who stands in the task. A direct caller proved the task key; it must also be
    // the very identity that was given the key.
    if task.node.is_none() && task.opened_by != caller.spiffe_id {
        return closed(Some(task.id));
    }
    Ok(task)
}

/// Every task of the tree declared the ask when it was opened.
pub(super) fn check_ceilings(lineage: &[Task], ask: &ScopeAsk) -> Result<(), Denial> {
    match lineage.iter().find(|above| !above.ceiling.covers(ask)) {
        None => Ok(()),
        Some(outside) => {
            let what =
                format!("task {} did not declare scope {:?} with these parameters", outside.id, ask.scope);
            Err(DenyReason::OutsideCeiling.denial(what))
        }
    }
}

/// Unknown and not granted answer alike.
pub(super) fn not_granted(caller: &Caller, ask: &ScopeAsk) -> Denial {
    let name: String = ask.scope.chars().take(64).collect();
    DenyReason::ScopeNotGranted.denial(format!("no scope {name:?} is granted to {}", caller.spiffe_id))
}

pub(super) fn deadline_of(task: &Task) -> Timestamp {
    match task.state {
        TaskState::Open { deadline } => deadline,
        TaskState::Ended { at, .. } => at,
    }
}
