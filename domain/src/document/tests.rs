use super::*;
use crate::node::TrustDomainRule;
use crate::scope::{Promise, Revocability, ScopeLimits};
use crate::stage::Stage;
use crate::time::Ttl;

fn domains() -> Vec<TrustDomainRule> {
    vec![TrustDomainRule {
        name: "example.org".into(),
        stages: Stage::ALL.into(),
        patterns: vec!["spiffe://example.org/**".parse().expect("a pattern")],
    }]
}

const WHOLE: &str = r#"
kind: Stage
metadata: {name: training}
spec: {patterns: ["spiffe://example.org/train/**"]}
---
kind: Stage
metadata: {name: node}
spec: {patterns: ["spiffe://example.org/node/*"]}
---
kind: Scope
metadata: {name: s3-train-read, labels: {team: data}}
spec:
  description: Reads one training set.
  stages: [training]
  parameters:
    dataset: {type: segment, pattern: "corpus-[0-9]+"}
  ttl: {default: 15m, max: 1h}
  target:
    aws:
      role_arn: "arn:aws:iam::111122223333:role/train"
      session_policy: {Version: "2012-10-17", Statement: [{Effect: Allow, Action: "s3:GetObject", Resource: "arn:aws:s3:::train/{dataset}/*"}]}
---
kind: Binding
metadata: {name: train-reads}
spec:
  identities: ["spiffe://example.org/train/*"]
  scope: s3-train-read
  parameters: {dataset: [corpus-7, corpus-8]}
---
kind: Node
metadata: {name: cluster}
spec:
  agents: "spiffe://example.org/node/*"
  workloads: ["spiffe://example.org/train/**"]
  trust_domains: [example.org]
  anchors: [cgroup_owned]
"#;

fn faults_of(yaml: &str) -> Vec<(String, String)> {
    let (documents, mut faults) = parse(yaml);
    if let Err(more) = compile(1, &domains(), &documents) {
        faults.extend(more);
    }
    faults.into_iter().map(|fault| (fault.subject, fault.path)).collect()
}

#[test]
fn a_whole_set_compiles() {
    let (documents, faults) = parse(WHOLE);
    assert_eq!(faults, []);
    let rules = compile(7, &domains(), &documents).expect("no faults");
    assert_eq!(rules.revision, 7);
    let trainer = "spiffe://example.org/train/a".parse().expect("an id");
    assert_eq!(rules.stage_of(&trainer), Some(Stage::Training));
    let binding = rules.bindings_on("s3-train-read", &trainer)[0];
    assert_eq!(binding.start, crate::binding::Start::Root);
    assert!(rules.node(&"spiffe://example.org/node/n1".parse().expect("an id")).is_some());
    assert!(rules.node(&trainer).is_none());
}

#[test]
fn a_document_reads_back_from_its_canonical_form() {
    for (_, document) in parse(WHOLE).0 {
        assert_eq!(Document::from_canonical(&document.canonical()), Ok(document.clone()));
        let (again, _) = parse(&document.to_yaml());
        assert_eq!(again[0].1.digest(), document.digest());
    }
}

#[test]
fn all_faults_are_told_at_once_with_their_path() {
    let yaml = WHOLE
        .replace("stages: [training]", "stages: [training, admin, cooking]\n  colour: red")
        .replace("default: 15m, max: 1h", "default: 2h, max: 1h")
        .replace("train/{dataset}/*", "train/{dataset}*")
        .replace("scope: s3-train-read\n", "scope: nowhere\n  max_task: 1y\n")
        .replace("anchors: [cgroup_owned]", "anchors: [hope]");
    let faults = faults_of(&yaml);
    for (subject, path) in [
        ("Scope/s3-train-read", "spec.stages"),
        ("Scope/s3-train-read", "spec.colour"),
        ("Scope/s3-train-read", "spec.ttl.default"),
        ("Scope/s3-train-read", "spec.target.aws.session_policy.Statement[0].Resource"),
        ("Binding/train-reads", "spec.scope"),
        ("Binding/train-reads", "spec.max_task"),
        ("Node/cluster", "spec.anchors"),
    ] {
        assert!(faults.contains(&(subject.to_owned(), path.to_owned())), "{path} in {faults:?}");
    }
}

