//! What an account holds at first, as JSON or as a value.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// An account's contents. What is seeded twice under one name is replaced.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Seed {
    /// OIDC providers.
    pub providers: Vec<ProviderSeed>,
    /// Roles.
    pub roles: Vec<RoleSeed>,
    /// Buckets, with the text of each object by its key.
    pub buckets: BTreeMap<String, BTreeMap<String, String>>,
}

/// An OIDC provider, as `CreateOpenIDConnectProvider` takes it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderSeed {
    /// The issuer. Its scheme is left out in ARNs and condition keys.
    pub url: String,
    /// Audiences that are taken.
    pub client_ids: Vec<String>,
    /// Its key set; without one it is fetched from the issuer, over plain http.
    #[serde(default)]
    pub jwks: Option<Value>,
}

/// A role.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoleSeed {
    /// Its name.
    pub name: String,
    /// Its path, from `/` to `/`.
    #[serde(default = "root")]
    pub path: String,
    /// Its trust policy.
    pub trust: Value,
    /// Its inline policies by name; in effect at once.
    #[serde(default)]
    pub policies: BTreeMap<String, Value>,
    /// Managed policies that are attached, by name.
    #[serde(default)]
    pub attached: BTreeMap<String, Value>,
    /// Its permissions boundary: a policy, which becomes the managed policy `NAME-boundary`, or the name of one that is
    /// attached.
    #[serde(default)]
    pub boundary: Option<Value>,
    /// Longest session, in seconds.
    #[serde(default = "hour")]
    pub max_session_duration: i64,
}

fn root() -> String {
    "/".to_owned()
}

fn hour() -> i64 {
    3600
}
