//! Targets that are sound, and each way in which they are not.

use std::collections::BTreeMap;

use dayfly_domain::parameter::WholePattern;
use serde_json::json;

use super::*;

fn parameters() -> BTreeMap<String, ParameterSpec> {
    let spec = |kind, pattern: Option<&str>| ParameterSpec {
        kind,
        pattern: pattern.map(|pattern| WholePattern::new(pattern).expect("a pattern")),
    };
    let accounts = ["111122223333", "444455556666"].map(str::to_owned).to_vec();
    BTreeMap::from([
        ("dataset".to_owned(), spec(ParameterType::Segment, None)),
        ("prefix".to_owned(), spec(ParameterType::Path, None)),
        ("short".to_owned(), spec(ParameterType::Path, Some("[a-z/]{1,40}"))),
        ("account".to_owned(), spec(ParameterType::Enum(accounts), None)),
    ])
}

fn policy(resources: Value) -> Value {
    json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": "s3:GetObject", "Resource": resources},
    ]})
}

fn tree(role_arn: &str) -> Value {
    json!({"role_arn": role_arn, "region": "eu-central-1",
           "session_policy": policy(json!("arn:aws:s3:::corpora/{dataset}/*"))})
}

const ROLE: &str = "arn:aws:iam::111122223333:role/dayfly/s3-train-read";

fn paths(tree: Value) -> Vec<String> {
    check(&scope(parameters(), tree, Ttl::hours(1))).into_iter().map(|fault| fault.path).collect()
}

#[test]
fn a_sound_target_has_no_fault() {
    assert_eq!(paths(tree(ROLE)), [""; 0]);
    assert_eq!(paths(tree("arn:aws:iam::{account}:role/reader")), [""; 0]);
    assert_eq!(paths(tree("arn:minio:iam:::role/dummy-internal")), [""; 0]);
    let scope = scope(parameters(), tree("arn:aws:iam::{account}:role/reader"), Ttl::hours(1));
    assert_eq!(
        all_roles(&scope),
        ["111122223333", "444455556666"].map(|account| format!("arn:aws:iam::{account}:role/reader"))
    );
}

#[test]
fn a_pool_is_several_roles_that_are_each_named_once() {
    let pool = |roles: Value| {
        let mut tree = tree(ROLE);
        tree.as_object_mut().expect("a mapping").remove("role_arn");
        tree["role_arns"] = roles;
        tree
    };
    let one = |number: usize| format!("arn:aws:iam::111122223333:role/dayfly/pool-{number}");
    assert_eq!(paths(pool(json!([one(1), one(2), "arn:aws:iam::{account}:role/reader"]))), [""; 0]);
    let scope = scope(parameters(), pool(json!([one(1), one(2)])), Ttl::hours(1));
    assert_eq!(all_roles(&scope), [one(1), one(2)]);
    let many: Vec<String> = (0..33).map(one).collect();
    for roles in [json!([]), json!([one(1), one(1)]), json!([one(1), "reader"]), json!(many), json!(one(1))] {
        assert_eq!(paths(pool(roles.clone())), ["role_arns"], "{roles}");
    }
    let mut both = pool(json!([one(1)]));
    both["role_arn"] = json!(ROLE);
    assert_eq!(paths(both), ["role_arns"]);
}

#[test]
fn a_scope_says_when_its_sessions_are_denied() {
    let with = |text: Value| {
        let mut tree = tree(ROLE);
        tree["revoke"] = text;
        tree
    };
    for text in ["always", "admin_only", "if_remaining > 5m"] {
        assert_eq!(paths(with(json!(text))), [""; 0], "{text}");
    }
    let scope = scope(parameters(), with(json!("if_remaining > 5m")), Ttl::hours(1));
    assert_eq!(revoke_when(&scope), RevokeWhen::IfRemaining(Ttl::minutes(5)));
    for text in [json!("never"), json!("{dataset}"), json!(["always"]), json!("if_remaining > x")] {
        assert_eq!(paths(with(text.clone())), ["revoke"], "{text}");
    }
}

#[test]
fn all_faults_are_told_at_once() {
    let faulty = json!({"role_arn": "reader", "region": "../x", "endpoint": "http://evil.example"});
    assert_eq!(paths(faulty), ["endpoint", "role_arn", "session_policy"]);
    assert_eq!(paths(json!("x")), [""]);
    let mut worse = tree(ROLE);
    worse["region"] = json!("../x");
    worse["session_policy"]["Statement"][0]["Action"] = json!("*");
    worse["session_policy"]["Statement"][0]["NotResource"] = json!("*");
    assert_eq!(
        paths(worse),
        ["region", "session_policy.Statement[0].NotResource", "session_policy.Statement[0].Action"]
    );
}

#[test]
fn callers_never_choose_the_role() {
    for role in
        ["arn:aws:iam::111122223333:role/{dataset}", "arn:aws:iam::{dataset}:role/x".trim_end_matches("x")]
    {
        let Ok(template) = Template::parse(tree(role), &parameters()) else { continue };
        let scope = Scope { target: template, ..scope(parameters(), tree(ROLE), Ttl::hours(1)) };
        assert!(check(&scope).iter().any(|fault| fault.path == "role_arn"), "{role}");
    }
    for role in [
        "arn:aws:iam::111122223333:user/x",
        "arn:aws:iam::1111:role/x",
        "arn:aws:iam:::role/x",
        "arn:aws:iam::111122223333:role/",
        "arn:aws:iam::111122223333:role/x*",
        "arn:aws:iam::*:role/x",
        "arn:aws:sts::111122223333:role/x",
    ] {
        assert_eq!(paths(tree(role)), ["role_arn"], "{role}");
    }
}

#[test]
fn a_scope_that_cannot_hold_a_whole_aws_session_is_refused() {
    let faults = check(&scope(parameters(), tree(ROLE), Ttl::minutes(14)));
    assert_eq!(faults.len(), 1);
    assert!(faults[0].problem.contains("15m"), "{}", faults[0].problem);
    assert_eq!(check(&scope(parameters(), tree(ROLE), Ttl::minutes(15))), []);
}

#[test]
fn a_policy_must_fit_with_the_longest_values() {
    let with = |resource: &str, times: usize| {
        let mut tree = tree(ROLE);
        tree["session_policy"] = policy(json!(vec![resource; times]));
        paths(tree)
    };
    assert_eq!(with("arn:aws:s3:::corpora/{prefix}/*", 3), [""; 0]);
    assert_eq!(with("arn:aws:s3:::corpora/{prefix}/*", 4), ["session_policy"]);
    assert_eq!(with("arn:aws:s3:::corpora/{short}/*", 20), [""; 0]);
    assert_eq!(with("arn:aws:s3:::corpora/{short}/*", 40), ["session_policy"]);
}

#[test]
fn a_region_may_be_left_out_and_a_session_policy_may_not() {
    let rendered = json!({"role_arn": ROLE, "session_policy": policy(json!("arn:aws:s3:::a/*"))});
    assert_eq!(Target::read(&rendered).expect("a target").region, "");
    assert!(Target::read(&json!({"role_arn": ROLE})).is_err());
}
