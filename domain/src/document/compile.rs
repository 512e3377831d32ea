//! From documents to rules: each document is read, then held against the others.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};

use super::fields::Sink;
use super::{Document, Fault, Kind, binding, delegation, hex, node, policy, scope, stage};
use crate::binding::{ADMIN_SCOPES, Binding, Start};
use crate::node::{NodeRule, TrustDomainRule};
use crate::policy::PolicySource;
use crate::rules::{Rules, StageRule};
use crate::scope::Scope;
use crate::stage::Stage;

/// Makes rules of a whole set of documents, or tells every fault. The number beside each document is its place in the
/// input; 0 if it was stored before.
pub fn compile(
    revision: u64,
    trust_domains: &[TrustDomainRule],
    documents: &[(u32, Document)],
) -> Result<Rules, Vec<Fault>> {
    let mut faults = Vec::new();
    let mut stages: Vec<(usize, StageRule)> = Vec::new();
    let mut scopes: Vec<Scope> = Vec::new();
    let mut bindings: Vec<(usize, binding::Read)> = Vec::new();
    let mut policies: Vec<(usize, PolicySource)> = Vec::new();
    let mut nodes: Vec<(usize, NodeRule)> = Vec::new();
    for (index, (number, document)) in documents.iter().enumerate() {
        let mut sink = Sink::new(*number, document.key.to_string(), &mut faults);
        match document.key.kind {
            Kind::Stage => stages.extend(stage::read(document, &mut sink).map(|read| (index, read))),
            Kind::Scope => scopes.extend(scope::read(document, &mut sink)),
            Kind::Binding => bindings.extend(binding::read(document, &mut sink).map(|read| (index, read))),
            Kind::Policy => policies.extend(policy::read(document, &mut sink).map(|read| (index, read))),
            Kind::Node => nodes.extend(node::read(document, &mut sink).map(|read| (index, read))),
        }
    }
    let mut at = |index: usize, path: &str, problem: String| {
        let (number, document) = &documents[index];
        Sink::new(*number, document.key.to_string(), &mut faults).fault(path, problem);
    };
    check_stages(&stages, trust_domains, &mut at);
    let known_faulty = documents.iter().map(|(_, document)| &document.key);
    let declared: BTreeSet<&str> =
        known_faulty.filter(|key| key.kind == Kind::Scope).map(|key| key.name.as_str()).collect();
    let bindings: Vec<(usize, Binding)> = bindings
        .into_iter()
        .map(|(index, read)| (index, check_binding(index, read, &scopes, &declared, &stages, &mut at)))
        .collect();
    for (index, policy) in &policies {
        let unknown = policy.scopes.iter().flatten().filter(|scope| !declared.contains(scope.as_str()));
        unknown.for_each(|scope| at(*index, "spec.scopes", format!("there is no scope {scope:?}")));
    }
    check_nodes(&nodes, &mut at);
    delegation::check(&bindings, &mut at);
    if !faults.is_empty() {
        return Err(faults);
    }
    let mut digests: Vec<String> = documents.iter().map(|(_, document)| document.digest()).collect();
    digests.sort_unstable();
    let digest = hex(&Sha256::digest(digests.concat()));
    let stages = stages.into_iter().map(|(_, rule)| rule).collect();
    let bindings = bindings.into_iter().map(|(_, binding)| binding).collect();
    let policies = policies.into_iter().map(|(_, policy)| policy).collect();
    let nodes = nodes.into_iter().map(|(_, rule)| rule).collect();
    let rules = Rules::new(revision, digest, trust_domains.to_vec(), stages, scopes, bindings, nodes);
    Ok(rules.with_policies(policies))
}

/// One document of kind Policy by itself, checked for form: what its scopes are is not asked.
pub fn read_policy(number: u32, document: &Document) -> Result<PolicySource, Vec<Fault>> {
    let mut faults = Vec::new();
    let read = policy::read(document, &mut Sink::new(number, document.key.to_string(), &mut faults));
    read.filter(|_| faults.is_empty()).ok_or(faults)
}

