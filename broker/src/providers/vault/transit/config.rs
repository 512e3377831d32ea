//! Where the transit engine is, and what its keys are called.

use std::path::PathBuf;

use dayfly_domain::time::Ttl;
use serde::Deserialize;

use super::super::config::Reach;
use crate::signer::Use;

/// How long one signature may take, if the configuration does not say. It stands in the way of every grant.
pub const DEFAULT_SIGN_TIMEOUT: Ttl = Ttl::seconds(2);

/// Section `[keys.vault_transit]` of the configuration. It may be another Vault than that of `[vault]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransitConfig {
    /// `https://host:port`; `http` is taken only to a loopback address.
    pub address: String,
    /// PEM file with the certificates that vouch for Vault, and no others do. Needed with `https`.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Namespace of the engine and of the login (Vault Enterprise, OpenBao).
    #[serde(default)]
    pub namespace: Option<String>,
    /// Where the jwt auth method is mounted.
    #[serde(default = "default_auth_mount")]
    pub auth_mount: String,
    /// Audience of the broker's JWT-SVIDs for Vault; `bound_audiences` of the role.
    pub audience: String,
    /// Role at the jwt auth method whose token signs with these keys and reads their public halves, and nothing else.
    #[serde(default = "default_role")]
    pub role: String,
    /// Where the transit engine is mounted.
    #[serde(default = "default_mount")]
    pub mount: String,
    /// Name of the key for access tokens: `ecdsa-p256`.
    #[serde(default = "default_access")]
    pub access: String,
    /// Name of the key for assertions to clouds: `rsa-2048`.
    #[serde(default = "default_federation")]
    pub federation: String,
    /// Name of the key for receipts: `ecdsa-p256`.
    #[serde(default = "default_receipt")]
    pub receipt: String,
    /// Name of the key for assertions of the revoker to clouds: `ecdsa-p256`.
    #[serde(default = "default_revocation")]
    pub revocation: String,
    /// How long one call may take.
    #[serde(default = "default_timeout")]
    pub timeout: Ttl,
}

impl TransitConfig {
    pub(super) fn reach(&self) -> Reach<'_> {
        Reach {
            address: &self.address,
            ca_file: self.ca_file.as_deref(),
            namespace: self.namespace.as_deref(),
            auth_mount: &self.auth_mount,
            audience: &self.audience,
            timeout: self.timeout,
            names: vec![
                ("role", &self.role),
                ("mount", &self.mount),
                ("access", &self.access),
                ("federation", &self.federation),
                ("receipt", &self.receipt),
                ("revocation", &self.revocation),
            ],
        }
    }

    /// What the engine calls the key of a use.
    pub(super) fn name(&self, purpose: Use) -> &str {
        match purpose {
            Use::Access => &self.access,
            Use::Federation => &self.federation,
            Use::Receipt => &self.receipt,
            Use::Revocation => &self.revocation,
        }
    }
}

fn default_auth_mount() -> String {
    "jwt".to_owned()
}

fn default_role() -> String {
    "dayfly-sign".to_owned()
}

fn default_mount() -> String {
    "transit".to_owned()
}

fn default_access() -> String {
    "dayfly-access".to_owned()
}

fn default_federation() -> String {
    "dayfly-federation".to_owned()
}

fn default_receipt() -> String {
    "dayfly-receipt".to_owned()
}

fn default_revocation() -> String {
    "dayfly-revocation".to_owned()
}

fn default_timeout() -> Ttl {
    DEFAULT_SIGN_TIMEOUT
}
