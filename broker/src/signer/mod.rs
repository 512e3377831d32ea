//! Signs tokens. A key enters a JWKS only from its signer, never from a row of the database.

mod files;
mod folder;
mod key;

use async_trait::async_trait;
use serde_json::Value;
use thiserror::Error;

pub use self::files::FileSigner;
pub use self::folder::KeysError;
pub use self::key::KeyFault;

/// What a key is for: one key, one issuer URL and one `typ` each, so that no token passes for another kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Use {
    /// Access tokens of the `token` provider: ES256, `at+jwt`.
    Access,
    /// Assertions to clouds: RS256. Never leaves the broker process.
    Federation,
    /// Receipts of decisions about artifacts: ES256, `dayfly-receipt+jwt`. No credential.
    Receipt,
}

impl Use {
    /// Every use.
    pub const ALL: [Use; 3] = [Use::Access, Use::Federation, Use::Receipt];

    /// The use's name: of its issuer's path, and of its key file.
    pub const fn name(self) -> &'static str {
        match self {
            Use::Access => "access",
            Use::Federation => "federation",
            Use::Receipt => "receipt",
        }
    }

    /// The only `typ` its tokens carry. RFC 9068 §2.1 for access tokens; clouds know no other than `JWT`; receipts have
    /// one of their own (RFC 8725 §3.11).
    pub const fn typ(self) -> &'static str {
        match self {
            Use::Access => "at+jwt",
            Use::Federation => "JWT",
            Use::Receipt => "dayfly-receipt+jwt",
        }
    }

    /// The only `alg` its tokens carry (RFC 7518 §3.1).
    pub const fn algorithm(self) -> &'static str {
        match self {
            Use::Access | Use::Receipt => "ES256",
            Use::Federation => "RS256",
        }
    }
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
    /// Signs a JWS in compact form: adds `alg` and `kid` to `{"typ": typ}` and signs `claims`. Any `typ` but
    /// [`Use::typ`] is an error: a key signs one kind of token.
    async fn sign(&self, purpose: Use, typ: &str, claims: &Value) -> Result<String, SignError>;

    /// The public keys of one purpose, as a JWK Set (RFC 7517).
    fn jwks(&self, purpose: Use) -> Value;
}
