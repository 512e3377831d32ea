//! Bindings that count only below another task while nobody above could let them through, and bindings that hand a scope to
//! whom nothing lets use it.

use std::sync::Arc;

use super::bindings::fills;
use super::{Finding, Severity};
use crate::binding::{AllowedValues, Binding, Start};
use crate::pattern::SpiffePattern;
use crate::rules::Rules;
use crate::scope::Scope;
use crate::time::Timestamp;

pub(super) fn check(rules: &Rules, scope: &Scope, binding: &Binding, now: Timestamp) -> Vec<Finding> {
    let finding = |code, path: &str, what: &str, next| Finding {
        code,
        severity: Severity::Warning,
        document: format!("Binding/{}", binding.name),
        path: path.to_owned(),
        what: what.to_owned(),
        why: "whoever reads it believes that it grants something",
        next,
    };
    let all = rules.bindings_of(&scope.name);
    let mut findings = Vec::new();
    if binding.start == Start::UnderParent
        && !all.iter().any(|above| is_above(rules, scope, above, binding, now))
    {
        findings.push(finding(
            "binding-without-parent",
            "spec.start",
            "counts only below a task of another, and no binding lets the holder of a root task use the scope or \
             hand it to its identities",
            "give `use` or `delegate` to whoever opens the root task, or say `start: root`",
        ));
    }
    let below = |to: &[SpiffePattern], other: &Arc<Binding>| {
        other.may_use && other.stands(now) && overlap(to, &other.identities) && agree(binding, other)
    };
    if binding.delegate.as_ref().is_some_and(|to| !all.iter().any(|other| below(&to.to, other))) {
        findings.push(finding(
            "delegate-to-nobody",
            "spec.delegate.to",
            "hands the scope to identities that no binding lets use it",
            "bind them too: delegation only narrows what each holder's own binding gives",
        ));
    }
    findings
}

/// Whether the holder of a root task could let a request of the other's holder through. The root of a tree must reach
/// all that stand below it, whoever stands between.
fn is_above(rules: &Rules, scope: &Scope, above: &Binding, binding: &Binding, now: Timestamp) -> bool {
    let uses = above.may_use && fills(rules, scope, above, true);
    let hands_on = || {
        fills(rules, scope, above, false)
            && above.delegate.as_ref().is_some_and(|to| overlap(&to.to, &binding.identities))
    };
    above.start == Start::Root && above.stands(now) && agree(above, binding) && (uses || hands_on())
}

fn overlap(some: &[SpiffePattern], others: &[SpiffePattern]) -> bool {
    some.iter().any(|one| others.iter().any(|other| one.overlaps(other)))
}

/// Whether there can be values that both allow.
fn agree(one: &Binding, other: &Binding) -> bool {
    one.parameters.iter().all(|(name, allowed)| match (allowed, other.parameters.get(name)) {
        (AllowedValues::List(values), Some(others)) => values.iter().any(|value| others.takes(value)),
        (AllowedValues::Pattern(pattern), Some(AllowedValues::List(values))) => {
            values.iter().any(|value| pattern.matches(value))
        }
        (AllowedValues::Pattern(_), Some(AllowedValues::Pattern(_))) | (_, None) => true,
    })
}
