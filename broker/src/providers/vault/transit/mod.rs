//! Signing keys in Vault's transit engine, which lets nobody have them. A key's versions are the keys of one use.
//!
//! Every signature is checked against the public half that was published before it goes out: an engine, or a man in
//! between, that signs with another key gives nothing.

mod config;
mod public;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use dayfly_domain::time::Timestamp;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio_util::task::AbortOnDropHandle;
use vaultrs::api::transit::requests::{ReadKeyRequest, RotateKeyRequest, SignDataRequest};
use vaultrs::api::transit::{HashAlgorithm, MarshalingAlgorithm, SignatureAlgorithm};

pub use self::config::TransitConfig;
use self::public::{TransitKey, held_keys, verifies};
use super::VaultConfigError;
use super::endpoints::Envelope;
use super::errors::CallError;
use super::login::{Door, JwtSource, Login};
use super::wire::Wire;
use crate::signer::{HeldKey, HolderError, KeyHolder, Use};

/// The holder's name in what is told.
const HOLDER: &str = "vault's transit engine";

/// Keys at one transit engine.
pub struct TransitKeys {
    config: TransitConfig,
    desk: Arc<Desk>,
    /// Which version of which key has this `kid`. Once seen, a version keeps its key while this process lives.
    versions: Mutex<BTreeMap<(Use, u64), String>>,
    _keeper: AbortOnDropHandle<()>,
}

struct Desk {
    door: Door,
    login: Login,
}

impl TransitKeys {
    /// Logs in, and keeps the login until it is dropped. A Vault that is down is no error: nothing is signed until it is
    /// there.
    ///
    /// # Errors
    /// The configuration cannot be used.
    pub async fn start(
        config: TransitConfig,
        jwt: impl JwtSource + 'static,
    ) -> Result<Self, VaultConfigError> {
        let reach = config.reach();
        let wire = Arc::new(Wire::new(&reach)?);
        let door = Door::new(&reach, wire, Arc::new(jwt));
        let desk = Arc::new(Desk { door, login: Login::new(&config.role, false) });
        let keeper = tokio::spawn({
            let desk = desk.clone();
            async move { desk.door.keep(&desk.login).await }
        });
        Ok(Self { config, desk, versions: Mutex::default(), _keeper: AbortOnDropHandle::new(keeper) })
    }

    fn deadline(&self) -> Instant {
        Instant::now() + Duration::from_millis(self.config.timeout.as_millis())
    }

    async fn read(&self, purpose: Use) -> Result<Vec<(u64, HeldKey)>, HolderError> {
        let name = self.config.name(purpose);
        let path = format!("{}/keys/{name}", self.config.mount);
        let request = || {
            let read = ReadKeyRequest::builder().mount(self.config.mount.as_str()).name(name).build();
            read.expect("every field has a default")
        };
        let answer = self.desk.door.call(&self.desk.login, request, self.deadline()).await;
        let key = answer.and_then(|answer| answer.read::<Envelope<TransitKey>>());
        let key = key.map_err(|error| self.failed(&path, "read", error))?.data;
        let key = key.ok_or_else(|| unusable(format!("{path} holds no data")))?;
        held_keys(purpose, &path, &key).map_err(unusable)
    }

    /// Notes which key each version is. One that is another than before was put in its place.
    fn pin(&self, purpose: Use, version: u64, key: &HeldKey) -> Result<(), HolderError> {
        let mut versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        let pinned = versions.entry((purpose, version)).or_insert_with(|| key.kid.clone());
        if *pinned == key.kid {
            return Ok(());
        }
        Err(unusable(format!(
            "{} is another key than it was; find out who put it there, then restart the broker",
            key.place
        )))
    }

    fn version_of(&self, key: &HeldKey) -> Option<u64> {
        let versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        let mut of_use = versions.iter().filter(|((purpose, _), _)| *purpose == key.purpose);
        of_use.find(|(_, kid)| **kid == key.kid).map(|((_, version), _)| *version)
    }

    fn failed(&self, path: &str, what: &str, error: CallError) -> HolderError {
        let told = format!("could not {what} {path}: {error}");
        match error {
            CallError::Said { status: 403, .. } => HolderError::Refused {
                holder: HOLDER,
                what: told,
                next: format!(
                    "give the login {} the policy in deploy/vault/policy-dayfly-sign.hcl, with the names of these keys",
                    self.config.role
                ),
            },
            CallError::Said { status: 400..=499, .. } if !error.never_heard() => unusable(told),
            other => HolderError::Away { holder: HOLDER, what: told, source: other.into_source() },
        }
    }
}

