//! Receipts: the broker's signed word that a workload may do one thing with one artifact, checked by whoever guards it.
//!
//! A receipt is no credential. It is good at one guard, in the hands of one workload, for one action on one artifact, for
//! at most a minute. Checking one needs the issuer's keys and a moment; nobody is asked.
//!
//! ```no_run
//! # fn example(jwks: &str, receipt: &str, peer: &dayfly_client::Peer) -> Result<(), Box<dyn std::error::Error>> {
//! use dayfly_client::receipt::{ReceiptVerifier, Wanted};
//! use dayfly_client::SpiffeId;
//!
//! let own = SpiffeId::new("spiffe://prod.example/guard/models")?;
//! let verifier = ReceiptVerifier::new("https://issuer.example/receipt", jwks, own)?;
//! let wanted = Wanted { action: "load-model", name: "models/llama-3-8b", digest: Some("sha256:…") };
//! let receipt = verifier.verify(receipt, &peer.spiffe_id, &wanted, std::time::SystemTime::now())?;
//! # Ok(())
//! # }
//! ```

mod claims;
mod fault;
mod jwks;
mod once;
#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use spiffe::SpiffeId;

use self::{
    claims::{Claims, Header, chain, id},
    jwks::Keys,
};
pub use self::{fault::ReceiptFault, jwks::JwksFault, once::AcceptOnce};

/// The only `typ` of a receipt (RFC 8725 §3.11: each kind of token has its own).
pub const TYP: &str = "dayfly-receipt+jwt";
/// Longest life of a receipt. One that claims more is not of our making.
pub const LONGEST_LIFE: Duration = Duration::from_secs(60);
/// How far behind the issuer's clock the guard's may be. There is no such leeway at the end.
pub const SKEW: Duration = Duration::from_secs(5);
/// Longest receipt, in bytes. Common servers take no longer header line.
pub const MAX_RECEIPT: usize = 8 * 1024;

/// What the guard is about to allow, as the guard knows it: never as the caller says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// The action: `load-model`, `call-tool`.
    pub action: &'a str,
    /// The artifact's name.
    pub name: &'a str,
    /// Digest of the very bytes that would be handed out, `sha256:` and 64 hexadecimal digits; none where the artifact
    /// has none. A receipt that names another, or none where there is one, is refused.
    pub digest: Option<&'a str>,
}

/// What a good receipt says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Id of the decision; the broker's records tell its story under this id.
    pub decision_id: String,
    /// The workload that acts. It is the peer.
    pub subject: SpiffeId,
    /// Who opened the tasks above, the nearest first (RFC 8693 §4.1).
    pub chain: Vec<SpiffeId>,
    /// The action.
    pub action: String,
    /// The artifact's name.
    pub name: String,
    /// The artifact's digest, if it has one.
    pub digest: Option<String>,
    /// The scope that allowed it.
    pub scope: String,
    /// The task.
    pub task_id: String,
    /// The session, the root of the task tree.
    pub session_id: String,
    /// When it was made.
    pub issued_at: SystemTime,
    /// When it stops holding.
    pub expires_at: SystemTime,
    /// Whether it comes from a development trust domain.
    pub dev: bool,
}

impl Receipt {
    /// Whether it is for this action on this artifact, whatever its digest.
    ///
    /// # Errors
    /// [`ReceiptFault::Action`] or [`ReceiptFault::Name`].
    pub fn names(&self, action: &str, name: &str) -> Result<(), ReceiptFault> {
        if self.action != action {
            return Err(ReceiptFault::Action);
        }
        if self.name != name {
            return Err(ReceiptFault::Name);
        }
        Ok(())
    }

    /// Whether it is for all that is wanted.
    ///
    /// # Errors
    /// [`ReceiptFault::Action`], [`ReceiptFault::Name`] or [`ReceiptFault::Digest`].
    pub fn allows(&self, wanted: &Wanted<'_>) -> Result<(), ReceiptFault> {
        self.names(wanted.action, wanted.name)?;
        if self.digest.as_deref() != wanted.digest {
            return Err(ReceiptFault::Digest);
        }
        Ok(())
    }
}

