//! Keys in files: the first signer, and the one for a broker without Vault or KMS.

use std::fmt;
use std::path::Path;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::folder::{KeyFolder, KeysError};
use super::key::SigningKey;
use super::{SignError, Signer, Use};

/// Signs with keys that lie in a folder as `access.pk8`, `federation.pk8` and `receipt.pk8` (PKCS#8, DER).
pub struct FileSigner {
    access: SigningKey,
    federation: SigningKey,
    receipt: SigningKey,
}

impl FileSigner {
    /// Reads the keys, and makes those that are missing: P-256 for access tokens and receipts, RSA-2048 for federation.
    /// Making an RSA key takes up to a second. An existing file is never written.
    ///
    /// # Errors
    /// A wrong owner or mode of folder or file, a network file system, a key that cannot be used or has two uses: all are
    /// refusals to start.
    pub fn open(keys_dir: &Path) -> Result<Self, KeysError> {
        let folder = KeyFolder::open(keys_dir)?;
        let read = |purpose: Use| {
            let name = format!("{}.pk8", purpose.name());
            let (path, pkcs8) = folder.read_or_make(&name, || SigningKey::make(purpose))?;
            SigningKey::read(purpose, &pkcs8).map_err(|source| KeysError::Unusable { path, source })
        };
        let this = Self {
            access: read(Use::Access)?,
            federation: read(Use::Federation)?,
            receipt: read(Use::Receipt)?,
        };
        // Both are P-256, so a copied file would be taken.
        if this.access.jwk()["kid"] == this.receipt.jwk()["kid"] {
            let [first, second] =
                [Use::Access, Use::Receipt].map(|purpose| keys_dir.join(format!("{}.pk8", purpose.name())));
            return Err(KeysError::Shared { first, second });
        }
        Ok(this)
    }

    fn key(&self, purpose: Use) -> &SigningKey {
        match purpose {
            Use::Access => &self.access,
            Use::Federation => &self.federation,
            Use::Receipt => &self.receipt,
        }
    }
}

#[async_trait]
impl Signer for FileSigner {
    async fn sign(&self, purpose: Use, typ: &str, claims: &Value) -> Result<String, SignError> {
        let signed = self.key(purpose).sign(typ, claims);
        signed.map_err(|source| SignError { what: format!("{} key", purpose.name()), source: source.into() })
    }

    fn jwks(&self, purpose: Use) -> Value {
        json!({"keys": [self.key(purpose).jwk()]})
    }
}

impl fmt::Debug for FileSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileSigner")
            .field("access", &self.access.jwk()["kid"])
            .field("federation", &self.federation.jwk()["kid"])
            .field("receipt", &self.receipt.jwk()["kid"])
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
    };
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    fn member(jwk: &Value, name: &str) -> Vec<u8> {
        URL_SAFE_NO_PAD.decode(jwk[name].as_str().expect("text")).expect("base64url")
    }

    /// Verifies with nothing but what the JWK Set says, as a stranger would.
    fn verified(jwks: &Value, token: &str) -> bool {
        let (signed, signature) = token.rsplit_once('.').expect("three parts");
        let header = URL_SAFE_NO_PAD.decode(signed.split('.').next().expect("a header")).expect("base64url");
        let header: Value = serde_json::from_slice(&header).expect("JSON");
        let signature = URL_SAFE_NO_PAD.decode(signature).expect("base64url");
        let keys = jwks["keys"].as_array().expect("a list");
        let Some(jwk) = keys.iter().find(|jwk| jwk["kid"] == header["kid"] && jwk["alg"] == header["alg"])
        else {
            return false;
        };
        assert_eq!(jwk["use"], "sig");
        match jwk["kty"].as_str() {
            Some("EC") => {
                let point = [vec![4], member(jwk, "x"), member(jwk, "y")].concat();
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
                    .verify(signed.as_bytes(), &signature)
                    .is_ok()
            }
            Some("RSA") => RsaPublicKeyComponents { n: member(jwk, "n"), e: member(jwk, "e") }
                .verify(&RSA_PKCS1_2048_8192_SHA256, signed.as_bytes(), &signature)
                .is_ok(),
            other => panic!("a key of type {other:?}"),
        }
    }

    #[tokio::test]
    async fn a_stranger_verifies_each_kind_with_its_own_jwks_and_no_other() {
        let home = tempfile::tempdir().expect("a folder");
        let signer = FileSigner::open(&home.path().join("keys")).expect("keys");
        for purpose in Use::ALL {
            let token = signer.sign(purpose, purpose.typ(), &json!({"a": "b"})).await.expect("signed");
            for jwks_of in Use::ALL {
                assert_eq!(
                    verified(&signer.jwks(jwks_of), &token),
                    jwks_of == purpose,
                    "{purpose:?} {jwks_of:?}"
                );
            }
            let at = token.find('.').expect("three parts") + 3;
            let other = if token.as_bytes()[at] == b'A' { "B" } else { "A" };
            let tampered = format!("{}{other}{}", &token[..at], &token[at + 1..]);
            assert!(!verified(&signer.jwks(purpose), &tampered));
        }
    }

    #[test]
    fn no_private_half_is_in_a_jwks_or_in_debug() {
        let home = tempfile::tempdir().expect("a folder");
        let signer = FileSigner::open(&home.path().join("keys")).expect("keys");
        for (purpose, members) in [
            (Use::Access, ["alg", "crv", "kid", "kty", "use", "x", "y"].as_slice()),
            (Use::Federation, &["alg", "e", "kid", "kty", "n", "use"]),
            (Use::Receipt, &["alg", "crv", "kid", "kty", "use", "x", "y"]),
        ] {
            let jwks = signer.jwks(purpose);
            let mut names: Vec<&String> = jwks["keys"][0].as_object().expect("a key").keys().collect();
            names.sort();
            assert_eq!(names, members);
        }
        assert!(format!("{signer:?}").len() < 220);
    }

    #[test]
    fn keys_outlive_a_restart_and_a_spoilt_one_is_no_start() {
        let home = tempfile::tempdir().expect("a folder");
        let keys = home.path().join("keys");
        let first = FileSigner::open(&keys).expect("made");
        let second = FileSigner::open(&keys).expect("read");
        for purpose in Use::ALL {
            assert_eq!(first.jwks(purpose), second.jwks(purpose));
        }
        std::fs::copy(keys.join("access.pk8"), keys.join("receipt.pk8")).expect("our own files");
        assert!(matches!(FileSigner::open(&keys), Err(KeysError::Shared { .. })), "one key, two uses");
        std::fs::write(keys.join("access.pk8"), b"not a key").expect("our own file");
        assert!(matches!(FileSigner::open(&keys), Err(KeysError::Unusable { .. })));
        assert_eq!(std::fs::read(keys.join("access.pk8")).expect("it is there"), b"not a key");
    }
}
