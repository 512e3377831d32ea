//! Everything decisions are made from, as one immutable revision that is swapped whole.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::binding::Binding;
use crate::node::{NodeRule, TrustDomainRule};
use crate::pattern::SpiffePattern;
use crate::scope::Scope;
use crate::spiffe::SpiffeId;
use crate::stage::Stage;

/// Patterns of the identities that fill a stage.
#[derive(Clone, Debug)]
pub struct StageRule {
    /// The stage.
    pub stage: Stage,
    /// Who fills it.
    pub patterns: Vec<SpiffePattern>,
    /// SHA-256 of the document it was written in, hexadecimal.
    pub digest: String,
}

/// One revision of the platform team's documents, indexed for deciding.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Number of the revision; grows with each apply.
    pub revision: u64,
    /// SHA-256 over the digests of all documents, hexadecimal.
    pub digest: String,
    trust_domains: Vec<TrustDomainRule>,
    stages: Vec<StageRule>,
    scopes: BTreeMap<String, Arc<Scope>>,
    bindings: HashMap<String, Vec<Arc<Binding>>>,
    nodes: Vec<NodeRule>,
}

impl Rules {
    /// Indexes checked documents.
    pub fn new(
        revision: u64,
        digest: String,
        trust_domains: Vec<TrustDomainRule>,
        stages: Vec<StageRule>,
        scopes: Vec<Scope>,
        bindings: Vec<Binding>,
        nodes: Vec<NodeRule>,
    ) -> Self {
        let scopes = scopes.into_iter().map(|scope| (scope.name.clone(), Arc::new(scope))).collect();
        let mut by_scope: HashMap<String, Vec<Arc<Binding>>> = HashMap::new();
        for binding in bindings {
            by_scope.entry(binding.scope.clone()).or_default().push(Arc::new(binding));
        }
        Self { revision, digest, trust_domains, stages, scopes, bindings: by_scope, nodes }
    }

    /// The stage an identity fills, if its trust domain may fill it.
    pub fn stage_of(&self, id: &SpiffeId) -> Option<Stage> {
        let rule = self.stages.iter().find(|rule| rule.patterns.iter().any(|pattern| pattern.matches(id)))?;
        self.trust_domains.iter().any(|domain| domain.admits(id, rule.stage)).then_some(rule.stage)
    }

    /// What an agent may do: it fills stage `node`, and a node rule is for it.
    pub fn node(&self, agent: &SpiffeId) -> Option<&NodeRule> {
        (self.stage_of(agent) == Some(Stage::Node)).then_some(())?;
        self.nodes.iter().find(|rule| rule.agents.matches(agent))
    }

    /// A scope by name.
    pub fn scope(&self, name: &str) -> Option<&Arc<Scope>> {
        self.scopes.get(name)
    }

    /// Every scope, by name.
    pub fn scopes(&self) -> impl Iterator<Item = &Arc<Scope>> {
        self.scopes.values()
    }

    /// Names of the scopes that are not what they are in the other rules: their own document, a binding on them, or who
    /// fills which stage.
    pub fn scopes_unlike(&self, other: &Rules) -> Vec<String> {
        let stages =
            |rules: &Rules| rules.stages.iter().map(|rule| rule.digest.clone()).collect::<BTreeSet<_>>();
        let other_stages = stages(self) != stages(other);
        let of = |rules: &Rules, name: &str| {
            let bindings =
                rules.bindings.get(name).into_iter().flatten().map(|binding| binding.digest.clone());
            (rules.scopes.get(name).map(|scope| scope.digest.clone()), bindings.collect::<BTreeSet<_>>())
        };
        let names: BTreeSet<&String> = self.scopes.keys().chain(other.scopes.keys()).collect();
        names.into_iter().filter(|name| other_stages || of(self, name) != of(other, name)).cloned().collect()
    }

    /// The bindings on a scope that are for this identity.
    pub fn bindings_on<'a>(
        &'a self,
        scope: &str,
        id: &'a SpiffeId,
    ) -> impl Iterator<Item = &'a Arc<Binding>> {
        self.bindings.get(scope).into_iter().flatten().filter(move |binding| binding.is_for(id))
    }
}
