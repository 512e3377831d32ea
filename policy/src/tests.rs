//! What a policy may say, what is refused, and that both engines say the same.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use dayfly_domain::policy::{
    Artifact, Claimed, Judge, Judgement, Link, Narrowing, Observed, PolicyInput, PolicySource, Proven,
    ProvenTask,
};
use dayfly_domain::spiffe::SpiffeId;
use dayfly_domain::stage::Stage;
use dayfly_domain::time::Ttl;
use proptest::prelude::*;
use serde_json::json;

use crate::lint::rests_on_claims;
use crate::{ALLOWED_BUILTINS, PolicySet, input};

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

#[test]
fn the_example_narrows_what_tools_hold_and_denies_a_tool_by_itself() {
    let set = load(example());
    let Judgement::Allow(narrow) = set.judge(&Request::default().input()) else { panic!("not allowed") };
    assert_eq!(narrow.max_ttl, Some(Ttl::seconds(120)));
    assert_eq!(narrow.deny_statements.len(), 1);
    assert_eq!(narrow.tags, BTreeMap::from([("hands".to_owned(), "tool".to_owned())]));
    let alone = Request { depth: 0, chain: vec![Stage::Tool], ..Request::default() };
    let reasons = vec!["a tool is given nothing outside the task of somebody else".to_owned()];
    let denied = Judgement::Deny { policy: "untrusted-tools".to_owned(), reasons };
    assert_eq!(set.judge(&alone.input()), denied);
}

#[test]
fn an_answer_that_is_none_denies() {
    for (rules, says) in [
        ("decision := {\"allow\": true} if input.proven.stage == \"node\"", "undefined"),
        ("decision := true", "not an object"),
        ("decision := {}", "allow is missing"),
        ("decision := {\"allow\": \"yes\"}", "allow is not true or false"),
        ("decision := {\"allow\": true, \"allowed\": true}", "a key other than"),
        ("decision := {\"allow\": true, \"narrow\": {\"scope\": \"x\"}}", "a key other than"),
        ("decision := {\"allow\": true, \"reasons\": \"because\"}", "not a list"),
        ("decision := {\"allow\": false, \"reasons\": [1]}", "not text"),
        ("decision := {\"allow\": false, \"reasons\": [\"a\\nb\"]}", "not a line"),
        ("decision := {\"allow\": false, \"reasons\": [1,2,3,4,5,6,7,8,9]}", "more than 8"),
        ("decision := {\"allow\": true, \"narrow\": {\"max_ttl\": 0}}", "above 0"),
        ("decision := {\"allow\": true, \"narrow\": {\"max_ttl\": 1.5}}", "above 0"),
        ("decision := {\"allow\": true, \"narrow\": {\"max_ttl\": -60}}", "above 0"),
        ("decision := {\"allow\": true, \"narrow\": {\"max_ttl\": \"60\"}}", "above 0"),
        (
            "decision := {\"allow\": true, \"narrow\": {\"tags\": {\"Dayfly-Task\": \"x\"}}}",
            "the broker's own",
        ),
        ("decision := {\"allow\": true, \"narrow\": {\"tags\": {\"aws:x\": \"x\"}}}", "the broker's own"),
        ("decision := {\"allow\": true, \"narrow\": {\"tags\": {\"sub\": \"x\"}}}", "the broker's own"),
        ("decision := {\"allow\": true, \"narrow\": {\"tags\": {\"a\": \"x\", \"A\": \"y\"}}}", "twice"),
        ("decision := {\"allow\": true, \"narrow\": {\"tags\": {\"a*\": \"x\"}}}", "AWS does not take"),
        ("decision := {\"allow\": startswith(input.claimed.ttl, \"9\")}", ""),
        ("decision := {\"allow\": true}\ndecision := {\"allow\": false} if input.claimed.ttl > 1", ""),
    ] {
        match judged(rules) {
            Judgement::Fail { policy, what } => {
                assert_eq!(policy, "p");
                assert!(what.contains(says), "{rules}: {what}");
                assert!(!what.contains('\n'), "{what}");
            }
            other => panic!("{rules}: {other:?}"),
        }
    }
}

