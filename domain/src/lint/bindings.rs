//! Scopes that nobody reaches, bindings that never carry, and bindings that carry too much.

use std::sync::Arc;

use super::{Finding, Severity, needless_leaves_behind, starts};
use crate::artifact;
use crate::binding::{Binding, ViaRule};
use crate::pattern::SpiffePattern;
use crate::rules::Rules;
use crate::scope::Scope;
use crate::task::AnchorKind;
use crate::time::Timestamp;

pub(super) fn check(rules: &Rules, now: Timestamp) -> Vec<Finding> {
    let mut findings = Vec::new();
    for scope in rules.scopes() {
        findings.extend(needless_words(scope));
        let bindings = rules.bindings_of(&scope.name);
        let carries = |binding: &&Arc<Binding>| never(rules, scope, binding, now).is_none();
        if !bindings.iter().any(|binding| binding.may_use && carries(&binding)) {
            findings.push(Finding {
                code: "scope-unreachable",
                severity: Severity::Warning,
                document: format!("Scope/{}", scope.name),
                path: "metadata.name".to_owned(),
                what: "no binding carries it for any identity of a stage it serves".to_owned(),
                why: "a permission nobody can get is not noticed when it becomes wrong",
                next: "bind it, or remove it",
            });
        }
        for binding in bindings {
            match never(rules, scope, binding, now) {
                Some(finding) => findings.push(finding),
                None => findings.extend(starts::check(rules, scope, binding, now)),
            }
            findings.extend(too_wide(binding));
        }
    }
    findings
}

/// Why the binding can never carry a request, if it cannot.
fn never(rules: &Rules, scope: &Scope, binding: &Binding, now: Timestamp) -> Option<Finding> {
    let finding = |code, path: &str, what: String, next| Finding {
        code,
        severity: Severity::Warning,
        document: format!("Binding/{}", binding.name),
        path: path.to_owned(),
        what,
        why: "whoever reads it believes that it grants something",
        next,
    };
    if let Some(until) = binding.until.filter(|_| !binding.stands(now)) {
        let what = format!("ended at {until}");
        return Some(finding("binding-ended", "spec.until", what, "remove it, or give it a later end"));
    }
    if !fills(rules, scope, binding, false) {
        let what = "its identities fill no stage".to_owned();
        let next = "add them to a Stage document, or correct the pattern";
        return Some(finding("binding-without-stage", "spec.identities", what, next));
    }
    // Whoever only hands a scope on need not be of a stage that the scope serves.
    if binding.may_use && !fills(rules, scope, binding, true) {
        let stages: Vec<&str> = scope.stages.iter().map(|stage| stage.as_str()).collect();
        let what =
            format!("its identities are of other stages than the scope serves ({})", stages.join(", "));
        let next = "bind identities of a stage the scope serves, or let the scope serve theirs";
        return Some(finding("binding-of-another-stage", "spec.identities", what, next));
    }
    let contradicts = match (binding.via, scope.anchor) {
        (ViaRule::Direct, Some(AnchorKind::CgroupOwned | AnchorKind::Process)) => true,
        (ViaRule::Agent, Some(AnchorKind::Stream | AnchorKind::Deadline)) => true,
        (ViaRule::Direct | ViaRule::Agent, _) => false,
    };
    (binding.may_use && contradicts).then(|| {
        let anchor = scope.anchor.map_or("", AnchorKind::as_str);
        let what = format!("no task that comes this way has anchor {anchor}, which the scope wants");
        finding("binding-against-anchor", "spec.via", what, "change `via`, or the scope's `anchor`")
    })
}

/// Whether somebody it is for can fill a stage: one that the scope serves, or any that holds scopes.
pub(super) fn fills(rules: &Rules, scope: &Scope, binding: &Binding, served: bool) -> bool {
    let stages = rules
        .stages()
        .iter()
        .filter(|rule| rule.stage.holds_target_scopes() && (!served || scope.stages.contains(&rule.stage)));
    stages
        .flat_map(|rule| &rule.patterns)
        .any(|pattern| binding.identities.iter().any(|identity| identity.overlaps(pattern)))
}

/// Words on what credentials leave behind, where there is no credential.
fn needless_words(scope: &Scope) -> Option<Finding> {
    let needless = scope.provider == artifact::PROVIDER && !scope.leaves_behind.is_empty();
    needless.then(|| Finding {
        what: "a scope for actions on an artifact gives no credential that could leave anything".to_owned(),
        ..needless_leaves_behind(&scope.name)
    })
}

/// Patterns that take in more than anybody can look over.
fn too_wide(binding: &Binding) -> Vec<Finding> {
    let finding = |code, severity, path: String, what: String, why, next| Finding {
        code,
        severity,
        document: format!("Binding/{}", binding.name),
        path,
        what,
        why,
        next,
    };
    let mut findings = Vec::new();
    for (index, pattern) in binding.identities.iter().enumerate() {
        let path = format!("spec.identities[{index}]");
        if pattern.is_whole_trust_domain() {
            findings.push(finding(
                "pattern-whole-trust-domain",
                Severity::Error,
                path,
                format!("{pattern} takes in every identity of the trust domain"),
                "every workload that is ever registered gets the scope, if its stage is served",
                "name the workloads, or the path they share",
            ));
        } else if is_first_level(pattern) {
            findings.push(finding(
                "pattern-bare-wildcard",
                Severity::Warning,
                path,
                format!("{pattern} takes in whatever is registered below its first segment"),
                "a new workload gets the scope without anybody deciding so",
                "name one more segment, or use * for exactly one",
            ));
        }
    }
    let broad = binding.identities.iter().any(|pattern| pattern.exact().is_none());
    for (key, said) in [("owner", &binding.owner), ("ticket", &binding.ticket)] {
        if broad && said.is_empty() {
            findings.push(finding(
                "binding-unaccounted",
                Severity::Warning,
                format!("spec.{key}"),
                format!("takes in identities by pattern and names no {key}"),
                "nobody can be asked whether it is still needed",
                "say who answers for it, and where the reason is found",
            ));
        }
    }
    findings
}

fn is_first_level(pattern: &SpiffePattern) -> bool {
    let (segments, open_ended) = pattern.segments();
    open_ended && segments.count() == 1
}
