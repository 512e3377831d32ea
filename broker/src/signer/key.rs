//! One private key: made, read, signed with. Its public half is a JWK, its name the JWK's thumbprint.

use std::collections::BTreeMap;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::error::{KeyRejected, Unspecified};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{self, KeySize};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use thiserror::Error;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::RSAPublicKey;
use zeroize::Zeroizing;

use super::Use;

/// Why a key cannot be made, read or used.
#[derive(Debug, Error)]
pub enum KeyFault {
    /// The cryptographic library failed: no entropy, no memory.
    #[error("the cryptographic library failed")]
    Library(#[from] Unspecified),
    /// Not a PKCS#8 key of the kind its use demands.
    #[error("not an {algorithm} key in PKCS#8 DER")]
    Rejected {
        /// The `alg` of its use.
        algorithm: &'static str,
        /// What the library said.
        #[source]
        source: KeyRejected,
    },
    /// The public half cannot be taken apart.
    #[error("its public half is not of the kind its use demands")]
    PublicHalf,
}

/// A key that is ready to sign: parsed once.
pub(super) struct SigningKey {
    pair: Pair,
    members: Value,
}

enum Pair {
    Es256(EcdsaKeyPair),
    Rs256(rsa::KeyPair),
}

impl SigningKey {
    /// A new private key for the use, as PKCS#8 DER.
    pub(super) fn make(purpose: Use) -> Result<Zeroizing<Vec<u8>>, KeyFault> {
        Ok(Zeroizing::new(match purpose {
            Use::Access | Use::Receipt | Use::Revocation => {
                EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?.to_pkcs8v1()?.as_ref().to_vec()
            }
            Use::Federation => rsa::KeyPair::generate(KeySize::Rsa2048)?.as_der()?.as_ref().to_vec(),
        }))
    }

    /// Reads a private key from PKCS#8 DER. Only the kind that the use demands is taken.
    pub(super) fn read(purpose: Use, pkcs8: &[u8]) -> Result<Self, KeyFault> {
        let algorithm = purpose.algorithm();
        let rejected = |source| KeyFault::Rejected { algorithm, source };
        let (pair, members) = match purpose {
            Use::Access | Use::Receipt | Use::Revocation => {
                let pair =
                    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8).map_err(rejected)?;
                let members = ec_members(pair.public_key().as_ref()).ok_or(KeyFault::PublicHalf)?;
                (Pair::Es256(pair), members)
            }
            Use::Federation => {
                let pair = rsa::KeyPair::from_pkcs8(pkcs8).map_err(rejected)?;
                let members = rsa_members(pair.public_key().as_ref()).ok_or(KeyFault::PublicHalf)?;
                (Pair::Rs256(pair), members)
            }
        };
        Ok(Self { pair, members })
    }

    /// What a JWK of its public half must hold (RFC 7638 §3.2).
    pub(super) fn members(&self) -> &Value {
        &self.members
    }

    /// Signs a JWS signing input; the signature as RFC 7518 §3 wants it.
    pub(super) fn sign(&self, input: &[u8]) -> Result<Vec<u8>, KeyFault> {
        let random = SystemRandom::new();
        match &self.pair {
            // RFC 7518 §3.4: R and S side by side, not DER.
            Pair::Es256(pair) => Ok(pair.sign(&random, input)?.as_ref().to_vec()),
            Pair::Rs256(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, input, &mut signature)?;
                Ok(signature)
            }
        }
    }
}

/// The members that RFC 7638 §3.2 takes of an elliptic-curve key. `point` is SEC 1, uncompressed: 0x04, x, y.
pub(crate) fn ec_members(point: &[u8]) -> Option<Value> {
    let (4, coordinates) = point.split_first().filter(|_| point.len() == 65)? else { return None };
    let (x, y) = coordinates.split_at(32);
    Some(json!({"crv": "P-256", "kty": "EC", "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)}))
}

/// The members that RFC 7638 §3.2 takes of an RSA key, from an RSAPublicKey in DER (RFC 8017 §A.1.1).
pub(crate) fn rsa_members(public: &[u8]) -> Option<Value> {
    let (_, key) = RSAPublicKey::from_der(public).ok()?;
    // RFC 7518 §2: Base64urlUInt has no leading zero octets; DER has one where the top bit is set.
    let number = |bytes: &[u8]| {
        let from = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
        URL_SAFE_NO_PAD.encode(&bytes[from..])
    };
    Some(json!({"e": number(key.exponent), "kty": "RSA", "n": number(key.modulus)}))
}

/// RFC 7638 §3: SHA-256 over the required members in lexicographic order, without white space.
pub(super) fn thumbprint(members: &Value) -> String {
    // Sorted here, whatever map `serde_json` was built with.
    let ordered: BTreeMap<_, _> = members.as_object().into_iter().flatten().collect();
    let text = serde_json::to_string(&ordered).expect("a map of texts is JSON");
    URL_SAFE_NO_PAD.encode(Sha256::digest(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thumbprint_is_that_of_rfc_7638() {
        // RFC 7638 §3.1.
        let key = json!({
            "kty": "RSA",
            "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRX\
                  jBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqz\
                  s8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G\
                  _xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
            "e": "AQAB",
        });
        assert_eq!(thumbprint(&key), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
    }

    #[test]
    fn a_key_of_one_use_is_not_taken_for_the_other() {
        for (made, read) in [
            (Use::Access, Use::Federation),
            (Use::Federation, Use::Access),
            (Use::Federation, Use::Receipt),
            (Use::Receipt, Use::Federation),
            (Use::Federation, Use::Revocation),
        ] {
            let pkcs8 = SigningKey::make(made).expect("a key");
            assert!(matches!(SigningKey::read(read, &pkcs8), Err(KeyFault::Rejected { .. })));
        }
    }
}
