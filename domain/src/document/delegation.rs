//! Delegation across bindings: a scope that could come back to whom it was handed on by is refused.

use std::collections::{BTreeMap, BTreeSet};

use crate::binding::Binding;

/// Refuses circles: bindings that hand a scope to holders of bindings that, step by step, may hand it back.
pub(super) fn check(bindings: &[(usize, Binding)], at: &mut impl FnMut(usize, &str, String)) {
    let mut by_scope: BTreeMap<&str, Vec<&(usize, Binding)>> = BTreeMap::new();
    for entry in bindings.iter().filter(|(_, binding)| binding.delegate.is_some()) {
        by_scope.entry(&entry.1.scope).or_default().push(entry);
    }
    for group in by_scope.values() {
        let circle = in_circles(group);
        let names: Vec<&str> = circle.iter().map(|member| group[*member].1.name.as_str()).collect();
        for member in &circle {
            let problem = match names.as_slice() {
                [_] => "takes in its own holder: the scope could come back to it".to_owned(),
                _ => format!("the scope could go in a circle through {}; narrow `to`", names.join(", ")),
            };
            at(group[*member].0, "spec.delegate.to", problem);
        }
    }
}

/// What is left when all that nobody hands to, or that hand to nobody, are taken out again and again.
fn in_circles(group: &[&(usize, Binding)]) -> BTreeSet<usize> {
    let hands_to = |from: usize| -> Vec<usize> {
        let patterns = group[from].1.delegate.as_ref().map_or(&[][..], |delegation| &delegation.to);
        let takes_in = |to: &usize| {
            let identities = &group[*to].1.identities;
            patterns.iter().any(|pattern| identities.iter().any(|identity| identity.overlaps(pattern)))
        };
        (0..group.len()).filter(takes_in).collect()
    };
    let ways: Vec<Vec<usize>> = (0..group.len()).map(hands_to).collect();
    let mut left: BTreeSet<usize> = (0..group.len()).collect();
    loop {
        let reached: BTreeSet<usize> =
            left.iter().flat_map(|from| &ways[*from]).copied().filter(|to| left.contains(to)).collect();
        let going_on = |from: &usize| ways[*from].iter().any(|to| reached.contains(to));
        let kept: BTreeSet<usize> = reached.iter().copied().filter(going_on).collect();
        if kept.len() == left.len() {
            return kept;
        }
        left = kept;
    }
}
