mod delegation;
mod kills;
mod properties;
mod reach;
mod review;
mod told;
mod worlds;

use std::fmt::Write;

use super::*;
use crate::caller::Via;
use crate::document;
use crate::id::{SessionId, TaskId};
use crate::node::TrustDomainRule;
use crate::parameter::Parameters;
use crate::scope::Ceiling;
use crate::stage::Stage;
use crate::task::AnchorKind;
use crate::task::{Anchor, TaskState};

pub(super) const NOW: Timestamp = Timestamp::from_unix_millis(1_700_000_000_000);

const RULES: &str = r#"
kind: Stage
metadata: {name: training}
spec: {patterns: ["spiffe://example.org/train/**"]}
---
kind: Stage
metadata: {name: inference}
spec: {patterns: ["spiffe://example.org/infer/**"]}
---
kind: Stage
metadata: {name: tool}
spec: {patterns: ["spiffe://example.org/tool/**"]}
---
kind: Stage
metadata: {name: node}
spec: {patterns: ["spiffe://example.org/node/*"]}
---
kind: Scope
metadata: {name: data-read}
spec:
  stages: [training, tool]
  parameters: {dataset: {type: segment, pattern: "corpus-[0-9]+"}}
  ttl: {default: 5m, max: 15m}
  target: {token: {audience: "https://data"}}
---
kind: Scope
metadata: {name: owned-only}
spec: {stages: [training], anchor: cgroup_owned, target: {token: {audience: "https://owned"}}}
---
kind: Scope
metadata: {name: direct-only}
spec: {stages: [training], target: {token: {audience: "https://direct"}}}
---
kind: Binding
metadata: {name: train-data}
spec: {identities: ["spiffe://example.org/train/*"], scope: data-read, parameters: {dataset: [corpus-7]}, max_task: 1h}
---
kind: Binding
metadata: {name: tool-data}
spec: {identities: ["spiffe://example.org/tool/*"], scope: data-read}
---
kind: Binding
metadata: {name: planner-delegates}
spec: {identities: ["spiffe://example.org/infer/planner"], scope: data-read, grants: [delegate], delegate: {to: ["spiffe://example.org/tool/*"]}}
---
kind: Binding
metadata: {name: owned}
spec: {identities: ["spiffe://example.org/train/*"], scope: owned-only}
---
kind: Binding
metadata: {name: direct}
spec: {identities: ["spiffe://example.org/train/*"], scope: direct-only, via: direct}
"#;

pub(super) fn rules_of(yaml: &str) -> Rules {
    let domain = TrustDomainRule {
        name: "example.org".into(),
        stages: Stage::ALL.into(),
        patterns: vec!["spiffe://example.org/**".parse().expect("a pattern")],
    };
    let (documents, faults) = document::parse(yaml);
    assert_eq!(faults, []);
    document::compile(1, &[domain], &documents).expect("no faults")
}

pub(super) fn id(path: &str) -> SpiffeId {
    format!("spiffe://example.org/{path}").parse().expect("an id")
}

pub(super) fn node() -> Via {
    Via::Agent { node: id("node/n1") }
}

fn direct() -> Via {
    Via::Direct { serial: "01".into() }
}

pub(super) fn caller(rules: &Rules, path: &str, via: Via) -> Caller {
    let spiffe_id = id(path);
    let stage = rules.stage_of(&spiffe_id).unwrap_or(Stage::Training);
    Caller { spiffe_id, stage, via, proof_expires_at: NOW + Ttl::minutes(5) }
}

fn ask(scope: &str, dataset: Option<&str>) -> ScopeAsk {
    let parameters = dataset.map(|value| ("dataset".to_owned(), value.to_owned()));
    ScopeAsk { scope: scope.into(), parameters: parameters.into_iter().collect::<Parameters>() }
}

fn everything() -> Ceiling {
    Ceiling::new(vec![
        ask("data-read", Some("corpus-7")),
        ask("data-read", Some("corpus-8")),
        ask("data-read", Some("corpus-x")),
        ask("data-read", None),
        ask("owned-only", None),
        ask("direct-only", None),
        ask("nowhere", None),
    ])
}

