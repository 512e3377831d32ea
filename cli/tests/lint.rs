//! `dayfly lint` with the real binary: on a file alone, and over what a broker holds.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use support::{Done, World, golden};

const DOCUMENTS: &str = r#"
kind: Stage
metadata: {name: training}
spec: {patterns: ["spiffe://example.org/train/**"]}
---
kind: Scope
metadata: {name: data}
spec: {stages: [training], target: {token: {audience: "https://data"}}}
---
kind: Scope
metadata: {name: forgotten}
spec: {stages: [training], target: {token: {audience: "https://forgotten"}}}
---
kind: Binding
metadata: {name: reads}
spec: {identities: ["spiffe://example.org/train/**"], scope: data, owner: ann, ticket: OPS-1}
---
kind: Policy
metadata: {name: intent}
spec:
  modules:
    policy.rego: |
      package intent
      deny contains "no evaluation" if input.claimed.intent == "evaluation"
    policy_test.rego: |
      package intent
      test_denies if count(deny) == 1 with input as {"claimed": {"intent": "evaluation"}}
"#;

const ENTRIES: &str = r#"{"entries": [{"id": "e1",
  "spiffe_id": {"trust_domain": "example.org", "path": "/train/a"},
  "parent_id": {"trust_domain": "example.org", "path": "/node/n1"},
  "selectors": [{"type": "unix", "value": "path:/usr/bin/python3.11"}]}], "next_page_token": ""}"#;

#[test]
fn a_file_is_looked_at_without_a_broker() {
    let world = World::new();
    let (file, entries) = (world.path("all.yaml"), world.path("entries.json"));
    std::fs::write(&file, DOCUMENTS).unwrap();
    std::fs::write(&entries, ENTRIES).unwrap();
    let (file, entries) = (file.to_str().unwrap(), entries.to_str().unwrap());
    let lint = |more: &[&str]| {
        let args = [&["lint", "-f", file, "--offline"][..], more].concat();
        Done::of(world.dayfly(&args).output().unwrap())
    };
    let done = lint(&["--spire-entries", entries]);
    assert_eq!((done.code, done.err.as_str()), (Some(1), ""), "{done:?}");
    golden("lint.txt", &done.out);
    golden("lint.json", &lint(&["-o", "json"]).out);
    assert_eq!(lint(&["--fail-on", "error"]).code, Some(0), "there are warnings only");
    assert_eq!(lint(&["--fail-on", "error", "--spire-entries", entries]).code, Some(1));
    assert_eq!(lint(&["--spire-entries", file]).code, Some(1), "that is no dump");

    std::fs::write(file, DOCUMENTS.replace("scope: data,", "scope: nowhere,")).unwrap();
    let done = lint(&[]);
    assert!(done.code == Some(1) && done.out.is_empty(), "{done:?}");
    assert!(done.err.contains("spec.scope"), "{}", done.err);
}

#[test]
fn a_file_is_laid_over_what_the_broker_holds() {
    let world = World::new();
    let file = world.path("all.yaml");
    std::fs::write(&file, DOCUMENTS).unwrap();
    // What the broker of this test holds has faults of its own; they are told beside the file's.
    let done = world.admin(&["lint", "-f", file.to_str().unwrap()]);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.err.contains("Scope/kv-read"), "{}", done.err);
}
