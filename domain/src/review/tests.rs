use super::*;
use crate::document::{self, Document};
use crate::node::TrustDomainRule;
use crate::stage::Stage;

const NOW: Timestamp = Timestamp::from_unix_millis(1_800_000_000_000);

const DOCUMENTS: &str = r#"
kind: Stage
metadata: {name: training}
spec: {patterns: ["spiffe://d/train/**"]}
---
kind: Stage
metadata: {name: tool}
spec: {patterns: ["spiffe://d/tool/*"]}
---
kind: Stage
metadata: {name: inference}
spec: {patterns: ["spiffe://d/infer/*"]}
---
kind: Scope
metadata: {name: data}
spec:
  stages: [training, tool]
  parameters: {dataset: {type: segment}, mode: {type: enum, values: [r, w]}}
  target: {token: {audience: "https://data", scope: "{dataset}/{mode}"}}
---
kind: Binding
metadata: {name: all, labels: {team: ml}}
spec:
  identities: ["spiffe://d/train/*", "spiffe://d/tool/*"]
  scope: data
  parameters: {dataset: {pattern: "[a-z]"}}
  owner: ann
  ticket: OPS-1
---
kind: Binding
metadata: {name: planners}
spec:
  identities: ["spiffe://d/infer/*"]
  scope: data
  grants: [use, delegate]
  delegate: {to: ["spiffe://d/tool/*", "spiffe://d/train/*"], depth: 3}
---
kind: Binding
metadata: {name: over}
spec: {identities: ["spiffe://d/train/x"], scope: data, until: "2020-01-01T00:00:00Z"}
---
kind: Binding
metadata: {name: straight}
spec: {identities: ["spiffe://d/train/*"], scope: data, via: direct}
"#;

fn compiled(documents: &[(u32, Document)]) -> Rules {
    let domain = TrustDomainRule {
        name: "d".into(),
        stages: Stage::ALL.into(),
        patterns: vec!["spiffe://d/**".parse().expect("a pattern")],
    };
    document::compile(1, &[domain], documents).expect("no faults")
}

fn tally() -> Tally {
    Tally::new(Arc::new(compiled(&document::parse(DOCUMENTS).0)), Wanted::default(), NOW)
}

fn id(path: &str) -> SpiffeId {
    format!("spiffe://d/{path}").parse().expect("an id")
}

fn ask(dataset: &str, mode: &str) -> ScopeAsk {
    let parameters = [("dataset", dataset), ("mode", mode)].map(|(k, v)| (k.to_owned(), v.to_owned()));
    ScopeAsk { scope: "data".into(), parameters: parameters.into() }
}

/// What the last of the chain was allowed by binding `all`.
fn allowed(chain: &[&str], dataset: &str) -> Allowed {
    let chain: Vec<SpiffeId> = chain.iter().map(|path| id(path)).collect();
    Allowed {
        at: NOW - Ttl::hours(1),
        identity: chain.last().expect("somebody").clone(),
        via: ViaRule::Agent,
        ask: ask(dataset, "r"),
        binding: "all".into(),
        ttl: Ttl::minutes(5),
        chain,
        age: Some(Ttl::minutes(20)),
        oldest: Some(Ttl::minutes(40)),
    }
}

fn of<'a>(reviewed: &'a [Reviewed], name: &str) -> &'a Reviewed {
    reviewed.iter().find(|one| one.binding.name == name).expect("every binding is reviewed")
}

/// The proposed documents, and what is proposed in words.
fn proposed(reviewed: &[Reviewed], name: &str) -> (Option<Document>, String) {
    let documents = document::parse(DOCUMENTS).0;
    let old = documents.into_iter().map(|(_, document)| document);
    let old = old.into_iter().find(|document| document.key.name == name).expect("it is there");
    match of(reviewed, name).proposal.as_ref().expect("all was read") {
        Proposal::Keep => (None, "keep".into()),
        Proposal::Undeclare => (None, "undeclare".into()),
        Proposal::Remove(why) => (None, format!("remove: {why:?}")),
        Proposal::Narrow { binding, taken } => (Some(document::rewritten(&old, binding)), taken.join("\n")),
    }
}

