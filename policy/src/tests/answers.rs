//! What an answer may hold, and what several policies make of one request.

use std::collections::BTreeSet;

use dayfly_domain::policy::Narrowing;
use dayfly_domain::time::Ttl;

use super::*;
use crate::lint::rests_on_claims;

#[test]
fn the_example_narrows_what_tools_hold_and_denies_a_tool_by_itself() {
    let set = load(example());
    let Judgement::Allow(narrow) = set.judge(&Request::default().input()) else { panic!("not allowed") };
    assert_eq!(narrow.max_ttl, Some(Ttl::seconds(900)));
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
