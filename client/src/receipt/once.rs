//! Takes each receipt once.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use super::{Receipt, ReceiptFault};

/// Remembers the receipts that were shown until they run out, so that each is good once.
///
/// One process remembers for itself: two guards of one SPIFFE ID, or one that was started anew, would each take a receipt
/// once. Within its minute it stays bound to its workload, action and artifact.
#[derive(Debug)]
pub struct AcceptOnce {
    capacity: usize,
    seen: Mutex<BTreeSet<(SystemTime, String)>>,
}

impl AcceptOnce {
    /// Remembers at most so many at once. It takes fewer than `capacity` receipts a minute; what comes beyond is refused.
    pub fn new(capacity: usize) -> Self {
        AcceptOnce { capacity, seen: Mutex::default() }
    }

    /// Takes a receipt that was verified, if it was not taken before.
    ///
    /// # Errors
    /// [`ReceiptFault::Replayed`], or [`ReceiptFault::Busy`] where it could not be remembered.
    pub fn accept(&self, receipt: &Receipt, now: SystemTime) -> Result<(), ReceiptFault> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // What has run out is refused for that already.
        *seen = seen.split_off(&(now, String::new()));
        let key = (receipt.expires_at, receipt.decision_id.clone());
        if seen.contains(&key) {
            return Err(ReceiptFault::Replayed);
        }
        if seen.len() >= self.capacity {
            return Err(ReceiptFault::Busy);
        }
        seen.insert(key);
        Ok(())
    }
}
