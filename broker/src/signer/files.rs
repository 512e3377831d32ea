//! Keys in files: the holder for a broker without Vault.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use dayfly_domain::time::Timestamp;
use serde_json::Value;

use super::folder::{KeyFolder, KeysError};
use super::held::{HeldKey, HolderError, KeyHolder};
use super::key::SigningKey;
use super::{Keyring, SignError, Signer, Use};

/// The holder's name in what is told.
const HOLDER: &str = "the folder of keys";

/// Keys that lie in a folder as PKCS#8, DER: the first of a use as `access.pk8`, later ones as `access.1800000000.pk8`,
/// with the second since which they are published. Which of them sign is not written there.
pub struct FileKeys {
    folder: KeyFolder,
    /// By file name. A file is read once, for it is never written again.
    read: Mutex<BTreeMap<String, Arc<FileKey>>>,
}

struct FileKey {
    held: HeldKey,
    key: SigningKey,
}

impl FileKeys {
    /// Reads the keys, and makes the first of each use that has none: P-256 for access tokens and receipts, RSA-2048 for
    /// federation. Making an RSA key takes up to a second. An existing file is never written.
    ///
    /// # Errors
    /// A wrong owner or mode of folder or file, a network file system, a key that cannot be used or has two uses: all are
    /// refusals to start.
    pub fn open(keys_dir: &Path) -> Result<Self, KeysError> {
        let this = Self { folder: KeyFolder::open(keys_dir)?, read: Mutex::default() };
        let names = this.folder.names()?;
        for purpose in Use::ALL {
            if !names.iter().any(|name| parse(name).is_some_and(|(of, _)| of == purpose)) {
                this.folder.read_or_make(&file_name(purpose, None), || SigningKey::make(purpose))?;
            }
        }
        this.look()?;
        Ok(this)
    }

    /// Reads what lies in the folder now. Several brokers of one host may share it.
    fn look(&self) -> Result<Vec<HeldKey>, KeysError> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = BTreeMap::new();
        for name in self.folder.names()? {
            let Some((purpose, announced)) = parse(&name) else { continue };
            if let Some(known) = read.get(&name) {
                found.insert(name, Arc::clone(known));
            } else if let Some(key) = self.read_file(&name, purpose, announced)? {
                found.insert(name, Arc::new(key));
            }
        }
        // Two uses have keys of one kind, so a copied file would be taken.
        let mut kids: BTreeMap<&str, &str> = BTreeMap::new();
        for (name, file) in &found {
            if let Some(first) = kids.insert(&file.held.kid, name) {
                let [first, second] = [first, name].map(|name| self.folder.path_of(name));
                return Err(KeysError::Shared { first, second });
            }
        }
        let held = found.values().map(|file| file.held.clone()).collect();
        *read = found;
        Ok(held)
    }

    fn read_file(
        &self,
        name: &str,
        purpose: Use,
        announced: Option<Timestamp>,
    ) -> Result<Option<FileKey>, KeysError> {
        let Some(pkcs8) = self.folder.read_there(name)? else { return Ok(None) };
        let key = SigningKey::read(purpose, &pkcs8)
            .map_err(|source| KeysError::Unusable { path: self.folder.path_of(name), source })?;
        let announced_at = announced.unwrap_or(Timestamp::from_unix_millis(0));
        let (members, first) = (key.members().clone(), announced.is_none());
        let held = HeldKey::new(purpose, members, announced_at, first, name.to_owned());
        Ok(Some(FileKey { held, key }))
    }
}

#[async_trait]
impl KeyHolder for FileKeys {
    async fn keys(&self) -> Result<Vec<HeldKey>, HolderError> {
        self.look().map_err(unusable)
    }

    async fn sign(&self, key: &HeldKey, input: &[u8]) -> Result<Vec<u8>, HolderError> {
        let file = {
            let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
            read.get(&key.place).filter(|file| file.held.kid == key.kid).cloned()
        };
        let gone =
            || HolderError::Unusable { holder: HOLDER, what: format!("{} is gone", key.place), source: None };
        let signed = file.ok_or_else(gone)?.key.sign(input);
        signed.map_err(|source| HolderError::Unusable {
            holder: HOLDER,
            what: key.place.clone(),
            source: Some(source.into()),
        })
    }

    async fn make(&self, purpose: Use, now: Timestamp) -> Result<(), HolderError> {
        let name = file_name(purpose, Some(now));
        // Up to a second for an RSA key: not on a thread that serves.
        let made = tokio::task::spawn_blocking(move || SigningKey::make(purpose)).await;
        let failed = |what: &str, source| HolderError::Unusable {
            holder: HOLDER,
            what: what.to_owned(),
            source: Some(source),
        };
        let pkcs8 = made.map_err(|error| failed("no key was made", error.into()))?;
        let pkcs8 = pkcs8.map_err(|error| failed("no key was made", error.into()))?;
        self.folder.write(&name, &pkcs8).map_err(unusable)
    }

    async fn destroy(&self, key: &HeldKey) -> Result<Option<String>, HolderError> {
        self.folder.remove(&key.place).map_err(unusable)?;
        Ok(None)
    }

