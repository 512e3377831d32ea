//! A trust domain's own authority: it makes SVIDs and publishes the keys that verify them.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, RwLock};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use spiffe::{SpiffeId, TrustDomain};
use tokio::sync::watch;

use crate::error::AuthorityError;
use crate::jwt::{IssuedJwt, JwtKey, p256_jwk};
use crate::keep::Keep;
use crate::x509::{CertificateAuthority, IssuedX509, ROOT_LIFE};

/// Makes X.509- and JWT-SVIDs of one trust domain. Clones share the same keys.
///
/// The keys come in generations: a root certificate and a JWT key each. One generation signs; every generation
/// is in the bundles, so that what an older one signed is still accepted.
#[derive(Clone)]
pub struct Authority(Arc<Inner>);

struct Inner {
    trust_domain: TrustDomain,
    ring: RwLock<KeyRing>,
    keep: Option<Keep>,
    changes: watch::Sender<u64>,
}

/// All generations, oldest first, and which of them signs.
#[derive(Clone)]
pub(crate) struct KeyRing {
    pub(crate) generations: Vec<Arc<Generation>>,
    pub(crate) signing: usize,
}

/// The keys that are made, used and retired together.
pub(crate) struct Generation {
    pub(crate) ca: CertificateAuthority,
    pub(crate) jwt: JwtKey,
}

impl Authority {
    /// Makes an authority whose keys are gone when it is dropped.
    ///
    /// # Errors
    /// When `trust_domain` is not a trust domain name (SPIFFE-ID §2.1), or no key can be made.
    pub fn in_memory(trust_domain: &str) -> Result<Self, AuthorityError> {
        let trust_domain = parse_trust_domain(trust_domain)?;
        let ring = KeyRing::new(&trust_domain, SystemTime::now())?;
        Ok(Self::with(trust_domain, ring, None))
    }

    /// Opens the authority that `folder` keeps, or makes one there. The folder is made with mode 0700, its files 0600.
    ///
    /// A root certificate near its end gets a successor; the old one stays in the bundle.
    ///
    /// # Errors
    /// Also when the folder has another owner or is open to others, when another process uses it, and when it
    /// keeps keys of another trust domain.
    pub fn open(trust_domain: &str, folder: &Path) -> Result<Self, AuthorityError> {
        let trust_domain = parse_trust_domain(trust_domain)?;
        let keep = Keep::lock(folder)?;
        let now = SystemTime::now();
        let authority = match keep.load(&trust_domain)? {
            Some(ring) => Self::with(trust_domain, ring, Some(keep)),
            None => {
                let ring = KeyRing::new(&trust_domain, now)?;
                keep.save(&trust_domain, &ring)?;
                Self::with(trust_domain, ring, Some(keep))
            }
        };
        if authority.signing().ca.not_after() < now + ROOT_LIFE / 4 {
            authority.rotate()?;
        }
        Ok(authority)
    }

    fn with(trust_domain: TrustDomain, ring: KeyRing, keep: Option<Keep>) -> Self {
        Self(Arc::new(Inner { trust_domain, ring: RwLock::new(ring), keep, changes: watch::Sender::new(0) }))
    }