/// One identity, one stage: overlapping patterns are refused, and so are those no trust domain admits.
fn check_stages(
    stages: &[(usize, StageRule)],
    trust_domains: &[TrustDomainRule],
    at: &mut impl FnMut(usize, &str, String),
) {
    for (position, (index, rule)) in stages.iter().enumerate() {
        for pattern in &rule.patterns {
            let admitted = trust_domains
                .iter()
                .any(|domain| domain.name == pattern.trust_domain() && domain.stages.contains(&rule.stage));
            if !admitted {
                let problem = format!(
                    "the broker's configuration lets no trust domain fill {} with {pattern}",
                    rule.stage
                );
                at(*index, "spec.patterns", problem);
            }
            for (_, other) in &stages[..position] {
                if let Some(twin) = other.patterns.iter().find(|twin| twin.overlaps(pattern)) {
                    let problem = format!(
                        "{pattern} overlaps {twin} of stage {}; one identity fills one stage",
                        other.stage
                    );
                    at(*index, "spec.patterns", problem);
                }
            }
        }
    }
}

fn check_binding(
    index: usize,
    read: binding::Read,
    scopes: &[Scope],
    declared: &BTreeSet<&str>,
    stages: &[(usize, StageRule)],
    at: &mut impl FnMut(usize, &str, String),
) -> Binding {
    let binding::Read { mut binding, start } = read;
    if ADMIN_SCOPES.contains(&binding.scope.as_str()) {
        check_admin_binding(index, &binding, stages, at);
        return binding;
    }
    match scopes.iter().find(|scope| scope.name == binding.scope) {
        Some(scope) => {
            for name in binding.parameters.keys().filter(|name| !scope.parameters.contains_key(*name)) {
                at(
                    index,
                    &format!("spec.parameters.{name}"),
                    format!("scope {} has no such parameter", scope.name),
                );
            }
        }
        // A scope that is there but faulty has told its own faults.
        None if declared.contains(binding.scope.as_str()) => {}
        None => at(index, "spec.scope", format!("there is no scope {:?}", binding.scope)),
    }
    let touched = stages.iter().filter(|(_, rule)| {
        rule.patterns
            .iter()
            .any(|pattern| binding.identities.iter().any(|identity| identity.overlaps(pattern)))
    });
    let touched: Vec<_> = touched.map(|(_, rule)| rule.stage).collect();
    if let Some(stage) = touched.iter().find(|stage| !stage.holds_target_scopes()) {
        at(
            index,
            "spec.identities",
            format!("takes in identities of stage {stage}, which holds no target scopes"),
        );
    }
    binding.start = start.unwrap_or(match touched.iter().all(|stage| stage.starts_roots_by_default()) {
        true if !touched.is_empty() => Start::Root,
        _ => Start::UnderParent,
    });
    binding
}

/// The verbs of administration are for identities of stage `admin`, whole, and used by themselves alone.
fn check_admin_binding(
    index: usize,
    binding: &Binding,
    stages: &[(usize, StageRule)],
    at: &mut impl FnMut(usize, &str, String),
) {
    let of_admins = |identity: &crate::pattern::SpiffePattern| {
        let within = |rule: &StageRule| {
            rule.stage == Stage::Admin && rule.patterns.iter().any(|p| p.overlaps(identity))
        };
        let others = |rule: &StageRule| {
            rule.stage != Stage::Admin && rule.patterns.iter().any(|p| p.overlaps(identity))
        };
        stages.iter().any(|(_, rule)| within(rule)) && !stages.iter().any(|(_, rule)| others(rule))
    };
    for identity in binding.identities.iter().filter(|identity| !of_admins(identity)) {
        at(
            index,
            "spec.identities",
            format!("{identity} is not of stage admin alone; {} is for admins", binding.scope),
        );
    }
    if !binding.parameters.is_empty() || binding.delegate.is_some() {
        at(index, "spec", format!("{} takes no parameters and no delegate", binding.scope));
    }
}

/// One agent, one node rule: else nobody could say which of two applies.
fn check_nodes(nodes: &[(usize, NodeRule)], at: &mut impl FnMut(usize, &str, String)) {
    for (position, (index, rule)) in nodes.iter().enumerate() {
        if let Some((_, twin)) = nodes[..position].iter().find(|(_, twin)| twin.agents.overlaps(&rule.agents))
        {
            at(
                *index,
                "spec.agents",
                format!("{} overlaps {} of node {}", rule.agents, twin.agents, twin.name),
            );
        }
    }
}
