//! What a policy may say, what is refused, and that both engines say the same.

use std::collections::BTreeMap;

use dayfly_domain::policy::{
    Artifact, Claimed, Judge, Judgement, Link, Observed, PolicyInput, PolicySource, Proven, ProvenTask,
};
use dayfly_domain::spiffe::SpiffeId;
use dayfly_domain::stage::Stage;

use crate::PolicySet;

mod answers;
mod engines;
mod language;
mod manual;
mod refusals;

const PASSES: &str = "package dayfly.p_test\n\ntest_itself if true\n";

fn source(name: &str, modules: &[(&str, &str)]) -> PolicySource {
    PolicySource {
        name: name.to_owned(),
        scopes: None,
        modules: modules.iter().map(|(file, text)| ((*file).to_owned(), (*text).to_owned())).collect(),
        digest: format!("digest of {name}"),
    }
}

/// A policy `p` of these rules, with a test that passes.
fn policy(rules: &str) -> PolicySource {
    source("p", &[("p.rego", &format!("package dayfly.p\n\n{rules}\n")), ("p_test.rego", PASSES)])
}

fn example() -> PolicySource {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/documents/policies/untrusted-tools");
    let text = |file: &str| std::fs::read_to_string(format!("{folder}/{file}")).expect("an example");
    let (rules, tests) = (text("policy.rego"), text("policy_test.rego"));
    source("untrusted-tools", &[("policy.rego", &rules), ("policy_test.rego", &tests)])
}

fn load(source: PolicySource) -> PolicySet {
    PolicySet::load(&[source]).unwrap_or_else(|faults| panic!("{}", faults[0]))
}

fn faults(source: PolicySource) -> Vec<String> {
    let faults = PolicySet::load(&[source]).expect_err("no fault was found");
    faults.iter().map(ToString::to_string).collect()
}

/// What an input is made of, so that tests can change it and lend it out.
#[derive(Clone, Debug)]
struct Request {
    id: SpiffeId,
    stage: Stage,
    via: &'static str,
    provider: String,
    depth: usize,
    chain: Vec<Stage>,
    node: Option<SpiffeId>,
    anchor: &'static str,
    attested_by: String,
    intent: String,
    labels: BTreeMap<String, String>,
    parameters: BTreeMap<String, String>,
    ttl: u64,
    artifact: Option<Artifact>,
    now: i64,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            id: id("tool/search"),
            stage: Stage::Tool,
            via: "agent",
            provider: "aws".into(),
            depth: 1,
            chain: vec![Stage::Inference, Stage::Tool],
            node: Some(id("node/n1")),
            anchor: "cgroup_owned",
            attested_by: "pidfd".into(),
            intent: "search".into(),
            labels: BTreeMap::from([("team".into(), "blue".into())]),
            parameters: BTreeMap::from([("dataset".into(), "corpus-7".into())]),
            ttl: 900,
            artifact: None,
            now: 1_760_000_000,
        }
    }
}

impl Request {
    fn input(&self) -> PolicyInput<'_> {
        PolicyInput {
            proven: Proven {
                spiffe_id: &self.id,
                trust_domain: self.id.trust_domain(),
                stage: self.stage,
                via: self.via,
                scope: "s3-train-read",
                provider: &self.provider,
                action: "issue",
                task: ProvenTask {
                    id: "task_2".into(),
                    session: "task_1".into(),
                    depth: self.depth,
                    opened_at: self.now - 60,
                    deadline: self.now + 3_600,
                },
                chain: self.chain.iter().map(|stage| Link { spiffe_id: &self.id, stage: *stage }).collect(),
                now: self.now,
            },
            observed: Observed {
                node: self.node.as_ref(),
                anchor: self.anchor,
                attested_by: &self.attested_by,
                cgroup_id: u64::MAX,
                boot_id: "b3c7",
            },
            claimed: Claimed {
                intent: &self.intent,
                labels: &self.labels,
                parameters: &self.parameters,
                ttl: self.ttl,
                artifact: self.artifact.as_ref(),
            },
        }
    }
}

fn id(path: &str) -> SpiffeId {
    format!("spiffe://example.org/{path}").parse().expect("an id")
}

fn judged(rules: &str) -> Judgement {
    load(policy(rules)).judge(&Request::default().input())
}
