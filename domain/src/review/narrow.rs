//! The narrower binding that would have sufficed. It never allows what the binding does not, and allows all that was used.

use std::collections::BTreeSet;

use super::patterns;
use super::usage::{Counted, Usage};
use crate::binding::{AllowedValues, Binding, Delegation, Start};
use crate::parameter::{ParameterSpec, ParameterType};
use crate::pattern::SpiffePattern;
use crate::scope::Scope;
use crate::spiffe::SpiffeId;
use crate::time::{Timestamp, Ttl};

/// Most values of one parameter that are listed in a proposal.
const MOST_VALUES: usize = 64;

/// What `max_task` is rounded up to. Not less than an hour: when a task asks is chance.
const SPANS: [Ttl; 7] = [
    Ttl::hours(1),
    Ttl::hours(2),
    Ttl::hours(4),
    Ttl::hours(8),
    Ttl::hours(12),
    Ttl::hours(24),
    Ttl::hours(7 * 24),
];

/// What should become of a binding.
#[derive(Clone, Debug)]
pub enum Proposal {
    /// All of it was used.
    Keep,
    /// Less would have sufficed.
    Narrow {
        /// This.
        binding: Box<Binding>,
        /// What is taken away, in words.
        taken: Vec<String>,
    },
    /// It gives nothing that anybody used.
    Remove(Unneeded),
    /// Nobody used it, but tasks of direct callers declare its scope and could not be opened without it.
    Undeclare,
}

/// Why a binding is not needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unneeded {
    /// It is over.
    Ended(Timestamp),
    /// Nobody used it.
    NeverUsed,
}

/// What should become of the binding, by what was used of it.
pub fn propose(binding: &Binding, scope: &Scope, usage: &Usage, now: Timestamp) -> Proposal {
    if let Some(until) = binding.until.filter(|_| !binding.stands(now)) {
        return Proposal::Remove(Unneeded::Ended(until));
    }
    if !usage.is_used() {
        return match usage.declared {
            0 => Proposal::Remove(Unneeded::NeverUsed),
            _ => Proposal::Undeclare,
        };
    }
    let mut narrow = Narrow { to: binding.clone(), taken: Vec::new() };
    narrow.identities(usage);
    narrow.grants(usage);
    narrow.parameters(scope, usage);
    if binding.start == Start::Root && usage.in_roots == 0 {
        narrow.to.start = Start::UnderParent;
        narrow.taken.push("start: root becomes under_parent".to_owned());
    }
    narrow.max_task(usage);
    match narrow.taken.is_empty() {
        true => Proposal::Keep,
        false => Proposal::Narrow { binding: Box::new(narrow.to), taken: narrow.taken },
    }
}

struct Narrow {
    to: Binding,
    taken: Vec<String>,
}

impl Narrow {
    fn identities(&mut self, usage: &Usage) {
        if usage.identities.more || usage.declarers.more {
            return;
        }
        let came: BTreeSet<&SpiffeId> = usage.identities.each().chain(usage.declarers.each()).collect();
        let narrower = patterns::narrowed(&self.to.identities, came.into_iter());
        if differ(&self.to.identities, &narrower) {
            self.taken.push(format!("identities: {} become {}", list(&self.to.identities), list(&narrower)));
            self.to.identities = narrower;
        }
    }

    fn grants(&mut self, usage: &Usage) {
        if self.to.may_use && !usage.needs_use {
            self.to.may_use = false;
            self.taken.push("grants: use goes".to_owned());
        }
        let Some(delegate) = &self.to.delegate else { return };
        if usage.depth == 0 {
            self.taken.push(format!("grants: delegate to {} goes", list(&delegate.to)));
            self.to.delegate = None;
            return;
        }
        let to = match usage.handed_to.more {
            true => delegate.to.clone(),
            false => patterns::narrowed(&delegate.to, usage.handed_to.each()),
        };
        if differ(&delegate.to, &to) {
            self.taken.push(format!("delegate.to: {} become {}", list(&delegate.to), list(&to)));
        }
        let depth = delegate.depth.min(usage.depth);
        if depth < delegate.depth {
            self.taken.push(format!("delegate.depth: {} becomes {depth}", delegate.depth));
        }
        let to = if differ(&delegate.to, &to) { to } else { delegate.to.clone() };
        self.to.delegate = Some(Delegation { to, depth });
    }

