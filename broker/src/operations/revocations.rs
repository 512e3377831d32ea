//! What waits to be taken back: since when, why, whose, and which targets are away.

use dayfly_domain::breaker::Gate;
use dayfly_domain::time::Timestamp;

use super::{Broker, OperationError};
use crate::store::queue::{QueueDepth, QueueFilter, QueuedRow};

/// The queue of one provider.
#[derive(Debug)]
pub struct Queue {
    /// In figures.
    pub depth: QueueDepth,
    /// Until when nothing is tried, because the target fails.
    pub paused_until: Option<Timestamp>,
}

/// The queue.
#[derive(Debug)]
pub struct Waiting {
    /// Of each provider that has one.
    pub queues: Vec<Queue>,
    /// One by one, the most urgent and oldest first.
    pub rows: Vec<QueuedRow>,
}

/// Reads the queue.
pub async fn list(
    broker: &Broker,
    provider: Option<String>,
    stuck: bool,
    limit: u32,
) -> Result<Waiting, OperationError> {
    let stuck_after = broker.limits.revocation_stuck_after;
    let failed_at_least = if stuck { stuck_after } else { 0 };
    let rows =
        broker.store.queued(QueueFilter { provider: provider.clone(), failed_at_least, limit }).await?;
    let now = broker.clock.now();
    let depths = broker.store.queue_depths(stuck_after).await?;
    let named = |depth: &QueueDepth| provider.as_ref().is_none_or(|name| *name == depth.provider);
    let queue = |depth: QueueDepth| {
        let paused_until = match broker.breakers.of(&depth.provider).gate(now) {
            Gate::ClosedUntil(until) => Some(until),
            Gate::Open | Gate::One => None,
        };
        Queue { depth, paused_until }
    };
    Ok(Waiting { queues: depths.into_iter().filter(named).map(queue).collect(), rows })
}

/// Tries what waits again now, however often it failed.
pub async fn retry(broker: &Broker, provider: Option<&str>) -> Result<u32, OperationError> {
    broker.breakers.forget(provider);
    let made_due = broker.store.retry_now(provider, broker.clock.now()).await?;
    broker.wake.all();
    Ok(made_due)
}
