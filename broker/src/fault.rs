//! Fault points: with the feature `fault-points` the process kills itself where `DAYFLY_FAULT_POINT` says.
//!
//! Tests crash the real binary at each step and then ask the target what still works. Release packages have none.

/// Names of all fault points, in the order a request meets them.
#[cfg(feature = "fault-points")]
pub const POINTS: [&str; 12] = [
    "issue.before_open",
    "issue.after_pending",
    "issue.after_target",
    "issue.after_commit",
    "issue.before_answer",
    "renew.before_target",
    "renew.after_target",
    "end.before_commit",
    "end.after_commit",
    "revoke.after_claim",
    "revoke.after_target",
    "revoke.after_record",
];

/// Kills the process by SIGKILL if `DAYFLY_FAULT_POINT` names this point: `name`, or `name:3` for the third time.
#[cfg(feature = "fault-points")]
pub fn reach(point: &'static str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    static ARMED: OnceLock<Option<(String, u32)>> = OnceLock::new();
    static SEEN: AtomicU32 = AtomicU32::new(0);
    debug_assert!(POINTS.contains(&point), "{point} is not listed");
    let armed = ARMED.get_or_init(|| {
        let named = std::env::var("DAYFLY_FAULT_POINT").ok()?;
        let (name, count) = named.split_once(':').unwrap_or((&named, "1"));
        Some((name.to_owned(), count.parse().ok()?))
    });
    if let Some((name, count)) = armed
        && name == point
        && SEEN.fetch_add(1, Ordering::SeqCst) + 1 == *count
    {
        tracing::warn!(point, "fault point reached: killing this process");
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)
            .expect("a process may kill itself");
    }
}

/// Marks a step at which a test may crash the process: `fault_point!("name")`, or `fault_point!("name" if condition)`.
#[macro_export]
macro_rules! fault_point {
    ($name:literal) => {
        #[cfg(feature = "fault-points")]
        $crate::fault::reach($name);
    };
    ($name:literal if $condition:expr) => {
        #[cfg(feature = "fault-points")]
        if $condition {
            $crate::fault::reach($name);
        }
    };
}
