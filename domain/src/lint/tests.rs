use super::*;
use crate::document;
use crate::node::TrustDomainRule;
use crate::stage::Stage;

const NOW: Timestamp = Timestamp::from_unix_millis(1_800_000_000_000);

const SOUND: &str = r#"
kind: Stage
metadata: {name: training}
spec: {patterns: ["spiffe://example.org/train/**"]}
---
kind: Stage
metadata: {name: tool}
spec: {patterns: ["spiffe://example.org/tool/*"]}
---
kind: Scope
metadata: {name: data}
spec: {stages: [training], target: {token: {audience: "https://data"}}}
---
kind: Binding
metadata: {name: reads}
spec: {identities: ["spiffe://example.org/train/a"], scope: data}
"#;

fn codes(yaml: &str) -> Vec<(String, &'static str)> {
    let domain = TrustDomainRule {
        name: "example.org".into(),
        stages: Stage::ALL.into(),
        patterns: vec!["spiffe://example.org/**".parse().expect("a pattern")],
    };
    let rules = document::compile(1, &[domain], &document::parse(yaml).0).expect("no faults");
    check(&rules, NOW).into_iter().map(|finding| (finding.document, finding.code)).collect()
}

fn changed(from: &str, to: &str) -> Vec<(String, &'static str)> {
    assert!(SOUND.contains(from), "{from}");
    codes(&SOUND.replace(from, to))
}

#[test]
fn sound_documents_have_no_findings() {
    assert_eq!(codes(SOUND), []);
}

#[test]
fn a_binding_that_never_carries_is_named_and_so_is_its_scope() {
    let both =
        |code| vec![("Binding/reads".to_owned(), code), ("Scope/data".to_owned(), "scope-unreachable")];
    let who = "spiffe://example.org/train/a";
    assert_eq!(changed(who, "spiffe://example.org/other/a"), both("binding-without-stage"));
    assert_eq!(changed(who, "spiffe://example.org/tool/a"), both("binding-of-another-stage"));
    let ended = changed("scope: data}", "scope: data, until: \"2020-01-01T00:00:00Z\"}");
    assert_eq!(ended, both("binding-ended"));
    let anchored = SOUND.replace("stages: [training]", "stages: [training], anchor: cgroup_owned");
    assert_eq!(codes(&anchored), []);
    assert_eq!(
        codes(&anchored.replace("scope: data}", "scope: data, via: direct}")),
        both("binding-against-anchor")
    );
    assert_eq!(changed("stages: [training]", "stages: [inference]"), both("binding-of-another-stage"));
}

#[test]
fn wide_patterns_are_named_and_want_somebody_who_answers_for_them() {
    let who = "spiffe://example.org/train/a";
    let named = |code| ("Binding/reads".to_owned(), code);
    let unaccounted = [named("binding-unaccounted"), named("binding-unaccounted")];
    assert_eq!(changed(who, "spiffe://example.org/train/*"), unaccounted);
    let mut wide = unaccounted.to_vec();
    wide.push(named("pattern-bare-wildcard"));
    assert_eq!(changed(who, "spiffe://example.org/train/**"), wide);
    let accounted = SOUND.replace("scope: data}", "scope: data, owner: ann, ticket: OPS-1}");
    assert_eq!(codes(&accounted.replace(who, "spiffe://example.org/train/*")), []);
    let whole = codes(&accounted.replace(who, "spiffe://example.org/**"));
    // Tools among them start no roots unless that is said.
    assert_eq!(whole, [named("binding-without-parent"), named("pattern-whole-trust-domain")]);
}

#[test]
fn a_binding_that_wants_a_parent_is_named_where_there_can_be_none() {
    let named = |code| vec![("Binding/reads".to_owned(), code)];
    let below = SOUND.replace("scope: data}", "scope: data, start: under_parent, parameters: {set: [a, b]}}");
    let below =
        below.replace("stages: [training],", "stages: [training], parameters: {set: {type: segment}},");
    assert_eq!(codes(&below), named("binding-without-parent"));
    let with = |more: &str| {
        let who = "spiffe://example.org/train/b";
        let other = format!(
            "---\nkind: Binding\nmetadata: {{name: above}}\nspec: {{identities: [\"{who}\"], scope: data, {more}}}\n"
        );
        let of_reads =
            codes(&(below.clone() + &other)).into_iter().filter(|(document, _)| document == "Binding/reads");
        of_reads.collect::<Vec<_>>()
    };
    assert_eq!(with("start: root"), []);
    assert_eq!(with("start: root, parameters: {set: b}"), []);
    let hands_on =
        |to: &str| format!("grants: [delegate], delegate: {{to: [\"spiffe://example.org/{to}\"]}}");
    assert_eq!(with(&hands_on("train/a")), []);
    for no_parent in [
        "start: under_parent",
        "parameters: {set: c}",
        "until: \"2020-01-01T00:00:00Z\"",
        &hands_on("tool/*"),
    ] {
        assert_eq!(with(no_parent), named("binding-without-parent"), "{no_parent}");
    }
}

