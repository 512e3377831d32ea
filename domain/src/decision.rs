//! Allow or deny: on caller, task, chain, scope, parameters and time, all as they stand at the moment of the request.

use std::sync::Arc;

use serde::Serialize;

use crate::binding::{Binding, Start, ViaRule};
use crate::caller::{Caller, Via};
use crate::id::TaskId;
use crate::parameter;
use crate::rules::Rules;
use crate::scope::{Ceiling, Scope, ScopeAsk};
use crate::spiffe::SpiffeId;
use crate::task::{AnchorKind, Task};
use crate::time::{Timestamp, Ttl};

/// One credential wanted, as the caller asked for it.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Scope and values; claimed.
    pub ask: ScopeAsk,
    /// How long it is wanted for; absent means the scope's default.
    pub ttl: Option<Ttl>,
}

/// Allow or deny.
#[derive(Clone, Debug)]
pub enum Decision {
    /// The credential may be issued, within these bounds.
    Allow(Grant),
    /// It may not.
    Deny(Denial),
}

/// What was allowed.
#[derive(Clone, Debug)]
pub struct Grant {
    /// The scope, as it stood.
    pub scope: Arc<Scope>,
    /// The checked request.
    pub ask: ScopeAsk,
    /// How long the credential may live; never past the task's deadline.
    pub ttl: Ttl,
    /// Name of the binding that carried it.
    pub binding: String,
    /// Digest of the binding.
    pub binding_digest: String,
    /// The tree above, root first: who opened each task.
    pub chain: Vec<SpiffeId>,
    /// Revision of the rules.
    pub revision: u64,
    /// Digest of the rules.
    pub rules_digest: String,
}

/// What was denied, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Stable code for the caller.
    pub reason: DenyReason,
    /// What the caller is told.
    pub message: String,
    /// What the caller can do next.
    pub next: String,
    /// What was looked at, for the record only: it may name rules the caller may not know.
    pub trace: Vec<String>,
}

/// Stable codes of denials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum DenyReason {
    /// The identity fills no stage.
    IdentityUnknown,
    /// The identity's stage holds no target scopes.
    StageHoldsNoScopes,
    /// The SVID the request was proven with ran out.
    ProofExpired,
    /// The task is unknown, over, or somebody else's.
    TaskNotOpen,
    /// No such scope, or it is not granted to this identity.
    ScopeNotGranted,
    /// The task did not declare it when it was opened.
    OutsideCeiling,
    /// A parameter is unknown, missing or out of its type or pattern.
    ParameterInvalid,
    /// More time was asked for than the scope gives.
    TtlOverLimit,
    /// The binding wants a task that another task opened.
    RootNotAllowed,
    /// The binding wants the other way to the broker.
    ViaNotAllowed,
    /// The scope wants another anchor than the task has.
    AnchorTooWeak,
    /// The task is older than the binding carries.
    TaskTooOld,
    /// A task above may neither use nor delegate the scope.
    AncestorLacksGrant,
}

impl DenyReason {
    /// Every reason.
    pub const ALL: [DenyReason; 13] = [
        DenyReason::IdentityUnknown,
        DenyReason::StageHoldsNoScopes,
        DenyReason::ProofExpired,
        DenyReason::TaskNotOpen,
        DenyReason::ScopeNotGranted,
        DenyReason::OutsideCeiling,
        DenyReason::ParameterInvalid,
        DenyReason::TtlOverLimit,
        DenyReason::RootNotAllowed,
        DenyReason::ViaNotAllowed,
        DenyReason::AnchorTooWeak,
        DenyReason::TaskTooOld,
        DenyReason::AncestorLacksGrant,
    ];

