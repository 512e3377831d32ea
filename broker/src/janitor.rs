//! Ends what time ends: overdue tasks, silent nodes, lost streams, leases whose last moment is past, pending leases that
//! a crash left behind, hashes of client assertions that ran out.

use std::sync::Arc;
use std::time::Duration;

use dayfly_domain::task::{AnchorKind, EndCause};
use dayfly_domain::time::Ttl;
use tokio_util::sync::CancellationToken;

use crate::operations::end_task::{end, end_by_signal};
use crate::operations::{Broker, lapse};
use crate::store::{EndWhich, StoreError, TaskFilter};

/// How often the world is read anew.
const PERIOD: Duration = Duration::from_millis(500);
/// Rows swept in one transaction.
const CHUNK: u32 = 500;
/// How long the hash of a client assertion is kept after the assertion ran out: longer than a request that brings it
/// again may take.
const ASSERTION_KEPT: Ttl = Ttl::minutes(1);

/// Sweeps until told to stop.
pub async fn run(broker: Arc<Broker>, stop: CancellationToken) {
    if let Err(error) = expect_streams(&broker).await {
        tracing::error!(error = &error as &dyn std::error::Error, "open tasks could not be read");
    }
    loop {
        if let Err(error) = sweep(&broker).await {
            tracing::error!(error = &error as &dyn std::error::Error, "a sweep failed and is tried again");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
    }
}

async fn sweep(broker: &Broker) -> Result<(), StoreError> {
    let now = broker.clock.now();
    for task in broker.stream_anchors.lapsed(broker.limits.stream_grace.as_duration()) {
        end_by_signal(broker, task, EndCause::AnchorGone, None).await;
    }
    end(broker, EndWhich::Overdue, EndCause::Deadline, None).await?;
    lapse::sweep(broker).await?;
    broker.store.sweep_pending(now - broker.limits.pending_overdue, now).await?;
    while broker.store.sweep_leases(now, CHUNK).await? == CHUNK {}
    while broker.store.sweep_assertions(now - ASSERTION_KEPT, CHUNK).await? == CHUNK {}
    broker.rate.forget_full(std::time::Instant::now());
    let mut counted = broker.denials.flush(now);
    counted.extend(broker.limited.flush(now));
    if !counted.is_empty() {
        broker.store.write_records(counted).await?;
    }
    Ok(())
}

/// After a restart the streams of direct callers must come again.
async fn expect_streams(broker: &Broker) -> Result<(), StoreError> {
    let filter = TaskFilter { limit: u32::MAX, ..TaskFilter::default() };
    for (task, _) in broker.store.tasks(filter).await? {
        if task.anchor.kind == AnchorKind::Stream {
            broker.stream_anchors.expect(task.id);
        }
    }
    Ok(())
}