#[test]
fn a_scope_says_what_it_leaves_behind_and_how_much_of_it_there_is() {
    let with = |more: &str| WHOLE.replace("stages: [training]", &format!("stages: [training]\n  {more}"));
    let stated =
        with("leaves_behind: [role_sessions, keys]\n  limits: {requests_per_minute: 60, live_leases: 5}");
    let rules = compile(1, &domains(), &parse(&stated).0).expect("no faults");
    let scope = rules.scope("s3-train-read").expect("the scope");
    assert_eq!(scope.leaves_behind, ["role_sessions", "keys"]);
    assert_eq!(scope.limits, ScopeLimits { requests_per_minute: Some(60), live_leases: Some(5) });
    assert!(rules.held_on_agent_loss().is_empty(), "silence takes back unless a scope says otherwise");
    let held = compile(1, &domains(), &parse(&with("on_agent_loss: hold_until_deadline")).0);
    assert_eq!(held.expect("no faults").held_on_agent_loss(), ["s3-train-read"]);
    for (faulty, path) in [
        ("leaves_behind: []", "spec.leaves_behind"),
        ("on_agent_loss: keep", "spec.on_agent_loss"),
        ("leaves_behind: keys", "spec.leaves_behind"),
        ("leaves_behind: [keys, keys]", "spec.leaves_behind"),
        ("leaves_behind: [\"two words\"]", "spec.leaves_behind"),
        ("leaves_behind: [a, b, c, d, e, f, g, h, i]", "spec.leaves_behind"),
        ("limits: {requests_per_minute: 0}", "spec.limits.requests_per_minute"),
        ("limits: {live_leases: 4294967296}", "spec.limits.live_leases"),
        ("limits: {leases: 1}", "spec.limits.leases"),
    ] {
        assert_eq!(
            faults_of(&with(faulty)),
            [("Scope/s3-train-read".to_owned(), path.to_owned())],
            "{faulty}"
        );
    }
}

#[test]
fn what_leaves_something_behind_is_promised_no_more_than_its_expiry() {
    let rules = |yaml: &str| compile(1, &domains(), &parse(yaml).0).expect("no faults");
    let of = |yaml: &str| {
        let rules = rules(yaml);
        Promise::of(rules.scope("s3-train-read").expect("the scope"), Revocability::Exact, Ttl::seconds(5))
    };
    let plain = of(WHOLE);
    assert_eq!((plain.revocability, plain.worst_case_after_end), (Revocability::Exact, Ttl::seconds(5)));
    let leaves = of(&WHOLE.replace("stages: [training]", "stages: [training]\n  leaves_behind: [keys]"));
    assert_eq!((leaves.revocability, leaves.worst_case_after_end), (Revocability::ExpiryOnly, Ttl::hours(1)));
    assert_eq!(leaves.leaves_behind, ["keys"]);
}

#[test]
fn malformed_envelopes_are_refused() {
    for yaml in [
        "kind: [",
        "just text",
        "- a list",
        "kind: Scope",
        "kind: Pod\nmetadata: {name: a}\nspec: {}",
        "kind: Scope\nmetadata: {name: A_b}\nspec: {}",
        "kind: Stage\nmetadata: {name: training}\nspec: {patterns: []}",
        "a: &a [*a, *a]",
    ] {
        assert!(!faults_of(yaml).is_empty(), "{yaml}");
    }
    assert!(!faults_of(&" ".repeat(MAX_INPUT + 1)).is_empty());
    assert!(!faults_of(&format!("{WHOLE}\n---\n{WHOLE}")).is_empty(), "duplicates");
}

#[test]
fn one_identity_fills_one_stage() {
    let yaml = format!(
        "{WHOLE}\n---\nkind: Stage\nmetadata: {{name: tool}}\nspec: {{patterns: [\"spiffe://example.org/*/x\"]}}\n"
    );
    // It would take identities from both `train/**` and `node/*`.
    let overlap = ("Stage/tool".to_owned(), "spec.patterns".to_owned());
    assert_eq!(faults_of(&yaml), [overlap.clone(), overlap]);
}

#[test]
fn admins_and_nodes_are_given_no_scope() {
    let yaml = WHOLE.replace(
        "identities: [\"spiffe://example.org/train/*\"]",
        "identities: [\"spiffe://example.org/node/*\"]",
    );
    assert_eq!(faults_of(&yaml), [("Binding/train-reads".to_owned(), "spec.identities".to_owned())]);
}

