//! A breaker before one target: while it fails, one try at a time finds out whether it is back.

use crate::time::{Timestamp, Ttl};

/// Failures in a row that open it.
pub const FAILURES: u32 = 5;
/// How long it first stays open; doubles with each try in vain.
pub const FIRST_PAUSE: Ttl = Ttl::seconds(1);
/// The longest it stays open without a try.
pub const LONGEST_PAUSE: Ttl = Ttl::seconds(30);

/// How many tries may begin now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// As many as there is room for.
    Open,
    /// One, to see whether the target is back.
    One,
    /// None before this moment.
    ClosedUntil(Timestamp),
}

/// Counts what a target said last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Breaker {
    failures: u32,
    paused_until: Option<Timestamp>,
}

impl Breaker {
    /// How many tries may begin.
    pub fn gate(&self, now: Timestamp) -> Gate {
        match self.paused_until {
            None => Gate::Open,
            Some(until) if now < until => Gate::ClosedUntil(until),
            Some(_) => Gate::One,
        }
    }

    /// Whether the target is taken to be away.
    pub fn is_tripped(&self) -> bool {
        self.paused_until.is_some()
    }

    /// The target answered.
    pub fn succeed(&mut self) {
        *self = Self::default();
    }

    /// It failed, or did not answer. `jitter` takes up to half of the pause off, so that brokers do not try at once.
    pub fn fail(&mut self, now: Timestamp, jitter: u8) {
        self.failures = self.failures.saturating_add(1);
        if let Some(vain) = self.failures.checked_sub(FAILURES) {
            // Tries that began before it opened fail behind it; they do not make the pause longer.
            if self.paused_until.is_some_and(|until| now < until) {
                self.failures -= 1;
                return;
            }
            let pause = FIRST_PAUSE.as_millis().saturating_mul(1 << vain.min(10));
            let pause = pause.min(LONGEST_PAUSE.as_millis());
            self.paused_until = Some(now + Ttl::millis(pause - pause / 2 * u64::from(jitter) / 255));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Timestamp = Timestamp::from_unix_millis(1_000_000);

    fn tripped() -> Breaker {
        let mut breaker = Breaker::default();
        (0..FAILURES).for_each(|_| breaker.fail(T0, 0));
        breaker
    }

    #[test]
    fn it_opens_after_failures_in_a_row_alone() {
        let mut breaker = Breaker::default();
        for _ in 0..100 {
            (1..FAILURES).for_each(|_| breaker.fail(T0, 0));
            assert_eq!(breaker.gate(T0), Gate::Open);
            breaker.succeed();
        }
        assert_eq!(tripped().gate(T0), Gate::ClosedUntil(T0 + FIRST_PAUSE));
    }

    #[test]
    fn one_try_finds_the_target_back() {
        let mut breaker = tripped();
        let later = T0 + FIRST_PAUSE;
        assert_eq!(breaker.gate(later), Gate::One);
        breaker.succeed();
        assert_eq!(breaker.gate(later), Gate::Open);
    }

    #[test]
    fn pauses_grow_to_a_bound_and_stragglers_do_not_lengthen_them() {
        let mut breaker = tripped();
        (0..50).for_each(|_| breaker.fail(T0, 0));
        assert_eq!(breaker.gate(T0), Gate::ClosedUntil(T0 + FIRST_PAUSE));
        let mut now = T0;
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let Gate::ClosedUntil(until) = breaker.gate(now) else { panic!("not closed at {now}") };
            pauses.push(now.until(until));
            now = until;
            breaker.fail(now, 0);
        }
        assert!(pauses.is_sorted() && pauses[1] == Ttl::seconds(2), "{pauses:?}");
        assert_eq!(*pauses.last().expect("eight"), LONGEST_PAUSE);
        let mut early = tripped();
        early.fail(T0 + FIRST_PAUSE, 255);
        let Gate::ClosedUntil(until) = early.gate(T0 + FIRST_PAUSE) else { panic!("not closed") };
        assert!((T0 + FIRST_PAUSE).until(until) >= Ttl::seconds(1));
    }
}
