//! Fault points: with the feature `fault-points` the process kills itself where `DAYFLY_FAULT_POINT` says.
//!
//! Tests crash the real binary at each step and then ask the target what still works. Release packages have none.

/// Names of all fault points, in the order a request meets them.
#[cfg(feature = "fault-points")]
pub const POINTS: [&str; 14] = [
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
    "kill.after_write",
    "kill.before_chunk",
];

/// Kills the process by SIGKILL if `DAYFLY_FAULT_POINT` names this point: `name`, or `name:3` for the third time.
#[cfg(feature = "fault-points")]
pub fn reach(point: &'static str) {
    debug_assert!(POINTS.contains(&point), "{point} is not listed");
    if dayfly_sys::fault::is_due(point) {
        tracing::warn!(point, "fault point reached: killing this process");
        dayfly_sys::fault::die();
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
