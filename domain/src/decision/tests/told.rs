//! What callers are told: never the name of a rule, nor whom else it is for. The trace is for the record.

use std::collections::BTreeSet;

use super::*;
use crate::kill::{Kills, Target};
use crate::policy::{Judge, Judgement, Narrowing, PolicyInput, PolicyStep};

/// Whatever a caller may not know holds this word: names of bindings and policies, other identities, tickets, owners.
const HIDDEN: &str = "hidden";

const RULES: &str = r#"
kind: Stage
metadata: {name: training}
spec: {patterns: ["spiffe://example.org/train/**", "spiffe://example.org/hidden/*"]}
---
kind: Stage
metadata: {name: tool}
spec: {patterns: ["spiffe://example.org/tool/**"]}
---
kind: Stage
metadata: {name: admin}
spec: {patterns: ["spiffe://example.org/admin/*"]}
---
kind: Scope
metadata: {name: data}
spec:
  stages: [training, tool]
  parameters: {dataset: {type: segment}}
  target: {token: {audience: "https://hidden", scope: "hidden/{dataset}"}}
---
kind: Scope
metadata: {name: owned}
spec: {stages: [training], anchor: cgroup_owned, target: {token: {audience: "https://hidden"}}}
---
kind: Scope
metadata: {name: approved}
spec: {stages: [training], approval: {max: 1h}, target: {token: {audience: "https://hidden"}}}
---
kind: Scope
metadata: {name: judged}
spec: {stages: [training], target: {token: {audience: "https://hidden"}}}
---
kind: Scope
metadata: {name: failing}
spec: {stages: [training], target: {token: {audience: "https://hidden"}}}
---
kind: Scope
metadata: {name: direct}
spec: {stages: [training], target: {token: {audience: "https://hidden"}}}
---
kind: Binding
metadata: {name: hidden-data}
spec:
  identities: ["spiffe://example.org/train/*", "spiffe://example.org/hidden/*"]
  scope: data
  parameters: {dataset: [a, hidden-b]}
  max_task: 1h
  ticket: hidden-1
  owner: hidden-team
---
kind: Binding
metadata: {name: hidden-others}
spec: {identities: ["spiffe://example.org/hidden/*"], scope: data}
---
kind: Binding
metadata: {name: hidden-tools}
spec: {identities: ["spiffe://example.org/tool/*"], scope: data, parameters: {dataset: [a]}}
---
kind: Binding
metadata: {name: hidden-over}
spec: {identities: ["spiffe://example.org/train/*"], scope: judged, until: "2020-01-01T00:00:00Z"}
---
kind: Binding
metadata: {name: hidden-judged}
spec: {identities: ["spiffe://example.org/train/*"], scope: judged}
---
kind: Binding
metadata: {name: hidden-failing}
spec: {identities: ["spiffe://example.org/train/*"], scope: failing}
---
kind: Binding
metadata: {name: hidden-owned}
spec: {identities: ["spiffe://example.org/train/*"], scope: owned}
---
kind: Binding
metadata: {name: hidden-approved}
spec: {identities: ["spiffe://example.org/train/*"], scope: approved}
---
kind: Binding
metadata: {name: hidden-direct}
spec: {identities: ["spiffe://example.org/train/*"], scope: direct, via: direct}
"#;

/// Denies one scope and fails on another. Its reasons are written for callers, so they hide nothing.
#[derive(Debug)]
struct Strict;

impl Judge for Strict {
    fn judge(&self, input: &PolicyInput<'_>) -> Judgement {
        match input.proven.scope {
            "judged" => {
                Judgement::Deny { policy: "hidden-policy".into(), reasons: vec!["not on Sundays".into()] }
            }
            "failing" => {
                Judgement::Fail { policy: "hidden-policy".into(), what: "hidden.rego:3: undefined".into() }
            }
            _ => Judgement::Allow(Narrowing::default()),
        }
    }

    fn explain(&self, input: &PolicyInput<'_>) -> (Judgement, Vec<PolicyStep>) {
        (self.judge(input), Vec::new())
    }

    fn is_for(&self, _: &str) -> bool {
        true
    }

    fn of_scope(&self, _: &str) -> Vec<(String, String)> {
        vec![("hidden-policy".into(), "digest".into())]
    }
}

struct Case {
    caller: Caller,
    lineage: Vec<Task>,
    ask: ScopeAsk,
    ttl: Option<Ttl>,
}

fn of(scope: &str, dataset: Option<&str>) -> ScopeAsk {
    ask(scope, dataset)
}

