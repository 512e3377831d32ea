//! The trees that are most favourable to an identity, and what is decided in each.

use std::sync::Arc;

use crate::artifact;
use crate::binding::{Binding, ViaRule};
use crate::decision::{self, Decision, DenyReason, Wish};
use crate::hypothesis::Hypothesis;
use crate::parameter::Parameters;
use crate::rules::Rules;
use crate::scope::{Scope, ScopeAsk};
use crate::spiffe::SpiffeId;
use crate::stage::Stage;
use crate::time::Timestamp;

use super::values::{self, NoValue};
use super::{Outcome, Parent, Standing, Way};

/// Parents that are named at most.
const MOST_PARENTS: usize = 8;
/// Parents that are tried at most where none makes it an allow.
const MOST_TRIES: usize = 64;

/// One binding in the hands of one identity.
pub(super) struct Favourable<'a> {
    pub(super) rules: &'a Rules,
    pub(super) id: &'a SpiffeId,
    pub(super) scope: &'a Arc<Scope>,
    pub(super) binding: &'a Arc<Binding>,
    pub(super) chosen: &'a Parameters,
    pub(super) now: Timestamp,
}

impl Favourable<'_> {
    /// Decides these values, or an example, for a credential or for each action that the scope allows.
    pub(super) fn outcomes(&self, exactly: Option<Parameters>) -> Vec<Outcome> {
        let actions = match self.scope.target.tree()["actions"].as_array() {
            Some(actions) if self.scope.provider == artifact::PROVIDER => actions.len(),
            _ => 1,
        };
        (0..actions).map(|action| self.outcome(exactly.as_ref(), action)).collect()
    }

    /// Decides in a root task, and below every binding that could be a parent's.
    fn outcome(&self, exactly: Option<&Parameters>, action: usize) -> Outcome {
        let mut best = self.in_a_root_task(exactly, action);
        if !matches!(best.standing, Standing::Allowed(_)) {
            let mut tries = 0;
            let all = self.rules.bindings_of(&self.scope.name);
            // Parents of its own kind last: others say more about how it comes by the scope.
            let (own, others): (Vec<_>, Vec<_>) = all.iter().partition(|above| above.is_for(self.id));
            for above in others.into_iter().chain(own) {
                let enough = matches!(best.standing, Standing::Allowed(_)) && best.ways.len() >= MOST_PARENTS;
                if enough || tries >= MOST_TRIES {
                    break;
                }
                if let Some(found) = self.below(above, exactly, action) {
                    tries += 1;
                    best.take(found);
                }
            }
        }
        if matches!(best.standing, Standing::Nowhere(_) | Standing::NoExample) {
            best.ways.clear();
        }
        best.ways.truncate(MOST_PARENTS);
        best
    }

    fn ask(&self, values: Parameters) -> ScopeAsk {
        ScopeAsk { scope: self.scope.name.clone(), parameters: values }
    }

    fn without_values(&self, fault: NoValue) -> Outcome {
        let standing = match fault {
            NoValue::Fits(name) => Standing::Nowhere(format!("no {name} fits")),
            NoValue::Found => Standing::NoExample,
        };
        Outcome { ask: self.ask(Parameters::new()), act: None, standing, ways: Vec::new() }
    }

    fn in_a_root_task(&self, exactly: Option<&Parameters>, action: usize) -> Outcome {
        let values = match exactly {
            Some(values) => Ok(values.clone()),
            None => values::example(self.scope, self.chosen, &[self.binding]),
        };
        match values {
            Ok(values) => self.decide(None, self.ask(values), action),
            Err(fault) => self.without_values(fault),
        }
    }

    /// Below a task whose holder has that binding. None where it gives the holder nothing to hand on.
    fn below(&self, above: &Arc<Binding>, exactly: Option<&Parameters>, action: usize) -> Option<Outcome> {
        if !above.stands(self.now) || !(above.may_use || above.delegate.is_some()) {
            return None;
        }
        let example = self.rules.somebody(&above.identities, Stage::holds_target_scopes)?;
        let in_task_of = self.in_task_of(above)?;
        let values = match exactly {
            Some(values) => above.allows(values).then(|| values.clone())?,
            None => match values::example(self.scope, self.chosen, &[self.binding, above]) {
                Ok(values) => values,
                Err(fault) => return Some(self.without_values(fault)),
            },
        };
        let parent = Parent { binding: Arc::clone(above), example, in_task_of };
        Some(self.decide(Some(parent), self.ask(values), action))
    }

    /// Whose task it must stand in: its own, unless the scope is handed on to others alone. A direct caller stands in no
    /// task of another's.
    fn in_task_of(&self, above: &Binding) -> Option<Option<SpiffeId>> {
        if above.may_use {
            return Some(None);
        }
        let to = &above.delegate.as_ref()?.to;
        if to.iter().any(|pattern| pattern.matches(self.id)) {
            return Some(None);
        }
        match self.binding.via {
            ViaRule::Agent => self.rules.somebody(to, Stage::holds_target_scopes).map(Some),
            ViaRule::Direct => None,
        }
    }

    fn decide(&self, parent: Option<Parent>, ask: ScopeAsk, action: usize) -> Outcome {
        let hypothesis = Hypothesis {
            above: parent.iter().map(|parent| parent.example.clone()).collect(),
            holder: parent.as_ref().and_then(|parent| parent.in_task_of.clone()),
            anchor: self.scope.anchor,
            ..Hypothesis::root(self.id.clone(), self.binding.via)
        };
        let (caller, lineage) = hypothesis.stand(self.rules, &ask, self.now);
        let act = artifact::acts(self.scope, &ask.parameters).into_iter().nth(action);
        let wish = Wish { ask: ask.clone(), ttl: None, act: act.clone() };
        let decision = decision::decide(self.rules, &caller, &lineage, &wish, self.now);
        let standing = match decision {
            Decision::Allow(grant) if grant.binding == self.binding.name => Standing::Allowed(grant),
            decision => {
                // Another binding may be what carried it that far.
                let explained = decision::explain(self.rules, &caller, &lineage, &wish, self.now);
                let rule = format!("binding {}", self.binding.name);
                let own = explained.steps.iter().find(|step| step.rule == rule);
                match (own.filter(|step| !step.matched), decision) {
                    (Some(step), _) => Standing::Nowhere(step.what.clone()),
                    (None, Decision::Allow(grant)) => Standing::Allowed(grant),
                    (None, Decision::Deny(denial)) => match denial.reason {
                        DenyReason::ApprovalMissing => Standing::ApprovalMissing,
                        DenyReason::PolicyDenied | DenyReason::PolicyFailed => Standing::PolicyDenied(denial),
                        _ => Standing::Nowhere(denial.message),
                    },
                }
            }
        };
        Outcome { ask: ask.clone(), act, standing, ways: vec![Way { parent, ask, caller, lineage }] }
    }
}

impl Outcome {
    /// Keeps the better answer; of equal ones below parents, all ways.
    fn take(&mut self, found: Outcome) {
        let (old, new) = (rank(&self.standing), rank(&found.standing));
        if new > old {
            *self = found;
        } else if new == old
            && new > rank(&Standing::NoExample)
            && self.ways.iter().all(|way| way.parent.is_some())
        {
            self.ways.extend(found.ways);
        }
    }
}

fn rank(standing: &Standing) -> u8 {
    match standing {
        Standing::Nowhere(_) => 0,
        Standing::NoExample => 1,
        Standing::PolicyDenied(_) => 2,
        Standing::ApprovalMissing => 3,
        Standing::Allowed(_) => 4,
    }
}
