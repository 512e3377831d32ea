//! JWT: the trust domain's own signing key and the JWT-SVIDs it signs.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use spiffe::SpiffeId;
use zeroize::Zeroizing;

use crate::error::AuthorityError;
use crate::x509::expiry;

/// A JWT-SVID, as an authority made it.
#[derive(Clone)]
pub struct IssuedJwt {
    token: Zeroizing<String>,
    issued_at: SystemTime,
    expires_at: SystemTime,
}

impl IssuedJwt {
    /// The token, in JWS compact serialization.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The `iat` claim; whole seconds.
    #[must_use]
    pub fn issued_at(&self) -> SystemTime {
        self.issued_at
    }

    /// The `exp` claim; whole seconds.
    #[must_use]
    pub fn expires_at(&self) -> SystemTime {
        self.expires_at
    }
}

impl fmt::Debug for IssuedJwt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedJwt").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

/// A key that signs JWT-SVIDs with ES256.
pub(crate) struct JwtKey {
    pair: EcdsaKeyPair,
    kid: String,
}

impl JwtKey {
    pub(crate) fn generate() -> Result<Self, AuthorityError> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING);
        Ok(Self::of(pair.map_err(|_| AuthorityError::Key { attempt: "make" })?))
    }

    /// Reads a key that [`Self::key_der`] wrote.
    pub(crate) fn restore(key_der: &[u8]) -> Result<Self, AuthorityError> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key_der);
        Ok(Self::of(pair.map_err(|_| AuthorityError::Key { attempt: "read" })?))
    }

    fn of(pair: EcdsaKeyPair) -> Self {
        let fingerprint = digest::digest(&digest::SHA256, pair.public_key().as_ref());
        let kid = URL_SAFE_NO_PAD.encode(fingerprint.as_ref());
        Self { pair, kid }
    }

    /// Signs an SVID that is right in every way.
    ///
    /// JWT-SVID §2: the header holds `alg`, `kid`, `typ`. §3: `sub`, `aud`, `exp` are required.
    pub(crate) fn issue(
        &self,
        id: &SpiffeId,
        audience: &[String],
        ttl: Duration,
        now: SystemTime,
    ) -> Result<IssuedJwt, AuthorityError> {
        let expires_at = expiry(now, ttl);
        let issued_at = UNIX_EPOCH + Duration::from_secs(unix_seconds(now));
        let claims = json!({
            "sub": id.to_string(),
            "aud": audience,
            "iat": unix_seconds(issued_at),
            "exp": unix_seconds(expires_at),
        });
        let token = Zeroizing::new(self.sign(&self.header(), &claims)?);
        Ok(IssuedJwt { token, issued_at, expires_at })
    }

    /// The header of a right JWT-SVID.
    pub(crate) fn header(&self) -> Value {
        json!({ "alg": "ES256", "kid": self.kid, "typ": "JWT" })
    }

    /// Signs whatever header and claims it is given.
    pub(crate) fn sign(&self, header: &Value, claims: &Value) -> Result<String, AuthorityError> {
        let mut token = format!("{}.{}", encode(header), encode(claims));
        let signature = self
            .pair
            .sign(&SystemRandom::new(), token.as_bytes())
            .map_err(|_| AuthorityError::Key { attempt: "use" })?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature.as_ref(), &mut token);
        Ok(token)
    }

    /// The public key as a plain JWK (RFC 7517), without `use`.
    pub(crate) fn jwk(&self) -> Value {
        let mut jwk = p256_jwk(self.pair.public_key().as_ref());
        jwk["kid"] = Value::from(self.kid.as_str());
        jwk["alg"] = Value::from("ES256");
        jwk
    }

    /// The private key, PKCS#8 DER, to be kept.
    pub(crate) fn key_der(&self) -> Result<Zeroizing<Vec<u8>>, AuthorityError> {
        let document = self.pair.to_pkcs8v1().map_err(|_| AuthorityError::Key { attempt: "write" })?;
        Ok(Zeroizing::new(document.as_ref().to_vec()))
    }
}

/// A P-256 public key, given as an uncompressed point (`04 ‖ x ‖ y`, SEC 1 §2.3.3), as a JWK.
pub(crate) fn p256_jwk(point: &[u8]) -> Value {
    let (x, y) = point.get(1..).unwrap_or_default().split_at(32);
    json!({ "kty": "EC", "crv": "P-256", "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y) })
}

/// A JSON value as one part of a compact JWS.
pub(crate) fn encode(part: &Value) -> String {
    URL_SAFE_NO_PAD.encode(part.to_string())
}

/// Whole seconds since 1970, as JWT counts time.
pub(crate) fn unix_seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
