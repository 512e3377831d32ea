//! A sound policy, and one fault at a time in it.

use serde_json::json;

use super::*;

fn reading() -> Value {
    json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::corpora/{dataset}/*"},
        {"Sid": "List", "Effect": "Allow", "Action": ["s3:ListBucket"], "Resource": ["arn:aws:s3:::corpora"],
         "Condition": {"StringLike": {"s3:prefix": ["{dataset}/*"]}, "Bool": {"aws:SecureTransport": true}}},
        {"Effect": "Deny", "Action": "*", "Resource": "*",
         "Condition": {"StringNotEqualsIfExists": {"aws:SourceVpc": "vpc-1"},
                       "ForAnyValue:StringNotLike": {"aws:CalledVia": "{dataset}"}}},
    ]})
}

/// Changes one place of a good policy and returns the faults as `path: problem`.
fn with(pointer: &str, value: Value) -> Vec<String> {
    let mut policy = reading();
    match (policy.pointer_mut(pointer), pointer.rsplit_once('/')) {
        (Some(place), _) => *place = value,
        (None, Some((parent, key))) => policy.pointer_mut(parent).expect("a parent")[key] = value,
        (None, None) => unreachable!("a pointer has a slash"),
    }
    check(&policy).into_iter().map(|fault| format!("{}: {}", fault.path, fault.problem)).collect()
}

#[test]
fn a_sound_policy_has_no_fault() {
    assert_eq!(check(&reading()), []);
    let single = json!({"Version": "2012-10-17", "Statement": reading()["Statement"][0]});
    assert_eq!(check(&single), []);
}

#[test]
fn each_fault_is_told_with_its_path() {
    for (pointer, value, expected) in [
        ("/Version", json!("2008-10-17"), "session_policy.Version: "),
        ("/Id", json!("x"), "session_policy.Id: unknown"),
        ("/Statement", json!([]), "session_policy.Statement: "),
        ("/Statement/0", json!("x"), "session_policy.Statement[0]: "),
        ("/Statement/0/Effect", json!("allow"), "session_policy.Statement[0].Effect: "),
        ("/Statement/0/Sid", json!("a b"), "session_policy.Statement[0].Sid: "),
        ("/Statement/0/NotAction", json!("s3:x"), "session_policy.Statement[0].NotAction: "),
        ("/Statement/0/NotResource", json!("*"), "session_policy.Statement[0].NotResource: "),
        ("/Statement/0/NotPrincipal", json!("*"), "session_policy.Statement[0].NotPrincipal: "),
        ("/Statement/0/Principal", json!("*"), "session_policy.Statement[0].Principal: "),
        ("/Statement/0/Actions", json!("*"), "session_policy.Statement[0].Actions: unknown"),
        ("/Statement/0/Action", json!("*"), "session_policy.Statement[0].Action: allows everything"),
        ("/Statement/0/Action", json!([]), "session_policy.Statement[0].Action: "),
        ("/Statement/0/Action", json!(7), "session_policy.Statement[0].Action: "),
        ("/Statement/0/Action", json!(["s3:GetObject", 7]), "session_policy.Statement[0].Action[1]: "),
        ("/Statement/0/Action", json!("GetObject"), "session_policy.Statement[0].Action: expected service:"),
        (
            "/Statement/0/Action",
            json!("*:GetObject"),
            "session_policy.Statement[0].Action: expected service:",
        ),
        (
            "/Statement/0/Action",
            json!("s3*:GetObject"),
            "session_policy.Statement[0].Action: expected service:",
        ),
        (
            "/Statement/0/Action",
            json!("s3:{dataset}"),
            "session_policy.Statement[0].Action: an action takes no",
        ),
        ("/Statement/0/Action", json!("s3:*"), "session_policy.Statement[0].Action: takes in s3:"),
        (
            "/Statement/0/Action",
            json!("STS:assumerole"),
            "session_policy.Statement[0].Action: takes in sts:Assume*",
        ),
        ("/Statement/0/Resource", json!(null), "session_policy.Statement[0].Resource: "),
        (
            "/Statement/0/Resource",
            json!("corpora/*"),
            "session_policy.Statement[0].Resource: expected * or arn:",
        ),
        (
            "/Statement/0/Resource",
            json!("arn:aws:s3:::"),
            "session_policy.Statement[0].Resource: expected * or arn:",
        ),
        (
            "/Statement/0/Resource",
            json!("arn:*:s3:::x"),
            "session_policy.Statement[0].Resource: expected * or arn:",
        ),
        (
            "/Statement/0/Resource",
            json!("arn:aws:s3:::λ"),
            "session_policy.Statement[0].Resource: AWS takes char",
        ),
        ("/Statement/1/Condition", json!({}), "session_policy.Statement[1].Condition: "),
        (
            "/Statement/1/Condition",
            json!({"stringlike": {"a:b": "c"}}),
            "session_policy.Statement[1].Condition.stringlike: unknown",
        ),
        (
            "/Statement/1/Condition",
            json!({"NullIfExists": {"a:b": true}}),
            "session_policy.Statement[1].Condition.NullIfExists: unknown",
        ),
        (
            "/Statement/1/Condition",
            json!({"StringLike": {}}),
            "session_policy.Statement[1].Condition.StringLike: ",
        ),
        (
            "/Statement/1/Condition",
            json!({"StringLike": {"prefix": "a"}}),
            "session_policy.Statement[1].Condition.StringLike.prefix: ",
        ),
        (
            "/Statement/1/Condition",
            json!({"StringLike": {"a:b": []}}),
            "session_policy.Statement[1].Condition.StringLike.a:b: ",
        ),
    ] {
        let faults = with(pointer, value.clone());
        assert!(faults.iter().any(|fault| fault.starts_with(expected)), "{pointer} {value}: {faults:?}");
    }
}

#[test]
fn parameters_stand_only_where_a_value_narrows() {
    for (pointer, value) in [
        ("/Statement/0/Resource", json!("arn:aws:s3::{dataset}:corpora/*")),
        ("/Statement/0/Resource", json!("arn:aws:s3:{dataset}::corpora/*")),
        ("/Statement/0/Resource", json!("arn:{dataset}:s3:::corpora/*")),
        ("/Statement/0/Resource", json!("{dataset}")),
        ("/Statement/2/Resource", json!("arn:aws:s3:::corpora/{dataset}/*")),
        ("/Statement/1/Condition", json!({"StringNotLike": {"s3:prefix": "{dataset}/*"}})),
        ("/Statement/1/Condition", json!({"StringLikeIfExists": {"s3:prefix": "{dataset}/*"}})),
        ("/Statement/1/Condition", json!({"ForAllValues:StringLike": {"s3:prefix": "{dataset}/*"}})),
        ("/Statement/2/Condition", json!({"StringLike": {"s3:prefix": ["x", "{dataset}/*"]}})),
    ] {
        assert_eq!(with(pointer, value.clone()).len(), 1, "{value}: {:?}", with(pointer, value.clone()));
    }
    let variable = json!({"StringLike": {"s3:prefix": "{dataset}/${aws:PrincipalTag/dayfly-task}/*"}});
    assert_eq!(with("/Statement/1/Condition", variable), [""; 0]);
}

#[test]
fn a_policy_that_allows_nothing_is_a_mistake() {
    let only = json!({"Version": "2012-10-17", "Statement": [reading()["Statement"][2]]});
    assert!(check(&only)[0].problem.starts_with("nothing is allowed"));
    assert_eq!(check(&Value::Null).len(), 1);
    assert!(check(&json!({})).len() >= 2);
}
