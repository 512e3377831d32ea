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

mod jwks;
mod once;
#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;
use spiffe::SpiffeId;
use thiserror::Error;

use self::jwks::Keys;
pub use self::{jwks::JwksFault, once::AcceptOnce};

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

/// Why a receipt is not good here. No variant holds a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum ReceiptFault {
    /// Not a JWS in compact form (RFC 7515 §7.1).
    #[error("not a signed receipt")]
    Malformed,
    /// Longer than any of ours.
    #[error("longer than {MAX_RECEIPT} bytes, so not a receipt")]
    TooLong,
    /// Another kind of token, another algorithm, or header fields that receipts never have.
    #[error("another kind of token; a receipt has the typ {TYP} and the alg ES256")]
    Kind,
    /// No key of the issuer has this `kid`.
    #[error("signed with no key of the issuer; are its keys up to date here?")]
    UnknownKey,
    /// The signature is not over these bytes.
    #[error("the signature does not hold")]
    Signature,
    /// Signed, but with claims that receipts never have.
    #[error("the claims are not those of a receipt")]
    Claims,
    /// Another `iss`.
    #[error("another issuer's")]
    Issuer,
    /// For another guard.
    #[error("for another guard; ask for one with this guard's SPIFFE ID as audience")]
    Audience,
    /// It claims to live longer than receipts do.
    #[error("it claims to hold for more than {} seconds", LONGEST_LIFE.as_secs())]
    TooLongLived,
    /// Issued in the future.
    #[error("not valid yet; compare the clocks of the issuer and of this guard")]
    NotYet,
    /// It ran out.
    #[error("expired; ask for a new one")]
    Expired,
    /// Shown by another than the one it was made for.
    #[error("made for another workload than the one that shows it")]
    Peer,
    /// For another action.
    #[error("for another action")]
    Action,
    /// For another artifact.
    #[error("for another artifact")]
    Name,
    /// For other bytes than would be handed out.
    #[error("for another digest than that of what would be handed out")]
    Digest,
    /// Shown before.
    #[error("shown before; ask for a new one for each use")]
    Replayed,
    /// So many were shown within their life that no further one can be remembered.
    #[error("too many receipts at once; ask again in a minute")]
    Busy,
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
        if claims.action != wanted.action {
            return Err(ReceiptFault::Action);
        }
        if claims.artifact.name != wanted.name {
            return Err(ReceiptFault::Name);
        }
        if claims.artifact.digest.as_deref() != wanted.digest {
            return Err(ReceiptFault::Digest);
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

/// A header of ours has these three and nothing else: `crit`, `jwk`, `jku` and `x5c` of a stranger are refused unread.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    typ: String,
    alg: String,
    kid: String,
}

/// Claims that we do not know are left alone (RFC 7519 §4); those that we know have one form each.
#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    /// Text: a list would name several guards, each of which could show it to the others.
    aud: String,
    exp: u64,
    iat: u64,
    jti: String,
    txn: String,
    task: String,
    cnf: Confirmation,
    act: Option<Actor>,
    action: String,
    artifact: Artifact,
    scope: String,
    #[serde(default)]
    dev: bool,
}

#[derive(Deserialize)]
struct Confirmation {
    spiffe_id: String,
}

#[derive(Deserialize)]
struct Actor {
    sub: String,
    act: Option<Box<Actor>>,
}

#[derive(Deserialize)]
struct Artifact {
    name: String,
    digest: Option<String>,
}

impl Claims {
    /// When it was issued and when it ends, if it holds now.
    fn times(&self, now: SystemTime) -> Result<(SystemTime, SystemTime), ReceiptFault> {
        let life = self.exp.checked_sub(self.iat).filter(|life| *life > 0).ok_or(ReceiptFault::Claims)?;
        if life > LONGEST_LIFE.as_secs() {
            return Err(ReceiptFault::TooLongLived);
        }
        let at = |seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).ok_or(ReceiptFault::Claims);
        let (issued_at, expires_at) = (at(self.iat)?, at(self.exp)?);
        if now >= expires_at {
            return Err(ReceiptFault::Expired);
        }
        if issued_at > now + SKEW {
            return Err(ReceiptFault::NotYet);
        }
        Ok((issued_at, expires_at))
    }
}

fn chain(act: Option<Actor>) -> Result<Vec<SpiffeId>, ReceiptFault> {
    let mut chain = Vec::new();
    let mut step = act;
    while let Some(actor) = step {
        chain.push(id(&actor.sub)?);
        step = actor.act.map(|above| *above);
    }
    Ok(chain)
}

fn id(text: &str) -> Result<SpiffeId, ReceiptFault> {
    SpiffeId::new(text).map_err(|_| ReceiptFault::Claims)
}
