//! The only reader of time in the broker.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use dayfly_domain::time::Timestamp;

/// Wall time that never runs backwards within this process: a step back of the wall clock holds it still instead.
#[derive(Debug, Default)]
pub struct Clock {
    high_water: AtomicI64,
}

impl Clock {
    /// The present moment.
    pub fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wall = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
        let before = self.high_water.fetch_max(wall, Ordering::Relaxed);
        Timestamp::from_unix_millis(wall.max(before))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_never_runs_backwards() {
        let clock = Clock::default();
        let ahead = clock.now().unix_millis() + 60_000;
        clock.high_water.store(ahead, Ordering::Relaxed);
        assert_eq!(clock.now().unix_millis(), ahead);
    }
}
