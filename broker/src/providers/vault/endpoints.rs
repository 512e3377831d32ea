//! Endpoints that `vaultrs` lacks or has wrong, and the answers as Vault 1.19 gives them.

use std::collections::BTreeSet;

use dayfly_domain::secret::Secret;
use rustify_derive::Endpoint;
use serde::{Deserialize, Deserializer, Serialize};

/// Ends a lease, and answers only when the engine has done so.
/// <https://developer.hashicorp.com/vault/api-docs/system/leases#revoke-lease>
#[derive(Endpoint, Serialize)]
#[endpoint(path = "sys/leases/revoke", method = "POST")]
pub(super) struct RevokeLease {
    pub(super) lease_id: String,
    pub(super) sync: bool,
}

/// Asks whether a lease exists.
/// <https://developer.hashicorp.com/vault/api-docs/system/leases#read-lease>
#[derive(Endpoint, Serialize)]
#[endpoint(path = "sys/leases/lookup", method = "POST")]
pub(super) struct LookupLease {
    pub(super) lease_id: String,
}

/// Renews the token that it is called with. The path in `vaultrs` 0.8 begins with a tab.
/// <https://developer.hashicorp.com/vault/api-docs/auth/token#renew-a-token-self>
#[derive(Endpoint, Serialize)]
#[endpoint(path = "auth/token/renew-self", method = "POST")]
pub(super) struct RenewSelf {}

/// Asks which cluster this is. Needs no token.
/// <https://developer.hashicorp.com/vault/api-docs/system/health>
#[derive(Endpoint, Serialize)]
#[endpoint(path = "sys/health", method = "GET")]
pub(super) struct Health {}

/// The text of a policy.
/// <https://developer.hashicorp.com/vault/api-docs/system/policies#read-acl-policy>
#[derive(Endpoint, Serialize)]
#[endpoint(path = "sys/policies/acl/{self.name}", method = "GET")]
pub(super) struct ReadPolicy {
    #[endpoint(skip)]
    pub(super) name: String,
}

/// Which engine is mounted where.
/// <https://developer.hashicorp.com/vault/api-docs/system/mounts#list-mounted-secrets-engines>
#[derive(Endpoint, Serialize)]
#[endpoint(path = "sys/mounts", method = "GET")]
pub(super) struct ListMounts {}

/// `sys/policies/acl/<name>`, as far as it is read.
#[derive(Deserialize)]
pub(super) struct PolicyText {
    pub(super) policy: String,
}

/// One line of `sys/mounts`, as far as it is read.
#[derive(Deserialize)]
pub(super) struct MountedEngine {
    #[serde(rename = "type")]
    pub(super) engine: String,
}

/// What wraps every answer.
#[derive(Deserialize)]
#[serde(bound = "T: Deserialize<'de>")]
pub(super) struct Envelope<T> {
    #[serde(default)]
    pub(super) auth: Option<Auth>,
    #[serde(default)]
    pub(super) data: Option<T>,
}

/// Answers whose `data` is of no interest.
#[derive(Deserialize)]
pub(super) struct Nothing {}

/// A token as login, create and renew describe it. Renewals leave `client_token` empty.
#[derive(Deserialize)]
pub(super) struct Auth {
    #[serde(deserialize_with = "secret")]
    pub(super) client_token: Secret,
    pub(super) accessor: String,
    pub(super) policies: BTreeSet<String>,
    /// Seconds.
    pub(super) lease_duration: u64,
    pub(super) renewable: bool,
    #[serde(default)]
    pub(super) entity_id: String,
    pub(super) token_type: String,
    pub(super) orphan: bool,
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
    String::deserialize(deserializer).map(Secret::new)
}

/// A token role. What an older Vault leaves out reads as the most open value.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct TokenRole {
    pub(super) allowed_policies: Option<BTreeSet<String>>,
    pub(super) allowed_policies_glob: Option<BTreeSet<String>>,
    pub(super) disallowed_policies: Option<BTreeSet<String>>,
    pub(super) disallowed_policies_glob: Option<BTreeSet<String>>,
    pub(super) orphan: bool,
    pub(super) renewable: bool,
    pub(super) token_type: String,
    /// Seconds; 0 is none.
    pub(super) token_explicit_max_ttl: u64,
    /// Seconds; the older name of the same.
    pub(super) explicit_max_ttl: u64,
    /// Seconds; 0 is none.
    pub(super) token_period: u64,
    /// Seconds; the older name of the same.
    pub(super) period: u64,
    pub(super) token_no_default_policy: bool,
}

/// `sys/health`, as far as it is read.
#[derive(Deserialize)]
pub(super) struct HealthAnswer {
    #[serde(default)]
    pub(super) cluster_id: Option<String>,
}
