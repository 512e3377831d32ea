//! Takes back credentials whose time has come: the workers of the durable revocation queue, one for each provider.
//!
//! A worker takes no input: it rereads the queue when woken and once a second. A revocation is tried again with back-off
//! until the target verifies it or the credential's last moment is past.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dayfly_domain::breaker::{Breaker, Gate};
use dayfly_domain::lease::{Lease, LeaseEvent, LeaseState};
use dayfly_domain::schedule;
use dayfly_domain::time::Ttl;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::fault_point;
use crate::operations::Broker;
use crate::providers::{Provider, Revocation, RevokeError};
use crate::store::{DueRevocation, StoreError};

/// How long a worker waits when nobody wakes it.
const PERIOD: Duration = Duration::from_secs(1);
/// Most revocations that are settled in one transaction, where no target is asked: grants commit in between.
const SETTLED_AT_ONCE: u32 = 500;
/// How long until an applied but unproven revocation is looked at again.
const LOOK_AGAIN: Ttl = Ttl::seconds(2);

/// Wakes the workers.
#[derive(Debug, Default)]
pub struct Wake {
    signal: Notify,
}

impl Wake {
    /// Wakes every worker that waits.
    pub fn all(&self) {
        self.signal.notify_waiters();
    }
}

/// One breaker for each provider.
#[derive(Debug, Default)]
pub struct Breakers {
    by_provider: Mutex<HashMap<String, Breaker>>,
}

impl Breakers {
    /// Where a provider's breaker stands.
    pub fn of(&self, provider: &str) -> Breaker {
        self.lock().get(provider).cloned().unwrap_or_default()
    }

    /// Takes the targets to be back: of one provider, or all.
    pub fn forget(&self, provider: Option<&str>) {
        match provider {
            Some(provider) => drop(self.lock().remove(provider)),
            None => self.lock().clear(),
        }
    }

