//! `dayfly lint` with the real binary: on a file alone, and over what a broker holds.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use dayfly_client::v1::{self, reviewed_binding::Verdict};
use support::admin::at;
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

/// What a broker holds in which only use, a target and its configuration find something.
const STORED: &str = r#"
kind: Stage
metadata: {name: training}
spec: {patterns: ["spiffe://example.org/train/*"]}
---
kind: Scope
metadata: {name: buckets}
spec: {stages: [training], leaves_behind: [credentials], target: {aws: {role: "arn:aws:iam::111122223333:role/train"}}}
---
kind: Scope
metadata: {name: data}
spec: {stages: [training], leaves_behind: [copies], target: {token: {audience: "https://data"}}}
---
kind: Binding
metadata: {name: reads}
spec: {identities: ["spiffe://example.org/train/a"], scope: data}
---
kind: Binding
metadata: {name: young}
spec: {identities: ["spiffe://example.org/train/a"], scope: data}
---
kind: Binding
metadata: {name: bucket}
spec: {identities: ["spiffe://example.org/train/a"], scope: buckets}
"#;

fn reviewed(name: &str, verdict: Verdict, applied: i64) -> v1::ReviewedBinding {
    v1::ReviewedBinding {
        bound: Some(v1::BoundScope { binding: name.into(), ..v1::BoundScope::default() }),
        applied_at: at(applied),
        verdict: verdict.into(),
        taken: vec!["max_task: 1d becomes 1h".into()],
        ..v1::ReviewedBinding::default()
    }
}

#[test]
fn a_broker_at_hand_tells_what_was_used_and_what_its_targets_and_configuration_say() {
    let world = World::new();
    let example = v1::TrustDomain {
        name: "example.org".into(),
        stages: vec!["training".into()],
        patterns: vec!["spiffe://example.org/**".into()],
    };
    world.broker.with(|state| {
        state.stored = Some(STORED.to_owned());
        state.trust_domains = vec![example];
        state.review = v1::ReviewResponse {
            since: at(-3600),
            bindings: vec![
                reviewed("reads", Verdict::Narrow, -7200),
                reviewed("young", Verdict::RemoveUnused, -600),
                reviewed("bucket", Verdict::RemoveUnused, -7200),
            ],
            ..v1::ReviewResponse::default()
        };
    });
    let done = world.admin(&["lint"]);
    assert_eq!(done.code, Some(1), "{done:?}");
    golden("lint_at_hand.txt", &done.out);
    let asked = world.broker.with(|state| std::mem::take(&mut state.apply_asked));
    assert!(asked.len() == 1 && asked[0].dry_run, "{asked:?}");
    assert!(asked[0].yaml.contains("buckets") && !asked[0].yaml.contains("leaves_behind"), "{asked:?}");

    // What the file changes is not judged by what was used of what it was; what the target refuses is needed.
    let file = world.path("reads.yaml");
    std::fs::write(&file, "kind: Binding\nmetadata: {name: reads}\nspec: {identities: [\"spiffe://example.org/train/b\"], scope: data}\n").unwrap();
    world.broker.with(|state| state.applied.faults = vec![v1::DocumentFault::default()]);
    let done = world.admin(&["lint", "-f", file.to_str().unwrap()]);
    assert!(!done.out.contains("wider-than-use") && !done.out.contains("needless"), "{done:?}");

    world.broker.with(|state| state.trust_domains[0].stages = vec!["tool".into()]);
    let done = world.admin(&["lint"]);
    assert!(done.err.contains("no trust domain") && done.out.is_empty(), "{done:?}");
}
