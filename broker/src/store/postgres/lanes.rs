//! One worker for each queue, with a connection of its own: what gives never keeps what takes away from the database.
//!
//! A worker takes what waits in its queue and commits it in one transaction, then answers.

use std::slice;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{Receiver, UnboundedReceiver};
use tokio_util::sync::CancellationToken;

use super::transaction::{Needs, Tx};
use crate::store::chain::Care;
use crate::store::desk::{self, fail_refusable};
use crate::store::{StoreError, failure};

type Job = desk::Job<Tx>;

/// Most jobs of one transaction.
const AT_ONCE: usize = 256;
/// How long what takes away waits for a database that cannot be reached, or for a fenced broker to be back.
const PATIENCE: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(100);
/// How often a job is tried alone that others keep getting in the way of.
const TRIES: u32 = 8;

/// What waits in one lane.
pub(super) enum Queue {
    /// What takes away is never turned back.
    Taking(UnboundedReceiver<Job>),
    /// What gives waits before it enters.
    Giving(Receiver<Job>),
}

impl Queue {
    /// The queue of each lane.
    pub(super) fn all(queues: desk::Queues<Tx>) -> [Self; 3] {
        [Queue::Taking(queues.kill), Queue::Taking(queues.end), Queue::Giving(queues.grant)]
    }

    async fn recv(&mut self) -> Option<Job> {
        match self {
            Queue::Taking(jobs) => jobs.recv().await,
            Queue::Giving(jobs) => jobs.recv().await,
        }
    }

    fn try_recv(&mut self) -> Option<Job> {
        match self {
            Queue::Taking(jobs) => jobs.try_recv().ok(),
            Queue::Giving(jobs) => jobs.try_recv().ok(),
        }
    }

    fn close(&mut self) {
        match self {
            Queue::Taking(jobs) => jobs.close(),
            Queue::Giving(jobs) => jobs.close(),
        }
    }
}

/// Owns one connection and the queue it serves.
pub(super) struct Worker {
    queue: Queue,
    tx: Tx,
    closing: CancellationToken,
}

/// How far a transaction came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Begin,
    Job(usize),
    Settle,
    Seal,
    Commit,
}

/// Why a transaction was rolled back.
struct Failure {
    stage: Stage,
    error: StoreError,
}

impl Worker {
    pub(super) fn new(queue: Queue, tx: Tx, closing: CancellationToken) -> Self {
        Self { queue, tx, closing }
    }

    pub(super) async fn run(mut self) {
        while let Some(first) = self.first().await {
            let mut jobs = vec![first];
            jobs.extend(std::iter::from_fn(|| self.queue.try_recv()).take(AT_ONCE - 1));
            self.work(jobs).await;
        }
        self.tx.close().await;
    }

    /// The next job; none once the store is closed and the queue is empty.
    async fn first(&mut self) -> Option<Job> {
        tokio::select! {
            biased;
            () = self.closing.cancelled() => {
                self.queue.close();
                self.queue.recv().await
            }
            job = self.queue.recv() => job,
        }
    }

    async fn work(&mut self, mut jobs: Vec<Job>) {
        let since = Instant::now();
        let mut alone = Vec::new();
        while !jobs.is_empty() {
            match self.attempt(&mut jobs, Care::Recorded).await {
                Ok(()) => jobs.drain(..).for_each(Job::answer),
                Err(Failure { stage: Stage::Begin, error }) if !self.tx.is_connected() => {
                    jobs = fail_refusable(jobs, &error);
                    if since.elapsed() > PATIENCE {
                        jobs.drain(..).for_each(|job| job.fail(unreachable()));
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                // Whether a failed commit reached the disk is not known. A grant is never tried twice after one.
                Err(Failure { stage: Stage::Commit, error }) => {
                    alone.extend(fail_refusable(std::mem::take(&mut jobs), &error));
                }
                Err(Failure { stage: Stage::Job(index), .. }) => alone.push(jobs.remove(index)),
                Err(_) => alone.append(&mut jobs),
            }
        }
        for job in alone {
            self.work_alone(job).await;
        }
    }

    /// Does one job as carefully as it can be done: recorded; else counted, which is only for what takes away.
    async fn work_alone(&mut self, mut job: Job) {
        let since = Instant::now();
        let mut care = Care::Recorded;
        let mut tries = 0;
        loop {
            let Err(Failure { stage, error }) = self.attempt(slice::from_mut(&mut job), care).await else {
                return job.answer();
            };
            tries += 1;
            let may_repeat = !(job.is_refusable() && stage == Stage::Commit);
            if is_passing(&error) && may_repeat && tries < TRIES {
                tokio::time::sleep(PAUSE / 2).await;
            } else if job.is_refusable() {
                return job.fail(error);
            } else if matches!(error, StoreError::Fenced { .. }) || !self.tx.is_connected() {
                if since.elapsed() > PATIENCE {
                    return job.fail(error);
                }
                tokio::time::sleep(PAUSE).await;
            } else if care == Care::Recorded && stage == Stage::Seal {
                care = Care::Counted;
            } else {
                return job.fail(error);
            }
        }
    }

    async fn attempt(&mut self, jobs: &mut [Job], care: Care) -> Result<(), Failure> {
        let Err(failure) = self.transact(jobs, care).await else { return Ok(()) };
        tracing::warn!(
            error = &failure.error as &dyn std::error::Error,
            stage = ?failure.stage,
            jobs = jobs.len(),
            "a transaction of the store was rolled back"
        );
        self.tx.roll_back().await;
        Err(failure)
    }

    async fn transact(&mut self, jobs: &mut [Job], care: Care) -> Result<(), Failure> {
        let at = |stage| move |error| Failure { stage, error };
        let needs = jobs.iter().map(Job::needs).fold(Needs::default(), Needs::and);
        self.tx.begin(care == Care::Recorded, &needs).await.map_err(at(Stage::Begin))?;
        for (index, job) in jobs.iter_mut().enumerate() {
            job.run(&mut self.tx).await.map_err(at(Stage::Job(index)))?;
        }
        self.tx.settle().await.map_err(at(Stage::Settle))?;
        self.tx.seal(care).await.map_err(at(Stage::Seal))?;
        self.tx.commit().await.map_err(at(Stage::Commit))
    }
}

fn unreachable() -> StoreError {
    StoreError::Database { what: "reach the database", source: "it did not answer in time".into() }
}

/// Whether the same may succeed when it is tried again: another transaction was in the way.
fn is_passing(error: &StoreError) -> bool {
    // serialization_failure, deadlock_detected, lock_not_available (PostgreSQL, appendix A).
    const PASSING: [&str; 3] = ["40001", "40P01", "55P03"];
    failure::code(error).is_some_and(|code| PASSING.contains(&code.as_str()))
}
