//! Who may have a scope, or touch a target: every binding on it, with what a decision says of an identity it is for.

mod target;

use std::sync::Arc;

use crate::binding::Binding;
use crate::parameter::Parameters;
use crate::reach::{self, Entry};
use crate::rules::Rules;
use crate::scope::Scope;
use crate::spiffe::SpiffeId;
use crate::stage::Stage;
use crate::time::Timestamp;

pub use self::target::{LONGEST_TEXT, Place, places};

/// A binding on the scope.
#[derive(Clone, Debug)]
pub struct Holder {
    /// The binding.
    pub binding: Arc<Binding>,
    /// What it gives to somebody it is for. None where there can be nobody: no identity it is for fills a stage that the
    /// scope serves, or may hand it on.
    pub somebody: Option<(SpiffeId, Entry)>,
}

/// The first so many bindings on a scope by name, those left out that do not allow the chosen values.
pub fn of_scope(
    rules: &Rules,
    scope: &Arc<Scope>,
    chosen: &Parameters,
    most: usize,
    now: Timestamp,
) -> Vec<Holder> {
    let allows = |binding: &&Arc<Binding>| {
        let allowed = |(name, value): (&String, &String)| {
            binding.parameters.get(name).is_none_or(|allowed| allowed.takes(value))
        };
        chosen.iter().all(allowed)
    };
    let mut bindings: Vec<&Arc<Binding>> = rules.bindings_of(&scope.name).iter().filter(allows).collect();
    bindings.sort_by(|a, b| a.name.cmp(&b.name));
    let holder = |binding: &Arc<Binding>| {
        let served = || rules.somebody(&binding.identities, |stage| scope.stages.contains(&stage));
        // Handing on asks for no stage that the scope serves.
        let hands_on = || {
            binding
                .delegate
                .as_ref()
                .and_then(|_| rules.somebody(&binding.identities, Stage::holds_target_scopes))
        };
        let somebody = served().or_else(hands_on);
        let entry = |id: SpiffeId| {
            let entry = reach::entry(rules, &id, scope, binding, chosen, now);
            (id, entry)
        };
        Holder { binding: Arc::clone(binding), somebody: somebody.map(entry) }
    };
    bindings.into_iter().take(most).map(holder).collect()
}
