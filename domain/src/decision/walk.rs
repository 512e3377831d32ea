//! The way of a decision, step by step. There is one, whoever watches.

use std::sync::Arc;

use crate::binding::Binding;
use crate::parameter;
use crate::policy::{Judgement, Narrowing, PolicyInput};
use crate::scope::{Scope, ScopeAsk};
use crate::task::{AnchorKind, Task};
use crate::time::{Timestamp, Ttl};

use super::act;
use super::binding;
use super::facts::{
    Facts, check_caller, check_ceilings, check_chain_not_cut_off, check_lineage, check_scope_not_cut_off,
    deadline_of, not_granted,
};
use super::witness::{Way, Witness};
use super::{Act, Denial, DenyReason, Grant};

pub(super) fn walk<W: Witness>(facts: &Facts<'_>, witness: &mut W) -> Result<Grant, Denial> {
    let Facts { rules, caller, lineage, wish, now } = *facts;
    let ask = &wish.ask;
    let mut way = Way::new(witness);
    way.step("caller", check_caller(rules, caller, now))?;
    let task = check_lineage(caller, lineage, now);
    way.step("task", task.as_ref().map(|_| ()).map_err(Clone::clone))?;
    let task = match (&task, lineage.last()) {
        (Err(_), Some(closed)) if W::WRITES => closed,
        _ => way.stop(task)?,
    };
    let scope = rules.scope(&ask.scope).ok_or_else(|| not_granted(caller, ask));
    if scope.is_err() {
        way.witness.step(false, || "scope", || "no such scope".to_owned());
    }
    let scope = way.stop(scope)?;
    let found = binding::find(facts, scope, task, way.witness);
    way.go_on(found.as_ref().map(|_| ()).map_err(Clone::clone))?;
    if !rules.kills().is_empty() {
        let standing =
            check_chain_not_cut_off(rules, lineage).and_then(|()| check_scope_not_cut_off(rules, scope));
        way.step("kills", standing)?;
    }
    way.step("parameters", check_parameters(facts, scope))?;
    way.step("ceiling", check_ceilings(lineage, ask))?;
    if let Some(act) = &wish.act {
        way.step("artifact", check_act(scope, ask, act))?;
    }
    way.step("anchor", check_anchor(scope, task))?;
    let asked = wish.ttl.unwrap_or(scope.ttl.default);
    way.step("ttl", check_ttl(scope, asked))?;
    way.step("chain", check_chain(facts))?;
    let approval = check_approval(facts, scope);
    way.step("approval", approval.as_ref().map(|_| ()).map_err(Clone::clone))?;
    let judged = judge(facts, scope, asked, way.witness);
    way.go_on(judged.as_ref().map(|_| ()).map_err(Clone::clone))?;
    way.end()?;
    let approval = approval?;
    let approved_until = approval.as_ref().map(|(_, until)| *until);
    grant(facts, scope, task, found?, asked, judged?, approved_until)
        .map(|grant| Grant { approval: approval.map(|(id, _)| id), ..grant })
}

fn check_parameters(facts: &Facts<'_>, scope: &Scope) -> Result<(), Denial> {
    parameter::check(&scope.parameters, &facts.wish.ask.parameters).map_err(|faults| {
        let told: Vec<String> = faults.iter().map(ToString::to_string).collect();
        DenyReason::ParameterInvalid.denial(told.join("; "))
    })
}

/// The scope, with these values, is for the action on the artifact.
fn check_act(scope: &Scope, ask: &ScopeAsk, act: &Act) -> Result<(), Denial> {
    act::fits(scope, ask, act).map_err(|misfit| {
        let what = format!("scope {:?} does not allow {act}: {misfit}", scope.name);
        DenyReason::OutsideCeiling.denial(what)
    })
}

fn check_anchor(scope: &Scope, task: &Task) -> Result<(), Denial> {
    match scope.anchor.filter(|wanted| *wanted != task.anchor.kind) {
        None => Ok(()),
        Some(wanted) => {
            let what = format!(
                "scope {:?} wants anchor {}; the task has {}",
                scope.name,
                AnchorKind::as_str(wanted),
                task.anchor.kind.as_str()
            );
            Err(DenyReason::AnchorTooWeak.denial(what))
        }
    }
}

fn check_ttl(scope: &Scope, asked: Ttl) -> Result<(), Denial> {
    if asked > scope.ttl.max || asked == Ttl::ZERO {
        let what = format!("scope {:?} gives at most {}", scope.name, scope.ttl.max);
        return Err(DenyReason::TtlOverLimit.denial(what));
    }
    Ok(())
}