/// Checks receipts for one guard. Share it behind an [`Arc`].
#[derive(Debug)]
pub struct ReceiptVerifier {
    issuer: String,
    own: String,
    keys: RwLock<Arc<Keys>>,
}

impl ReceiptVerifier {
    /// For receipts of `issuer` (the broker's `<issuer.url>/receipt`) that are made for `own`, the guard's SPIFFE ID.
    /// `jwks` is the issuer's JWK Set, from `<issuer.url>/receipt/jwks.json`, fetched in a way that proves whose it is.
    ///
    /// # Errors
    /// The JWK Set holds no key for receipts.
    pub fn new(issuer: impl Into<String>, jwks: &str, own: SpiffeId) -> Result<Self, JwksFault> {
        let keys = RwLock::new(Arc::new(Keys::read(jwks)?));
        Ok(ReceiptVerifier { issuer: issuer.into(), own: own.to_string(), keys })
    }

    /// Takes the issuer's keys of today in the place of those known so far.
    ///
    /// # Errors
    /// The JWK Set holds no key for receipts; then nothing changes.
    pub fn update_jwks(&self, jwks: &str) -> Result<(), JwksFault> {
        let keys = Arc::new(Keys::read(jwks)?);
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        Ok(())
    }

    /// Whether `peer`, as seen on mutual TLS, may have what is wanted, on the word of this receipt.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn verify(
        &self,
        receipt: &str,
        peer: &SpiffeId,
        wanted: &Wanted<'_>,
        now: SystemTime,
    ) -> Result<Receipt, ReceiptFault> {
        let receipt = self.read(receipt, peer, now)?;
        receipt.allows(wanted)?;
        Ok(receipt)
    }

    /// Everything but what the receipt allows: it is the issuer's, for this guard, holds now, and `peer` shows it. For
    /// guards to whom a digest is dear: they read first, and then ask [`Receipt::names`] and [`Receipt::allows`].
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn read(&self, receipt: &str, peer: &SpiffeId, now: SystemTime) -> Result<Receipt, ReceiptFault> {
        let claims = self.signed_claims(receipt)?;
        let claims: Claims = serde_json::from_slice(&claims).map_err(|_| ReceiptFault::Claims)?;
        if claims.iss != self.issuer {
            return Err(ReceiptFault::Issuer);
        }
        if claims.aud != self.own {
            return Err(ReceiptFault::Audience);
        }
        let (issued_at, expires_at) = claims.times(now)?;
        let subject = id(&claims.sub)?;
        if claims.cnf.spiffe_id != claims.sub {
            return Err(ReceiptFault::Claims);
        }
        if subject != *peer {
            return Err(ReceiptFault::Peer);
        }
        Ok(Receipt {
            decision_id: claims.jti,
            subject,
            chain: chain(claims.act)?,
            action: claims.action,
            name: claims.artifact.name,
            digest: claims.artifact.digest,
            scope: claims.scope,
            task_id: claims.task,
            session_id: claims.txn,
            issued_at,
            expires_at,
            dev: claims.dev,
        })
    }

    /// The claims, if a key of the issuer signed them as a receipt.
    fn signed_claims(&self, receipt: &str) -> Result<Vec<u8>, ReceiptFault> {
        if receipt.len() > MAX_RECEIPT {
            return Err(ReceiptFault::TooLong);
        }
        let (signed, signature) = receipt.rsplit_once('.').ok_or(ReceiptFault::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(ReceiptFault::Malformed)?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| ReceiptFault::Malformed);
        let (header, claims, signature) = (decode(header)?, decode(claims)?, decode(signature)?);
        let header: Header = serde_json::from_slice(&header).map_err(|_| ReceiptFault::Kind)?;
        if header.typ != TYP || header.alg != jwks::ALGORITHM {
            return Err(ReceiptFault::Kind);
        }
        let keys = Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner));
        // The algorithm is the key's, whatever the header says of itself.
        let point = keys.point(&header.kid).ok_or(ReceiptFault::UnknownKey)?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
            .verify(signed.as_bytes(), &signature)
            .map_err(|_| ReceiptFault::Signature)?;
        Ok(claims)
    }
}