    /// The code on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            DenyReason::IdentityUnknown => "IDENTITY_UNKNOWN",
            DenyReason::StageHoldsNoScopes => "STAGE_HOLDS_NO_SCOPES",
            DenyReason::ProofExpired => "PROOF_EXPIRED",
            DenyReason::TaskNotOpen => "TASK_NOT_OPEN",
            DenyReason::ScopeNotGranted => "SCOPE_NOT_GRANTED",
            DenyReason::OutsideCeiling => "OUTSIDE_CEILING",
            DenyReason::ParameterInvalid => "PARAMETER_INVALID",
            DenyReason::TtlOverLimit => "TTL_OVER_LIMIT",
            DenyReason::RootNotAllowed => "ROOT_NOT_ALLOWED",
            DenyReason::ViaNotAllowed => "VIA_NOT_ALLOWED",
            DenyReason::AnchorTooWeak => "ANCHOR_TOO_WEAK",
            DenyReason::TaskTooOld => "TASK_TOO_OLD",
            DenyReason::AncestorLacksGrant => "ANCESTOR_LACKS_GRANT",
        }
    }

    /// What a caller can do about it.
    pub const fn next(self) -> &'static str {
        match self {
            DenyReason::IdentityUnknown => "ask the platform team to add your SPIFFE ID to a Stage document",
            DenyReason::StageHoldsNoScopes => {
                "use a workload's identity; admins and nodes hold no target scopes"
            }
            DenyReason::ProofExpired => "fetch a fresh SVID and ask again",
            DenyReason::TaskNotOpen => "open a task and ask under it",
            DenyReason::ScopeNotGranted => "check the scope's name, or ask the platform team for a binding",
            DenyReason::OutsideCeiling => "name the scope and its parameters when the task is opened",
            DenyReason::ParameterInvalid => "correct the parameters; `dayfly scope show` lists them",
            DenyReason::TtlOverLimit => "ask for less time, or leave the ttl out",
            DenyReason::RootNotAllowed => "ask from a task opened inside another task",
            DenyReason::ViaNotAllowed => "come the way the binding says: through the node agent, or directly",
            DenyReason::AnchorTooWeak => "run under a node agent that owns the task's cgroup",
            DenyReason::TaskTooOld => "open a new task",
            DenyReason::AncestorLacksGrant => {
                "ask the platform team for `use` or `delegate` for the parent task"
            }
        }
    }

    fn denial(self, message: String, trace: Vec<String>) -> Denial {
        Denial { reason: self, message, next: self.next().to_owned(), trace }
    }
}

/// Decides whether a caller may have a credential under a task.
///
/// `lineage` is the tree above the task, root first, the task itself last; each as it stands in the database now.
pub fn decide(rules: &Rules, caller: &Caller, lineage: &[Task], wish: &Wish, now: Timestamp) -> Decision {
    match allow(rules, caller, lineage, wish, now) {
        Ok(grant) => Decision::Allow(grant),
        Err(denial) => Decision::Deny(denial),
    }
}

