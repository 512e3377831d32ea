//! Keeps each identity's X.509-SVID until half of its life is over, so that all its processes and streams get the same.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use spiffe::SpiffeId;

use crate::authority::{Authority, Generation};
use crate::error::AuthorityError;
use crate::x509::IssuedX509;

/// The SVIDs in use, by identity, DNS names and life.
#[derive(Default)]
pub(crate) struct SvidCache(Mutex<HashMap<Key, Cached>>);

type Key = (SpiffeId, Vec<String>, Duration);

struct Cached {
    svid: IssuedX509,
    renew_at: Instant,
    signed_by: Arc<Generation>,
}

impl SvidCache {
    /// The present SVID of an identity, and how long until the next: half of its life.
    ///
    /// Made anew when its time has come, or when other keys sign by now.
    pub(crate) fn get(
        &self,
        authority: &Authority,
        id: &SpiffeId,
        dns_names: &[String],
        ttl: Duration,
    ) -> Result<(IssuedX509, Duration), AuthorityError> {
        let now = Instant::now();
        let signing = authority.signing();
        let mut cached = self.lock();
        let key = (id.clone(), dns_names.to_vec(), ttl);
        let found = cached.get(&key);
        if let Some(found) = found.filter(|one| now < one.renew_at && Arc::ptr_eq(&one.signed_by, &signing)) {
            return Ok((found.svid.clone(), found.renew_at - now));
        }
        let svid = authority.x509_svid_named(id, dns_names, ttl)?;
        // An SVID lives at least a second, whatever was asked for.
        let half = ttl.max(Duration::from_secs(1)) / 2;
        let fresh = Cached { svid: svid.clone(), renew_at: now + half, signed_by: signing };
        cached.insert(key, fresh);
        Ok((svid, half))
    }

    /// Forgets the SVIDs of the identities that are not wanted any more.
    pub(crate) fn retain(&self, mut is_wanted: impl FnMut(&SpiffeId) -> bool) {
        self.lock().retain(|(id, ..), _| is_wanted(id));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Cached>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
