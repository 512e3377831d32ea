//! Default times and limits of the broker. `docs/operating.md` has the same table; a test holds the two together.

use dayfly_domain::time::Ttl;
use serde::Deserialize;

/// Section `[limits]` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// How often a node agent speaks.
    pub heartbeat_interval: Ttl,
    /// Silence of a node for this long ends its tasks.
    pub lapse_after: Ttl,
    /// More nodes than this that fall silent at once are held back instead of lapsing.
    pub brake_nodes: u32,
    /// The same, as a share of the nodes that were heard, in percent.
    pub brake_percent: u32,
    /// Nodes that fall silent within this span count together.
    pub brake_window: Ttl,
    /// The longest that ends are held back.
    pub brake_longest: Ttl,
    /// How long a task lasts if its opener does not say.
    pub default_task: Ttl,
    /// How long any task may last.
    pub longest_task: Ttl,
    /// How long a direct caller's task may last.
    pub direct_task: Ttl,
    /// How long a task waits for the workload it was opened for, if its opener does not say.
    pub claim_within: Ttl,
    /// How long any task may wait for that.
    pub longest_claim_within: Ttl,
    /// How long a direct caller's task outlives its stream.
    pub stream_grace: Ttl,
    /// Oldest subject token that still yields a secret.
    pub subject_token_age: Ttl,
    /// How long ends and inventories are taken on a stream whose peer's SVID ran out.
    pub stream_after_expiry: Ttl,
    /// A lease pending for this long was left by a crash.
    pub pending_overdue: Ttl,
    /// How long one claim of a revocation holds.
    pub revocation_claim: Ttl,
    /// Revocations in flight at one target.
    pub revocations_in_flight: u32,
    /// Tries in vain after which a revocation is tried less often and counted as stuck.
    pub revocation_stuck_after: u32,
    /// How long a stuck revocation waits between two tries.
    pub revocation_stuck_pause: Ttl,
    /// Open tasks, or leases, above which a kill needs a second admin.
    pub wide_kill_tasks: u32,
    /// The share of all that are open, in percent, above which a kill needs a second admin.
    pub wide_kill_percent: u32,
    /// So few that the share does not count.
    pub wide_kill_few: u32,
    /// How long after a kill what it cuts off is looked for again.
    pub kill_settles: Ttl,
    /// Live and in-flight leases of one identity.
    pub live_leases_per_identity: u32,
    /// Live and in-flight leases of one scope, whoever holds them; a scope may say less.
    pub live_leases_per_scope: u32,
    /// Live and in-flight leases of one session, in whichever of its tasks.
    pub live_leases_per_session: u32,
    /// Requests of one identity for tasks and credentials in a minute.
    pub requests_per_minute_per_identity: u32,
    /// Requests for one scope in a minute, whoever asks; a scope may say less.
    pub requests_per_minute_per_scope: u32,
    /// Requests in one session in a minute.
    pub requests_per_minute_per_session: u32,
    /// Tasks from a session's root down to its deepest.
    pub task_depth: u32,
    /// Equal denials of one identity that are recorded one by one each minute.
    pub equal_denials_per_minute: u32,
    /// Largest gRPC message, in bytes.
    pub message_bytes: usize,
    /// gRPC calls in flight on one connection.
    pub calls_per_connection: u32,
    /// How long calls in flight may take to finish when the broker stops.
    pub drain: Ttl,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            heartbeat_interval: Ttl::seconds(5),
            lapse_after: Ttl::seconds(30),
            brake_nodes: 50,
            brake_percent: 20,
            brake_window: Ttl::minutes(1),
            brake_longest: Ttl::hours(1),
            default_task: Ttl::hours(24),
            longest_task: Ttl::hours(14 * 24),
            direct_task: Ttl::minutes(15),
            claim_within: Ttl::seconds(30),
            longest_claim_within: Ttl::minutes(2),
            stream_grace: Ttl::seconds(10),
            subject_token_age: Ttl::minutes(5),
            stream_after_expiry: Ttl::hours(24),
            pending_overdue: Ttl::minutes(1),
            revocation_claim: Ttl::seconds(30),
            revocations_in_flight: 32,
            revocation_stuck_after: 10,
            revocation_stuck_pause: Ttl::minutes(5),
            wide_kill_tasks: 50,
            wide_kill_percent: 10,
            wide_kill_few: 5,
            kill_settles: Ttl::minutes(1),
            live_leases_per_identity: 1_000,
            live_leases_per_scope: 100_000,
            live_leases_per_session: 10_000,
            requests_per_minute_per_identity: 6_000,
            requests_per_minute_per_scope: 60_000,
            requests_per_minute_per_session: 6_000,
            task_depth: 8,
            equal_denials_per_minute: 10,
            message_bytes: 256 * 1024,
            calls_per_connection: 256,
            drain: Ttl::seconds(15),
        }
    }
}
