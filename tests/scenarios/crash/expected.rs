//! What a crash at each fault point leaves behind, per provider.

use super::{Column, Crashing, Provider};

/// A fault point, and what a crash there leaves.
#[derive(Clone, Copy)]
pub struct Left {
    /// Its name, as the binary lists it.
    pub point: &'static str,
    /// The how manieth time it is reached that counts.
    pub time: u32,
    /// Whether a token stands at Vault, if that is certain.
    pub stands: Option<bool>,
    /// How the lease ends, if there is one.
    pub outcome: Option<&'static str>,
}

const fn at(point: &'static str, stands: Option<bool>, outcome: Option<&'static str>) -> Left {
    Left { point, time: 1, stands, outcome }
}

const BROKER: [Left; 15] = [
    at("issue.before_open", Some(false), None),
    at("issue.after_pending", Some(false), Some("ran_out")),
    // Vault gave a token, and nobody knows its accessor.
    at("issue.after_target", Some(true), Some("ran_out")),
    at("issue.after_commit", Some(true), Some("verified")),
    at("issue.before_answer", Some(true), Some("verified")),
    at("renew.before_target", Some(true), Some("verified")),
    at("renew.after_target", Some(true), Some("verified")),
    at("end.before_commit", Some(true), Some("verified")),
    at("end.after_commit", Some(true), Some("verified")),
    at("revoke.after_claim", Some(true), Some("verified")),
    at("revoke.after_target", Some(false), Some("verified")),
    at("revoke.after_record", Some(false), Some("verified")),
    at("kill.after_write", Some(true), Some("verified")),
    at("kill.before_chunk", Some(true), Some("verified")),
    // The first chunk is on record, and its revocations are under way.
    Left { point: "kill.before_chunk", time: 2, stands: None, outcome: Some("verified") },
];

const AGENT: [Left; 15] = [
    at("open.before_anchor", Some(false), None),
    at("open.after_anchor", Some(false), None),
    at("open.before_broker", Some(false), None),
    at("open.after_broker", Some(false), None),
    at("open.after_folder", Some(false), None),
    at("open.after_journal", Some(false), None),
    at("open.before_answer", Some(false), None),
    at("deliver.before_broker", Some(false), None),
    at("deliver.after_broker", Some(true), Some("verified")),
    at("deliver.before_answer", Some(true), Some("verified")),
    at("end.seen", Some(true), Some("verified")),
    at("end.after_stop_serving", Some(true), Some("verified")),
    // From here on the broker may or may not have heard of the end.
    at("end.after_report", None, Some("verified")),
    at("end.after_kill", None, Some("verified")),
    at("end.after_remove", None, Some("verified")),
];

/// What there is to crash in a column. A signed token is issued and ended in one transaction of the broker's own: it has no
/// target to wait for, and is renewed by another.
pub fn of(column: Column, crashing: Crashing) -> Vec<Left> {
    let every: &[Left] = match crashing {
        Crashing::Broker => &BROKER,
        Crashing::Agent => &AGENT,
    };
    let at_a_target = |point: &str| {
        ["issue.after_pending", "issue.after_target"].contains(&point)
            || ["renew.", "revoke."].iter().any(|step| point.starts_with(step))
    };
    let mut every = every.to_vec();
    if column.provider == Provider::Token {
        every.retain(|left| !at_a_target(left.point));
    }
    every
}