pub(super) fn task(number: u128, opener: &str, via: &Via, parent: Option<&Task>) -> Task {
    let own = TaskId::new(NOW, number);
    Task {
        id: own,
        session: parent.map_or_else(|| SessionId::from(own), |parent| parent.session),
        parent: parent.map(|parent| parent.id),
        opened_by: id(opener),
        stage: Stage::Training,
        node: via.node().cloned(),
        anchor: Anchor {
            kind: AnchorKind::Process,
            boot_id: String::new(),
            cgroup_id: 0,
            pidfd_inode: 0,
            start_time: 0,
            attested_by: "pidfd".into(),
        },
        key_hash: None,
        ceiling: everything(),
        intent: String::new(),
        labels: std::collections::BTreeMap::new(),
        offer: None,
        opened_at: NOW - Ttl::minutes(1),
        state: TaskState::Open { deadline: NOW + Ttl::hours(2) },
    }
}

fn shown(decision: &Decision) -> String {
    match decision {
        Decision::Allow(grant) => format!("allow by {} for {}", grant.binding, grant.ttl),
        Decision::Deny(denial) => format!("DENY {}", denial.reason.as_str()),
    }
}

#[test]
fn callers_scopes_and_chains_are_as_the_golden_matrix_says() {
    let rules = rules_of(RULES);
    let asks = [
        ("data-read(corpus-7)", ask("data-read", Some("corpus-7"))),
        ("data-read(corpus-8)", ask("data-read", Some("corpus-8"))),
        ("data-read(corpus-x)", ask("data-read", Some("corpus-x"))),
        ("data-read()", ask("data-read", None)),
        ("owned-only", ask("owned-only", None)),
        ("direct-only", ask("direct-only", None)),
        ("nowhere", ask("nowhere", None)),
    ];
    let trees: [(&str, Via, &[&str]); 8] = [
        ("train/a", node(), &["train/a"]),
        ("train/a", direct(), &["train/a"]),
        ("train/a", direct(), &["train/b"]),
        ("tool/t", node(), &["tool/t"]),
        ("tool/t", node(), &["infer/planner", "tool/t"]),
        ("tool/t", node(), &["infer/other", "tool/t"]),
        ("infer/planner", node(), &["infer/planner"]),
        ("nobody", node(), &["train/a"]),
    ];
    let mut table = String::from("# caller (way) in task opened by … | scope | decision\n");
    for (who, via, openers) in trees {
        let mut lineage: Vec<Task> = Vec::new();
        for (number, opener) in openers.iter().enumerate() {
            lineage.push(task(number as u128, opener, &via, lineage.last()));
        }
        let caller = caller(&rules, who, via.clone());
        for (name, ask) in &asks {
            let decision =
                decide(&rules, &caller, &lineage, &Wish { ask: ask.clone(), ttl: None, act: None }, NOW);
            let tree = openers.join(" > ");
            let row = format!("{who} ({}) in {tree}", via.name());
            writeln!(table, "{row:<44} | {name:<19} | {}", shown(&decision)).expect("writing to a string");
        }
    }
    crate::golden::compare("decision_matrix.txt", &table);
}

fn reason(decision: &Decision) -> Option<DenyReason> {
    match decision {
        Decision::Allow(_) => None,
        Decision::Deny(denial) => Some(denial.reason),
    }
}

/// Decides for `train/a` in its own root task, after `change` had its way with the world.
fn changed(change: impl FnOnce(&mut Caller, &mut Vec<Task>, &mut Wish)) -> Option<DenyReason> {
    let rules = rules_of(RULES);
    let mut caller = caller(&rules, "train/a", node());
    let mut lineage = vec![task(1, "train/a", &node(), None)];
    let mut wish = Wish { ask: ask("data-read", Some("corpus-7")), ttl: None, act: None };
    change(&mut caller, &mut lineage, &mut wish);
    reason(&decide(&rules, &caller, &lineage, &wish, NOW))
}

