//! Signs tokens. A key enters a JWKS only from what holds it, never from a row of the database: a row can only withhold.

mod files;
mod folder;
mod held;
mod key;
mod keyring;

use async_trait::async_trait;
use dayfly_domain::time::{Timestamp, Ttl};
use serde_json::Value;
use thiserror::Error;

pub use self::files::{FileKeys, FileSigner};
pub use self::folder::KeysError;
pub use self::held::{HeldKey, HolderError, KeyHolder};
pub use self::key::KeyFault;
pub(crate) use self::key::{ec_members, rsa_members};
pub use self::keyring::{KeyRow, Keyring, REFRESH, RefreshError};
use crate::providers::{aws, token};
use crate::receipts;

/// What a key is for: one key, one issuer URL and one `typ` each, so that no token passes for another kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Use {
    /// Access tokens of the `token` provider: ES256, `at+jwt`.
    Access,
    /// Assertions to clouds: RS256. Never leaves the broker process.
    Federation,
    /// Receipts of decisions about artifacts: ES256, `dayfly-receipt+jwt`. No credential.
    Receipt,
    /// Assertions to clouds of whom that takes back and can not give: ES256, of another issuer than
    /// [`Use::Federation`], so that whoever has the one key has not the other.
    Revocation,
}

impl Use {
    /// Every use.
    pub const ALL: [Use; 4] = [Use::Access, Use::Federation, Use::Receipt, Use::Revocation];

    /// The use's name: of its issuer's path, and of its key file.
    pub const fn name(self) -> &'static str {
        match self {
            Use::Access => "access",
            Use::Federation => "federation",
            Use::Receipt => "receipt",
            Use::Revocation => "revocation",
        }
    }

    /// The use of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|purpose| purpose.name() == name)
    }

    /// The only `typ` its tokens carry. RFC 9068 §2.1 for access tokens; clouds know no other than `JWT`; receipts have
    /// one of their own (RFC 8725 §3.11).
    pub const fn typ(self) -> &'static str {
        match self {
            Use::Access => "at+jwt",
            Use::Federation | Use::Revocation => "JWT",
            Use::Receipt => "dayfly-receipt+jwt",
        }
    }

    /// The only `alg` its tokens carry (RFC 7518 §3.1).
    pub const fn algorithm(self) -> &'static str {
        match self {
            Use::Access | Use::Receipt | Use::Revocation => "ES256",
            Use::Federation => "RS256",
        }
    }

    /// The longest life of what it signs: for so long a key is published after its last use.
    pub const fn longest_life(self) -> Ttl {
        match self {
            Use::Access => token::LONGEST_LIFE,
            Use::Federation | Use::Revocation => aws::ASSERTION_LIFE,
            Use::Receipt => receipts::LONGEST_LIFE,
        }
    }
}

/// Nothing was signed.
#[derive(Debug, Error)]
pub enum SignError {
    /// Somebody asked for another kind of token than the key signs.
    #[error("the {} key signs {:?} and nothing else, not {asked:?}", .purpose.name(), .purpose.typ())]
    Kind {
        /// Which key.
        purpose: Use,
        /// The `typ` it was asked for.
        asked: String,
    },
    /// No key may sign now.
    #[error("no {} key signs now: {}", .purpose.name(), until(.usable_from))]
    NoKey {
        /// Which use.
        purpose: Use,
        /// When the next one may.
        usable_from: Option<Timestamp>,
    },
    /// What holds the key failed.
    #[error("could not sign with the {} key", .purpose.name())]
    Holder {
        /// Which key.
        purpose: Use,
        /// The cause.
        #[source]
        source: HolderError,
    },
    /// The key was taken out while it signed.
    #[error("the {} key was taken out while it signed", .purpose.name())]
    TakenOut {
        /// Which key.
        purpose: Use,
    },
    /// The claims are no JSON.
    #[error("the claims cannot be written as JSON")]
    Claims(#[from] serde_json::Error),
}

fn until(usable_from: &Option<Timestamp>) -> String {
    match usable_from {
        Some(moment) => format!("the next was not published for long enough, and signs from {moment} on"),
        None => "there is none; its holder was not reached yet, or holds none".to_owned(),
    }
}

/// Signs with the keys of the broker's issuers, and tells them.
#[async_trait]
pub trait Signer: Send + Sync {
    /// Signs a JWS in compact form: adds `alg` and `kid` to `{"typ": typ}` and signs `claims`. Any `typ` but
    /// [`Use::typ`] is an error: a key signs one kind of token.
    async fn sign(&self, purpose: Use, typ: &str, claims: &Value) -> Result<String, SignError>;

    /// The public keys of one purpose, as a JWK Set (RFC 7517): first the one that signs. Without keys while their
    /// holder was not reached since the start; nobody is to be told that set.
    fn jwks(&self, purpose: Use) -> Value;
}