    /// The trust domain this authority speaks for.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.0.trust_domain
    }

    /// Makes an X.509-SVID with a new P-256 key, valid from ten seconds ago for `ttl` from now, rounded up to a
    /// whole second.
    ///
    /// # Errors
    /// When `id` is of another trust domain, or the certificate cannot be made.
    pub fn x509_svid(&self, id: &SpiffeId, ttl: Duration) -> Result<IssuedX509, AuthorityError> {
        self.x509_svid_named(id, &[], ttl)
    }

    /// The same with DNS names beside the SPIFFE ID.
    ///
    /// # Errors
    /// Also when a name is none.
    pub fn x509_svid_named(
        &self,
        id: &SpiffeId,
        dns_names: &[String],
        ttl: Duration,
    ) -> Result<IssuedX509, AuthorityError> {
        self.own(id)?;
        self.signing().ca.issue(id, dns_names, ttl, SystemTime::now())
    }

    /// Makes a JWT-SVID (ES256) for the audiences, valid for `ttl` from now, rounded up to a whole second.
    ///
    /// # Errors
    /// When `id` is of another trust domain, or the token cannot be signed.
    pub fn jwt_svid<A: AsRef<str>>(
        &self,
        id: &SpiffeId,
        audience: &[A],
        ttl: Duration,
    ) -> Result<IssuedJwt, AuthorityError> {
        self.own(id)?;
        let audience: Vec<String> = audience.iter().map(|one| one.as_ref().to_owned()).collect();
        self.signing().jwt.issue(id, &audience, ttl, SystemTime::now())
    }

    /// The root certificates, DER, oldest first.
    #[must_use]
    pub fn roots_der(&self) -> Vec<Vec<u8>> {
        self.ring().generations.iter().map(|generation| generation.ca.certificate().to_vec()).collect()
    }

    /// The keys that verify JWT-SVIDs, as a plain JWK set (RFC 7517 §5): what the Workload API hands out.
    #[must_use]
    pub fn jwks(&self) -> Value {
        let keys: Vec<Value> =
            self.ring().generations.iter().map(|generation| generation.jwt.jwk()).collect();
        json!({ "keys": keys })
    }

    /// The whole bundle in the SPIFFE format, each key with its `use`: `x509-svid` or `jwt-svid`.
    ///
    /// SPIFFE Trust Domain and Bundle §4; this is what a bundle endpoint would serve.
    #[must_use]
    pub fn bundle_document(&self) -> Value {
        let ring = self.ring();
        let roots = ring.generations.iter().map(|generation| {
            let mut jwk = p256_jwk(generation.ca.public_point());
            jwk["use"] = Value::from("x509-svid");
            jwk["x5c"] = json!([STANDARD.encode(generation.ca.certificate())]);
            jwk
        });
        let jwt_keys = ring.generations.iter().map(|generation| {
            let mut jwk = generation.jwt.jwk();
            jwk["use"] = Value::from("jwt-svid");
            jwk
        });
        json!({ "keys": roots.chain(jwt_keys).collect::<Vec<_>>(), "spiffe_refresh_hint": 60 })
    }

    /// Adds the next generation to the bundles; the present one still signs. Calling it twice adds one.
    ///
    /// # Errors
    /// When no key can be made, or the folder cannot be written. Nothing has changed then.
    pub fn prepare_rotation(&self) -> Result<(), AuthorityError> {
        self.change(|ring, trust_domain| {
            if ring.signing + 1 == ring.generations.len() {
                ring.generations.push(Arc::new(Generation::new(trust_domain, SystemTime::now())?));
            }
            Ok(())
        })
    }

    /// Signs with the newest generation from now on; the older ones stay in the bundles.
    ///
    /// # Errors
    /// When the folder cannot be written. Nothing has changed then.
    pub fn finish_rotation(&self) -> Result<(), AuthorityError> {
        self.change(|ring, _| {
            ring.signing = ring.generations.len() - 1;
            Ok(())
        })
    }

    /// Prepares and finishes a rotation at once: new keys sign, the bundles hold old and new.
    ///
    /// A peer that has not yet fetched the new bundle refuses new SVIDs for a moment. Where that matters, call
    /// [`Self::prepare_rotation`], wait, then [`Self::finish_rotation`].
    ///
    /// # Errors
    /// As the two calls.
    pub fn rotate(&self) -> Result<(), AuthorityError> {
        self.prepare_rotation()?;
        self.finish_rotation()
    }

    /// Takes every generation older than the signing one out of the bundles. What they signed is refused from then on.
    ///
    /// # Errors
    /// When the folder cannot be written. Nothing has changed then.
    pub fn retire_old(&self) -> Result<(), AuthorityError> {
        self.change(|ring, _| {
            ring.generations.drain(..ring.signing);
            ring.signing = 0;
            Ok(())
        })
    }

    /// Ticks at every change of the keys.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// The generation that signs now.
    pub(crate) fn signing(&self) -> Arc<Generation> {
        let ring = self.ring();
        Arc::clone(&ring.generations[ring.signing])
    }

    fn ring(&self) -> KeyRing {
        self.0.ring.read().expect("no holder of this lock panics").clone()
    }

    /// Changes the keys on disk first, then in memory, then tells who listens.
    fn change(
        &self,
        how: impl FnOnce(&mut KeyRing, &TrustDomain) -> Result<(), AuthorityError>,
    ) -> Result<(), AuthorityError> {
        let mut ring = self.0.ring.write().expect("no holder of this lock panics");
        let mut next = ring.clone();
        how(&mut next, &self.0.trust_domain)?;
        if let Some(keep) = &self.0.keep {
            keep.save(&self.0.trust_domain, &next)?;
        }
        *ring = next;
        drop(ring);
        self.0.changes.send_modify(|count| *count += 1);
        Ok(())
    }

    fn own(&self, id: &SpiffeId) -> Result<(), AuthorityError> {
        if id.is_member_of(&self.0.trust_domain) {
            return Ok(());
        }
        Err(AuthorityError::Foreign { spiffe_id: id.clone(), trust_domain: self.0.trust_domain.clone() })
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("trust_domain", &self.0.trust_domain).finish_non_exhaustive()
    }
}

impl KeyRing {
    fn new(trust_domain: &TrustDomain, now: SystemTime) -> Result<Self, AuthorityError> {
        Ok(Self { generations: vec![Arc::new(Generation::new(trust_domain, now)?)], signing: 0 })
    }
}

impl Generation {
    pub(crate) fn new(trust_domain: &TrustDomain, now: SystemTime) -> Result<Self, AuthorityError> {
        Ok(Self { ca: CertificateAuthority::generate(trust_domain, now)?, jwt: JwtKey::generate()? })
    }
}

fn parse_trust_domain(name: &str) -> Result<TrustDomain, AuthorityError> {
    TrustDomain::new(name).map_err(|source| AuthorityError::TrustDomain { name: name.to_owned(), source })
}
