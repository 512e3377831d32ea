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
    assert_eq!(whole, [named("pattern-whole-trust-domain")]);
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
    assert!(check_entries("{}").is_err() && check_entries("[").is_err());
}
