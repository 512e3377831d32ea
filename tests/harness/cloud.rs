//! The account that `deploy/aws` describes, for the fake cloud.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use dayfly_fakecloud::{ProviderSeed, RoleSeed, Seed};
use serde_json::Value;

/// What stands in the files for the issuer, the workloads and the scope.
const ISSUER: &str = "issuer.example.com";
const WORKLOADS: &str = "spiffe://example.org/training/*";
const SCOPE: &str = "s3-train-read";

/// The account as `deploy/aws` has it, for a broker with this issuer, whose keys are read from it: a pool of two roles for
/// this scope, `-1` and `-2` behind its name, which workloads of `spiffe://example.org` may use to read `corpora/*`, and the
/// revoker's role.
///
/// # Errors
/// When a file is not there or no JSON.
pub fn account(issuer: &str, scope: &str) -> anyhow::Result<Seed> {
    let named = issuer.split_once("://").context("the issuer is a URL")?.1;
    let file = |name: &str| -> anyhow::Result<Value> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/aws").join(name);
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let text =
            text.replace(ISSUER, named).replace(WORKLOADS, "spiffe://example.org/*").replace(SCOPE, scope);
        Ok(serde_json::from_str(&text)?)
    };
    let policy = format!("dayfly-{scope}");
    let role = |number: u8| -> anyhow::Result<RoleSeed> {
        Ok(RoleSeed {
            name: format!("{scope}-{number}"),
            path: "/dayfly/pool/".to_owned(),
            trust: file("role-trust-policy.json")?,
            policies: BTreeMap::new(),
            attached: BTreeMap::from([(policy.clone(), file("permissions-policy.json")?)]),
            // The same policy, so that whoever writes inline policies adds nothing by them.
            boundary: Some(policy.as_str().into()),
            max_session_duration: 3600,
        })
    };
    let revoker = RoleSeed {
        name: "revoker".to_owned(),
        path: "/dayfly/".to_owned(),
        trust: file("revoker-trust-policy.json")?,
        policies: BTreeMap::from([("revoker".to_owned(), file("revoker-policy.json")?)]),
        attached: BTreeMap::new(),
        boundary: None,
        max_session_duration: 3600,
    };
    let provider = |kind: &str| ProviderSeed {
        url: format!("{issuer}/{kind}"),
        client_ids: vec!["sts.amazonaws.com".to_owned()],
        jwks: None,
    };
    let providers = vec![provider("federation"), provider("revocation")];
    let objects = ["corpus-7/a", "corpus-8/a"].map(|key| (key.to_owned(), key.to_owned()));
    let buckets = BTreeMap::from([("corpora".to_owned(), BTreeMap::from(objects))]);
    Ok(Seed { providers, roles: vec![role(1)?, role(2)?, revoker], buckets })
}
