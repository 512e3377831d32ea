//! How long one decision takes, from the caller and the checked request to allow or deny, by number of bindings. In this
//! process, without any input or output.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{bail, ensure};
use dayfly_domain::caller::{Caller, Via};
use dayfly_domain::decision::{Decision, Wish, decide};
use dayfly_domain::document::{self, Document, DocumentKey, Kind};
use dayfly_domain::id::{SessionId, TaskId};
use dayfly_domain::node::TrustDomainRule;
use dayfly_domain::policy::PolicySource;
use dayfly_domain::rules::Rules;
use dayfly_domain::scope::{Ceiling, ScopeAsk};
use dayfly_domain::spiffe::SpiffeId;
use dayfly_domain::stage::Stage;
use dayfly_domain::task::{Anchor, AnchorKind, Task, TaskState};
use dayfly_domain::time::{Timestamp, Ttl};
use dayfly_policy::PolicySet;
use serde_json::{Value, json};

use crate::report::{Case, Report, Times, say};

/// What may be chosen.
#[derive(clap::Args)]
pub struct Options {
    /// How many bindings, one case for each
    #[arg(long, value_delimiter = ',', default_value = "10,1000,100000")]
    bindings: Vec<usize>,
    /// Decisions timed in each case
    #[arg(long, default_value_t = 200_000)]
    decisions: usize,
}

const NOW: Timestamp = Timestamp::from_unix_millis(1_800_000_000_000);
/// Different requests asked in turn.
const REQUESTS: usize = 1_024;
/// Bindings lie on as few scopes: what a scope has many of is what could slow a decision.
const SCOPES: usize = 4;
/// A policy with five rules: it denies by stage, chain, anchor and intent, and narrows.
const POLICY: &str = include_str!("decide.rego");
const POLICY_TESTS: &str = include_str!("decide_test.rego");

/// Decides, and tells how long each took.
///
/// # Errors
/// When the documents do not compile, or a decision is not what it must be.
pub fn run(options: &Options) -> anyhow::Result<Report> {
    let mut report = Report::default();
    for count in options.bindings.iter().copied() {
        ensure!(count >= SCOPES, "at least {SCOPES} bindings");
        say(&format!("{count} bindings"));
        let begun = Instant::now();
        let plain = rules(count)?;
        let compiled = begun.elapsed().as_secs_f64();
        report.notes.push(format!("{count} bindings were compiled in {compiled:.2} s."));
        let ruled = rules(count)?.with_judge(policies()?);
        for (name, rules) in
            [(format!("bindings/{count}"), plain), (format!("bindings/{count}/policy"), ruled)]
        {
            let times = measure(&rules, count, options.decisions)?;
            report.cases.push(Case::timed(
                "decide",
                name,
                "us",
                times.percentile(50).as_secs_f64() * 1e6,
                &times,
            ));
        }
    }
    report.notes.push(format!(
        "One task below another; every sixteenth request is denied. {} decisions a case, in one thread; the figure is the \
         median.",
        options.decisions
    ));
    Ok(report)
}

fn measure(rules: &Rules, bindings: usize, decisions: usize) -> anyhow::Result<Times> {
    let requests: Vec<(Caller, Vec<Task>, Wish, bool)> =
        (0..REQUESTS).map(|number| request(number, bindings)).collect::<Result<_, _>>()?;
    for (caller, lineage, wish, allowed) in &requests {
        let decision = decide(rules, caller, lineage, wish, NOW);
        if matches!(decision, Decision::Allow(_)) != *allowed {
            bail!("{caller:?} asking {wish:?}: {decision:?}");
        }
    }
    let mut times = Times::default();
    for number in 0..decisions {
        let (caller, lineage, wish, _) = &requests[number % REQUESTS];
        let begun = Instant::now();
        black_box(decide(rules, black_box(caller), lineage, wish, NOW));
        times.add(begun.elapsed());
    }
    Ok(times)
}

/// A third of the bindings are for one identity each, a third for a pattern, and a third share one pattern and list a
/// value of their own.
fn binding(number: usize) -> Value {
    let scope = format!("data-{}", number % SCOPES);
    match number % 3 {
        0 => json!({"identities": [format!("spiffe://example.org/train/team-{number}/job")], "scope": scope}),
        1 => json!({"identities": [format!("spiffe://example.org/train/team-{number}/*")], "scope": scope}),
        _ => json!({
            "identities": ["spiffe://example.org/train/shared/**"],
            "scope": scope,
            "parameters": {"dataset": [format!("corpus-{number}")]},
        }),
    }
}

