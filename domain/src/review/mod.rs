//! Review: what bindings give, what was asked for and used of it, and the narrower binding that would have sufficed.
//!
//! Uses are counted as a decision would count them today: for the binding that the record names if it is still there and
//! would carry the same, else for every binding that would. What let a request through for a task above stands in no
//! record; there every binding counts that would.

mod narrow;
mod patterns;
mod usage;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::binding::{Binding, Start, ViaRule};
use crate::parameter;
use crate::rules::Rules;
use crate::scope::{Scope, ScopeAsk};
use crate::spiffe::SpiffeId;
use crate::time::{Timestamp, Ttl};

pub use self::narrow::{Proposal, Unneeded, propose};
pub use self::usage::{Count, Counted, Usage};

/// One decision, as its record has it.
#[derive(Clone, Debug)]
pub enum Recorded {
    /// A credential, a renewal, or an action on an artifact was allowed.
    Allowed(Allowed),
    /// Something was denied, or as many equal ones.
    Denied {
        /// Who asked.
        identity: SpiffeId,
        /// For what. Without values where equal ones were counted together.
        scope: String,
        /// Why not.
        reason: String,
        /// How many.
        times: u64,
    },
    /// A task was opened by its holder.
    Opened {
        /// Who.
        identity: SpiffeId,
        /// By which way.
        via: ViaRule,
        /// Everything it may ask for.
        ceiling: Vec<ScopeAsk>,
    },
    /// A task was opened for another workload.
    Offered {
        /// When.
        at: Timestamp,
        /// Who holds each task down to the one it was opened in, root first.
        above: Vec<SpiffeId>,
        /// For whom.
        to: SpiffeId,
        /// Everything it may ask for.
        ceiling: Vec<ScopeAsk>,
        /// How long ago the first task of the tree was opened, where that is known.
        oldest: Option<Ttl>,
    },
}

/// What was allowed.
#[derive(Clone, Debug)]
pub struct Allowed {
    /// When.
    pub at: Timestamp,
    /// Who asked.
    pub identity: SpiffeId,
    /// By which way.
    pub via: ViaRule,
    /// For what.
    pub ask: ScopeAsk,
    /// The binding that carried it then.
    pub binding: String,
    /// How long the credential could live.
    pub ttl: Ttl,
    /// Who holds each task, root first, the asker's own last.
    pub chain: Vec<SpiffeId>,
    /// How long ago the task was opened, where that is known.
    pub age: Option<Ttl>,
    /// The same of the first task of the tree.
    pub oldest: Option<Ttl>,
}

/// Which bindings are reviewed; all of them if nothing is said.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// This one.
    pub binding: Option<String>,
    /// Those on this scope.
    pub scope: Option<String>,
    /// Those for this identity.
    pub identity: Option<SpiffeId>,
}

/// A binding with what was used of it.
#[derive(Clone, Debug)]
pub struct Reviewed {
    /// The binding.
    pub binding: Arc<Binding>,
    /// Its scope.
    pub scope: Arc<Scope>,
    /// What was used.
    pub usage: Usage,
    /// Parts of it that nobody used, in words.
    pub never_used: Vec<String>,
    /// What should become of it; nothing is proposed where not all records were read.
    pub proposal: Option<Proposal>,
}

/// Counts records, one after the other.
#[derive(Debug)]
pub struct Tally {
    rules: Arc<Rules>,
    wanted: Wanted,
    now: Timestamp,
    usages: BTreeMap<String, Usage>,
    /// Records that were counted.
    pub decisions: u64,
}

impl Wanted {
    fn takes(&self, binding: &Binding) -> bool {
        self.binding.as_ref().is_none_or(|name| *name == binding.name)
            && self.scope.as_ref().is_none_or(|scope| *scope == binding.scope)
            && self.identity.as_ref().is_none_or(|id| binding.is_for(id))
    }
}

impl Tally {
    /// Counts for these bindings, under the rules as they stand now.
    pub fn new(rules: Arc<Rules>, wanted: Wanted, now: Timestamp) -> Self {
        Self { rules, wanted, now, usages: BTreeMap::new(), decisions: 0 }
    }

