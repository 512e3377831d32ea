//! What other brokers did on the same state: rules that they applied, leases that are to be taken back, and ends that
//! agents and watchers at this broker must hear of.
//!
//! Hints say when to look. What is true is read, and read from time to time without a hint.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use dayfly_domain::id::{LeaseId, TaskId};
use dayfly_domain::time::{Timestamp, Ttl};
use tokio_util::sync::CancellationToken;

use super::apply::reload;
use super::{Broker, OperationError};
use crate::store::{Hint, StoreError};

/// How often is looked without a hint.
const LOOK: Duration = Duration::from_secs(1);
/// Between two looks, however many hints come.
const REST: Duration = Duration::from_millis(50);
/// How far back each look reaches before the last: for clocks that differ, and for what was committed late.
const OVERLAP: Ttl = Ttl::seconds(15);
/// How often is put on record where the chains of the other brokers stand.
const WITNESS: Ttl = Ttl::minutes(1);
/// Until rules that could not be loaded are tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// Follows the other brokers until told to stop.
pub async fn run(broker: Arc<Broker>, stop: CancellationToken) {
    let mut witnessed = broker.clock.now();
    let mut follower =
        Follower { looked: broker.clock.now(), tasks: Told::default(), leases: Told::default(), broker };
    loop {
        let hint = tokio::select! {
            () = stop.cancelled() => return,
            hint = follower.broker.store.hint() => Some(hint),
            () = tokio::time::sleep(LOOK) => None,
        };
        follower.follow(hint).await;
        let now = follower.broker.clock.now();
        if now >= witnessed + WITNESS {
            witnessed = now;
            if let Err(error) = follower.broker.store.witness(now).await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "other brokers' chains were not witnessed"
                );
            }
        }
        tokio::time::sleep(REST).await;
    }
}

/// What was told already.
struct Told<T>(HashMap<T, Timestamp>);

impl<T> Default for Told<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Hash + Eq> Told<T> {
    /// Whether this is the first that is told of it.
    fn is_news(&mut self, about: T, now: Timestamp) -> bool {
        self.0.insert(about, now).is_none()
    }

    /// Forgets what no look finds again.
    fn forget(&mut self, before: Timestamp) {
        self.0.retain(|_, told| *told >= before);
    }
}

struct Follower {
    broker: Arc<Broker>,
    looked: Timestamp,
    tasks: Told<TaskId>,
    leases: Told<LeaseId>,
}

impl Follower {
    async fn follow(&mut self, hint: Option<Hint>) {
        if matches!(hint, None | Some(Hint::Rules))
            && let Err(error) = self.follow_rules().await
        {
            tracing::error!(
                error = dayfly_client::chain(&error),
                "rules that another broker applied could not be loaded: nothing is granted here until they are"
            );
            tokio::time::sleep(AGAIN).await;
        }
        if hint == Some(Hint::Revocations) {
            self.broker.wake.all();
        }
        if hint != Some(Hint::Rules)
            && let Err(error) = self.tell().await
        {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "what other brokers ended could not be read"
            );
        }
    }

    async fn follow_rules(&self) -> Result<(), OperationError> {
        if self.broker.store.rules_moved().await? {
            reload(&self.broker).await?;
            tracing::info!(
                revision = self.broker.rules.load().revision,
                "rules of another broker are in force"
            );
        }
        Ok(())
    }

    async fn tell(&mut self) -> Result<(), StoreError> {
        let now = self.broker.clock.now();
        let over = self.broker.store.over_since(self.looked - OVERLAP).await?;
        for (task, node, cause) in over.tasks {
            if self.tasks.is_news(task, now) {
                self.broker.stream_anchors.forget(task);
                self.broker.notices.task_over(task, node.as_ref(), cause);
            }
        }
        for lease in over.leases {
            if self.leases.is_news(lease, now) {
                self.broker.notices.lease_revoked(lease);
            }
        }
        self.looked = now;
        self.tasks.forget(now - OVERLAP - OVERLAP);
        self.leases.forget(now - OVERLAP - OVERLAP);
        Ok(())
    }
}
