//! What is refused before it decides anything.

use std::time::{Duration, Instant};

use dayfly_domain::policy::Narrowing;

use super::*;
use crate::ALLOWED_BUILTINS;

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
            let arguments = match *name {
                "sprintf" => "\"%v\", [1]",
                "regex.match" => "\"a\", \"a\"",
                "glob.match" => "\"a\", [\"/\"], \"a\"",
                "time.parse_rfc3339_ns" => "\"2026-11-21T12:00:00Z\"",
                _ => arguments,
            };
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
