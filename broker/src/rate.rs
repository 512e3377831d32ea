//! How often each identity, scope and session may ask, kept in memory: a request too many is refused before anything is
//! read for it or written of it.
//!
//! One number for each is enough (the generic cell rate algorithm): the moment at which its bucket would be full again.
//! The bucket holds one minute's worth, so what was idle may ask a minute's worth at once, and in the long run nobody
//! asks more than its rate. Time is the monotonic clock's: setting the wall clock gives nobody anything.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dayfly_domain::id::SessionId;
use dayfly_domain::spiffe::SpiffeId;

/// What a bucket holds when it is full.
const BURST: Duration = Duration::from_secs(60);
/// Buckets kept at most. Those that are full again are forgotten first; what then finds no place shares one bucket with
/// all of its kind that find none.
const MAX_BUCKETS: usize = 100_000;

/// Whose requests are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Payer {
    /// Everything with this SPIFFE ID.
    Identity(SpiffeId),
    /// Everything that asks for this scope.
    Scope(String),
    /// Everything in this session.
    Session(SessionId),
}

impl Payer {
    /// `identity`, `scope` or `session`.
    pub const fn kind(&self) -> &'static str {
        match self {
            Payer::Identity(_) => "identity",
            Payer::Scope(_) => "scope",
            Payer::Session(_) => "session",
        }
    }

    /// Its name.
    pub fn name(&self) -> String {
        match self {
            Payer::Identity(id) => id.to_string(),
            Payer::Scope(name) => name.clone(),
            Payer::Session(id) => id.to_string(),
        }
    }
}

/// The buckets.
#[derive(Debug, Default)]
pub struct Rate {
    buckets: Mutex<Buckets>,
}

#[derive(Debug, Default)]
struct Buckets {
    /// When each would be full again.
    full_at: HashMap<Payer, Instant>,
    /// The same for those that found no place, by kind.
    shared: HashMap<&'static str, Instant>,
}

impl Rate {
    /// Takes one request out of the payer's bucket, or tells how long until there is one in it.
    pub fn take(&self, payer: Payer, per_minute: u32, now: Instant) -> Result<(), Duration> {
        let each = BURST / per_minute.max(1);
        let mut buckets = self.lock();
        if buckets.full_at.len() >= MAX_BUCKETS && !buckets.full_at.contains_key(&payer) {
            buckets.forget_full(now);
        }
        let has_place = buckets.full_at.len() < MAX_BUCKETS || buckets.full_at.contains_key(&payer);
        let full_at = match has_place {
            true => buckets.full_at.entry(payer).or_insert(now),
            false => buckets.shared.entry(payer.kind()).or_insert(now),
        };
        let after = (*full_at).max(now) + each;
        match after.checked_duration_since(now + BURST) {
            Some(wait) if !wait.is_zero() => Err(wait),
            Some(_) | None => {
                *full_at = after;
                Ok(())
            }
        }
    }

    /// Forgets buckets that are full: a new one is the same.
    pub fn forget_full(&self, now: Instant) {
        self.lock().forget_full(now);
    }

    fn lock(&self) -> MutexGuard<'_, Buckets> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Buckets {
    fn forget_full(&mut self, now: Instant) {
        self.full_at.retain(|_, full_at| *full_at > now);
    }
}

#[cfg(test)]
mod tests {
    use dayfly_domain::id::TaskId;
    use dayfly_domain::time::Timestamp;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn scope(name: &str) -> Payer {
        Payer::Scope(name.to_owned())
    }

    fn taken(rate: &Rate, payer: &Payer, per_minute: u32, now: Instant, tries: u32) -> u32 {
        (0..tries).map(|_| u32::from(rate.take(payer.clone(), per_minute, now).is_ok())).sum()
    }

    #[test]
    fn a_minutes_worth_may_come_at_once_and_then_only_as_it_fills_again() {
        let (rate, start) = (Rate::default(), Instant::now());
        assert_eq!(taken(&rate, &scope("a"), 60, start, 100), 60);
        assert_eq!(rate.take(scope("a"), 60, start), Err(SECOND), "told how long");
        assert_eq!(taken(&rate, &scope("a"), 60, start + SECOND, 10), 1);
        assert_eq!(taken(&rate, &scope("a"), 60, start + 11 * SECOND, 100), 10);
        assert_eq!(taken(&rate, &scope("a"), 60, start + 600 * SECOND, 100), 60, "never more than full");
    }

    #[test]
    fn in_the_long_run_nobody_asks_more_than_its_rate() {
        let (rate, start) = (Rate::default(), Instant::now());
        let minutes = 20;
        let asked: u32 = (0..minutes * 600)
            .map(|tenth| taken(&rate, &scope("a"), 90, start + SECOND / 10 * tenth, 5))
            .sum();
        assert!((90 * minutes..=90 * (minutes + 1)).contains(&asked), "{asked}");
    }

    #[test]
    fn each_has_its_own_bucket_and_a_refusal_costs_nothing() {
        let (rate, start) = (Rate::default(), Instant::now());
        let session = TaskId::new(Timestamp::from_unix_millis(0), 1).into();
        let identity: SpiffeId = "spiffe://example.org/tool/a".parse().expect("an id");
        for payer in [scope("a"), scope("b"), Payer::Session(session), Payer::Identity(identity)] {
            assert_eq!(taken(&rate, &payer, 1, start, 1_000), 1, "{payer:?}");
            // A thousand refusals have not moved the moment.
            assert_eq!(taken(&rate, &payer, 1, start + 60 * SECOND, 2), 1, "{payer:?}");
        }
    }

    #[test]
    fn the_table_is_bounded_and_what_finds_no_place_shares_one_bucket() {
        let (rate, start) = (Rate::default(), Instant::now());
        for number in 0..MAX_BUCKETS {
            assert!(rate.take(scope(&number.to_string()), 1, start).is_ok());
        }
        assert!(rate.take(scope("one more"), 2, start).is_ok());
        assert!(rate.take(scope("and more"), 2, start).is_ok());
        assert!(rate.take(scope("yet more"), 2, start).is_err(), "theirs is one");
        assert!(rate.take(scope("7"), 1, start).is_err(), "those in the table have their own");
        // A minute later all are full again, and are forgotten.
        assert!(rate.take(scope("yet more"), 2, start + 60 * SECOND).is_ok());
        assert_eq!(rate.lock().full_at.len(), 1);
    }
}