#[async_trait]
impl KeyHolder for TransitKeys {
    async fn keys(&self) -> Result<Vec<HeldKey>, HolderError> {
        let mut held: Vec<HeldKey> = Vec::new();
        for purpose in Use::ALL {
            for (version, key) in self.read(purpose).await? {
                self.pin(purpose, version, &key)?;
                if let Some(other) = held.iter().find(|other| other.kid == key.kid) {
                    return Err(unusable(format!("{} and {} are one key", other.place, key.place)));
                }
                held.push(key);
            }
        }
        Ok(held)
    }

    async fn sign(&self, key: &HeldKey, input: &[u8]) -> Result<Vec<u8>, HolderError> {
        #[derive(Deserialize)]
        struct Signed {
            signature: String,
        }
        let version = self.version_of(key).ok_or_else(|| unusable(format!("{} is gone", key.place)))?;
        let name = self.config.name(key.purpose);
        let path = format!("{}/sign/{name}", self.config.mount);
        // The digest alone: what a token says is none of Vault's business, nor of its audit log's.
        let digest = STANDARD.encode(Sha256::digest(input));
        let request = || {
            let mut sign = SignDataRequest::builder();
            sign.mount(self.config.mount.as_str())
                .name(name)
                .key_version(version)
                .hash_algorithm(HashAlgorithm::Sha2_256)
                .prehashed(true)
                .input(digest.as_str());
            match key.purpose {
                Use::Access | Use::Receipt | Use::Revocation => {
                    sign.marshaling_algorithm(MarshalingAlgorithm::Jws)
                }
                Use::Federation => sign.signature_algorithm(SignatureAlgorithm::Pkcs1v15),
            };
            sign.build().expect("every field has a default")
        };
        let answer = self.desk.door.call(&self.desk.login, request, self.deadline()).await;
        let signed = answer.and_then(|answer| answer.read::<Envelope<Signed>>());
        let signed = signed.map_err(|error| self.failed(&path, "sign at", error))?.data;
        let signed = signed.ok_or_else(|| unusable(format!("{path} gave no signature")))?.signature;
        let encoded = signed.strip_prefix(&format!("vault:v{version}:")).unwrap_or_default();
        // With `jws` transit changes the encoding too.
        let signature = match key.purpose {
            Use::Access | Use::Receipt | Use::Revocation => URL_SAFE_NO_PAD.decode(encoded),
            Use::Federation => STANDARD.decode(encoded),
        };
        match signature {
            Ok(signature) if verifies(key, input, &signature) => Ok(signature),
            _ => Err(unusable(format!("{path} gave what {} does not verify", key.place))),
        }
    }

    async fn make(&self, purpose: Use, _: Timestamp) -> Result<(), HolderError> {
        let name = self.config.name(purpose);
        let path = format!("{}/keys/{name}/rotate", self.config.mount);
        let request = || {
            let rotate = RotateKeyRequest::builder().mount(self.config.mount.as_str()).name(name).build();
            rotate.expect("every field has a default")
        };
        let made = self.desk.door.call(&self.desk.login, request, self.deadline()).await;
        made.map(drop).map_err(|error| match self.failed(&path, "write", error) {
            HolderError::Refused { holder, what, .. } => HolderError::Refused {
                holder,
                what,
                next: format!(
                    "as an administrator of Vault: vault write -f {path}; the broker announces the new version by itself"
                ),
            },
            other => other,
        })
    }

    async fn destroy(&self, key: &HeldKey) -> Result<Option<String>, HolderError> {
        let Some(version) = self.version_of(key) else { return Ok(None) };
        let path = format!("{}/keys/{}/config", self.config.mount, self.config.name(key.purpose));
        let next = version + 1;
        Ok(Some(format!(
            "as an administrator of Vault, once no version below {next} is active or retiring: \
             vault write {path} min_decryption_version={next} min_encryption_version={next}"
        )))
    }

    fn makes_unasked(&self) -> bool {
        false
    }
}

fn unusable(what: String) -> HolderError {
    HolderError::Unusable { holder: HOLDER, what, source: None }
}