#[test]
fn the_verbs_of_administration_are_for_admins_alone() {
    let admins =
        "---\nkind: Stage\nmetadata: {name: admin}\nspec: {patterns: [\"spiffe://example.org/admin/*\"]}\n";
    let binding = |who: &str, more: &str| {
        format!(
            "{WHOLE}\n{admins}---\nkind: Binding\nmetadata: {{name: readers}}\nspec: {{identities: [\"spiffe://example.org/{who}\"], scope: admin.read{more}}}\n"
        )
    };
    assert_eq!(faults_of(&binding("admin/bob", "")), []);
    for (who, more) in [("train/a", ""), ("**", ""), ("admin/bob", ", grants: [delegate]"), ("nobody/x", "")]
    {
        assert_eq!(faults_of(&binding(who, more)).len(), 1, "{who}{more}");
    }
}

#[test]
fn a_changed_binding_changes_its_scope_and_no_other() {
    let more = "---\nkind: Scope\nmetadata: {name: other}\nspec: {stages: [training], target: {token: {}}}\n";
    let rules = |yaml: &str| compile(1, &domains(), &parse(yaml).0).expect("no faults");
    let before = rules(&format!("{WHOLE}\n{more}"));
    assert!(before.scopes_unlike(&before).is_empty());
    let narrowed = rules(&format!("{WHOLE}\n{more}").replace("[corpus-7, corpus-8]", "[corpus-7]"));
    assert_eq!(narrowed.scopes_unlike(&before), ["s3-train-read"]);
    let moved = rules(&format!("{WHOLE}\n{more}").replace("train/**\"]}", "train/*\"]}"));
    assert_eq!(moved.scopes_unlike(&before).len(), 2);
}

const POLICY: &str = r#"
---
kind: Policy
metadata: {name: training-hours}
spec:
  scopes: [s3-train-read]
  modules:
    hours.rego: |
      package dayfly.training_hours
      decision := {"allow": true}
    hours_test.rego: "package dayfly.training_hours_test"
"#;

#[test]
fn a_policy_is_kept_with_its_modules_and_moves_the_digest_of_the_rules() {
    let rules = |yaml: &str| compile(1, &domains(), &parse(yaml).0).expect("no faults");
    let with = rules(&format!("{WHOLE}{POLICY}"));
    let [policy] = with.policies() else { panic!("{:?}", with.policies()) };
    assert!(policy.is_for("s3-train-read") && !policy.is_for("kb-read"));
    assert_eq!(policy.package(), "dayfly.training_hours");
    assert_eq!(policy.modules.len(), 2);
    assert!(policy.modules["hours.rego"].starts_with("package dayfly.training_hours\n"));
    let judge = with.judge().expect("what is not loaded denies");
    assert!(judge.is_for("s3-train-read") && !judge.is_for("kb-read"));
    let everywhere = rules(&format!("{WHOLE}{}", POLICY.replace("  scopes: [s3-train-read]\n", "")));
    assert!(everywhere.policies()[0].is_for("kb-read"));
    assert_ne!(with.digest, rules(WHOLE).digest);
    assert_ne!(with.digest, everywhere.digest);
}

#[test]
fn a_policy_that_is_none_by_its_form_is_refused() {
    let long = format!("hours.rego: \"{}\"\n    x.rego: |", "x".repeat(crate::policy::MAX_MODULE + 1));
    for (find, replace, path) in [
        ("name: training-hours", "name: 2-hours", "metadata.name"),
        ("name: training-hours", "name: training.hours", "metadata.name"),
        ("[s3-train-read]", "[s3-train-read, nowhere]", "spec.scopes"),
        ("[s3-train-read]", "[]", "spec.scopes"),
        ("  scopes:", "  scope:", "spec.scope"),
        ("hours.rego:", "Hours.rego:", "spec.modules.Hours.rego"),
        ("hours.rego:", "hours.py:", "spec.modules.hours.py"),
        ("hours.rego:", "h_test.rego:", "spec.modules"),
        ("hours.rego: |", &long, "spec.modules.hours.rego"),
        ("\"package dayfly.training_hours_test\"", "[1]", "spec.modules.hours_test.rego"),
    ] {
        let faults = faults_of(&format!("{WHOLE}{}", POLICY.replacen(find, replace, 1)));
        assert!(faults.iter().any(|(_, at)| at == path), "{find} -> {path}: {faults:?}");
    }
}
