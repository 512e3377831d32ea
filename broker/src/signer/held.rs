//! What holds private keys, and what it tells of each: never more than the public half.

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use dayfly_domain::time::Timestamp;
use serde_json::{Value, json};
use thiserror::Error;

use super::Use;
use super::key::thumbprint;
use crate::providers::BoxError;

/// A key as its holder tells of it.
#[derive(Clone, Debug, PartialEq)]
pub struct HeldKey {
    /// What it is for.
    pub purpose: Use,
    /// Its name: the thumbprint of its public half (RFC 7638).
    pub kid: String,
    /// Its public half, with `kid`, `use` and `alg` (RFC 7517 §4).
    pub jwk: Value,
    /// Since when it is there to be published.
    pub announced_at: Timestamp,
    /// Whether its holder had none before it.
    pub first: bool,
    /// Where its holder keeps it, in the holder's own words.
    pub place: String,
    /// `{"alg":…,"kid":…,"typ":…}` in base64url, with the dot that follows it.
    pub(super) header: String,
}

impl HeldKey {
    /// A key whose public half has these members (RFC 7638 §3.2).
    pub fn new(purpose: Use, members: Value, announced_at: Timestamp, first: bool, place: String) -> Self {
        let kid = thumbprint(&members);
        let header = json!({"alg": purpose.algorithm(), "kid": kid, "typ": purpose.typ()});
        let mut jwk = members;
        jwk["kid"] = Value::from(kid.as_str());
        jwk["use"] = Value::from("sig");
        jwk["alg"] = Value::from(purpose.algorithm());
        let header = URL_SAFE_NO_PAD.encode(header.to_string()) + ".";
        Self { purpose, kid, jwk, announced_at, first, place, header }
    }
}

/// Why a holder did not do what it was asked.
#[derive(Debug, Error)]
pub enum HolderError {
    /// It was not reached, or did not answer in time.
    #[error("{holder} is out of reach: {what}")]
    Away {
        /// What holds the keys.
        holder: &'static str,
        /// What was tried.
        what: String,
        /// The cause.
        #[source]
        source: Option<BoxError>,
    },
    /// It said no; somebody with more rights must do it.
    #[error("{holder} refused: {what}")]
    Refused {
        /// What holds the keys.
        holder: &'static str,
        /// What it refused.
        what: String,
        /// Who does what instead.
        next: String,
    },
    /// What it holds, or what it answered, cannot be used.
    #[error("{holder} holds what cannot be used: {what}")]
    Unusable {
        /// What holds the keys.
        holder: &'static str,
        /// What, and what to do about it.
        what: String,
        /// The cause.
        #[source]
        source: Option<BoxError>,
    },
}

/// Holds private keys. They never leave it.
#[async_trait]
pub trait KeyHolder: Send + Sync {
    /// Every key that it holds, in any order.
    async fn keys(&self) -> Result<Vec<HeldKey>, HolderError>;

    /// Signs a JWS signing input; the signature as RFC 7518 §3 wants it. Nothing is returned that the key's public half
    /// does not verify.
    async fn sign(&self, key: &HeldKey, input: &[u8]) -> Result<Vec<u8>, HolderError>;

    /// Makes one more key.
    async fn make(&self, purpose: Use, now: Timestamp) -> Result<(), HolderError>;

    /// Destroys a private key that is over. Says what a person must do where the holder does not let the broker.
    async fn destroy(&self, key: &HeldKey) -> Result<Option<String>, HolderError>;

    /// Whether the broker makes keys there without being asked.
    fn makes_unasked(&self) -> bool;
}