    fn makes_unasked(&self) -> bool {
        true
    }
}

fn unusable(error: KeysError) -> HolderError {
    HolderError::Unusable { holder: HOLDER, what: error.to_string(), source: Some(error.into()) }
}

fn file_name(purpose: Use, announced: Option<Timestamp>) -> String {
    match announced {
        None => format!("{}.pk8", purpose.name()),
        Some(at) => format!("{}.{}.pk8", purpose.name(), at.unix_seconds()),
    }
}

/// What a file's name says: the use, and since when it is published. None for what is no key of ours.
fn parse(name: &str) -> Option<(Use, Option<Timestamp>)> {
    let stem = name.strip_suffix(".pk8")?;
    let Some((purpose, seconds)) = stem.split_once('.') else { return Some((Use::from_name(stem)?, None)) };
    let at = Timestamp::from_unix_seconds(seconds.parse().ok()?);
    let purpose = Use::from_name(purpose)?;
    // One spelling: two names for one moment would be two keys of it.
    (file_name(purpose, Some(at)) == name).then_some((purpose, Some(at)))
}

/// Keys in a folder that nothing is withheld from: for the export of documents, and for tests.
pub struct FileSigner(Keyring);

impl FileSigner {
    /// As [`FileKeys::open`].
    ///
    /// # Errors
    /// As [`FileKeys::open`].
    pub fn open(keys_dir: &Path) -> Result<Self, KeysError> {
        let keys = FileKeys::open(keys_dir)?;
        let held = keys.look()?;
        Ok(Self(Keyring::new(Arc::new(keys), held, &[])))
    }
}

#[async_trait]
impl Signer for FileSigner {
    async fn sign(&self, purpose: Use, typ: &str, claims: &Value) -> Result<String, SignError> {
        self.0.sign(purpose, typ, claims).await
    }

    fn jwks(&self, purpose: Use) -> Value {
        self.0.jwks(purpose)
    }
}

impl fmt::Debug for FileSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
    };
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::json;

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
            (Use::Revocation, &["alg", "crv", "kid", "kty", "use", "x", "y"]),
        ] {
            let jwks = signer.jwks(purpose);
            let mut names: Vec<&String> = jwks["keys"][0].as_object().expect("a key").keys().collect();
            names.sort();
            assert_eq!(names, members);
        }
        assert!(format!("{signer:?}").len() < 300, "{signer:?}");
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
        for copy in ["revocation.pk8", "receipt.pk8"] {
            std::fs::copy(keys.join("access.pk8"), keys.join(copy)).expect("our own files");
            assert!(matches!(FileSigner::open(&keys), Err(KeysError::Shared { .. })), "one key, two uses");
        }
        std::fs::write(keys.join("access.pk8"), b"not a key").expect("our own file");
        assert!(matches!(FileSigner::open(&keys), Err(KeysError::Unusable { .. })));
        assert_eq!(std::fs::read(keys.join("access.pk8")).expect("it is there"), b"not a key");
    }

    #[tokio::test]
    async fn a_later_key_lies_beside_the_first_and_is_destroyed_alone() {
        let home = tempfile::tempdir().expect("a folder");
        let folder = home.path().join("keys");
        let keys = FileKeys::open(&folder).expect("keys");
        let at = Timestamp::from_unix_seconds(1_800_000_000);
        keys.make(Use::Access, at).await.expect("made");
        keys.make(Use::Access, at).await.expect("of two brokers that make one at once, one does");
        let held = keys.keys().await.expect("read");
        let of_access: Vec<_> = held.iter().filter(|key| key.purpose == Use::Access).collect();
        let [later, first] = of_access[..] else { panic!("{of_access:?}") };
        assert_eq!((first.place.as_str(), first.first), ("access.pk8", true));
        assert_eq!((later.place.as_str(), later.first), ("access.1800000000.pk8", false));
        assert_eq!(later.announced_at, at);
        keys.destroy(first).await.expect("destroyed");
        assert!(!folder.join("access.pk8").exists());
        keys.destroy(first).await.expect("it is gone already");
        assert_eq!(keys.keys().await.expect("read").len(), Use::ALL.len());
        assert!(keys.sign(first, b"x").await.is_err() && keys.sign(later, b"x").await.is_ok());
        // The first of a use is made where there is none at all, not in the place of one that was destroyed.
        drop(keys);
        assert_eq!(FileKeys::open(&folder).expect("keys").look().expect("read").len(), Use::ALL.len());
    }

    #[test]
    fn a_file_name_says_use_and_moment_in_one_spelling() {
        let at = Timestamp::from_unix_seconds(1_800_000_000);
        assert_eq!(parse("access.pk8"), Some((Use::Access, None)));
        assert_eq!(parse("receipt.1800000000.pk8"), Some((Use::Receipt, Some(at))));
        for other in [
            "access.01800000000.pk8",
            "access.+1.pk8",
            "access.x.pk8",
            "other.pk8",
            ".access.pk8.7",
            "access",
        ] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