    fn parameters(&mut self, scope: &Scope, usage: &Usage) {
        for (name, spec) in &scope.parameters {
            let Some(used) = usage.values.get(name).filter(|used| !used.more && used.len() <= MOST_VALUES)
            else {
                continue;
            };
            let allowed = self.to.parameters.get(name);
            if closed(spec, allowed).is_some_and(|all| all.iter().all(|value| used.has(value))) {
                continue;
            }
            let values: Vec<String> = used.each().cloned().collect();
            let before = match allowed {
                None => "any".to_owned(),
                Some(AllowedValues::List(all)) => all.join(", "),
                Some(AllowedValues::Pattern(pattern)) => pattern.as_str().to_owned(),
            };
            self.taken.push(format!("{name}: {before} becomes {}", values.join(", ")));
            self.to.parameters.insert(name.clone(), AllowedValues::List(values));
        }
    }

    fn max_task(&mut self, usage: &Usage) {
        let enough = SPANS.into_iter().find(|span| *span >= usage.longest);
        let enough = enough.filter(|span| !usage.of_unknown_age && *span < self.to.max_task);
        if let Some(enough) = enough {
            self.taken.push(format!("max_task: {} becomes {enough}", self.to.max_task));
            self.to.max_task = enough;
        }
    }
}

/// Every value that can be asked for, where they can be listed.
fn closed(spec: &ParameterSpec, allowed: Option<&AllowedValues>) -> Option<Vec<String>> {
    let all = match (allowed, &spec.kind) {
        (Some(AllowedValues::List(values)), _) | (_, ParameterType::Enum(values)) => values.clone(),
        (_, ParameterType::Int { min, max }) if max.saturating_sub(*min) < MOST_VALUES as u64 => {
            (*min..=*max).map(|number| number.to_string()).collect()
        }
        (_, ParameterType::Int { .. } | ParameterType::Segment | ParameterType::Path) => return None,
    };
    let takes = |value: &String| spec.takes(value) && allowed.is_none_or(|allowed| allowed.takes(value));
    Some(all.into_iter().filter(takes).collect())
}

/// Parts of the binding that nobody used, in words.
pub(super) fn never_used(binding: &Binding, usage: &Usage) -> Vec<String> {
    if !usage.is_used() {
        return Vec::new();
    }
    let came = |pattern: &&SpiffePattern, by: &Counted<SpiffeId>| by.each().any(|id| pattern.matches(id));
    let mut told = Vec::new();
    let identities = binding.identities.iter().filter(|one| !came(one, &usage.identities));
    told.extend(identities.map(|pattern| format!("identity {pattern}")));
    for (name, allowed) in &binding.parameters {
        if let AllowedValues::List(values) = allowed {
            let unused =
                values.iter().filter(|value| !usage.values.get(name).is_some_and(|used| used.has(value)));
            told.extend(unused.map(|value| format!("{name}={value}")));
        }
    }
    if binding.may_use && usage.used == 0 {
        told.push("use by its own holders".to_owned());
    }
    let to = binding.delegate.iter().flat_map(|delegate| &delegate.to);
    told.extend(to.filter(|one| !came(one, &usage.handed_to)).map(|to| format!("delegate to {to}")));
    if binding.start == Start::Root && usage.in_roots == 0 {
        told.push("start: root".to_owned());
    }
    told
}

fn differ(before: &[SpiffePattern], after: &[SpiffePattern]) -> bool {
    let set = |patterns: &[SpiffePattern]| patterns.iter().cloned().collect::<BTreeSet<_>>();
    set(before) != set(after)
}

fn list(patterns: &[SpiffePattern]) -> String {
    patterns.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