#[test]
fn no_denial_tells_its_caller_a_rule_that_is_not_its_own() {
    let rules = rules_of(RULES).with_judge(Arc::new(Strict));
    let everything = ["data", "owned", "approved", "judged", "failing", "direct", "nowhere"];
    let datasets = [None, Some("a"), Some("c"), Some("*")];
    let lines = everything.iter().flat_map(|scope| datasets.map(|dataset| of(scope, dataset)));
    let ceiling = Ceiling::new(lines.collect());
    let tree = |holders: &[&str], via: &Via| -> Vec<Task> {
        let mut lineage: Vec<Task> = Vec::new();
        for (number, holder) in holders.iter().enumerate() {
            let next = task(number as u128, holder, via, lineage.last());
            lineage.push(Task { ceiling: ceiling.clone(), ..next });
        }
        lineage
    };
    let case = |who: &str, holders: &[&str], scope: &str, dataset: Option<&str>| Case {
        caller: caller(&rules, who, node()),
        lineage: tree(holders, &node()),
        ask: of(scope, dataset),
        ttl: None,
    };
    let plain = || case("train/a", &["train/a"], "data", Some("a"));
    let mut cases = vec![
        case("nobody/x", &["train/a"], "data", Some("a")),
        case("admin/x", &["train/a"], "data", Some("a")),
        Case { caller: Caller { proof_expires_at: NOW, ..plain().caller }, ..plain() },
        Case { lineage: Vec::new(), ..plain() },
        case("train/a", &["train/a"], "data", Some("c")),
        case("train/a", &["train/a"], "nowhere", None),
        case("train/a", &["train/a"], "owned", Some("a")),
        Case {
            ask: of("data", Some("a")),
            lineage: vec![Task { ceiling: Ceiling::default(), ..plain().lineage.remove(0) }],
            ..plain()
        },
        Case { ttl: Some(Ttl::hours(3)), ..plain() },
        case("tool/t", &["tool/t"], "data", Some("a")),
        case("train/a", &["train/a"], "direct", None),
        case("train/a", &["train/a"], "owned", None),
        case("tool/t", &["tool/u", "hidden/x", "tool/t"], "data", Some("a")),
        case("train/a", &["train/a"], "approved", None),
        case("train/a", &["train/a"], "judged", None),
        case("train/a", &["train/a"], "failing", None),
    ];
    let old = NOW - Ttl::hours(2);
    cases.push(Case { lineage: vec![Task { opened_at: old, ..plain().lineage.remove(0) }], ..plain() });
    // Whoever may use it without a parent's word stands above; whoever may not is hidden between.
    cases.push(case("tool/t", &["tool/u", "tool/t"], "data", Some("c")));
    let lost = tree(&["tool/other", "tool/t"], &node());
    let of_nobody = Task { opened_by: id("nobody/hidden"), ..lost[0].clone() };
    cases.push(Case { lineage: vec![of_nobody, lost[1].clone()], ..case("tool/t", &[], "data", Some("a")) });

    let mut denials: Vec<Denial> = Vec::new();
    for Case { caller, lineage, ask, ttl } in cases {
        let wish = Wish { ask, ttl, act: None };
        if let Decision::Deny(denial) = decide(&rules, &caller, &lineage, &wish, NOW) {
            assert!(!denial.trace.is_empty(), "{denial:?}");
            denials.push(denial);
        }
    }
    let trainer = caller(&rules, "train/a", node());
    let above = tree(&["train/a"], &node());
    let small = |scope: &str, dataset| Ceiling::new(vec![of(scope, dataset)]);
    for checked in [
        check_open(&rules, &trainer, &[], &small("data", Some("*")), NOW),
        check_open(&rules, &caller(&rules, "train/a", direct()), &[], &small("data", Some("a")), NOW),
        check_delegate(&rules, &trainer, &above, &id("hidden/x"), &small("judged", None), NOW),
        check_delegate(&rules, &trainer, &above, &id("tool/t"), &small("data", Some("c")), NOW),
    ] {
        denials.extend(checked.err());
    }
    // Why somebody was cut off, by whom, and whether by a pattern, is not for the caller.
    for target in [
        Target::Pattern("spiffe://example.org/train/**".parse().expect("a pattern")),
        Target::Identity(id("train/b")),
        Target::Scope("data".into()),
    ] {
        let kill = super::kills::standing(target);
        let rules = rules.clone().with_kills(Arc::new(Kills::new([kill])));
        let Case { caller, ask, .. } = plain();
        let lineage = tree(&["train/b", "train/a"], &node());
        let decision = decide(&rules, &caller, &lineage, &Wish { ask, ttl: None, act: None }, NOW);
        let Decision::Deny(denial) = decision else { panic!("it is cut off") };
        assert!(!denial.message.contains("train/b") && !denial.message.contains("**"), "{denial:?}");
        denials.push(denial);
    }
    let seen: BTreeSet<&str> = denials.iter().map(|denial| denial.reason.as_str()).collect();
    // Said where it is carried out: what a target cannot enforce, and how deep a tree may be.
    let elsewhere = [DenyReason::PolicyCannotNarrow, DenyReason::TaskTreeTooDeep];
    let missing: Vec<DenyReason> = DenyReason::ALL
        .into_iter()
        .filter(|reason| !elsewhere.contains(reason) && !seen.contains(reason.as_str()))
        .collect();
    assert!(missing.is_empty(), "{missing:?} never came; {seen:?}");
    let named_by_caller = "spiffe://example.org/hidden/x";
    for denial in &denials {
        let told = format!("{} {}", denial.message, denial.next).replace(named_by_caller, "");
        assert!(!told.contains(HIDDEN), "{denial:?}");
        assert!(!denial.next.is_empty(), "{denial:?}");
    }
    let recorded =
        denials.iter().flat_map(|denial| &denial.trace).filter(|line| line.contains(HIDDEN)).count();
    assert!(recorded > 10, "the record names the rules: {recorded}");
}
