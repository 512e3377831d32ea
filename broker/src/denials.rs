//! Counts equal denials: a caller that is refused in a loop must not fill the audit.

use std::collections::HashMap;
use std::sync::Mutex;

use dayfly_domain::audit::{Record, Stream};
use dayfly_domain::decision::DenyReason;
use dayfly_domain::spiffe::SpiffeId;
use dayfly_domain::time::{Timestamp, Ttl};

type Key = (SpiffeId, DenyReason, String);

const WINDOW: Ttl = Ttl::minutes(1);
/// Keys kept at most; beyond it, denials of further kinds are counted together until the window is over.
const MAX_KEYS: usize = 10_000;

/// Denials of the running minute by identity, reason and scope.
#[derive(Debug)]
pub struct Denials {
    one_by_one: u32,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    by_key: HashMap<Key, (Timestamp, u32)>,
    /// Denials for which there was no room.
    others: u32,
}

impl Denials {
    /// Lets this many equal denials a minute be recorded one by one.
    pub fn new(one_by_one: u32) -> Self {
        Self { one_by_one, counts: Mutex::default() }
    }

    /// Whether this denial gets a record of its own.
    pub fn admit(&self, who: &SpiffeId, reason: DenyReason, scope: &str, now: Timestamp) -> bool {
        let mut counts = self.lock();
        let key = (who.clone(), reason, scope.chars().take(64).collect());
        if counts.by_key.len() >= MAX_KEYS && !counts.by_key.contains_key(&key) {
            counts.others = counts.others.saturating_add(1);
            return false;
        }
        let (_, count) = counts.by_key.entry(key).or_insert((now, 0));
        *count += 1;
        *count <= self.one_by_one
    }

    /// One record for each kind of denial that came too often, of windows that are over.
    pub fn flush(&self, now: Timestamp) -> Vec<Record> {
        let mut counts = self.lock();
        let mut over = Vec::new();
        let others = std::mem::take(&mut counts.others);
        if others > 0 {
            let record = Record::new(Stream::Decision, "decision.deny_repeated", now);
            over.push(
                record.with("count", others).with("recorded", 0).with("of", "further callers and scopes"),
            );
        }
        counts.by_key.retain(|(who, reason, scope), (since, count)| {
            let running = now < *since + WINDOW;
            if !running && *count > self.one_by_one {
                let record = Record::new(Stream::Decision, "decision.deny_repeated", now)
                    .with("spiffe_id", who)
                    .with("reason", *reason)
                    .with("scope", scope)
                    .with("since", since.to_string())
                    .with("count", *count)
                    .with("recorded", self.one_by_one);
                over.push(record);
            }
            running
        });
        over
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_of_denials_becomes_one_counted_record() {
        let denials = Denials::new(2);
        let who: SpiffeId = "spiffe://example.org/tool/a".parse().expect("an id");
        let now = Timestamp::from_unix_millis(0);
        let admitted =
            (0..100).filter(|_| denials.admit(&who, DenyReason::ScopeNotGranted, "s", now)).count();
        assert_eq!(admitted, 2);
        assert!(denials.flush(now).is_empty());
        let records = denials.flush(now + WINDOW);
        assert_eq!(records.len(), 1);
        assert_eq!(records[0].fields["count"], 100);
        assert!(denials.admit(&who, DenyReason::ScopeNotGranted, "s", now + WINDOW));
    }
}