fn allow(
    rules: &Rules,
    caller: &Caller,
    lineage: &[Task],
    wish: &Wish,
    now: Timestamp,
) -> Result<Grant, Denial> {
    check_caller(rules, caller, now)?;
    let task = check_lineage(caller, lineage, now)?;
    let ask = &wish.ask;
    let scope =
        rules.scope(&ask.scope).ok_or_else(|| not_granted(caller, ask, vec!["no such scope".to_owned()]))?;
    let binding = find_binding(rules, scope, caller, ask)?;
    let deny = |reason: DenyReason, message: String| {
        Err(reason.denial(message, vec![format!("binding {} (revision {})", binding.name, rules.revision)]))
    };
    if let Err(faults) = parameter::check(&scope.parameters, &ask.parameters) {
        let told: Vec<String> = faults.iter().map(ToString::to_string).collect();
        return deny(DenyReason::ParameterInvalid, told.join("; "));
    }
    if let Some(outside) = lineage.iter().find(|above| !above.ceiling.covers(ask)) {
        let what = format!("task {} did not declare scope {:?} with these parameters", outside.id, ask.scope);
        return deny(DenyReason::OutsideCeiling, what);
    }
    if binding.start == Start::UnderParent && task.parent.is_none() {
        let what = format!("scope {:?} is given only to tasks that another task opened", ask.scope);
        return deny(DenyReason::RootNotAllowed, what);
    }
    if scope.anchor.is_some_and(|wanted| wanted != task.anchor.kind) {
        let wanted = scope.anchor.map_or("", AnchorKind::as_str);
        let what = format!(
            "scope {:?} wants anchor {wanted}; the task has {}",
            ask.scope,
            task.anchor.kind.as_str()
        );
        return deny(DenyReason::AnchorTooWeak, what);
    }
    let asked = wish.ttl.unwrap_or(scope.ttl.default);
    if asked > scope.ttl.max || asked == Ttl::ZERO {
        let what = format!("scope {:?} gives at most {}", ask.scope, scope.ttl.max);
        return deny(DenyReason::TtlOverLimit, what);
    }
    let carried_until = task.opened_at + binding.max_task;
    if now >= carried_until {
        let what = format!("scope {:?} is given for {} after a task was opened", ask.scope, binding.max_task);
        return deny(DenyReason::TaskTooOld, what);
    }
    check_ancestors(rules, lineage, ask)?;
    let last_moment = carried_until.min(deadline_of(task));
    Ok(Grant {
        scope: Arc::clone(scope),
        ask: ask.clone(),
        ttl: asked.min(now.until(last_moment)),
        binding: binding.name.clone(),
        binding_digest: binding.digest.clone(),
        chain: lineage.iter().map(|above| above.opened_by.clone()).collect(),
        revision: rules.revision,
        rules_digest: rules.digest.clone(),
    })
}

/// Checks that an identity may open a task with this ceiling at all. What it may use is decided at each request.
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
    for ask in ceiling.lines() {
        let scope = rules
            .scope(&ask.scope)
            .ok_or_else(|| not_granted(caller, ask, vec!["no such scope".to_owned()]))?;
        if let Err(faults) = parameter::check(&scope.parameters, &ask.parameters) {
            let told: Vec<String> = faults.iter().map(ToString::to_string).collect();
            return Err(DenyReason::ParameterInvalid.denial(told.join("; "), Vec::new()));
        }
    }
    let outside = above.iter().find_map(|task| ceiling.first_outside(&task.ceiling).map(|ask| (task, ask)));
    if let Some((task, ask)) = outside {
        let what = format!("task {} did not declare scope {:?} with these parameters", task.id, ask.scope);
        return Err(DenyReason::OutsideCeiling.denial(what, Vec::new()));
    }
    let direct = matches!(caller.via, Via::Direct { .. });
    let has_direct = |ask: &ScopeAsk| {
        rules.bindings_on(&ask.scope, &caller.spiffe_id).any(|binding| binding.via == ViaRule::Direct)
    };
    match ceiling.lines().iter().find(|ask| direct && !has_direct(ask)) {
        None => Ok(()),
        Some(ask) => {
            let what = format!("scope {:?} is not given to callers without a node agent", ask.scope);
            Err(DenyReason::ViaNotAllowed.denial(what, Vec::new()))
        }
    }
}

fn check_caller(rules: &Rules, caller: &Caller, now: Timestamp) -> Result<(), Denial> {
    if now >= caller.proof_expires_at {
        let what = format!("the SVID of {} ran out at {}", caller.spiffe_id, caller.proof_expires_at);
        return Err(DenyReason::ProofExpired.denial(what, Vec::new()));
    }
    // The stage is looked up anew: it may have been taken away since the connection was made.
    match rules.stage_of(&caller.spiffe_id) {
        None => {
            let what = format!("{} fills no stage", caller.spiffe_id);
            Err(DenyReason::IdentityUnknown.denial(what, Vec::new()))
        }
        Some(stage) if !stage.holds_target_scopes() => {
            let what = format!("{} fills stage {stage}, which holds no target scopes", caller.spiffe_id);
            Err(DenyReason::StageHoldsNoScopes.denial(what, Vec::new()))
        }
        Some(_) => Ok(()),
    }
}