#[test]
fn a_scope_that_is_handed_to_whom_nothing_lets_use_it_is_named() {
    let planner = |to: &str| {
        format!(
            "{SOUND}---\nkind: Stage\nmetadata: {{name: inference}}\nspec: {{patterns: [\"spiffe://example.org/infer/*\"]}}\n\
                 ---\nkind: Binding\nmetadata: {{name: hands-on}}\nspec: {{identities: [\"spiffe://example.org/infer/a\"], \
                 scope: data, grants: [delegate], delegate: {{to: [\"spiffe://example.org/{to}\"]}}}}\n"
        )
    };
    assert_eq!(codes(&planner("train/*")), []);
    assert_eq!(codes(&planner("tool/*")), [("Binding/hands-on".to_owned(), "delegate-to-nobody")]);
}

#[test]
fn words_on_what_an_action_leaves_behind_are_needless() {
    let act = "target: {artifact: {actions: [load-model], name: m}}, leaves_behind: [copies]";
    let found = changed("target: {token: {audience: \"https://data\"}}", act);
    assert_eq!(found, [("Scope/data".to_owned(), "leaves-behind-needless")]);
    assert_eq!(changed("stages: [training],", "stages: [training], leaves_behind: [copies],"), []);
}

fn entry(id: &str, path: &str, selectors: &[&str]) -> serde_json::Value {
    let selectors: Vec<_> =
        selectors.iter().map(|one| serde_json::json!({"type": "unix", "value": one})).collect();
    serde_json::json!({
        "id": id,
        "spiffe_id": {"trust_domain": "example.org", "path": path},
        "parent_id": {"trust_domain": "example.org", "path": "/node/n1"},
        "selectors": selectors,
    })
}

#[test]
fn entries_that_cannot_tell_workloads_apart_are_named() {
    let of = |entries: Vec<serde_json::Value>| -> Vec<(String, &'static str)> {
        let dump = serde_json::json!({"entries": entries, "next_page_token": ""}).to_string();
        let found = check_entries(&dump).expect("a dump");
        found.into_iter().map(|finding| (finding.document, finding.code)).collect()
    };
    for path in ["/usr/bin/python3.11", "/usr/bin/node", "/bin/bash"] {
        let found = of(vec![entry("e1", "/train/a", &[&format!("path:{path}"), "sha256:aa"])]);
        assert_eq!(found, [("Entry/e1".to_owned(), "interpreter-by-path")], "{path}");
    }
    for selectors in [&["path:/usr/bin/python3", "uid:1001"][..], &["path:/opt/trainer/run"], &["uid:1001"]] {
        assert_eq!(of(vec![entry("e1", "/train/a", selectors)]), [], "{selectors:?}");
    }
    let shared = vec![entry("e1", "/train/a", &["uid:1"]), entry("e2", "/train/a", &["uid:2"])];
    assert_eq!(of(shared), [("Entry/spiffe://example.org/train/a".to_owned(), "identity-shared")]);
    let replicas = vec![entry("e1", "/train/a", &["uid:1"]), entry("e2", "/train/a", &["uid:1"])];
    assert_eq!(of(replicas), []);
    let twins =
        |a: &str, b: &str| of(vec![entry("e1", a, &["uid:1", "gid:1"]), entry("e2", b, &["gid:1", "uid:1"])]);
    for (a, b) in [("/train/a", "/infer/a"), ("/ml/serving/a", "/ml/x/a"), ("/a/tool", "/a/admin")] {
        assert_eq!(twins(a, b), [("Entry/e1".to_owned(), "stage-by-path-only")], "{a} {b}");
    }
    for (a, b) in [("/train/a", "/train/b"), ("/train/a", "/infer/b"), ("/train/a", "/train/a/b")] {
        assert_eq!(twins(a, b), [], "{a} {b}");
    }
    let apart = vec![entry("e1", "/train/a", &["uid:1"]), entry("e2", "/infer/a", &["uid:2"])];
    assert_eq!(of(apart), []);
    let mut elsewhere = entry("e2", "/infer/a", &["uid:1"]);
    elsewhere["parent_id"]["path"] = "/node/n2".into();
    assert_eq!(of(vec![entry("e1", "/train/a", &["uid:1"]), elsewhere]), [], "other machines do other work");
    assert!(check_entries("{}").is_err() && check_entries("[").is_err());
}
