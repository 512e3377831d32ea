//! Ends what time ends: overdue tasks, silent nodes, lost streams, leases whose last moment is past, pending leases that
//! a crash left behind, hashes of client assertions that ran out.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dayfly_domain::id::TaskId;
use dayfly_domain::task::EndCause;
use dayfly_domain::time::{Timestamp, Ttl};
use tokio_util::sync::CancellationToken;

use crate::operations::end_task::{end, end_by_signal};
use crate::operations::kill::finish;
use crate::operations::{Broker, lapse};
use crate::store::{EndWhich, StoreError};

/// How often the world is read anew.
const PERIOD: Duration = Duration::from_millis(500);
/// How often brokers that share the state tell each other which streams stand.
const TELL_STREAMS: Ttl = Ttl::seconds(2);
/// How often the revocation queue is measured.
const MEASURED_EVERY: Duration = Duration::from_secs(5);
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
    let mut streams_told = broker.clock.now();
    let mut measured: Option<Instant> = None;
    loop {
        if measured.is_none_or(|at| at.elapsed() >= MEASURED_EVERY) {
            measure(&broker).await;
            measured = Some(Instant::now());
        }
        let now = broker.clock.now();
        if broker.store.is_shared() && now >= streams_told + TELL_STREAMS {
            streams_told = now;
            if let Err(error) = expect_streams(&broker).await {
                tracing::error!(error = &error as &dyn std::error::Error, "streams could not be told");
            }
        }
        sweep(&broker).await;
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
    }
}

/// Each step by itself: what fails in one must not keep what is cut off, overdue or silent from its end.
async fn sweep(broker: &Broker) {
    let now = broker.clock.now();
    if broker.kills_settle.is_on(now) {
        told("what is cut off", finish(broker).await);
    }
    told("tasks without a stream", end_without_stream(broker, now).await);
    told("overdue tasks", end(broker, EndWhich::Overdue, EndCause::Deadline, None).await.map(drop));
    told("silent nodes", lapse::sweep(broker).await);
    let pending_since_before = now - broker.limits.pending_overdue;
    told("lost answers", broker.store.sweep_pending(pending_since_before, now).await.map(drop));
    told("leases that ran out", in_chunks(|| broker.store.sweep_leases(now, CHUNK)).await);
    let forgotten_before = now - ASSERTION_KEPT;
    told("taken assertions", in_chunks(|| broker.store.sweep_assertions(forgotten_before, CHUNK)).await);
    told("idempotency keys", in_chunks(|| broker.store.sweep_issue_keys(CHUNK)).await);
    broker.rate.forget_full(Instant::now());
    let mut counted = broker.denials.flush(now);
    counted.extend(broker.limited.flush(now));
    if !counted.is_empty() {
        told("counted refusals", broker.store.write_records(counted).await);
    }
}

fn told(what: &'static str, swept: Result<(), StoreError>) {
    if let Err(error) = swept {
        let error = &error as &dyn std::error::Error;
        tracing::error!(what, error, "a sweep failed and is tried again");
    }
}

/// Sweeps until less than a whole chunk was found.
async fn in_chunks<F: Future<Output = Result<u32, StoreError>>>(
    sweep: impl Fn() -> F,
) -> Result<(), StoreError> {
    while sweep().await? == CHUNK {}
    Ok(())
}

/// Tells the operator how the revocation queue stands.
async fn measure(broker: &Broker) {
    let now = broker.clock.now();
    broker.metrics.kills(&broker.rules.load().kills().count());
    match broker.store.queue_depths(broker.limits.revocation_stuck_after).await {
        Ok(depths) => {
            broker.metrics.queues(&depths, |provider| broker.breakers.of(provider).is_tripped(), now);
        }
        Err(error) => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "the revocation queue could not be measured"
            );
        }
    }
}

/// Ends tasks of direct callers that have no stream, at this broker or another.
async fn end_without_stream(broker: &Broker, now: Timestamp) -> Result<(), StoreError> {
    let grace = broker.limits.stream_grace;
    let lapsed = broker.stream_anchors.lapsed(grace.as_duration());
    if lapsed.is_empty() {
        return Ok(());
    }
    for task in broker.store.streams_unseen_since(lapsed, now - grace).await? {
        end_by_signal(broker, task, EndCause::AnchorGone, None).await;
    }
    Ok(())
}

/// Streams of direct callers must come again after a restart: to this broker, or to another that shares the state.
async fn expect_streams(broker: &Broker) -> Result<(), StoreError> {
    let open: HashSet<TaskId> = broker.store.stream_tasks().await?.into_iter().collect();
    broker.stream_anchors.expect_only(&open);
    let standing = broker.stream_anchors.standing();
    if standing.is_empty() || !broker.store.is_shared() {
        return Ok(());
    }
    broker.store.see_streams(standing, broker.clock.now()).await
}