/// Checks that the whole tree is open and that the caller comes the way the task came. Returns the task.
fn check_lineage<'a>(caller: &Caller, lineage: &'a [Task], now: Timestamp) -> Result<&'a Task, Denial> {
    let closed = |id: Option<TaskId>, why: &str| {
        let named =
            id.map_or_else(|| "no such task".to_owned(), |id| format!("task {id} is not open to you"));
        Err(DenyReason::TaskNotOpen.denial(named, vec![why.to_owned()]))
    };
    let Some(task) = lineage.last() else { return closed(None, "unknown") };
    if lineage.iter().any(|above| !above.state.is_open(now)) {
        return closed(Some(task.id), "it or a task above it is over");
    }
    if task.node.as_ref() != caller.via.node() {
        return closed(Some(task.id), "another node or channel opened it");
    }
    // Through an agent the kernel says who stands in the task. A direct caller proved the task key; it must also be
    // the very identity that was given the key.
    if task.node.is_none() && task.opened_by != caller.spiffe_id {
        return closed(Some(task.id), "another identity opened it");
    }
    Ok(task)
}

/// Finds the binding that carries the request, or the reason that comes nearest to carrying it.
fn find_binding<'a>(
    rules: &'a Rules,
    scope: &Scope,
    caller: &'a Caller,
    ask: &ScopeAsk,
) -> Result<&'a Arc<Binding>, Denial> {
    let stage_fits = rules.stage_of(&caller.spiffe_id).is_some_and(|stage| scope.stages.contains(&stage));
    if !stage_fits {
        return Err(not_granted(caller, ask, vec!["the scope does not serve the caller's stage".to_owned()]));
    }
    let mut trace = Vec::new();
    let mut wrong_way = false;
    for binding in rules.bindings_on(&ask.scope, &caller.spiffe_id) {
        let way_fits = matches!(
            (binding.via, &caller.via),
            (ViaRule::Agent, Via::Agent { .. }) | (ViaRule::Direct, Via::Direct { .. })
        );
        if !binding.may_use {
            trace.push(format!("binding {} delegates but does not use", binding.name));
        } else if !binding.allows(&ask.parameters) {
            trace.push(format!("binding {} does not allow these parameters", binding.name));
        } else if !way_fits {
            trace.push(format!("binding {} wants another way to the broker", binding.name));
            wrong_way = true;
        } else {
            return Ok(binding);
        }
    }
    if wrong_way {
        let what = format!("scope {:?} is granted to {}, but not by this way", ask.scope, caller.spiffe_id);
        return Err(DenyReason::ViaNotAllowed.denial(what, trace));
    }
    if trace.is_empty() {
        trace.push("no binding on the scope is for the caller".to_owned());
    }
    Err(not_granted(caller, ask, trace))
}

fn check_ancestors(rules: &Rules, lineage: &[Task], ask: &ScopeAsk) -> Result<(), Denial> {
    let above = lineage.split_last().map_or(lineage, |(_, above)| above);
    for task in above {
        let carries = |binding: &Arc<Binding>| {
            (binding.may_use || binding.may_delegate) && binding.allows(&ask.parameters)
        };
        if !rules.bindings_on(&ask.scope, &task.opened_by).any(carries) {
            let what = format!("task {} above may neither use nor delegate scope {:?}", task.id, ask.scope);
            let trace = vec![format!("{} holds no binding that carries it", task.opened_by)];
            return Err(DenyReason::AncestorLacksGrant.denial(what, trace));
        }
    }
    Ok(())
}

/// Unknown and not granted answer alike.
fn not_granted(caller: &Caller, ask: &ScopeAsk, trace: Vec<String>) -> Denial {
    let name: String = ask.scope.chars().take(64).collect();
    DenyReason::ScopeNotGranted.denial(format!("no scope {name:?} is granted to {}", caller.spiffe_id), trace)
}

fn deadline_of(task: &Task) -> Timestamp {
    match task.state {
        crate::task::TaskState::Open { deadline } => deadline,
        crate::task::TaskState::Ended { at, .. } => at,
    }
}

#[cfg(test)]
mod tests;
