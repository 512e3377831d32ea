//! Dying on command, for tests that crash a real process at a named step. Compiled only with the feature `fault-points`.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Signal, getpid, kill_process};

/// Whether the process is to die at this point now: `DAYFLY_FAULT_POINT` says `name`, or `name:3` for the third time.
pub fn is_due(point: &str) -> bool {
    static ARMED: OnceLock<Option<(String, u32)>> = OnceLock::new();
    static SEEN: AtomicU32 = AtomicU32::new(0);
    let armed = ARMED.get_or_init(|| {
        let named = std::env::var("DAYFLY_FAULT_POINT").ok()?;
        let (name, count) = named.split_once(':').unwrap_or((&named, "1"));
        Some((name.to_owned(), count.parse().ok()?))
    });
    let Some((name, count)) = armed else { return false };
    name == point && SEEN.fetch_add(1, Ordering::SeqCst) + 1 == *count
}

/// Kills this process as a crash would: no destructor runs, nothing is flushed.
pub fn die() {
    kill_process(getpid(), Signal::KILL).expect("a process may kill itself");
}
