//! Both engines: their limits, and that they say the same.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::json;

use super::*;

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
