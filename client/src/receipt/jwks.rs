//! The issuer's keys, from its JWK Set (RFC 7517).

use std::collections::HashMap;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;

/// The only `alg` of a receipt (RFC 7518 §3.4).
pub(super) const ALGORITHM: &str = "ES256";
/// Largest JWK Set, in bytes.
const MAX_JWKS: usize = 64 * 1024;

/// Why a text is not the JWK Set of a receipt issuer.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum JwksFault {
    /// Larger than any of ours.
    #[error("the JWK Set has more than {MAX_JWKS} bytes")]
    TooLarge,
    /// Not a JWK Set.
    #[error("not a JWK Set")]
    Malformed {
        /// What the parser said.
        #[source]
        source: serde_json::Error,
    },
    /// Two keys under one name: either could be meant.
    #[error("two keys have the kid {kid:?}")]
    SameName {
        /// The name.
        kid: String,
    },
    /// Nothing could ever be verified.
    #[error(
        "the JWK Set holds no P-256 key for ES256 signatures; read it from <issuer>/jwks.json of the receipt issuer"
    )]
    NoKey,
}

/// Public keys by `kid`.
#[derive(Debug)]
pub(super) struct Keys(HashMap<String, [u8; 65]>);

#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

impl Keys {
    /// Reads the keys that can sign receipts; others in the set are left alone (RFC 7517 §5).
    pub(super) fn read(jwks: &str) -> Result<Self, JwksFault> {
        if jwks.len() > MAX_JWKS {
            return Err(JwksFault::TooLarge);
        }
        let set: Set = serde_json::from_str(jwks).map_err(|source| JwksFault::Malformed { source })?;
        let mut keys = HashMap::new();
        for jwk in &set.keys {
            let (Some(kid), Some(point)) = (jwk["kid"].as_str(), p256_point(jwk)) else { continue };
            if keys.insert(kid.to_owned(), point).is_some() {
                return Err(JwksFault::SameName { kid: kid.chars().take(64).collect() });
            }
        }
        if keys.is_empty() { Err(JwksFault::NoKey) } else { Ok(Keys(keys)) }
    }

    /// The key of that name.
    pub(super) fn point(&self, kid: &str) -> Option<&[u8; 65]> {
        self.0.get(kid)
    }
}

/// The point of a P-256 key for ES256 (RFC 7518 §6.2.1), as SEC 1 has it uncompressed.
fn p256_point(jwk: &Value) -> Option<[u8; 65]> {
    if jwk["kty"] != "EC" || jwk["crv"] != "P-256" || jwk["alg"] != ALGORITHM || jwk["use"] != "sig" {
        return None;
    }
    let mut point = [4; 65];
    for (name, place) in [("x", 1), ("y", 33)] {
        let bytes = URL_SAFE_NO_PAD.decode(jwk[name].as_str()?).ok()?;
        point[place..place + 32].copy_from_slice(bytes.get(..32).filter(|_| bytes.len() == 32)?);
    }
    Some(point)
}
