//! The rules of AWS's documentation, each with its page.

use serde_json::{Value, json};

use super::*;

fn policy(statements: Value) -> Document {
    let text = json!({"Version": "2012-10-17", "Statement": statements}).to_string();
    Document::parse(&text, Kind::Permissions).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn allow(action: &str, resource: &str) -> Value {
    json!({"Effect": "Allow", "Action": action, "Resource": resource})
}

fn deny(action: &str, resource: &str) -> Value {
    json!({"Effect": "Deny", "Action": action, "Resource": resource})
}

/// Whether a Deny under this condition bears on a request with this context.
fn bears(condition: Value, context: &Context) -> bool {
    let statement = json!({"Effect": "Deny", "Action": "*", "Resource": "*", "Condition": condition});
    let document = policy(json!([allow("*", "*"), statement]));
    let layers = Layers { identity: vec![&document], ..Layers::default() };
    let request = Request { action: "s3:GetObject", resource: "arn:aws:s3:::b/k", context };
    evaluate(&layers, &request).expect("a known rule") == Decision::Denied(Layer::Identity)
}

/// "Policy evaluation for requests within a single account".
#[test]
fn a_deny_in_any_layer_wins_and_every_layer_must_allow() {
    let reads = policy(json!([allow("s3:GetObject", "*")]));
    let all = policy(json!([allow("*", "*")]));
    let lists = policy(json!([allow("s3:ListBucket", "*")]));
    let denies = policy(json!([allow("*", "*"), deny("s3:Get*", "arn:aws:s3:::b/*")]));
    let context = Context::default();
    let decide = |identity: &[&Document], boundary, session| {
        let layers = Layers { identity: identity.to_vec(), boundary, session };
        let request = Request { action: "s3:GetObject", resource: "arn:aws:s3:::b/k", context: &context };
        evaluate(&layers, &request).expect("a known rule")
    };
    use Decision::{Allowed, Denied, NotAllowed};
    for (identity, boundary, session, decision) in [
        (vec![&reads], None, None, Allowed),
        (vec![&lists, &reads], None, None, Allowed),
        (vec![], None, None, NotAllowed(Layer::Identity)),
        (vec![&lists], Some(&all), Some(&all), NotAllowed(Layer::Identity)),
        (vec![&all], Some(&reads), Some(&reads), Allowed),
        (vec![&all], Some(&lists), Some(&all), NotAllowed(Layer::Boundary)),
        (vec![&all], Some(&all), Some(&lists), NotAllowed(Layer::Session)),
        (vec![&all, &denies], Some(&all), Some(&all), Denied(Layer::Identity)),
        (vec![&all], Some(&denies), Some(&all), Denied(Layer::Boundary)),
        (vec![&all], Some(&lists), Some(&denies), Denied(Layer::Session)),
    ] {
        assert_eq!(decide(&identity, boundary, session), decision);
    }
}

/// "IAM JSON policy elements: Action", "Resource", "NotAction", "NotResource".
#[test]
fn actions_are_without_case_and_resources_part_by_part() {
    let fits = |statement: Value, action, resource| {
        let document = policy(json!([statement]));
        let layers = Layers { identity: vec![&document], ..Layers::default() };
        let context = Context::default().with("aws:PrincipalTag/team", "a*");
        evaluate(&layers, &Request { action, resource, context: &context }).expect("known")
            == Decision::Allowed
    };
    let object = "arn:aws:s3:::b/a/x/k";
    for (action, resource, asked, on, expected) in [
        ("S3:getobject", "*", "s3:GetObject", object, true),
        ("s3:Get?bject", "*", "s3:GetObject", object, true),
        ("s3:Get", "*", "s3:GetObject", object, false),
        ("s3:*", "arn:aws:s3:::b/a/*", "s3:GetObject", object, true),
        ("s3:*", "arn:aws:s3:::b/*/k", "s3:GetObject", object, true),
        ("s3:*", "arn:aws:s3:::B/*", "s3:GetObject", object, false),
        ("s3:*", "arn:aws:s3:::b", "s3:GetObject", object, false),
        ("iam:*", "arn:aws:iam::*:role/dayfly/*", "iam:GetRole", "arn:aws:iam::1:role/dayfly/r", true),
        ("iam:*", "arn:aws:iam:*:2:role/dayfly/r", "iam:GetRole", "arn:aws:iam:x:1:role/dayfly/r", false),
        ("s3:*", "arn:aws:s3:::b/${aws:PrincipalTag/team}/k", "s3:GetObject", "arn:aws:s3:::b/a*/k", true),
        ("s3:*", "arn:aws:s3:::b/${aws:PrincipalTag/team}/k", "s3:GetObject", "arn:aws:s3:::b/ax/k", false),
        ("s3:*", "arn:aws:s3:::b/${aws:PrincipalTag/none}/k", "s3:GetObject", "arn:aws:s3:::b//k", false),
        ("s3:*", "arn:aws:s3:::b/${aws:PrincipalTag/none, 'd'}", "s3:GetObject", "arn:aws:s3:::b/d", true),
        ("s3:*", "arn:aws:s3:::b/${*}", "s3:GetObject", "arn:aws:s3:::b/k", false),
        ("sts:GetAccessKeyInfo", "arn:aws:iam::1:role/r", "sts:GetAccessKeyInfo", "*", false),
    ] {
        assert_eq!(fits(allow(action, resource), asked, on), expected, "{action} {resource} {asked} {on}");
    }
    for (statement, expected) in [
        (json!({"Effect": "Allow", "NotAction": "iam:*", "Resource": "*"}), true),
        (json!({"Effect": "Allow", "NotAction": ["iam:*", "s3:Get*"], "Resource": "*"}), false),
        (json!({"Effect": "Allow", "Action": "*", "NotResource": "arn:aws:s3:::c/*"}), true),
        (json!({"Effect": "Allow", "Action": "*", "NotResource": "arn:aws:s3:::b/*"}), false),
    ] {
        assert_eq!(fits(statement.clone(), "s3:GetObject", object), expected, "{statement}");
    }
}

/// "IAM JSON policy elements: Condition operators": "if the key is not present … the values do not match", negated ones do.
#[test]
fn a_missing_key_fails_what_asks_for_it_and_meets_what_asks_for_its_absence() {
    let (none, slot) = (Context::default(), Context::default().with("aws:PrincipalTag/dayfly-slot", "aB3"));
    let key = "aws:PrincipalTag/dayfly-slot";
    for (operator, value, with, without) in [
        ("StringEquals", json!("aB3"), true, false),
        ("StringEquals", json!(["x", "aB3"]), true, false),
        ("StringEquals", json!("ab3"), false, false),
        ("StringEqualsIgnoreCase", json!("ab3"), true, false),
        ("StringNotEquals", json!("aB3"), false, true),
        ("StringNotEquals", json!(["x", "aB3"]), false, true),
        ("StringNotEquals", json!(["x", "y"]), true, true),
        ("StringLike", json!("aB*"), true, false),
        ("StringLike", json!("?B?"), true, false),
        ("StringLike", json!("B*"), false, false),
        ("StringNotLike", json!(["aB*", "z*"]), false, true),
        ("StringNotLike", json!("z*"), true, true),
        ("StringEqualsIfExists", json!("x"), false, true),
        ("StringLikeIfExists", json!("a*"), true, true),
        ("StringNotLikeIfExists", json!("a*"), false, true),
        ("Null", json!("true"), false, true),
        ("Null", json!(false), true, false),
    ] {
        let condition = json!({operator: {key: value}});
        assert_eq!(
            (bears(condition.clone(), &slot), bears(condition.clone(), &none)),
            (with, without),
            "{condition}"
        );
    }
    // Keys are without case, and all of a block must hold.
    assert!(bears(json!({"StringLike": {"AWS:principaltag/Dayfly-Slot": "a*"}}), &slot));
    assert!(!bears(json!({"StringLike": {key: "a*"}, "StringEquals": {"aws:SourceIdentity": "x"}}), &slot));
}

/// "Revoke IAM role temporary security credentials": sessions older than a moment.
#[test]
fn a_watermark_takes_sessions_older_than_it() {
    let issued = |at: &str| Context::default().with("aws:TokenIssueTime", at);
    for (operator, value, at, expected) in [
        ("DateLessThan", json!("2026-01-02T03:04:05Z"), "2026-01-02T03:04:04Z", true),
        ("DateLessThan", json!("2026-01-02T03:04:05Z"), "2026-01-02T03:04:05Z", false),
        ("DateLessThan", json!("2026-01-02T04:04:05+01:00"), "2026-01-02T03:04:04Z", true),
        ("DateLessThan", json!("2026-01-02T03:04:05.500Z"), "2026-01-02T03:04:05Z", true),
        ("DateLessThanEquals", json!("2026-01-02T03:04:05Z"), "2026-01-02T03:04:05Z", true),
        ("DateGreaterThan", json!("2026-01-02"), "2026-01-02T00:00:01Z", true),
        ("DateGreaterThan", json!(0), "1970-01-01T00:00:00Z", false),
    ] {
        assert_eq!(
            bears(json!({operator: {"aws:TokenIssueTime": value}}), &issued(at)),
            expected,
            "{operator} {value}"
        );
    }
    // A session's key; whoever has none is not older than anything.
    assert!(!bears(
        json!({"DateLessThan": {"aws:TokenIssueTime": "2999-01-01T00:00:00Z"}}),
        &Context::default()
    ));
}

/// "Multivalued context keys".
#[test]
fn all_values_and_any_value() {
    let tags =
        |keys: &[&str]| Context::default().with_all("aws:TagKeys", keys.iter().map(|key| (*key).to_owned()));
    let none = Context::default();
    for (operator, both, other, empty, missing) in [
        ("ForAllValues:StringEquals", true, false, true, true),
        ("ForAnyValue:StringEquals", true, true, false, false),
        ("ForAllValues:StringNotEquals", false, false, true, true),
        ("ForAnyValue:StringNotEquals", false, true, false, false),
        ("ForAnyValue:StringEqualsIfExists", true, true, true, true),
    ] {
        let condition = || json!({operator: {"aws:TagKeys": ["a", "b"]}});
        let seen =
            [tags(&["a", "b"]), tags(&["a", "c"]), tags(&[]), none.clone()].map(|at| bears(condition(), &at));
        assert_eq!(seen, [both, other, empty, missing], "{operator}");
    }
}

#[test]
fn arns_and_truth_values_are_compared_as_such() {
    let context = Context::default()
        .with("aws:PrincipalArn", "arn:aws:iam::1:role/dayfly/r")
        .with("sts:RoleAuthorizedByIdp", "true");
    assert!(bears(json!({"ArnLike": {"aws:PrincipalArn": "arn:aws:iam::*:role/dayfly/*"}}), &context));
    assert!(!bears(json!({"ArnLike": {"aws:PrincipalArn": "arn:*:role/dayfly/r"}}), &context));
    assert!(bears(json!({"ArnNotEquals": {"aws:PrincipalArn": "arn:aws:iam::2:role/dayfly/r"}}), &context));
    assert!(bears(json!({"Bool": {"sts:RoleAuthorizedByIdp": "true"}}), &context));
    assert!(!bears(json!({"Bool": {"sts:RoleAuthorizedByIdp": "true"}}), &Context::default()));
}

#[test]
fn a_trust_policy_names_its_provider_and_its_terms() {
    let provider = "arn:aws:iam::1:oidc-provider/issuer.example/federation";
    let statement = |effect: &str, who: &str, subject: &str| {
        json!({"Effect": effect, "Principal": {"Federated": who}, "Action": "sts:AssumeRoleWithWebIdentity",
               "Condition": {"StringLike": {"issuer.example/federation:sub": subject}}})
    };
    let context = Context::default().with("issuer.example/federation:sub", "spiffe://example.org/train/a");
    let trusted = |statements: Value, action: &str| {
        let text = json!({"Version": "2012-10-17", "Statement": statements}).to_string();
        let document = Document::parse(&text, Kind::Trust).unwrap_or_else(|error| panic!("{error}: {text}"));
        trusts(&document, provider, action, &context).expect("known")
    };
    let (assume, train) = ("sts:AssumeRoleWithWebIdentity", "spiffe://example.org/train/*");
    assert!(trusted(json!([statement("Allow", provider, train)]), assume));
    assert!(!trusted(json!([statement("Allow", provider, train)]), "sts:TagSession"));
    assert!(!trusted(json!([statement("Allow", provider, "spiffe://example.org/other/*")]), assume));
    assert!(!trusted(
        json!([statement("Allow", "arn:aws:iam::1:oidc-provider/other.example", train)]),
        assume
    ));
    let denied = statement("Deny", provider, "*a");
    assert!(!trusted(json!([statement("Allow", provider, train), denied]), assume));
    assert!(!trusted(json!([{"Effect": "Allow", "Principal": {"AWS": "1"}, "Action": "*"}]), assume));
}

#[test]
fn what_is_not_known_is_told_and_never_passed_over() {
    let parse = |statement: Value| {
        let text = json!({"Version": "2012-10-17", "Statement": [statement]}).to_string();
        Document::parse(&text, Kind::Permissions).map(drop)
    };
    let with = |element: &str, value: Value| {
        let mut statement = allow("s3:GetObject", "*");
        statement[element] = value;
        parse(statement)
    };
    for unknown in [
        json!({"IpAddress": {"aws:userid": "10.0.0.0/8"}}),
        json!({"StringEquals": {"aws:PrincipalOrgID": "o-1"}}),
        json!({"ForSomeValue:StringEquals": {"aws:TagKeys": "a"}}),
        json!({"NullIfExists": {"aws:userid": "true"}}),
        json!({"stringequals": {"aws:userid": "x"}}),
        json!({"StringEquals": {"aws:userid": "${aws:PrincipalOrgID}"}}),
    ] {
        let seen = with("Condition", unknown.clone());
        assert!(matches!(seen, Err(PolicyError::Unknown(_))), "{unknown}: {seen:?}");
    }
    for malformed in [
        with("Condition", json!({"StringEquals": {"aws:TagKeys": "a"}})),
        with("Condition", json!({"DateLessThan": {"aws:TokenIssueTime": "yesterday"}})),
        with("Condition", json!({"StringEquals": {"aws:userid": []}})),
        with("Condition", json!({"StringEquals": {"aws:userid": "${aws:userid"}})),
        with("Principal", json!("*")),
        with("Conditions", json!({})),
        with("NotAction", json!("s3:x")),
        with("Effect", json!("allow")),
        with("Action", json!("GetObject")),
        with("Action", json!([])),
        with("Resource", json!("b/*")),
        parse(json!({"Effect": "Allow", "Action": "s3:x"})),
    ] {
        assert!(matches!(malformed, Err(PolicyError::Malformed(_))), "{malformed:?}");
    }
    for text in [
        r#"{"Version":"2012-10-17","Statement":[]}"#,
        r#"{"Version":"2025-01-01","Statement":{"Effect":"Deny","Action":"*","Resource":"*"}}"#,
        r#"{"Version":"2012-10-17","Statement":{"Effect":"Deny","Effect":"Allow","Action":"*","Resource":"*"}}"#,
    ] {
        assert!(matches!(Document::parse(text, Kind::Permissions), Err(PolicyError::Malformed(_))), "{text}");
    }
    // A negated comparison with nothing, and a resource that is all but nothing, would be anybody's guess.
    let document = policy(json!([{"Effect": "Deny", "Action": "*", "Resource": "*",
        "Condition": {"StringNotEquals": {"aws:userid": "${aws:SourceIdentity}"}}}]));
    let layers = Layers { identity: vec![&document], ..Layers::default() };
    let context = Context::default().with("aws:userid", "x");
    let request = Request { action: "s3:GetObject", resource: "arn:aws:s3:::b/k", context: &context };
    assert!(matches!(evaluate(&layers, &request), Err(PolicyError::Unknown(_))));
}
