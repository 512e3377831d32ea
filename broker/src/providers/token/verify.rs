//! Verifies our own access tokens: pure, from a JWK Set and a moment.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use dayfly_domain::time::{Timestamp, Ttl};
use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;

use super::claims::AccessClaims;
use super::{LONGEST_LIFE, MAX_TOKEN};
use crate::signer::Use;

/// How far ahead of ours the clock of another broker may be.
const SKEW: Ttl = Ttl::seconds(30);

/// Why a text is not a good access token of ours. No variant holds a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TokenFault {
    /// Not a JWS in compact form, or over 8 KiB.
    #[error("not a signed token")]
    Malformed,
    /// Another `typ` or `alg`, or header fields that ours never have.
    #[error("not an access token of this issuer's kind")]
    Kind,
    /// No key of ours has this `kid`.
    #[error("signed with no key of this issuer")]
    UnknownKey,
    /// The signature is not over these bytes.
    #[error("the signature does not hold")]
    Signature,
    /// Signed, but with claims that ours never have.
    #[error("the claims are not those of an access token")]
    Claims,
    /// Another `iss`.
    #[error("another issuer's")]
    Issuer,
    /// For another service.
    #[error("for another audience")]
    Audience,
    /// It ran out.
    #[error("expired")]
    Expired,
    /// Issued in the future.
    #[error("not yet valid")]
    NotYet,
}

impl TokenFault {
    /// Whether our key signed what this broker never signs.
    pub const fn is_forged(self) -> bool {
        match self {
            TokenFault::Claims | TokenFault::Issuer => true,
            // Honest tokens come to be of the wrong audience, and expire; clocks of brokers differ.
            TokenFault::Audience | TokenFault::Expired | TokenFault::NotYet => false,
            TokenFault::Malformed | TokenFault::Kind | TokenFault::UnknownKey | TokenFault::Signature => {
                false
            }
        }
    }
}

/// Verifies an access token for one audience: kind, key, signature, issuer, audience, time. Whether it was revoked only
/// introspection can say.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn verify_access(
    token: &str,
    jwks: &Value,
    issuer: &str,
    audience: &str,
    now: Timestamp,
) -> Result<AccessClaims, TokenFault> {
    let claims = verify_for_anyone(token, jwks, issuer, now)?;
    if claims.aud == audience { Ok(claims) } else { Err(TokenFault::Audience) }
}

/// Verifies all but the audience: introspection learns from the token whom to ask about it.
pub(crate) fn verify_for_anyone(
    token: &str,
    jwks: &Value,
    issuer: &str,
    now: Timestamp,
) -> Result<AccessClaims, TokenFault> {
    let claims = verify_signature(token, jwks)?;
    let claims: AccessClaims = serde_json::from_slice(&claims).map_err(|_| TokenFault::Claims)?;
    if claims.iss != issuer {
        return Err(TokenFault::Issuer);
    }
    if claims.client_id != claims.sub || claims.cnf.spiffe_id != claims.sub {
        return Err(TokenFault::Claims);
    }
    let (from, until) = (Timestamp::from_unix_seconds(claims.iat), Timestamp::from_unix_seconds(claims.exp));
    if until <= from || from.until(until) > LONGEST_LIFE {
        return Err(TokenFault::Claims);
    }
    if now >= until {
        return Err(TokenFault::Expired);
    }
    if from > now + SKEW {
        return Err(TokenFault::NotYet);
    }
    Ok(claims)
}

/// A header of ours has these three and nothing else: `crit`, `jwk`, `jku` and `x5c` of a stranger are refused unread.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    typ: String,
    alg: String,
    kid: String,
}

/// The claims, if a key of the set signed them as the one kind of token it signs.
fn verify_signature(token: &str, jwks: &Value) -> Result<Vec<u8>, TokenFault> {
    if token.len() > MAX_TOKEN {
        return Err(TokenFault::Malformed);
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(TokenFault::Malformed)?;
    let (header, claims) = signed.split_once('.').ok_or(TokenFault::Malformed)?;
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenFault::Malformed);
    let (header, claims, signature) = (decode(header)?, decode(claims)?, decode(signature)?);
    let header: Header = serde_json::from_slice(&header).map_err(|_| TokenFault::Kind)?;
    if header.typ != Use::Access.typ() || header.alg != Use::Access.algorithm() {
        return Err(TokenFault::Kind);
    }
    let keys = jwks["keys"].as_array().map(Vec::as_slice).unwrap_or_default();
    let key = keys.iter().find(|key| key["kid"] == header.kid.as_str()).ok_or(TokenFault::UnknownKey)?;
    // The algorithm is the key's, whatever the header says of itself.
    let point = p256_point(key).ok_or(TokenFault::UnknownKey)?;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
        .verify(signed.as_bytes(), &signature)
        .map_err(|_| TokenFault::Signature)?;
    Ok(claims)
}

/// The point of a P-256 key for ES256 (RFC 7518 §6.2.1), as SEC 1 has it uncompressed.
fn p256_point(key: &Value) -> Option<[u8; 65]> {
    if key["kty"] != "EC" || key["crv"] != "P-256" || key["alg"] != "ES256" || key["use"] != "sig" {
        return None;
    }
    let mut point = [4; 65];
    for (name, place) in [("x", 1), ("y", 33)] {
        let bytes = URL_SAFE_NO_PAD.decode(key[name].as_str()?).ok()?;
        point[place..place + 32].copy_from_slice(bytes.get(..32).filter(|_| bytes.len() == 32)?);
    }
    Some(point)
}