#[test]
fn only_statements_that_deny_are_taken() {
    let with = |statement: &str| {
        judged(&format!(
            "decision := {{\"allow\": true, \"narrow\": {{\"deny_statements\": [{statement}]}}}}"
        ))
    };
    let good = r#"{"Effect": "Deny", "Action": ["s3:Put*"], "Resource": "*", "Condition": {"Bool": {"aws:SecureTransport": "false"}}}"#;
    let Judgement::Allow(narrow) = with(good) else { panic!("not allowed") };
    assert_eq!(narrow.deny_statements[0]["Condition"]["Bool"]["aws:SecureTransport"], "false");
    for bad in [
        r#"{"Effect": "Allow", "Action": "*", "Resource": "*"}"#,
        r#"{"effect": "Deny", "Action": "*", "Resource": "*"}"#,
        r#"{"Effect": "Deny", "Action": "*", "Resource": "*", "NotPrincipal": "*"}"#,
        r#"{"Effect": "Deny", "Action": "*", "Resource": "*", "Principal": "*"}"#,
        r#"{"Effect": "Deny", "Action": "*"}"#,
        r#"{"Effect": "Deny", "Action": "*", "NotAction": "s3:*", "Resource": "*"}"#,
        r#"{"Effect": "Deny", "Action": [], "Resource": "*"}"#,
        r#"{"Effect": "Deny", "Action": {"a": 1}, "Resource": "*"}"#,
        r#""Deny""#,
    ] {
        assert!(matches!(with(bad), Judgement::Fail { .. }), "{bad}");
    }
    assert!(matches!(with(good), Judgement::Allow(_)));
    let long =
        format!("{{\"Effect\": \"Deny\", \"Action\":\n\"s3:{}\",\n\"Resource\": \"*\"}}", "a".repeat(400));
    let six = [long.as_str(); 6].join(",\n");
    assert!(matches!(with(&six), Judgement::Fail { .. }));
}

