//! Arithmetic of time: when to renew, when to try a revocation again.

use crate::id::LeaseId;
use crate::time::{Timestamp, Ttl};

/// First wait after a failed revocation.
pub const FIRST_RETRY: Ttl = Ttl::millis(250);
/// Longest wait between two tries of a revocation.
pub const LONGEST_RETRY: Ttl = Ttl::seconds(30);

/// When to renew a credential: between 50 % and 60 % of its life, spread by lease id so that a fleet does not renew
/// at once.
pub fn refresh_at(lease: LeaseId, issued_at: Timestamp, expires_at: Timestamp) -> Timestamp {
    let life = issued_at.until(expires_at).as_millis();
    let spread = u64::from(spread_of(lease)) * life / 10 / 255;
    issued_at + Ttl::millis(life / 2 + spread)
}

/// How long to wait before the next try, after `failures` of them: doubling, with up to half taken off by `jitter`.
pub fn retry_after(failures: u32, jitter: u8) -> Ttl {
    let doubled = FIRST_RETRY.as_millis().saturating_mul(1 << failures.saturating_sub(1).min(20));
    let capped = doubled.min(LONGEST_RETRY.as_millis());
    Ttl::millis(capped - capped / 2 * u64::from(jitter) / 255)
}

/// A byte that differs between leases made at the same moment.
fn spread_of(lease: LeaseId) -> u8 {
    lease.to_string().bytes().fold(0u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_falls_between_half_and_sixty_percent() {
        let issued = Timestamp::from_unix_millis(1_000_000);
        for entropy in 0..500 {
            let lease = LeaseId::new(issued, entropy);
            let at = refresh_at(lease, issued, issued + Ttl::minutes(10));
            assert!(at >= issued + Ttl::minutes(5) && at <= issued + Ttl::minutes(6), "{at}");
        }
    }

    #[test]
    fn waits_grow_and_stay_bounded() {
        assert_eq!(retry_after(1, 0), FIRST_RETRY);
        assert_eq!(retry_after(2, 0), Ttl::millis(500));
        assert_eq!(retry_after(200, 0), LONGEST_RETRY);
        assert!(retry_after(200, 255) >= Ttl::seconds(15));
        assert!(retry_after(0, 255) > Ttl::ZERO);
    }
}
