//! The kills that stand, indexed for deciding.

use std::collections::{HashMap, HashSet};

use super::{Kill, State, Target};
use crate::pattern_index::PatternIndex;
use crate::spiffe::SpiffeId;
use crate::stage::Stage;

/// Every kill that stands. A look-up does not slow down as they grow in number.
#[derive(Clone, Debug, Default)]
pub struct Kills {
    all: Vec<Kill>,
    identities: HashSet<SpiffeId>,
    patterns: PatternIndex<bool>,
    trust_domains: HashSet<String>,
    nodes: HashSet<SpiffeId>,
    scopes: HashSet<String>,
    providers: HashSet<String>,
    everything: bool,
}

impl Kills {
    /// Indexes those of the kills that stand.
    pub fn new(kills: impl IntoIterator<Item = Kill>) -> Self {
        let mut index = Self::default();
        for kill in kills.into_iter().filter(|kill| kill.state == State::Standing) {
            match &kill.target {
                Target::Identity(id) => drop(index.identities.insert(id.clone())),
                Target::Pattern(pattern) => *index.patterns.entry(pattern) = true,
                Target::TrustDomain(name) => drop(index.trust_domains.insert(name.clone())),
                Target::Node(id) => drop(index.nodes.insert(id.clone())),
                Target::Scope(name) => drop(index.scopes.insert(name.clone())),
                Target::Provider(name) => drop(index.providers.insert(name.clone())),
                Target::Everything => index.everything = true,
            }
            index.all.push(kill);
        }
        index
    }

    /// Those that stand.
    pub fn all(&self) -> &[Kill] {
        &self.all
    }

    /// Whether none stands.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether an identity that fills this stage is cut off. Admins and nodes only where they are named exactly: a wide
    /// kill must leave those who can lift it.
    pub fn strike_identity(&self, id: &SpiffeId, stage: Option<Stage>) -> bool {
        if self.identities.contains(id) {
            return true;
        }
        if matches!(stage, Some(Stage::Admin | Stage::Node)) {
            return false;
        }
        let mut matched = false;
        self.patterns.each(id, &mut |stands: &bool| matched |= *stands);
        matched || self.everything || self.trust_domains.contains(id.trust_domain())
    }

    /// Whether a node is cut off.
    pub fn strike_node(&self, node: &SpiffeId) -> bool {
        self.nodes.contains(node) || self.identities.contains(node)
    }

    /// Whether a scope of a provider is cut off.
    pub fn strike_scope(&self, scope: &str, provider: &str) -> bool {
        self.scopes.contains(scope) || self.providers.contains(provider)
    }

    /// How many kills of each kind stand.
    pub fn count(&self) -> HashMap<&'static str, usize> {
        let mut counts = HashMap::new();
        for kill in &self.all {
            *counts.entry(kill.target.kind()).or_default() += 1;
        }
        counts
    }
}