#[test]
fn narrowings_of_several_policies_add_up_and_conflicts_deny() {
    let one = |name: &str, ttl: u32, tag: &str| {
        let rules = format!(
            "package dayfly.{name}\n\ndecision := {{\"allow\": true, \"narrow\": {{\"max_ttl\": {ttl}, \"tags\": {{\"team\": \"{tag}\"}}}}}}\n"
        );
        let tests =
            format!("package dayfly.{name}_test\n\ntest_itself if data.dayfly.{name}.decision.allow\n");
        source(name, &[("a.rego", &rules), ("a_test.rego", &tests)])
    };
    let set = PolicySet::load(&[one("b", 300, "x"), one("a", 600, "x")]).expect("loads");
    let narrow = Narrowing {
        max_ttl: Some(Ttl::seconds(300)),
        tags: BTreeMap::from([("team".into(), "x".into())]),
        ..Narrowing::default()
    };
    assert_eq!(set.judge(&Request::default().input()), Judgement::Allow(narrow));
    let set = PolicySet::load(&[one("b", 300, "x"), one("a", 600, "y")]).expect("loads");
    match set.judge(&Request::default().input()) {
        Judgement::Fail { policy, what } => assert!(policy == "b" && what.contains("\"team\""), "{what}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_policy_judges_its_own_scopes() {
    let mut named = policy("decision := {\"allow\": false}");
    named.scopes = Some(BTreeSet::from(["kb-read".to_owned()]));
    let set = load(named);
    assert!(set.is_for("kb-read") && !set.is_for("s3-train-read"));
    assert_eq!(set.of_scope("kb-read"), [("p".to_owned(), "digest of p".to_owned())]);
    assert_eq!(set.judge(&Request::default().input()), Judgement::Allow(Narrowing::default()));
}

#[test]
fn a_policy_that_loops_is_stopped_within_a_second() {
    let digits = "digits := [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]";
    let some = (0..12).map(|n| format!("\tsome d{n} in digits")).collect::<Vec<_>>().join("\n");
    let rules = format!(
        "{digits}\n\nlong if {{\n{some}\n\td0 + d11 == 19\n\td1 > 10\n}}\n\ndefault decision := {{\"allow\": true}}\n\ndecision := {{\"allow\": false}} if long"
    );
    let set = load(policy(&rules));
    let begun = Instant::now();
    match set.judge(&Request::default().input()) {
        Judgement::Fail { what, .. } => assert!(what.contains("instruction limit"), "{what}"),
        other => panic!("{other:?}"),
    }
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    let begun = Instant::now();
    let (judgement, steps) = set.explain(&Request::default().input());
    assert!(matches!(judgement, Judgement::Fail { .. }));
    assert!(steps.iter().any(|step| step.what.contains("limit")), "{steps:?}");
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

#[test]
fn a_loop_in_a_test_refuses_the_policy() {
    let some = (0..12).map(|n| format!("\tsome d{n} in digits")).collect::<Vec<_>>().join("\n");
    let tests = format!(
        "package dayfly.p_test\n\ndigits := [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]\n\ntest_long if {{\n{some}\n\td0 + d11 == 190\n}}\n"
    );
    let rules = "package dayfly.p\n\ndecision := {\"allow\": true}\n";
    let faults = faults(source("p", &[("p.rego", rules), ("p_test.rego", &tests)]));
    assert!(faults[0].contains("p_test.rego:5:1") && faults[0].contains("limit"), "{faults:?}");
}

#[test]
fn whatever_reaches_out_or_cannot_be_replayed_is_refused() {
    for call in [
        "http.send({\"method\": \"get\", \"url\": \"http://example.org\"})",
        "time.now_ns()",
        "opa.runtime()",
        "rand.intn(\"x\", 5)",
        "uuid.rfc4122(\"x\")",
        "trace(\"x\")",
        "print(\"x\")",
        "net.lookup_ip_addr(\"example.org\")",
        "net.cidr_expand(\"10.0.0.0/8\")",
        "numbers.range(1, 1000000000)",
        "bits.lsh(1, 1000000)",
        "io.jwt.decode_verify(\"x\", {})",
        "crypto.sha256(\"x\")",
        "rego.metadata.rule()",
        "walk([1], x)",
        "sprintf(input.claimed.intent, [1])",
        "sprintf(\"%1000d\", [1])",
        "time.clock([1, \"Local\"])",
        "no_such_function(1)",
    ] {
        let name = call.split('(').next().expect("a name");
        assert!(!ALLOWED_BUILTINS.contains(&name) || ["sprintf", "time.clock"].contains(&name));
        for (place, modules) in [
            (
                "rule",
                [
                    format!("package dayfly.p\n\ndecision := {{\"allow\": true}} if {call}\n"),
                    PASSES.to_owned(),
                ],
            ),
            (
                "test",
                [
                    "package dayfly.p\n\ndecision := {\"allow\": true}\n".to_owned(),
                    format!("package dayfly.p_test\n\ntest_it if {call}\n"),
                ],
            ),
        ] {
            let faults = faults(source("p", &[("p.rego", &modules[0]), ("p_test.rego", &modules[1])]));
            assert!(
                faults.iter().any(|fault| fault.contains("3 | ") && fault.contains('^')),
                "{place} {faults:?}"
            );
        }
    }
}

#[test]
fn every_allowed_function_is_one_of_the_engine() {
    // A name that the engine does not know would be told as one of no rule, when a policy calls it.
    let arities = ["", "1", "1, 2", "1, 2, 3", "1, 2, 3, 4"];
    for name in ALLOWED_BUILTINS {
        let known = arities.iter().any(|arguments| {
            let arguments = if *name == "sprintf" { "\"%d\", [1]" } else { arguments };
            let rules = format!("package dayfly.p\n\ndecision := {{\"allow\": {name}({arguments})}}\n");
            PolicySet::load(&[source("p", &[("p.rego", &rules), ("p_test.rego", PASSES)])]).is_ok()
        });
        assert!(known, "{name}");
    }
}

#[test]
fn an_input_is_read_by_its_roots_and_there_is_no_other_data() {
    for body in [
        "input.stage == \"tool\"",
        "x := input",
        "some root in [\"claimed\"]; input[root].ttl",
        "data.secrets.x == 1",
        "data.dayfly.other.decision.allow",
        "some name; data[name]",
        "some name; data.dayfly.p[name]",
        "data.dayfly.p",
        "f(input)",
    ] {
        let rules = format!("f(x) := x\n\ndecision := {{\"allow\": true}} if {{ {body} }}");
        let faults = faults(policy(&rules));
        assert!(faults[0].starts_with("p.rego:5:"), "{body}: {faults:?}");
    }
    let set = load(policy(
        "import input.claimed as said\nimport data.dayfly.p.limits\n\nlimits := {\"ttl\": 1000}\n\ndecision := {\"allow\": said[\"ttl\"] < data.dayfly.p.limits.ttl} if input[\"proven\"].now > limits.ttl",
    ));
    assert_eq!(set.judge(&Request::default().input()), Judgement::Allow(Narrowing::default()));
}

#[test]
fn every_fault_of_every_policy_is_told_at_once_with_its_line_marked() {
    let broken = source(
        "broken",
        &[("a.rego", "package dayfly.broken\n\ndecision := {\"allow\": \n"), ("b.rego", "pakage x\n")],
    );
    let failing = source(
        "failing",
        &[
            ("a.rego", "package dayfly.failing\n\ndecision := {\"allow\": false}\n"),
            (
                "a_test.rego",
                "package dayfly.failing_test\n\ntest_allows if data.dayfly.failing.decision.allow\n\ntest_it if data.dayfly.failing.nothing\n",
            ),
        ],
    );
    let untested =
        source("untested", &[("a.rego", "package dayfly.untested\n\ndecision := {\"allow\": true}\n")]);
    let elsewhere = source(
        "elsewhere",
        &[
            ("a.rego", "package dayfly.untested\n\nallow := true\n"),
            ("a_test.rego", "package other\n\ntest_x if true\n"),
        ],
    );
    let faults = PolicySet::load(&[broken, failing, untested, elsewhere]).expect_err("faults");
    let told: Vec<(&str, &str, Option<u32>)> = faults
        .iter()
        .map(|fault| (fault.policy.as_str(), fault.file.as_str(), fault.place.map(|(line, _)| line)))
        .collect();
    for expected in [
        ("broken", "a.rego", Some(4)),
        ("broken", "b.rego", Some(1)),
        ("failing", "a_test.rego", Some(3)),
        ("failing", "a_test.rego", Some(5)),
        ("untested", "", None),
        ("elsewhere", "a.rego", Some(1)),
        ("elsewhere", "a_test.rego", Some(1)),
        ("elsewhere", "", None),
    ] {
        assert!(told.contains(&expected), "{expected:?} in {told:?}");
    }
    assert_eq!(faults[1].excerpt, "1 | pakage x\n  | ^");
    assert_eq!(faults[1].path(), "spec.modules.b.rego");
}

#[test]
fn what_is_nested_or_chained_without_end_is_refused_and_not_run_into() {
    let deep = format!("decision := {}{}", "[".repeat(5_000), "]".repeat(5_000));
    let wide = deep.replace("[[[[[[[[[[", "[\n[[[[[[[[[");
    let sum = format!("decision := 1{}", "\n+1".repeat(21_000));
    let chain: String = (0..40).map(|n| format!("r{n} := r{}\n", n + 1)).collect();
    let chain = format!("{chain}r40 := 1\n\ndecision := {{\"allow\": r0 == 1}}");
    let own = "a contains x if some x in a\n\ndecision := {\"allow\": count(a) == 0}".to_owned();
    let calls = "f(x) := f(x)\n\ndecision := {\"allow\": f(1)}".to_owned();
    let circle = "a := b\n\nb := a\n\ndecision := {\"allow\": a}".to_owned();
    let items = "\"aaaaaa\",\n".repeat(1_000);
    let fat = format!("decision := [[[[[[[[{items}1]]]]]]]\n");
    // Each of these would take the engine hours, or its whole stack.
    let minus = format!("decision := {}1", "\n-".repeat(30_000));
    let within = format!("decision := 1{}", "\nin 1".repeat(10_000));
    let refs = format!("decision := a{}", "\n[0]".repeat(15_000));
    let dots = format!("decision := a{}", ".a".repeat(200));
    let dots = dots.replace(".a.a.a.a.a", ".a\n.a.a.a.a");
    let call = format!("decision := a{}", "\n(1)".repeat(15_000));
    let or = format!("decision if 1{}", "\n==1".repeat(15_000));
    let elses = format!("decision if false{}", "\nelse := 1".repeat(5_000));
    let nots = format!("decision if {}true", "not \n".repeat(10_000));
    for rules in
        [deep, wide, fat, sum, minus, within, refs, dots, call, or, elses, nots, chain, circle, own, calls]
    {
        let begun = Instant::now();
        assert!(!faults(policy(&rules)).is_empty());
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", rules.get(..20));
    }
    let chain: String = (0..20).map(|n| format!("r{n} := r{}\n", n + 1)).collect();
    let allowed = load(policy(&format!("{chain}r20 := 1\n\ndecision := {{\"allow\": r0 == 1}}")));
    assert_eq!(allowed.judge(&Request::default().input()), Judgement::Allow(Narrowing::default()));
}

#[test]
fn a_set_keeps_what_has_not_changed_and_takes_what_has() {
    let allows = policy("decision := {\"allow\": true}");
    let first = load(allows.clone());
    let denies = policy("decision := {\"allow\": false}");
    let second = PolicySet::reload(&[denies], &first).expect("loads");
    assert!(matches!(second.judge(&Request::default().input()), Judgement::Deny { .. }));
    assert!(matches!(first.judge(&Request::default().input()), Judgement::Allow(_)));
    let third = PolicySet::reload(&[allows], &second).expect("loads");
    assert!(matches!(third.judge(&Request::default().input()), Judgement::Allow(_)));
}

#[test]
fn an_explanation_shows_each_definition_with_its_place() {
    let set = load(example());
    let alone = Request { depth: 0, chain: vec![Stage::Tool], ..Request::default() };
    let (judgement, steps) = set.explain(&alone.input());
    assert!(matches!(judgement, Judgement::Deny { .. }));
    let told: Vec<(String, bool)> = steps.iter().map(|step| (step.rule.clone(), step.matched)).collect();
    for expected in [
        ("policy.rego:11 reasons", true),
        ("policy.rego:17 reasons", false),
        ("policy.rego:22 reasons", false),
        ("policy.rego:29 narrowings", true),
        ("decision", false),
    ] {
        assert!(told.contains(&(expected.0.to_owned(), expected.1)), "{expected:?} in {told:?}");
    }
    let last = steps.last().expect("steps");
    assert_eq!(last.what, "denies: a tool is given nothing outside the task of somebody else");
}

#[test]
fn rules_that_rest_on_claims_alone_are_found() {
    let source = policy(
        "import input.claimed as said\n
decision := {\"allow\": count(reasons) == 0, \"reasons\": reasons}\n
reasons contains \"team\" if input.claimed.labels.team != \"blue\"\n
reasons contains \"both\" if {
	is_red
	input.proven.stage == \"tool\"
}\n
is_red if said.labels.team == \"red\"\n
constant := 5",
    );
    let found: Vec<(u32, String)> =
        rests_on_claims(&source).into_iter().map(|found| (found.line, found.rule)).collect();
    assert_eq!(found, [(7, "reasons".to_owned()), (14, "is_red".to_owned())]);
    assert_eq!(rests_on_claims(&example()), []);
}

#[test]
fn the_input_is_built_as_it_is_serialised() {
    let mut request = Request::default();
    for artifact in [None, Some((Some("sha256:00".to_owned()), "models/a")), Some((None, "tools/b"))] {
        request.artifact = artifact.map(|(digest, name)| Artifact { name: name.to_owned(), digest });
        request.node = request.artifact.as_ref().map(|_| id("node/n2"));
        let input = request.input();
        let built = serde_json::to_value(input::value(&input)).expect("JSON");
        assert_eq!(built, serde_json::to_value(&input).expect("JSON"));
    }
}

fn requests() -> impl Strategy<Value = Request> {
    let stage = prop::sample::select(Stage::ALL.to_vec());
    let chain = prop::collection::vec(prop::sample::select(Stage::ALL.to_vec()), 1..5);
    let anchor = prop::sample::select(vec!["cgroup_owned", "process", "stream"]);
    let attested = prop::sample::select(vec!["pidfd", "peercred", "stream"]);
    let provider = prop::sample::select(vec!["aws", "vault", "token"]);
    let via = prop::sample::select(vec!["agent", "direct"]);
    (stage, chain, anchor, attested, provider, via, "[a-z ]{0,12}", 1_u64..100_000).prop_map(
        |(stage, chain, anchor, attested, provider, via, intent, ttl)| Request {
            stage,
            depth: chain.len() - 1,
            chain,
            anchor,
            attested_by: attested.to_owned(),
            provider: provider.to_owned(),
            via,
            intent,
            ttl,
            ..Request::default()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn both_engines_and_the_explanation_agree(request in requests()) {
        thread_local! { static SET: PolicySet = load(example()); }
        SET.with(|set| {
            let input = request.input();
            let (judgement, steps) = set.explain(&input);
            prop_assert_eq!(&judgement, &set.judge(&input));
            prop_assert!(!steps.iter().any(|step| step.what.contains("differ")), "{:?}", steps);
            let said = steps.last().is_some_and(|step| step.matched);
            prop_assert_eq!(said, matches!(judgement, Judgement::Allow(_)));
            let json = serde_json::to_value(&input).expect("JSON");
            prop_assert_eq!(set.judge_json(&json), judgement);
            let raw = set.raw_decisions("untrusted-tools", &json).expect("the policy");
            prop_assert!(raw.machine.is_ok());
            prop_assert_eq!(raw.machine, raw.interpreter);
            Ok(())
        })?;
    }
}

#[test]
fn raw_decisions_of_an_unknown_policy_are_none() {
    assert_eq!(load(example()).raw_decisions("other", &json!({})), None);
}
