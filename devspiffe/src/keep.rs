//! Keeps an authority's keys in a folder, so that a restart does not make every SVID worthless.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use spiffe::TrustDomain;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::authority::{Generation, KeyRing};
use crate::error::AuthorityError;
use crate::jwt::{JwtKey, unix_seconds};
use crate::x509::CertificateAuthority;

const KEYS_FILE: &str = "authority.json";
const LOCK_FILE: &str = "lock";

/// A folder that this process alone uses, until dropped.
pub(crate) struct Keep {
    folder: PathBuf,
    _lock: File,
}

/// The file's content. Secrets are base64 of PKCS#8 DER.
#[derive(Serialize, Deserialize)]
struct Kept {
    version: u32,
    trust_domain: String,
    signing: usize,
    generations: Vec<KeptGeneration>,
}

#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
struct KeptGeneration {
    ca_certificate: String,
    ca_key: String,
    ca_not_after: u64,
    jwt_key: String,
}

impl Keep {
    /// Makes the folder if it is missing, checks that it is private, and locks it.
    pub(crate) fn lock(folder: &Path) -> Result<Self, AuthorityError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|source| AuthorityError::folder("create", folder, source))?;
        let handle = File::open(folder).map_err(|source| AuthorityError::folder("open", folder, source))?;
        must_be_private(&handle, folder, 0o700)?;

        let path = folder.join(LOCK_FILE);
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(&path)
            .map_err(|source| AuthorityError::folder("open", &path, source))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { folder: folder.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(AuthorityError::InUse { path: folder.to_owned() }),
            Err(TryLockError::Error(source)) => Err(AuthorityError::folder("lock", &path, source)),
        }
    }

    /// Reads the keys; `None` when the folder keeps none yet.
    pub(crate) fn load(&self, trust_domain: &TrustDomain) -> Result<Option<KeyRing>, AuthorityError> {
        let path = self.folder.join(KEYS_FILE);
        let opened = OpenOptions::new().read(true).custom_flags(nix::libc::O_NOFOLLOW).open(&path);
        let mut file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(AuthorityError::folder("open", &path, source)),
        };
        must_be_private(&file, &path, 0o600)?;
        let mut text = Zeroizing::new(String::new());
        file.read_to_string(&mut text).map_err(|source| AuthorityError::folder("read", &path, source))?;

        let unusable = |complaint: String| AuthorityError::Unusable { path: path.clone(), complaint };
        // The parser's message is left out: it may quote what it read.
        let kept: Kept = serde_json::from_str(&text).map_err(|_| unusable("is damaged".to_owned()))?;
        if kept.version != 1 {
            return Err(unusable(format!("has version {}, this program knows version 1", kept.version)));
        }
        if kept.trust_domain != trust_domain.as_str() {
            return Err(unusable(format!("keeps the keys of {}, not of {trust_domain}", kept.trust_domain)));
        }
        let generations = kept
            .generations
            .iter()
            .map(|generation| generation.restore(trust_domain).map(Arc::new))
            .collect::<Option<Vec<_>>>()
            .filter(|generations| kept.signing < generations.len())
            .ok_or_else(|| unusable("is damaged".to_owned()))?;
        Ok(Some(KeyRing { generations, signing: kept.signing }))
    }

    /// Replaces the kept keys in one step: after a crash the file holds the old or the new ones, whole.
    pub(crate) fn save(&self, trust_domain: &TrustDomain, ring: &KeyRing) -> Result<(), AuthorityError> {
        let generations =
            ring.generations.iter().map(|one| KeptGeneration::of(one)).collect::<Result<Vec<_>, _>>()?;
        let kept =
            Kept { version: 1, trust_domain: trust_domain.to_string(), signing: ring.signing, generations };
        let text = Zeroizing::new(serde_json::to_vec_pretty(&kept).expect("strings and numbers serialize"));

        let path = self.folder.join(KEYS_FILE);
        let fresh = self.folder.join(format!("{KEYS_FILE}.new"));
        write_private(&fresh, &text)
            .and_then(|()| std::fs::rename(&fresh, &path))
            .and_then(|()| File::open(&self.folder)?.sync_all())
            .map_err(|source| AuthorityError::folder("write", &path, source))
    }
}