    /// Lets a breaker hear what a target said. True if it opened or closed by it.
    fn tell(&self, provider: &str, said: impl FnOnce(&mut Breaker)) -> bool {
        let mut breakers = self.lock();
        let breaker = breakers.entry(provider.to_owned()).or_default();
        let before = breaker.is_tripped();
        said(breaker);
        breaker.is_tripped() != before
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Breaker>> {
        self.by_provider.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Starts one worker for each provider.
pub fn start(broker: &Arc<Broker>, tracker: &TaskTracker, stop: &CancellationToken) {
    for name in broker.catalogue().names() {
        let provider = Arc::clone(broker.catalogue().get(name).expect("the catalogue named it"));
        let worker = Worker { broker: Arc::clone(broker), provider };
        tracker.spawn(worker.run(stop.clone()));
    }
}

struct Worker {
    broker: Arc<Broker>,
    provider: Arc<dyn Provider>,
}

impl Worker {
    async fn run(self, stop: CancellationToken) {
        let worker = Arc::new(self);
        let slots = Arc::new(Semaphore::new(worker.slots()));
        loop {
            // Armed before the queue is read, so that what comes meanwhile wakes the next round.
            let woken = worker.broker.wake.signal.notified();
            tokio::pin!(woken);
            woken.as_mut().enable();
            match worker.claim(&slots).await {
                Ok(0) => {}
                Ok(_) => continue,
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(
                        provider = worker.provider.name(),
                        error,
                        "the revocation queue could not be read"
                    );
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = woken => {}
                () = tokio::time::sleep(PERIOD) => {}
            }
        }
    }

    fn slots(&self) -> usize {
        usize::try_from(self.broker.limits.revocations_in_flight).unwrap_or(1).max(1)
    }

    /// Claims as many as there are free slots and sets them going. Returns how many.
    async fn claim(self: &Arc<Self>, slots: &Arc<Semaphore>) -> Result<usize, StoreError> {
        if let Some(evidence) = self.provider.settled_by_lease() {
            let now = self.broker.clock.now();
            let settled =
                self.broker.store.verify_local(self.provider.name(), evidence, SETTLED_AT_ONCE, now).await?;
            if settled > 0 {
                self.broker.metrics.revocations(self.provider.name(), "verified", settled);
                return Ok(usize::try_from(settled).unwrap_or(usize::MAX));
            }
        }
        let first = Arc::clone(slots).acquire_owned().await.expect("nobody closes the semaphore");
        let now = self.broker.clock.now();
        let limit = match self.broker.breakers.of(self.provider.name()).gate(now) {
            Gate::Open => u32::try_from(slots.available_permits() + 1).unwrap_or(1),
            // One is in flight already if not every slot is free.
            Gate::One if slots.available_permits() + 1 == self.slots() => 1,
            Gate::One | Gate::ClosedUntil(_) => return Ok(0),
        };
        let claim_for = self.broker.limits.revocation_claim;
        let due = self.broker.store.claim_revocations(self.provider.name(), limit, claim_for, now).await?;
        let count = due.len();
        let mut first = Some(first);
        for revocation in due {
            let slot = match first.take() {
                Some(slot) => slot,
                None => Arc::clone(slots).acquire_owned().await.expect("nobody closes the semaphore"),
            };
            let worker = Arc::clone(self);
            self.broker.tracker.spawn(async move {
                worker.revoke(revocation).await;
                drop(slot);
            });
        }
        Ok(count)
    }

    async fn revoke(&self, due: DueRevocation) {
        fault_point!("revoke.after_claim");
        let lease = due.lease;
        if self.broker.clock.now() >= due.claimed_until {
            // This process stood still meanwhile: the claim is over, and another broker may be at it.
            tracing::warn!(lease_id = %lease.id, "a claimed revocation came too late and is left to its next claim");
            return;
        }
        let limit = self.broker.limits.revocation_claim.as_duration() / 2;
        let answer = tokio::time::timeout(limit, self.provider.revoke(&lease, self.broker.clock.now())).await;
        fault_point!("revoke.after_target");
        let answered = |breaker: &mut Breaker| breaker.succeed();
        let answer = answer.unwrap_or_else(|_| {
            Err(RevokeError {
                provider: self.provider.name(),
                what: "no answer in time".to_owned(),
                source: None,
            })
        });
        if answer.is_ok() && self.broker.breakers.tell(self.provider.name(), answered) {
            tracing::warn!(provider = self.provider.name(), "the target answers again");
            self.broker.store.retry_now(Some(self.provider.name()), self.broker.clock.now()).await.ok();
            self.broker.wake.all();
        }
        let recorded = match answer {
            Ok(Revocation::Verified { evidence }) => self.verified(&lease, evidence).await,
            Ok(Revocation::Applied) => self.applied(&lease).await,
            Ok(Revocation::RunsOut) => {
                self.broker.metrics.revocation(self.provider.name(), "runs_out");
                self.record(&lease, LeaseEvent::CannotRevoke).await
            }
            Err(error) => self.failed(&lease, due.attempts + 1, &error).await,
        };
        fault_point!("revoke.after_record");
        if let Err(error) = recorded {
            // The claim runs out and the lease comes up again; revoking twice is harmless.
            let error = &error as &dyn std::error::Error;
            tracing::error!(lease_id = %lease.id, error, "what the target said could not be recorded");
        }
    }

    async fn verified(&self, lease: &Lease, evidence: String) -> Result<(), StoreError> {
        self.broker.metrics.revocation(self.provider.name(), "verified");
        if let LeaseState::Revoking { requested_at, .. } = &lease.state {
            self.broker.metrics.revocation_took(requested_at.until(self.broker.clock.now()));
        }
        tracing::info!(lease_id = %lease.id, provider = lease.provider, "credential revoked");
        self.record(lease, LeaseEvent::Verify { evidence }).await
    }

    async fn applied(&self, lease: &Lease) -> Result<(), StoreError> {
        self.broker.metrics.revocation(self.provider.name(), "applied");
        self.record(lease, LeaseEvent::Apply).await?;
        let again = self.broker.clock.now() + LOOK_AGAIN;
        self.broker.store.postpone_revocation(lease.id, again, String::new()).await
    }

    async fn failed(&self, lease: &Lease, attempts: u32, error: &RevokeError) -> Result<(), StoreError> {
        self.broker.metrics.revocation(self.provider.name(), "failed");
        let now = self.broker.clock.now();
        if self.broker.breakers.tell(self.provider.name(), |breaker| breaker.fail(now, rand::random())) {
            tracing::error!(
                alarm = "target_away",
                provider = self.provider.name(),
                "revocations fail one after the other: one at a time is tried until the target answers"
            );
        }
        let limits = &self.broker.limits;
        let stuck = attempts >= limits.revocation_stuck_after;
        let wait = match stuck {
            true => limits.revocation_stuck_pause,
            false => schedule::retry_after(attempts, rand::random()),
        };
        if attempts == limits.revocation_stuck_after {
            tracing::error!(alarm = "revocation_stuck", lease_id = %lease.id, "a revocation is stuck; it is tried less often");
        }
        let text = dayfly_client::chain(error);
        tracing::warn!(lease_id = %lease.id, attempts, %wait, error = text, "a revocation failed and is tried again");
        self.broker.store.postpone_revocation(lease.id, now + wait, text).await
    }

    async fn record(&self, lease: &Lease, event: LeaseEvent) -> Result<(), StoreError> {
        self.broker.store.record_lease(lease.id, event, self.broker.clock.now(), None).await.map(drop)
    }
}
