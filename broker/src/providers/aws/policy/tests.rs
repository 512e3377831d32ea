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
    check(&policy, Escapes::Refused)
        .into_iter()
        .map(|fault| format!("{}: {}", fault.path, fault.problem))
        .collect()
}

#[test]
fn a_sound_policy_has_no_fault() {
    assert_eq!(check(&reading(), Escapes::Refused), []);
    let single = json!({"Version": "2012-10-17", "Statement": reading()["Statement"][0]});
    assert_eq!(check(&single, Escapes::Refused), []);
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
    assert!(check(&only, Escapes::Refused)[0].problem.starts_with("nothing is allowed"));
    assert_eq!(check(&Value::Null, Escapes::Refused).len(), 1);
    assert!(check(&json!({}), Escapes::Refused).len() >= 2);
}

#[test]
fn what_outlasts_the_session_is_allowed_where_it_is_declared_and_nothing_else_is() {
    let mut policy = reading();
    policy["Statement"][0]["Action"] = json!(["sts:AssumeRole", "ec2:RunInstances"]);
    let refused = check(&policy, Escapes::Refused);
    assert_eq!(refused.len(), 2, "both at once: {refused:?}");
    assert!(refused[0].problem.ends_with("declare spec.leaves_behind: [credentials]"), "{refused:?}");
    assert!(refused[1].problem.ends_with("declare spec.leaves_behind: [code]"), "{refused:?}");
    assert_eq!(check(&policy, Escapes::Declared), []);
    for wider in [json!("*"), json!("*:AssumeRole"), json!("sts:{dataset}")] {
        policy["Statement"][0]["Action"] = wider;
        assert_eq!(check(&policy, Escapes::Declared).len(), 1, "{policy}");
    }
    policy["Statement"][0]["Action"] = json!("s3:GetObject");
    policy["Statement"][0]["NotResource"] = json!("*");
    assert_eq!(check(&policy, Escapes::Declared).len(), 1);
}