/// Every task above may use the scope, or delegate it to those below.
fn check_chain(facts: &Facts<'_>) -> Result<(), Denial> {
    let Facts { rules, lineage, wish, now, .. } = *facts;
    match binding::first_without_grant(rules, lineage, None, &wish.ask, now) {
        None => Ok(()),
        Some(task) => {
            let what =
                format!("task {} above may neither use nor delegate scope {:?}", task.id, wish.ask.scope);
            Err(DenyReason::AncestorLacksGrant.denial(what))
        }
    }
}

/// Id and end of the approval the request rests on, where the scope wants one.
fn check_approval(facts: &Facts<'_>, scope: &Scope) -> Result<Option<(String, Timestamp)>, Denial> {
    if scope.approval.is_none() {
        return Ok(None);
    }
    match facts.rules.approval(&facts.caller.spiffe_id, &facts.wish.ask, scope, facts.now) {
        Some(approval) => Ok(Some((approval.id.clone(), approval.until))),
        None => {
            let what = format!("scope {:?} wants the approval of a second admin", scope.name);
            Err(DenyReason::ApprovalMissing.denial(what))
        }
    }
}

fn judge<W: Witness>(
    facts: &Facts<'_>,
    scope: &Scope,
    asked: Ttl,
    witness: &mut W,
) -> Result<Narrowing, Denial> {
    let Facts { rules, caller, lineage, wish, now } = *facts;
    let Some(judge) = rules.judge().filter(|judge| judge.is_for(&scope.name)) else {
        return Ok(Narrowing::default());
    };
    let act = wish.act.as_ref().map(|act| (act.action.as_str(), &act.artifact));
    let input = PolicyInput::new(caller, lineage, scope, &wish.ask.parameters, asked, act, now)
        .expect("a lineage without a task stopped the way");
    let judgement = if W::EVERY_BINDING {
        let (judgement, rules) = judge.explain(&input);
        for rule in rules {
            witness.step(
                rule.matched,
                || format!("policy {} {}", rule.policy, rule.rule),
                || rule.what.clone(),
            );
        }
        judgement
    } else {
        judge.judge(&input)
    };
    let (said, answer) = match judgement {
        Judgement::Allow(narrowing) => ("policies", Ok(narrowing)),
        Judgement::Deny { policy, reasons } => {
            witness.step(false, || format!("policy {policy}"), || reasons.join("; "));
            ("policies", Err(DenyReason::PolicyDenied.denial(told(&reasons))))
        }
        Judgement::Fail { policy, what } => {
            witness.step(false, || format!("policy {policy}"), || what.clone());
            let message = "a policy gave no answer that can be used".to_owned();
            ("policies", Err(DenyReason::PolicyFailed.denial(message)))
        }
    };
    if let Ok(narrowing) = &answer {
        witness.step(
            true,
            || said,
            || match *narrowing == Narrowing::default() {
                true => "hold".to_owned(),
                false => format!("narrow: {}", serde_json::to_string(narrowing).unwrap_or_default()),
            },
        );
    }
    answer
}

/// A policy's reasons are written for the caller by its authors.
fn told(reasons: &[String]) -> String {
    match reasons.is_empty() {
        true => "a policy denies it".to_owned(),
        false => reasons.join("; "),
    }
}

fn grant(
    facts: &Facts<'_>,
    scope: &Arc<Scope>,
    task: &Task,
    binding: &Binding,
    asked: Ttl,
    narrowing: Narrowing,
    approved_until: Option<Timestamp>,
) -> Result<Grant, Denial> {
    let Facts { rules, lineage, wish, now, .. } = *facts;
    let ends = [Some(binding::last_moment(binding, task)), Some(deadline_of(task)), approved_until];
    let last_moment = ends.into_iter().flatten().min().unwrap_or(now);
    let longest = narrowing.max_ttl.map_or(asked, |most| asked.min(most));
    Ok(Grant {
        scope: Arc::clone(scope),
        ask: wish.ask.clone(),
        ttl: longest.min(now.until(last_moment)),
        binding: binding.name.clone(),
        binding_digest: binding.digest.clone(),
        chain: lineage.iter().map(|above| above.opened_by.clone()).collect(),
        policies: rules.judge().map(|judge| judge.of_scope(&scope.name)).unwrap_or_default(),
        narrowing,
        approval: None,
        revision: rules.revision,
        rules_digest: rules.digest.clone(),
    })
}
