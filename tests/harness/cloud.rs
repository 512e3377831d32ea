//! The account that `deploy/aws` describes, for the fake cloud.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use dayfly_fakecloud::{ProviderSeed, RoleSeed, Seed};
use serde_json::Value;

/// What stands in the files for the issuer, the workloads and the scope.
const ISSUER: &str = "issuer.example.com/federation";
const WORKLOADS: &str = "spiffe://example.org/training/*";
const SCOPE: &str = "s3-train-read";

/// A provider for this federation issuer, whose keys are read from it, and one role for this scope with the trust policy
/// and permissions of `deploy/aws`: workloads of `spiffe://example.org` may read `corpora/*`.
///
/// # Errors
/// When a file is not there or no JSON.
pub fn account(federation_issuer: &str, scope: &str) -> anyhow::Result<Seed> {
    let issuer = federation_issuer.split_once("://").context("the issuer is a URL")?.1;
    let file = |name: &str| -> anyhow::Result<Value> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/aws").join(name);
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let text =
            text.replace(ISSUER, issuer).replace(WORKLOADS, "spiffe://example.org/*").replace(SCOPE, scope);
        Ok(serde_json::from_str(&text)?)
    };
    let role = RoleSeed {
        name: scope.to_owned(),
        path: "/dayfly/".to_owned(),
        trust: file("role-trust-policy.json")?,
        policies: BTreeMap::new(),
        attached: BTreeMap::from([(scope.to_owned(), file("permissions-policy.json")?)]),
        // The same policy, so that whoever writes inline policies adds nothing by them.
        boundary: Some(scope.into()),
        max_session_duration: 3600,
    };
    let provider = ProviderSeed {
        url: federation_issuer.to_owned(),
        client_ids: vec!["sts.amazonaws.com".to_owned()],
        jwks: None,
    };
    let objects = ["corpus-7/a", "corpus-8/a"].map(|key| (key.to_owned(), key.to_owned()));
    let buckets = BTreeMap::from([("corpora".to_owned(), BTreeMap::from(objects))]);
    Ok(Seed { providers: vec![provider], roles: vec![role], buckets })
}
