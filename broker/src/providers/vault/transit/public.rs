//! What transit tells of a key: whether it may leave, and the public half of each version.

use std::collections::BTreeMap;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use dayfly_domain::time::Timestamp;
use serde::Deserialize;
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::signer::{HeldKey, Use, ec_members, rsa_members};

/// `transit/keys/<name>`, as far as it is read.
/// <https://developer.hashicorp.com/vault/api-docs/secret/transit#read-key>
#[derive(Deserialize)]
pub(super) struct TransitKey {
    #[serde(rename = "type")]
    kind: String,
    exportable: bool,
    allow_plaintext_backup: bool,
    deletion_allowed: bool,
    derived: bool,
    /// By version. Those below `min_decryption_version` are not among them.
    keys: BTreeMap<String, Version>,
}

#[derive(Deserialize)]
struct Version {
    creation_time: String,
    /// SubjectPublicKeyInfo in PEM.
    public_key: String,
}

/// Every version of a key as a key of its own, if it is of the kind its use demands and nobody can have it.
pub(super) fn held_keys(purpose: Use, path: &str, key: &TransitKey) -> Result<Vec<(u64, HeldKey)>, String> {
    let kind = match purpose {
        Use::Access | Use::Receipt | Use::Revocation => "ecdsa-p256",
        Use::Federation => "rsa-2048",
    };
    if key.kind != kind {
        return Err(format!("{path} is of type {}; this use wants {kind}", key.kind));
    }
    for (open, flag) in [
        (key.exportable, "exportable"),
        (key.allow_plaintext_backup, "allow_plaintext_backup"),
        (key.deletion_allowed, "deletion_allowed"),
        (key.derived, "derived"),
    ] {
        if open {
            return Err(format!("{path} has {flag}: make another key without it"));
        }
    }
    key.keys.iter().map(|(version, told)| one(purpose, path, version, told)).collect()
}

fn one(purpose: Use, path: &str, version: &str, told: &Version) -> Result<(u64, HeldKey), String> {
    let fault = |what: &str| format!("{path} version {version}: {what}");
    let number: u64 = version.parse().map_err(|_| fault("it has no number"))?;
    let made: Timestamp = told.creation_time.parse().map_err(|_| fault("its creation_time is no moment"))?;
    let (_, pem) =
        parse_x509_pem(told.public_key.as_bytes()).map_err(|_| fault("its public half is no PEM"))?;
    let (_, spki) =
        SubjectPublicKeyInfo::from_der(&pem.contents).map_err(|_| fault("its public half cannot be read"))?;
    let members = match purpose {
        Use::Access | Use::Receipt | Use::Revocation => ec_members(&spki.subject_public_key.data),
        Use::Federation => rsa_members(&spki.subject_public_key.data),
    };
    let members = members.ok_or_else(|| fault("its public half is of another kind"))?;
    // Before the first version nobody had read a set without it.
    let first = number == 1;
    let announced_at = if first { Timestamp::from_unix_millis(0) } else { made };
    Ok((number, HeldKey::new(purpose, members, announced_at, first, format!("{path} version {version}"))))
}

/// Whether a key's public half verifies a signature, as whoever reads the JWKS would.
pub(super) fn verifies(key: &HeldKey, input: &[u8], signature: &[u8]) -> bool {
    let member = |name: &str| URL_SAFE_NO_PAD.decode(key.jwk[name].as_str().unwrap_or_default());
    match key.purpose {
        Use::Access | Use::Receipt | Use::Revocation => {
            let (Ok(x), Ok(y)) = (member("x"), member("y")) else { return false };
            let point = [vec![4], x, y].concat();
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(input, signature).is_ok()
        }
        Use::Federation => {
            let (Ok(n), Ok(e)) = (member("n"), member("e")) else { return false };
            let key = RsaPublicKeyComponents { n, e };
            key.verify(&RSA_PKCS1_2048_8192_SHA256, input, signature).is_ok()
        }
    }
}