/// The n-th request: by somebody one binding is for; every sixteenth time by somebody none is for.
fn request(number: usize, bindings: usize) -> anyhow::Result<(Caller, Vec<Task>, Wish, bool)> {
    let binding = number * 7_919 % bindings;
    let allowed = number % 16 != 15;
    let path = match binding % 3 {
        _ if !allowed => format!("nobody-{number}/job"),
        2 => "shared/job".to_owned(),
        _ => format!("team-{binding}/job"),
    };
    let spiffe_id: SpiffeId = format!("spiffe://example.org/train/{path}").parse()?;
    let ask = ScopeAsk {
        scope: format!("data-{}", binding % SCOPES),
        parameters: [("dataset".to_owned(), format!("corpus-{binding}"))].into(),
    };
    let node: SpiffeId = "spiffe://example.org/node/n1".parse()?;
    let root = task(number as u128 * 2, &spiffe_id, &node, &ask, None);
    let own = task(number as u128 * 2 + 1, &spiffe_id, &node, &ask, Some(&root));
    let via = Via::Agent { node };
    let caller = Caller { spiffe_id, stage: Stage::Training, via, proof_expires_at: NOW + Ttl::minutes(5) };
    Ok((caller, vec![root, own], Wish { ask, ttl: None, act: None }, allowed))
}

fn task(number: u128, holder: &SpiffeId, node: &SpiffeId, ask: &ScopeAsk, parent: Option<&Task>) -> Task {
    let id = TaskId::new(NOW, number);
    Task {
        id,
        session: parent.map_or_else(|| SessionId::from(id), |parent| parent.session),
        parent: parent.map(|parent| parent.id),
        opened_by: holder.clone(),
        stage: Stage::Training,
        node: Some(node.clone()),
        anchor: Anchor {
            kind: AnchorKind::CgroupOwned,
            boot_id: "8a6b3c1e-0000-4000-8000-000000000000".to_owned(),
            cgroup_id: 4_711,
            pidfd_inode: 815,
            start_time: 42,
            attested_by: "pidfd".to_owned(),
        },
        key_hash: None,
        ceiling: Ceiling::new(vec![ask.clone()]),
        intent: "fine-tuning".to_owned(),
        labels: [("team".to_owned(), "vision".to_owned())].into(),
        offer: None,
        opened_at: NOW - Ttl::minutes(1),
        state: TaskState::Open { deadline: NOW + Ttl::hours(2) },
    }
}

fn policies() -> anyhow::Result<Arc<PolicySet>> {
    let module = |name: &str, source: &str| (name.to_owned(), source.to_owned());
    let source = PolicySource {
        name: "bench".to_owned(),
        scopes: None,
        modules: [module("bench.rego", POLICY), module("bench_test.rego", POLICY_TESTS)].into(),
        digest: "0".repeat(64),
    };
    let loaded = PolicySet::load(&[source]);
    loaded.map(Arc::new).map_err(|faults| anyhow::anyhow!("the policy of the bench: {}", faults[0]))
}

fn rules(bindings: usize) -> anyhow::Result<Rules> {
    let document = |kind: Kind, name: String, spec: Value| {
        (1, Document { key: DocumentKey { kind, name }, labels: std::collections::BTreeMap::new(), spec })
    };
    let stage = json!({"patterns": ["spiffe://example.org/train/**"]});
    let scope = json!({
        "stages": ["training"],
        "parameters": {"dataset": {"type": "segment", "pattern": "corpus-[0-9]+"}},
        "target": {"token": {"audience": "https://data.example"}},
    });
    let mut documents = vec![document(Kind::Stage, "training".to_owned(), stage)];
    documents.extend((0..SCOPES).map(|n| document(Kind::Scope, format!("data-{n}"), scope.clone())));
    documents.extend((0..bindings).map(|n| document(Kind::Binding, format!("b{n}"), binding(n))));
    let domain = TrustDomainRule {
        name: "example.org".to_owned(),
        stages: [Stage::Training].into(),
        patterns: vec!["spiffe://example.org/**".parse()?],
    };
    document::compile(1, &[domain], &documents).map_err(|faults| anyhow::anyhow!("{}", faults[0]))
}