    /// Counts one record.
    pub fn add(&mut self, recorded: &Recorded) {
        self.decisions += 1;
        let rules = Arc::clone(&self.rules);
        match recorded {
            Recorded::Allowed(allowed) => self.allowed(&rules, allowed),
            Recorded::Denied { identity, scope, reason, times } => {
                for binding in rules.bindings_on(scope, identity) {
                    self.on(binding, |usage| usage.denied(reason, *times));
                }
            }
            Recorded::Opened { identity, via, ceiling } => {
                // Through an agent a task is opened without any binding.
                for ask in ceiling.iter().filter(|_| *via == ViaRule::Direct) {
                    let bindings = rules.bindings_on(&ask.scope, identity).into_iter();
                    for binding in bindings.filter(|binding| binding.via == ViaRule::Direct) {
                        self.on(binding, |usage| usage.declared(identity));
                    }
                }
            }
            Recorded::Offered { at, above, to, ceiling, oldest } => {
                let holders: Vec<&SpiffeId> = above.iter().chain([to]).collect();
                for ask in ceiling {
                    self.above(&rules, ask, &holders, *oldest, *at);
                }
            }
        }
    }

    fn allowed(&mut self, rules: &Arc<Rules>, allowed: &Allowed) {
        let Allowed { ask, identity, .. } = allowed;
        let Some(scope) = rules.scope(&ask.scope) else { return };
        let still_asked_so = parameter::check(&scope.parameters, &ask.parameters).is_ok();
        let fitting = rules.bindings_fitting(&ask.scope, identity, &ask.parameters).into_iter();
        let fitting: Vec<&Arc<Binding>> =
            fitting.filter(|one| still_asked_so && one.allows(&ask.parameters)).collect();
        let carries = |one: &&&Arc<Binding>| {
            one.may_use && one.via == allowed.via && (one.start == Start::Root || allowed.chain.len() > 1)
        };
        let carrying: Vec<&&Arc<Binding>> = fitting.iter().filter(carries).collect();
        // What a binding carried that is over by now, another would carry today.
        let named = carrying.iter().find(|one| one.name == allowed.binding && one.stands(self.now));
        let counted = named.map_or(&carrying[..], std::slice::from_ref);
        for binding in &fitting {
            self.on(binding, Usage::requested);
        }
        for binding in counted {
            self.on(binding, |usage| usage.carried(allowed));
        }
        if still_asked_so {
            let holders: Vec<&SpiffeId> = allowed.chain.iter().collect();
            self.above(rules, ask, &holders, allowed.oldest, allowed.at);
        }
    }

    /// For each holder but the last: the bindings that let the ask through to those below.
    fn above(
        &mut self,
        rules: &Arc<Rules>,
        ask: &ScopeAsk,
        holders: &[&SpiffeId],
        oldest: Option<Ttl>,
        at: Timestamp,
    ) {
        let Some(scope) = rules.scope(&ask.scope) else { return };
        for (depth, holder) in holders.iter().enumerate().take(holders.len().saturating_sub(1)) {
            let below = &holders[depth + 1..];
            let served = rules.stage_of(holder).is_some_and(|stage| scope.stages.contains(&stage));
            for binding in rules.bindings_fitting(&ask.scope, holder, &ask.parameters) {
                if !binding.allows(&ask.parameters) || (binding.start == Start::UnderParent && depth == 0) {
                    continue;
                }
                let hands_on = binding.delegate.as_ref().is_some_and(|to| to.reaches(below.iter().copied()));
                if hands_on || (binding.may_use && served) {
                    let handed = hands_on.then_some(below);
                    self.on(binding, |usage| usage.stood_above(holder, ask, depth, handed, oldest, at));
                }
            }
        }
    }

    fn on(&mut self, binding: &Arc<Binding>, count: impl FnOnce(&mut Usage)) {
        if self.wanted.takes(binding) {
            count(self.usages.entry(binding.name.clone()).or_default());
        }
    }

    /// Every wanted binding with its figures, by scope and name. Proposes only where all records were read.
    pub fn finish(mut self, whole: bool) -> Vec<Reviewed> {
        let rules = Arc::clone(&self.rules);
        let mut reviewed = Vec::new();
        for scope in rules.scopes() {
            let bindings = rules.bindings_of(&scope.name).iter();
            let mut bindings: Vec<&Arc<Binding>> = bindings.filter(|one| self.wanted.takes(one)).collect();
            bindings.sort_by(|a, b| a.name.cmp(&b.name));
            for binding in bindings {
                let usage = self.usages.remove(&binding.name).unwrap_or_default();
                reviewed.push(Reviewed {
                    proposal: whole.then(|| propose(binding, scope, &usage, self.now)),
                    never_used: narrow::never_used(binding, &usage),
                    binding: Arc::clone(binding),
                    scope: Arc::clone(scope),
                    usage,
                });
            }
        }
        reviewed
    }
}

#[cfg(test)]
mod tests;
