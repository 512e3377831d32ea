//! The account of `deploy/aws`, and each way in which it could be worse.

use serde_json::{Value, json};

use super::*;
use crate::document;

const POOL: &str = "arn:aws:iam::111122223333:role/dayfly/pool/s3-train-read-1";
const REVOKER: &str = "arn:aws:iam::111122223333:role/dayfly/revoker";
const POLICY: &str = "arn:aws:iam::111122223333:policy/dayfly-s3-train-read";

fn deployed(name: &str) -> String {
    let path = format!("{}/../deploy/aws/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).expect("the file is committed")
}

fn json_of(name: &str) -> Value {
    serde_json::from_str(&deployed(name)).expect("JSON")
}

fn scope() -> Scope {
    let (documents, faults) = document::parse(&deployed("scope-s3-train-read.yaml"));
    assert!(faults.is_empty(), "{faults:?}");
    let rules = document::compile(1, &[], &documents).expect("it compiles");
    Scope::clone(rules.scope("s3-train-read").expect("it is there"))
}

fn expected() -> Expected {
    Expected {
        issuer: "issuer.example.com".to_owned(),
        audience: "sts.amazonaws.com".to_owned(),
        revoker: Some("dayfly/revoker".to_owned()),
        pools: vec![pool_of(&scope()).expect("an AWS scope")],
    }
}

/// As the README of `deploy/aws` makes it.
fn account() -> Value {
    let role = |arn: &str| {
        json!({
            "Arn": arn, "AssumeRolePolicyDocument": json_of("role-trust-policy.json"), "RolePolicyList": [],
            "AttachedManagedPolicies": [{"PolicyName": "p", "PolicyArn": POLICY}],
            "PermissionsBoundary": {"PermissionsBoundaryType": "Policy", "PermissionsBoundaryArn": POLICY},
        })
    };
    json!({
        "RoleDetailList": [role(POOL), role(&POOL.replace("-1", "-2")), {
            "Arn": REVOKER, "AssumeRolePolicyDocument": json_of("revoker-trust-policy.json"),
            "RolePolicyList": [{"PolicyName": "revoker", "PolicyDocument": json_of("revoker-policy.json")}],
            "AttachedManagedPolicies": [],
        }],
        "Policies": [{"Arn": POLICY, "PolicyVersionList": [
            {"VersionId": "v1", "IsDefaultVersion": false, "Document": {"Statement": []}},
            {"VersionId": "v2", "IsDefaultVersion": true, "Document": json_of("permissions-policy.json")},
        ]}],
    })
}

fn told(account: &Value) -> Vec<String> {
    let account = Account::read(&account.to_string()).expect("an account");
    let report = examine(&account, &expected());
    report
        .findings
        .iter()
        .map(|finding| format!("{}: {}", finding.role.rsplit('/').next().expect("a name"), finding.what))
        .collect()
}

#[test]
fn the_account_of_the_deploy_documents_is_sound() {
    assert_eq!(told(&account()), [""; 0]);
    let read = Account::read(&account().to_string()).expect("an account");
    assert_eq!(examine(&read, &expected()).roles, [POOL, &POOL.replace("-1", "-2"), REVOKER]);
}

#[test]
fn what_would_let_the_revoker_grant_is_found() {
    let with = |change: &dyn Fn(&mut Value)| {
        let mut changed = account();
        change(&mut changed);
        told(&changed)
    };
    let pool = |account: &mut Value, key: &str, value: Value| account["RoleDetailList"][0][key] = value;
    let cases: Vec<(&str, Vec<String>)> = vec![
        (
            "no permissions boundary",
            with(&|a| {
                a["RoleDetailList"][0].as_object_mut().expect("a role").remove("PermissionsBoundary");
            }),
        ),
        (
            "is not a policy of this account",
            with(&|a| {
                pool(
                    a,
                    "PermissionsBoundary",
                    json!({"PermissionsBoundaryArn": "arn:aws:iam::aws:policy/PowerUserAccess"}),
                )
            }),
        ),
        ("is not what the attached policies allow", with(&|a| pool(a, "AttachedManagedPolicies", json!([])))),
        (
            "is not what the attached policies allow",
            with(&|a| {
                let wide = json!({"Statement": {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}});
                a["Policies"].as_array_mut().expect("a list").push(json!({"Arn": "wide", "PolicyVersionList": [{"IsDefaultVersion": true, "Document": wide}]}));
                pool(a, "PermissionsBoundary", json!({"PermissionsBoundaryArn": "wide"}));
            }),
        ),
        (
            "allows iam:",
            with(&|a| {
                a["Policies"][0]["PolicyVersionList"][1]["Document"]["Statement"][0]["Action"] =
                    json!("iam:*")
            }),
        ),
        (
            "the inline policy \"extra\"",
            with(&|a| pool(a, "RolePolicyList", json!([{"PolicyName": "extra", "PolicyDocument": {}}]))),
        ),
        (
            "allows something",
            with(&|a| {
                pool(
                    a,
                    "RolePolicyList",
                    json!([{"PolicyName": "dayfly-deny", "PolicyDocument": {"Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}}]),
                )
            }),
        ),
        (
            "the account does not have it",
            with(&|a| {
                a["RoleDetailList"].as_array_mut().expect("a list").remove(0);
            }),
        ),
    ];
    for (expected, found) in cases {
        assert!(found.iter().any(|line| line.contains(expected)), "{expected}: {found:?}");
    }
}

#[test]
fn what_would_let_a_role_be_assumed_for_something_else_is_found() {
    let with = |pointer: &str, value: Value| {
        let mut changed = account();
        let trust = &mut changed["RoleDetailList"][0]["AssumeRolePolicyDocument"];
        *trust.pointer_mut(pointer).expect("it is there") = value;
        told(&changed)
    };
    for (pointer, value, expected) in [
        ("/Statement/0/Principal", json!({"AWS": "*"}), "trusts others"),
        ("/Statement/0/Principal", json!("*"), "trusts others"),
        (
            "/Statement/0/Principal",
            json!({"Federated": "arn:aws:iam::111122223333:oidc-provider/issuer.example.com/revocation"}),
            "trusts others",
        ),
        (
            "/Statement/0/Condition/StringEquals/issuer.example.com~1federation:aud",
            json!("x"),
            "the audience",
        ),
        ("/Statement/0/Condition/StringLike/issuer.example.com~1federation:sub", json!("*"), "a subject"),
        ("/Statement/0/Condition/StringLike/aws:RequestTag~1dayfly-slot", json!("*"), "a slot"),
        ("/Statement/0/Condition/Bool", json!({}), "names the role"),
        (
            "/Statement/0/Condition/StringEquals/aws:RequestTag~1dayfly-scope",
            json!(["s3-train-read", "x"]),
            "one scope",
        ),
        (
            "/Statement/0/Condition/StringEquals/aws:RequestTag~1dayfly-scope",
            json!("x"),
            "no statement for s3-train-read",
        ),
        ("/Statement/1/Effect", json!("Deny"), "no statement for dayfly-canary"),
    ] {
        let found = with(pointer, value);
        assert!(found.iter().any(|line| line.contains(expected)), "{expected}: {found:?}");
    }
}

#[test]
fn a_revoker_that_could_do_more_or_less_than_revoke_is_found() {
    let with = |pointer: &str, value: Value| {
        let mut changed = account();
        *changed["RoleDetailList"][2].pointer_mut(pointer).expect("it is there") = value;
        told(&changed)
    };
    let (put, trust) =
        ("/RolePolicyList/0/PolicyDocument/Statement/0", "/AssumeRolePolicyDocument/Statement/0");
    for (pointer, value, expected) in [
        (format!("{put}/Action"), json!(["iam:PutRolePolicy", "iam:DeleteRolePolicy"]), "may do more"),
        (format!("{put}/Action"), json!("iam:*"), "may do more"),
        (format!("{put}/Resource"), json!("*"), "its own policies"),
        (
            format!("{put}/Resource"),
            json!("arn:aws:iam::111122223333:role/other/*"),
            "may not iam:PutRolePolicy",
        ),
        (format!("{put}/Condition"), json!({}), "no boundary"),
        (
            format!("{trust}/Principal/Federated"),
            json!("arn:aws:iam::111122223333:oidc-provider/issuer.example.com/federation"),
            "takes others",
        ),
        (format!("{trust}/Condition/StringEquals"), json!({}), "takes others"),
        ("/Arn".to_owned(), json!("arn:aws:iam::111122223333:role/elsewhere"), "does not have the revoker"),
        ("/Arn".to_owned(), json!("arn:aws:iam::111122223333:role/elsewhere"), "no scope names it"),
    ] {
        let found = with(&pointer, value);
        assert!(found.iter().any(|line| line.contains(expected)), "{expected}: {found:?}");
    }
}

#[test]
fn what_describes_no_account_is_refused() {
    for text in ["", "{}", "[]", r#"{"RoleDetailList": []}"#, "role"] {
        assert!(Account::read(text).is_err(), "{text}");
    }
}
