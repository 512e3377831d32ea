//! The bindings of one scope, found by identity and parameter values, however many there are.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::binding::{AllowedValues, Binding};
use crate::parameter::Parameters;
use crate::pattern_index::PatternIndex;
use crate::spiffe::SpiffeId;

/// The bindings of one scope.
#[derive(Clone, Debug, Default)]
pub struct BindingIndex {
    all: Vec<Arc<Binding>>,
    by_identity: PatternIndex<Filed>,
}

/// Bindings of one identity pattern. Those that list the values of a parameter are filed under each value, so that a
/// thousand bindings of one pattern, each for a dataset of its own, cost no more than one.
#[derive(Clone, Debug, Default)]
struct Filed {
    by_value: BTreeMap<String, HashMap<String, Vec<Arc<Binding>>>>,
    others: Vec<Arc<Binding>>,
}

impl BindingIndex {
    /// Files one more binding.
    pub fn add(&mut self, binding: Arc<Binding>) {
        for pattern in &binding.identities {
            self.by_identity.entry(pattern).file(&binding);
        }
        self.all.push(binding);
    }

    /// Every binding, in the order they were added.
    pub fn all(&self) -> &[Arc<Binding>] {
        &self.all
    }

    /// The bindings for this identity, by name.
    pub fn of(&self, id: &SpiffeId) -> Vec<&Arc<Binding>> {
        let mut found = Vec::new();
        self.by_identity.each(id, &mut |filed: &Filed| {
            found.extend(&filed.others);
            found.extend(filed.by_value.values().flat_map(HashMap::values).flatten());
        });
        in_order(found)
    }

    /// The bindings for this identity that may allow these values, by name. One that is not here does not allow them;
    /// one that is here must still be asked.
    pub fn fitting(&self, id: &SpiffeId, parameters: &Parameters) -> Vec<&Arc<Binding>> {
        let mut found = Vec::new();
        self.by_identity.each(id, &mut |filed: &Filed| {
            found.extend(&filed.others);
            for (name, by_value) in &filed.by_value {
                found
                    .extend(parameters.get(name).and_then(|value| by_value.get(value)).into_iter().flatten());
            }
        });
        in_order(found)
    }
}

impl Filed {
    fn file(&mut self, binding: &Arc<Binding>) {
        let listed = binding.parameters.iter().find_map(|(name, allowed)| match allowed {
            AllowedValues::List(values) => Some((name, values)),
            AllowedValues::Pattern(_) => None,
        });
        match listed {
            None => self.others.push(Arc::clone(binding)),
            Some((name, values)) => {
                let by_value = self.by_value.entry(name.clone()).or_default();
                for value in values {
                    by_value.entry(value.clone()).or_default().push(Arc::clone(binding));
                }
            }
        }
    }
}

/// By name, each once: a binding may be filed under several patterns and values.
fn in_order(mut found: Vec<&Arc<Binding>>) -> Vec<&Arc<Binding>> {
    if found.len() > 1 {
        found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        found.dedup_by(|a, b| Arc::ptr_eq(a, b));
    }
    found
}
