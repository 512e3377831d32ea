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
fn the_role_is_assumed_for_its_own_scope_by_this_broker_alone() {
    let (provider, issuers) = provider();
    let issuer = issuers.url(Use::Federation).trim_start_matches("https://");
    let trust = json_of("role-trust-policy.json");
    let account = "111122223333";
    let mut actions = BTreeSet::new();
    for statement in trust["Statement"].as_array().unwrap() {
        assert_eq!(statement["Effect"], "Allow");
        assert_eq!(
            statement["Principal"],
            json!({"Federated": format!("arn:aws:iam::{account}:oidc-provider/{issuer}")})
        );
        let (equal, like) = (&statement["Condition"]["StringEquals"], &statement["Condition"]["StringLike"]);
        assert_eq!(equal[format!("{issuer}:aud")], provider.audience());
        assert_eq!(equal["aws:RequestTag/dayfly-scope"], "s3-train-read");
        assert_eq!(like[format!("{issuer}:sub")], "spiffe://example.org/training/*");
        let list = match &statement["Action"] {
            Value::Array(list) => list.clone(),
            one => vec![one.clone()],
        };
        if list.contains(&json!("sts:AssumeRoleWithWebIdentity")) {
            assert_eq!(like["aws:RequestTag/dayfly-task"], "?*");
            assert_eq!(like["sts:SourceIdentity"], "?*");
            assert_eq!(statement["Condition"]["Bool"]["sts:RoleAuthorizedByIdp"], "true");
        }
        actions.extend(list.iter().map(|action| action.as_str().unwrap().to_owned()));
    }
    let expected = ["sts:AssumeRoleWithWebIdentity", "sts:SetSourceIdentity", "sts:TagSession"];
    assert_eq!(actions, BTreeSet::from(expected.map(str::to_owned)));
    // AWS, IAM quotas: a trust policy has 2,048 characters unless the account asked for more. White space counts not.
    let dense: String = file("role-trust-policy.json").split_whitespace().collect();
    assert!(dense.len() <= 2048, "{}", dense.len());
    let rules = rules();
    let tree = rules.scope("s3-train-read").unwrap().target.tree();
    assert!(tree["role_arn"].as_str().unwrap().starts_with(&format!("arn:aws:iam::{account}:role/dayfly/")));
}

#[test]
fn an_inline_policy_adds_nothing_to_the_role() {
    assert_eq!(json_of("permissions-boundary.json"), json_of("permissions-policy.json"));
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
