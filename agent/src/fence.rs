//! Whether anything may be served: not before the broker was heard, and not once it has been silent for so long that it
//! takes the node for dead.
//!
//! The broker ends the tasks of a silent node by itself. An agent that went on serving meanwhile would hand out what the
//! broker believes to be taken back. So the right to serve is a lease of its own: each answer of the broker lengthens
//! it, counted from when the question was *sent*, and it is compared with the clock at the moment of serving. An agent
//! that was stopped, suspended or starved finds it over before it does anything else.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;
use tracing::{info, warn};

/// A moment on the clock that counts while the machine sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

impl Moment {
    /// Now.
    pub fn now() -> Self {
        // CLOCK_BOOTTIME: CLOCK_MONOTONIC stands still while the machine is suspended (clock_gettime(2)).
        let at = clock_gettime(ClockId::Boottime);
        let (seconds, nanos) = (at.tv_sec.unsigned_abs(), at.tv_nsec.unsigned_abs());
        Self(seconds.saturating_mul(1000).saturating_add(nanos / 1_000_000))
    }

    /// So much later.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long until it comes; nothing once it is past.
    pub fn left(self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(Self::now().0))
    }
}

/// Up: nothing is served.
#[derive(Debug)]
pub struct Fence {
    up: watch::Sender<bool>,
    /// The right to serve ends here; 0 before the broker was first heard.
    until: AtomicU64,
}

impl Default for Fence {
    fn default() -> Self {
        Self { up: watch::Sender::new(true), until: AtomicU64::new(0) }
    }
}

impl Fence {
    /// Whether nothing may be served. To be asked at the moment of serving.
    pub fn is_up(&self) -> bool {
        *self.up.borrow() || Moment::now() >= self.until()
    }

    /// The broker answered: the node stands until then. An earlier moment changes nothing.
    pub fn heard(&self, until: Moment) {
        self.until.fetch_max(until.0, Ordering::Relaxed);
        let lowered = self.up.send_if_modified(|up| Moment::now() < until && std::mem::replace(up, false));
        if lowered {
            info!("the broker is heard");
        }
    }

    /// Stops all serving until the broker is heard again. `false` if it was stopped already.
    pub fn raise(&self) -> bool {
        let raised = self.up.send_if_modified(|up| !std::mem::replace(up, true));
        if raised {
            warn!("the broker is silent: nothing is served until it is heard again");
        }
        raised
    }

    /// Waits until the right to serve is over, and raises the fence.
    pub async fn over(&self) {
        self.is(false).await;
        // The timer's clock may stand still while this one goes on, so it is looked at often.
        loop {
            let left = self.until().left();
            if left.is_zero() {
                self.raise();
                return;
            }
            tokio::time::sleep(left.min(Duration::from_millis(500))).await;
        }
    }

    /// Completes when the state is `up`; at once if it is.
    pub async fn is(&self, up: bool) {
        // The sender lives as long as `self`, so this never fails.
        let _ = self.up.subscribe().wait_for(|state| *state == up).await;
    }

    /// Whether something may be served, if need be after a short while: an agent that has just begun is heard soon.
    pub async fn down_within(&self, patience: Duration) -> bool {
        if self.is_up() {
            let _ = tokio::time::timeout(patience, self.is(false)).await;
        }
        !self.is_up()
    }

    fn until(&self) -> Moment {
        Moment(self.until.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_is_served_before_the_broker_is_heard_nor_after_its_time() {
        let fence = Fence::default();
        assert!(fence.is_up());
        assert!(!fence.down_within(Duration::from_millis(10)).await);
        fence.heard(Moment::now());
        assert!(fence.is_up(), "an answer that came too late gives nothing");
        let until = Moment::now().after(Duration::from_millis(80));
        fence.heard(until);
        assert!(!fence.is_up());
        fence.heard(Moment::now().after(Duration::from_millis(20)));
        tokio::time::sleep(Duration::from_millis(40)).await;
        assert!(!fence.is_up(), "an older answer takes nothing away");
        // Whoever stops every timer of this process stops this one too, and the question is answered by the clock.
        std::thread::sleep(Duration::from_millis(60));
        assert!(fence.is_up(), "before anybody has raised it");
        fence.over().await;
        assert!(!fence.raise(), "it is raised");
        fence.heard(Moment::now().after(Duration::from_secs(1)));
        assert!(!fence.is_up());
    }
}
