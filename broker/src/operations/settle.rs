//! Until when what a kill cuts off is looked for again.

use std::sync::atomic::{AtomicI64, Ordering};

use dayfly_domain::time::Timestamp;

/// A request that was decided just before a kill stood may still write what it was allowed; so may another broker that
/// has not read the kill yet. For a while after each change everything under a kill is ended again.
#[derive(Debug, Default)]
pub struct KillsSettle {
    until: AtomicI64,
}

impl KillsSettle {
    /// Something changed: look until then.
    pub fn begin(&self, until: Timestamp) {
        self.until.fetch_max(until.unix_millis(), Ordering::AcqRel);
    }

    /// Whether it is still looked for.
    pub fn is_on(&self, now: Timestamp) -> bool {
        now.unix_millis() < self.until.load(Ordering::Acquire)
    }
}