#[test]
fn what_was_used_is_counted_and_the_rest_is_proposed_away() {
    let mut tally = tally();
    tally.add(&Recorded::Allowed(allowed(&["infer/planner", "tool/search"], "a")));
    tally.add(&Recorded::Allowed(allowed(&["infer/planner", "tool/search"], "b")));
    let denied = |scope: &str, identity| Recorded::Denied {
        identity: id(identity),
        scope: scope.into(),
        reason: "PARAMETER_INVALID".into(),
        times: 40,
    };
    tally.add(&denied("data", "tool/search"));
    tally.add(&denied("elsewhere", "tool/search"));
    let reviewed = tally.finish(true);
    let usage = &of(&reviewed, "all").usage;
    assert_eq!((usage.requested, usage.used, usage.denied["PARAMETER_INVALID"]), (42, 2, 40));
    assert_eq!((usage.in_roots, usage.under_parents), (0, 2));
    assert_eq!(usage.last_used, Some(NOW - Ttl::hours(1)));
    assert_eq!(of(&reviewed, "all").never_used, ["identity spiffe://d/train/*"]);
    let (document, taken) = proposed(&reviewed, "all");
    assert_eq!(
        taken,
        "identities: spiffe://d/train/*, spiffe://d/tool/* become spiffe://d/tool/search\n\
         dataset: [a-z] becomes a, b\nmode: any becomes r\nmax_task: 1d becomes 1h"
    );
    // The planner never used it itself, and one kind of tool was all it handed it to.
    assert_eq!(of(&reviewed, "planners").usage.handed_on, 2);
    let (planners, taken) = proposed(&reviewed, "planners");
    assert_eq!(
        taken,
        "identities: spiffe://d/infer/* become spiffe://d/infer/planner\ngrants: use goes\n\
         delegate.to: spiffe://d/tool/*, spiffe://d/train/* become spiffe://d/tool/search\n\
         delegate.depth: 3 becomes 1\ndataset: any becomes a, b\nmode: any becomes r\nmax_task: 1d becomes 1h"
    );
    assert_eq!(proposed(&reviewed, "over").1, "remove: Ended(2020-01-01T00:00:00.000Z)");
    assert_eq!(proposed(&reviewed, "straight").1, "remove: NeverUsed");

    // The documents say what the proposals say: applied, each binding is what was proposed.
    let mut documents = document::parse(DOCUMENTS).0;
    for new in [document.expect("narrower"), planners.expect("narrower")] {
        assert!(document::parse(&new.to_yaml()).1.is_empty());
        let old = documents.iter_mut().find(|(_, old)| old.key == new.key).expect("it is there");
        assert_eq!(old.1.labels, new.labels);
        old.1 = new;
    }
    let rules = compiled(&documents);
    for name in ["all", "planners"] {
        let now = rules.bindings_of("data").iter().find(|one| one.name == name).expect("it is there");
        let Some(Proposal::Narrow { binding, .. }) = &of(&reviewed, name).proposal else { panic!("{name}") };
        let said = |one: &Binding| {
            let told = Binding { digest: String::new(), ..one.clone() };
            format!("{told:?}")
        };
        assert_eq!(said(now), said(binding));
        assert_eq!((now.owner == "ann"), name == "all");
    }
}

#[test]
fn a_narrower_binding_never_starts_roots_by_default() {
    let mut tally = tally();
    let train = |from: &[&str]| Recorded::Allowed(allowed(from, "a"));
    tally.add(&train(&["infer/planner", "train/a"]));
    let reviewed = tally.finish(true);
    // Of tools and trainers it was for under parents only; of trainers alone the default would be roots too.
    let document = proposed(&reviewed, "all").0.expect("narrower");
    assert_eq!(document.spec["identities"], serde_json::json!(["spiffe://d/train/a"]));
    assert_eq!(document.spec["start"], "under_parent");
}

#[test]
fn what_a_binding_carried_that_is_gone_or_over_counts_for_those_that_would_carry_it_today() {
    for name in ["gone", "over"] {
        let mut tally = tally();
        let used = Allowed { binding: name.into(), ..allowed(&["infer/planner", "train/x"], "a") };
        tally.add(&Recorded::Allowed(used));
        let reviewed = tally.finish(true);
        assert_eq!(of(&reviewed, "all").usage.used, 1, "{name}");
        assert_eq!(of(&reviewed, "over").usage.used, 1, "{name}");
        assert_eq!(of(&reviewed, "straight").usage.used, 0, "{name}");
    }
    // What it no longer allows is no use of it.
    let mut tally = tally();
    tally.add(&Recorded::Allowed(allowed(&["infer/planner", "train/x"], "too-long")));
    let reviewed = tally.finish(true);
    assert_eq!(of(&reviewed, "all").usage.used, 0);
    assert_eq!(of(&reviewed, "planners").usage.handed_on, 1);
}

#[test]
fn nothing_is_proposed_of_what_was_not_read_to_the_end() {
    let reviewed = tally().finish(false);
    assert_eq!(reviewed.len(), 4);
    assert!(reviewed.iter().all(|one| one.proposal.is_none()));
}

#[test]
fn only_what_is_wanted_is_reviewed() {
    let names = |wanted| {
        let rules = Arc::new(compiled(&document::parse(DOCUMENTS).0));
        let reviewed = Tally::new(rules, wanted, NOW).finish(true);
        reviewed.iter().map(|one| one.binding.name.clone()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names(Wanted { binding: Some("over".into()), ..Wanted::default() }), "over");
    assert_eq!(names(Wanted { identity: Some(id("tool/a")), ..Wanted::default() }), "all");
    assert_eq!(names(Wanted { scope: Some("other".into()), ..Wanted::default() }), "");
}

#[test]
fn a_binding_that_direct_callers_declare_is_not_taken_from_under_them() {
    let opened = |via| Recorded::Opened { identity: id("train/a"), via, ceiling: vec![ask("a", "r")] };
    let mut tally = tally();
    tally.add(&opened(ViaRule::Agent));
    tally.add(&opened(ViaRule::Direct));
    let reviewed = tally.finish(true);
    assert_eq!(proposed(&reviewed, "straight").1, "undeclare");
    assert_eq!(proposed(&reviewed, "all").1, "remove: NeverUsed");
}

#[test]
fn a_binding_of_which_all_was_used_stays() {
    let yaml = "kind: Stage\nmetadata: {name: training}\nspec: {patterns: [\"spiffe://d/train/**\"]}\n---\n\
                kind: Scope\nmetadata: {name: data}\nspec: {stages: [training], parameters: {mode: {type: enum, values: [r, w]}}, target: {token: {audience: x}}}\n---\n\
                kind: Binding\nmetadata: {name: all}\nspec: {identities: [\"spiffe://d/train/a\"], scope: data, max_task: 30m}";
    let rules = Arc::new(compiled(&document::parse(yaml).0));
    let mut tally = Tally::new(rules, Wanted::default(), NOW);
    for mode in ["r", "w"] {
        let mut used = allowed(&["train/a"], "a");
        used.ask.parameters = [("mode".to_owned(), mode.to_owned())].into();
        tally.add(&Recorded::Allowed(used));
    }
    assert!(matches!(tally.finish(true)[0].proposal, Some(Proposal::Keep)));
}