impl KeptGeneration {
    fn of(generation: &Generation) -> Result<Self, AuthorityError> {
        Ok(Self {
            ca_certificate: STANDARD.encode(generation.ca.certificate()),
            ca_key: STANDARD.encode(&*generation.ca.key_der()),
            ca_not_after: unix_seconds(generation.ca.not_after()),
            jwt_key: STANDARD.encode(&*generation.jwt.key_der()?),
        })
    }

    /// `None` when any part cannot be read.
    fn restore(&self, trust_domain: &TrustDomain) -> Option<Generation> {
        let ca_key = Zeroizing::new(STANDARD.decode(&self.ca_key).ok()?);
        let jwt_key = Zeroizing::new(STANDARD.decode(&self.jwt_key).ok()?);
        let certificate = STANDARD.decode(&self.ca_certificate).ok()?;
        let not_after = UNIX_EPOCH.checked_add(Duration::from_secs(self.ca_not_after))?;
        Some(Generation {
            ca: CertificateAuthority::restore(trust_domain, &ca_key, certificate, not_after).ok()?,
            jwt: JwtKey::restore(&jwt_key).ok()?,
        })
    }
}

fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    // A left-over of a crash may have any mode; a new file has ours from its first byte on.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn must_be_private(handle: &File, path: &Path, wanted: u32) -> Result<(), AuthorityError> {
    let metadata = handle.metadata().map_err(|source| AuthorityError::folder("look at", path, source))?;
    let mode = metadata.mode() & 0o777;
    let is_ours = metadata.uid() == nix::unistd::geteuid().as_raw();
    if is_ours && mode & !wanted == 0 {
        return Ok(());
    }
    Err(AuthorityError::Exposed { path: path.to_owned(), owner: metadata.uid(), mode, wanted })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use crate::{Authority, AuthorityError};

    #[test]
    fn a_restart_keeps_every_key_and_which_one_signs() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("keys");
        let before = Authority::open("dev.keep", &folder).unwrap();
        before.rotate().unwrap();
        before.prepare_rotation().unwrap();
        let (roots, jwks) = (before.roots_der(), before.jwks());
        let kid = before.signing().jwt.header();
        drop(before);

        let after = Authority::open("dev.keep", &folder).unwrap();
        assert_eq!(roots.len(), 3);
        assert_eq!(after.roots_der(), roots);
        assert_eq!(after.jwks(), jwks);
        assert_eq!(after.signing().jwt.header(), kid);
    }

    #[test]
    fn keys_that_others_could_read_are_refused() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("keys");
        drop(Authority::open("dev.keep", &folder).unwrap());
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o7777, 0o700);
        let file = folder.join("authority.json");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);

        fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
        let refused = Authority::open("dev.keep", &folder).unwrap_err();
        assert!(matches!(refused, AuthorityError::Exposed { mode: 0o640, .. }), "{refused}");

        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(&folder, Permissions::from_mode(0o711)).unwrap();
        let refused = Authority::open("dev.keep", &folder).unwrap_err();
        assert!(matches!(refused, AuthorityError::Exposed { mode: 0o711, .. }), "{refused}");
    }

    #[test]
    fn one_folder_serves_one_authority_of_one_trust_domain() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("keys");
        let first = Authority::open("dev.keep", &folder).unwrap();
        assert!(matches!(Authority::open("dev.keep", &folder), Err(AuthorityError::InUse { .. })));
        drop(first);
        let refused = Authority::open("dev.other", &folder).unwrap_err();
        assert!(refused.to_string().contains("keeps the keys of dev.keep"), "{refused}");
    }

    #[test]
    fn damaged_keys_are_named_but_not_quoted() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("keys");
        drop(Authority::open("dev.keep", &folder).unwrap());
        let file = folder.join("authority.json");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text.replace("\"jwt_key\": \"", "\"jwt_key\": \"MIIBsecret!")).unwrap();

        let refused = Authority::open("dev.keep", &folder).unwrap_err();
        assert!(matches!(refused, AuthorityError::Unusable { .. }), "{refused}");
        assert!(!format!("{refused:?} {refused}").contains("MIIBsecret"), "{refused:?}");
    }
}
