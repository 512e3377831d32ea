//! The documents in `deploy/aws` fit together, and fit what the provider says to AWS.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the answer")]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use dayfly_broker::providers::Provider;
use dayfly_broker::providers::aws::{AwsConfig, AwsProvider};
use dayfly_broker::public::Issuers;
use dayfly_broker::signer::{FileSigner, Use};
use dayfly_domain::document::{self, Kind};
use dayfly_domain::rules::Rules;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Sections {
    issuer: Issuer,
    aws: AwsConfig,
}

#[derive(Deserialize)]
struct Issuer {
    url: Issuers,
}

#[test]
fn the_example_scope_is_one_that_the_example_broker_takes() {
    let (provider, _) = provider();
    let rules = rules();
    let scope = rules.scope("s3-train-read").unwrap();
    assert_eq!(provider.check_scope(scope), []);
    assert_eq!(scope.provider, provider.name());
    // As `create-role --max-session-duration` in the README says.
    assert_eq!(scope.ttl.max.as_seconds(), 3600);
}

#[test]
fn the_laptops_scope_is_one_that_the_provider_takes() {
    let text = std::fs::read_to_string(root().join("deploy/examples/laptop-aws.yaml")).unwrap();
    let (documents, faults) = document::parse(&text);
    assert!(faults.is_empty(), "{faults:?}");
    let scopes: Vec<_> = documents.into_iter().filter(|(_, one)| one.key.kind == Kind::Scope).collect();
    let rules = document::compile(1, &[], &scopes).unwrap();
    assert_eq!(rules.scopes().count(), 1);
    rules.scopes().for_each(|scope| assert_eq!(provider().0.check_scope(scope), []));
}

#[test]
fn a_role_is_assumed_for_its_own_scope_or_by_the_canary_and_by_this_broker_alone() {
    let (provider, issuers) = provider();
    let issuer = issuers.url(Use::Federation).trim_start_matches("https://");
    let mut seen = Vec::new();
    for statement in trust("role-trust-policy.json", &issuers, Use::Federation) {
        let (equal, like) = (&statement["Condition"]["StringEquals"], &statement["Condition"]["StringLike"]);
        assert_eq!(equal[format!("{issuer}:aud")], provider.audience());
        assert_eq!(like["aws:RequestTag/dayfly-slot"], "???", "a session without a slot could not be ended");
        let (of_equal, of_like) = (&equal[format!("{issuer}:sub")], &like[format!("{issuer}:sub")]);
        let actions = actions(&statement);
        if actions.contains("sts:AssumeRoleWithWebIdentity") {
            assert_eq!(actions.len(), 1);
            assert_eq!(statement["Condition"]["Bool"]["sts:RoleAuthorizedByIdp"], "true");
            match equal["aws:RequestTag/dayfly-scope"].as_str() {
                Some("s3-train-read") => {
                    assert_eq!(of_like, "spiffe://example.org/training/*");
                    assert_eq!(like["aws:RequestTag/dayfly-task"], "?*");
                    assert_eq!(like["sts:SourceIdentity"], "?*");
                }
                Some("dayfly-canary") => assert_eq!(of_equal, "dayfly-canary"),
                other => panic!("{other:?}"),
            }
        }
        seen.extend(actions);
    }
    seen.sort();
    let assume = "sts:AssumeRoleWithWebIdentity";
    assert_eq!(seen, [assume, assume, "sts:SetSourceIdentity", "sts:TagSession"]);
    for role in roles() {
        assert!(role.starts_with("arn:aws:iam::111122223333:role/dayfly/pool/"), "{role}");
    }
}

#[test]
fn the_revoker_has_another_issuer_and_writes_only_where_a_boundary_stands() {
    let (_, issuers) = provider();
    let issuer = issuers.url(Use::Revocation).trim_start_matches("https://");
    let mut seen = BTreeSet::new();
    for statement in trust("revoker-trust-policy.json", &issuers, Use::Revocation) {
        assert_eq!(statement["Condition"]["StringEquals"][format!("{issuer}:sub")], "dayfly-revoker");
        seen.extend(actions(&statement));
    }
    assert_eq!(
        seen,
        BTreeSet::from(["sts:AssumeRoleWithWebIdentity", "sts:SetSourceIdentity"].map(str::to_owned))
    );
    let policy = json_of("revoker-policy.json");
    let mut allowed = BTreeSet::new();
    for statement in policy["Statement"].as_array().unwrap() {
        assert_eq!(statement["Resource"], "arn:aws:iam::111122223333:role/dayfly/pool/*");
        let actions = actions(statement);
        if actions.contains("iam:PutRolePolicy") {
            assert_eq!(
                statement["Condition"]["StringLike"]["iam:PermissionsBoundary"],
                "arn:aws:iam::111122223333:policy/dayfly-*"
            );
        }
        allowed.extend(actions);
    }
    let expected = ["iam:GetRolePolicy", "iam:ListRolePolicies", "iam:PutRolePolicy"];
    assert_eq!(
        allowed,
        BTreeSet::from(expected.map(str::to_owned)),
        "no DeleteRolePolicy, and nothing that grants"
    );
    let sections: Sections = toml::from_str(&file("broker.toml")).unwrap();
    assert_eq!(sections.aws.revoker.unwrap().role, "dayfly/revoker", "and it is none of the pool");
}

