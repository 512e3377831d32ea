//! Signs tokens. A key enters a JWKS only from its signer, never from a row of the database.

use async_trait::async_trait;
use serde_json::Value;
use thiserror::Error;

/// What a key is for: one key, one issuer URL and one `typ` each, so that no token passes for another kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Use {
    /// Access tokens of the `token` provider: ES256, `at+jwt`.
    Access,
    /// Assertions to clouds: RS256. Never leaves the broker process.
    Federation,
}

/// The key could not be read or used.
#[derive(Debug, Error)]
#[error("could not sign with the {what}")]
pub struct SignError {
    /// Which key.
    pub what: String,
    /// The cause.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Holds the keys of the broker's issuers.
#[async_trait]
pub trait Signer: Send + Sync {
    /// Signs a JWS in compact form: adds `alg` and `kid` to `{"typ": typ}` and signs `claims`.
    async fn sign(&self, purpose: Use, typ: &str, claims: &Value) -> Result<String, SignError>;

    /// The public keys of one purpose, as a JWK Set (RFC 7517).
    fn jwks(&self, purpose: Use) -> Value;
}
