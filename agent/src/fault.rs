//! Fault points: with the feature `fault-points` the process kills itself where `DAYFLY_FAULT_POINT` says.
//!
//! Tests crash the real binary at each step and then ask what still works. Release packages have none.

/// Names of all fault points, in the order a task meets them.
#[cfg(feature = "fault-points")]
pub const POINTS: [&str; 15] = [
    "open.before_anchor",
    "open.after_anchor",
    "open.before_broker",
    "open.after_broker",
    "open.after_folder",
    "open.after_journal",
    "open.before_answer",
    "deliver.before_broker",
    "deliver.after_broker",
    "deliver.before_answer",
    "end.seen",
    "end.after_stop_serving",
    "end.after_report",
    "end.after_kill",
    "end.after_remove",
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

/// Marks a step at which a test may crash the process.
#[macro_export]
macro_rules! fault_point {
    ($name:literal) => {
        #[cfg(feature = "fault-points")]
        $crate::fault::reach($name);
    };
}