#[test]
fn each_condition_denies_by_itself() {
    assert_eq!(changed(|_, _, _| {}), None);
    let expired = changed(|caller, _, _| caller.proof_expires_at = NOW);
    assert_eq!(expired, Some(DenyReason::ProofExpired));
    assert_eq!(changed(|_, lineage, _| lineage.clear()), Some(DenyReason::TaskNotOpen));
    let over = |_: &mut Caller, lineage: &mut Vec<Task>, _: &mut Wish| {
        lineage[0].state = TaskState::Ended { at: NOW, cause: crate::task::EndCause::Explicit };
    };
    assert_eq!(changed(over), Some(DenyReason::TaskNotOpen));
    let overdue = |_: &mut Caller, lineage: &mut Vec<Task>, _: &mut Wish| {
        lineage[0].state = TaskState::Open { deadline: NOW };
    };
    assert_eq!(changed(overdue), Some(DenyReason::TaskNotOpen));
    let other_node = changed(|caller, _, _| caller.via = Via::Agent { node: id("node/n2") });
    assert_eq!(other_node, Some(DenyReason::TaskNotOpen));
    let undeclared = changed(|_, lineage, _| lineage[0].ceiling = Ceiling::default());
    assert_eq!(undeclared, Some(DenyReason::OutsideCeiling));
    let greedy = changed(|_, _, wish| wish.ttl = Some(Ttl::minutes(16)));
    assert_eq!(greedy, Some(DenyReason::TtlOverLimit));
    assert_eq!(changed(|_, _, wish| wish.ttl = Some(Ttl::ZERO)), Some(DenyReason::TtlOverLimit));
    let old = changed(|_, lineage, _| lineage[0].opened_at = NOW - Ttl::hours(1));
    assert_eq!(old, Some(DenyReason::TaskTooOld));
}

#[test]
fn a_credential_never_outlives_its_task() {
    let rules = rules_of(RULES);
    let caller = caller(&rules, "train/a", node());
    let mut own = task(1, "train/a", &node(), None);
    own.state = TaskState::Open { deadline: NOW + Ttl::seconds(90) };
    let wish = Wish { ask: ask("data-read", Some("corpus-7")), ttl: None, act: None };
    match decide(&rules, &caller, &[own], &wish, NOW) {
        Decision::Allow(grant) => assert_eq!(grant.ttl, Ttl::seconds(90)),
        Decision::Deny(denial) => panic!("{denial:?}"),
    }
}

#[test]
fn a_child_declares_no_more_than_its_parent() {
    let rules = rules_of(RULES);
    let caller = caller(&rules, "train/a", node());
    let mut parent = task(1, "train/a", &node(), None);
    parent.ceiling = Ceiling::new(vec![ask("data-read", Some("corpus-7"))]);
    let within = Ceiling::new(vec![ask("data-read", Some("corpus-7"))]);
    let beyond = Ceiling::new(vec![ask("data-read", Some("corpus-8"))]);
    assert_eq!(check_open(&rules, &caller, std::slice::from_ref(&parent), &within, NOW), Ok(()));
    let denial = check_open(&rules, &caller, &[parent], &beyond, NOW).expect_err("beyond the parent");
    assert_eq!(denial.reason, DenyReason::OutsideCeiling);
}

#[test]
fn the_caller_is_not_told_which_rule_failed() {
    let rules = rules_of(RULES);
    let caller = caller(&rules, "train/a", node());
    let lineage = [task(1, "train/a", &node(), None)];
    let told = |scope: &str, dataset| {
        let wish = Wish { ask: ask(scope, dataset), ttl: None, act: None };
        match decide(&rules, &caller, &lineage, &wish, NOW) {
            Decision::Deny(denial) => denial.message.replace(scope, "S"),
            Decision::Allow(_) => panic!("expected a denial"),
        }
    };
    // A scope that is there and one that is not answer alike.
    assert_eq!(told("nowhere", None), told("data-read", Some("corpus-8")));
}