#[test]
fn what_may_be_done_and_its_boundary_are_one_policy() {
    let readme = file("README.md");
    let policy = "arn:aws:iam::111122223333:policy/dayfly-s3-train-read";
    assert!(readme.contains(&format!("--permissions-boundary {policy}")));
    assert!(readme.contains(&format!("--policy-arn {policy}")));
    assert!(!readme.contains("put-role-policy --role-name s3-"), "the inline space is for the deny document");
}

#[test]
fn the_role_may_do_what_the_session_policy_takes_of_it() {
    let rules = rules();
    let session = &rules.scope("s3-train-read").unwrap().target.tree()["session_policy"];
    let allowed = |policy: &Value| -> BTreeSet<(String, String)> {
        let statements = policy["Statement"].as_array().unwrap().iter();
        statements
            .map(|one| {
                let bucket = one["Resource"].as_str().unwrap().split('/').next().unwrap();
                (one["Action"].as_str().unwrap().to_owned(), bucket.to_owned())
            })
            .collect()
    };
    assert_eq!(allowed(session), allowed(&json_of("permissions-policy.json")));
}

#[test]
fn the_page_shows_the_example_scope() {
    let page = std::fs::read_to_string(root().join("docs/providers/aws.md")).unwrap();
    let target = file("scope-s3-train-read.yaml");
    let target = &target[target.find("  target:").unwrap()..];
    let shown: Vec<&str> = target.lines().map(|line| line.strip_prefix("  ").unwrap()).collect();
    assert!(page.contains(&shown.join("\n")), "docs/providers/aws.md shows another target");
}

/// The statements of a trust policy: they allow, for the issuer of this purpose, and fit.
fn trust(name: &str, issuers: &Issuers, purpose: Use) -> Vec<Value> {
    let issuer = issuers.url(purpose).trim_start_matches("https://");
    // AWS, IAM quotas: a trust policy has 2,048 characters unless the account asked for more. White space counts not.
    let dense: String = file(name).split_whitespace().collect();
    assert!(dense.len() <= 2048, "{name}: {}", dense.len());
    let statements = json_of(name)["Statement"].as_array().unwrap().clone();
    for statement in &statements {
        assert_eq!(statement["Effect"], "Allow");
        let provider = format!("arn:aws:iam::111122223333:oidc-provider/{issuer}");
        assert_eq!(statement["Principal"], json!({"Federated": provider}));
    }
    statements
}

fn actions(statement: &Value) -> BTreeSet<String> {
    let list = match &statement["Action"] {
        Value::Array(list) => list.clone(),
        one => vec![one.clone()],
    };
    list.iter().map(|action| action.as_str().unwrap().to_owned()).collect()
}

fn roles() -> Vec<String> {
    let rules = rules();
    let tree = rules.scope("s3-train-read").unwrap().target.tree();
    let roles = tree["role_arns"].as_array().unwrap().iter();
    roles.map(|role| role.as_str().unwrap().to_owned()).collect()
}

fn provider() -> (AwsProvider, Issuers) {
    let sections: Sections = toml::from_str(&file("broker.toml")).unwrap();
    let home = tempfile::tempdir().unwrap();
    let signer = Arc::new(FileSigner::open(&home.path().join("keys")).unwrap());
    (AwsProvider::new(&sections.aws, &sections.issuer.url, signer).unwrap(), sections.issuer.url)
}

fn rules() -> Rules {
    let (documents, faults) = document::parse(&file("scope-s3-train-read.yaml"));
    assert!(faults.is_empty(), "{faults:?}");
    document::compile(1, &[], &documents).unwrap()
}

fn json_of(name: &str) -> Value {
    serde_json::from_str(&file(name)).unwrap()
}

fn file(name: &str) -> String {
    std::fs::read_to_string(root().join("deploy/aws").join(name)).unwrap()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}
