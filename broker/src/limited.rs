//! Counts what was refused because it was too much: each minute one record for each limit and whom it held back, however
//! often. Nothing is recorded one by one, so asking too much costs a caller more than it costs the broker.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use dayfly_domain::audit::{Record, Stream};
use dayfly_domain::time::{Timestamp, Ttl};

/// How long refusals are counted before they are recorded.
const WINDOW: Ttl = Ttl::minutes(1);
/// Whom limits held back, kept at most; beyond it they are counted together.
const MAX_KEYS: usize = 10_000;

/// A limit, and whom it held back.
type Key = (&'static str, String);

/// Refusals of the running minute.
#[derive(Debug, Default)]
pub struct Limited {
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    by_key: HashMap<Key, (Timestamp, u32)>,
    /// Refusals for which there was no room.
    others: u32,
}

impl Limited {
    /// Counts one refusal. `limit` is the limit's name for records and metrics; `who` what it held back.
    pub fn note(&self, limit: &'static str, who: &str, now: Timestamp) {
        let mut counts = self.lock();
        let key = (limit, who.chars().take(256).collect());
        if counts.by_key.len() >= MAX_KEYS && !counts.by_key.contains_key(&key) {
            counts.others = counts.others.saturating_add(1);
            return;
        }
        let (_, count) = counts.by_key.entry(key).or_insert((now, 0));
        *count = count.saturating_add(1);
    }

    /// One record for each of those whose minute is over.
    pub fn flush(&self, now: Timestamp) -> Vec<Record> {
        let mut counts = self.lock();
        let mut over = Vec::new();
        let others = std::mem::take(&mut counts.others);
        if others > 0 {
            let record = Record::new(Stream::Decision, "decision.limited", now);
            over.push(record.with("count", others).with("of", "further callers, scopes and sessions"));
        }
        counts.by_key.retain(|(limit, who), (since, count)| {
            let running = now < *since + WINDOW;
            if !running {
                let record = Record::new(Stream::Decision, "decision.limited", now)
                    .with("limit", *limit)
                    .with("who", who)
                    .with("since", since.to_string())
                    .with("count", *count);
                over.push(record);
            }
            running
        });
        over
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_of_refusals_is_one_record_for_each_that_was_held_back() {
        let limited = Limited::default();
        let now = Timestamp::from_unix_millis(0);
        for _ in 0..1_000 {
            limited.note("rate_identity", "spiffe://example.org/a", now);
        }
        limited.note("rate_scope", "s3-train-read", now);
        assert_eq!(limited.flush(now + Ttl::seconds(59)), []);
        let mut records = limited.flush(now + WINDOW);
        records.sort_by_key(|record| record.fields["limit"].to_string());
        let told: Vec<_> = records
            .iter()
            .map(|record| [&record.fields["limit"], &record.fields["who"], &record.fields["count"]])
            .collect();
        assert_eq!(
            told[0],
            [&serde_json::json!("rate_identity"), &"spiffe://example.org/a".into(), &1_000.into()]
        );
        assert_eq!(told[1], [&serde_json::json!("rate_scope"), &"s3-train-read".into(), &1.into()]);
        assert_eq!(records.len(), 2);
        assert_eq!(limited.flush(now + WINDOW + WINDOW), [], "told once");
    }

    #[test]
    fn more_callers_than_are_kept_are_counted_together() {
        let limited = Limited::default();
        let now = Timestamp::from_unix_millis(0);
        for number in 0..MAX_KEYS + 7 {
            limited.note("rate_identity", &number.to_string(), now);
        }
        let records = limited.flush(now);
        assert_eq!(records[0].fields["count"], 7);
        assert_eq!(limited.lock().by_key.len(), MAX_KEYS);
    }
}
