//! The one writer: takes what waits in three queues, commits it in one transaction, then answers.
//!
//! What takes away comes first in each batch and keeps its share of it, and so does what gives: neither starves.

use std::future::Future;
use std::slice;

use thiserror::Error;
use tokio_util::sync::CancellationToken;

use super::audit::Care;
use super::files::Place;
use super::reserve::Reserve;
use super::transaction::{Tx, is_full};
use crate::store::StoreError;
pub(super) use crate::store::desk::Lane;
use crate::store::desk::{self, Work, fail_refusable};

/// Most jobs of one batch, by queue.
const KILLS: usize = 64;
const ENDS: usize = 256;
const GRANTS: usize = 512;
/// Most grants of a batch while more waits to be taken away than it holds.
const GRANTS_WHEN_BUSY: usize = 64;

/// One change of state.
pub(super) trait Verb: Send + Sync + 'static {
    type Answer: Send + 'static;

    fn lane(&self) -> Lane;

    /// Whether the verb may be refused on a full disk, or for want of a record.
    fn is_refusable(&self) -> bool {
        self.lane() == Lane::Grant
    }

    /// Changes state within the writer's transaction. May run more than once, each time on the state before.
    fn run(&self, tx: &mut Tx) -> impl Future<Output = Result<Self::Answer, StoreError>> + Send;
}

impl<V: Verb> Work<Tx> for V {
    type Answer = V::Answer;

    fn lane(&self) -> Lane {
        Verb::lane(self)
    }

    fn is_refusable(&self) -> bool {
        Verb::is_refusable(self)
    }

    fn needs(&self) {}

    fn run(&self, tx: &mut Tx) -> impl Future<Output = Result<Self::Answer, StoreError>> + Send {
        Verb::run(self, tx)
    }
}

/// Where verbs are handed in.
pub(super) type Desk = desk::Desk<Tx>;
type Job = desk::Job<Tx>;

/// The other end of the desk.
pub(super) struct Queues {
    waiting: desk::Queues<Tx>,
    closing: CancellationToken,
}

pub(super) fn queues(closing: CancellationToken) -> (Desk, Queues) {
    let (desk, waiting) = desk::queues();
    (desk, Queues { waiting, closing })
}

impl Queues {
    /// The next batch, in the order it is to be done; none once the store is closed and the queues are empty.
    async fn next(&mut self) -> Option<Vec<Job>> {
        let mut jobs = vec![self.first().await?];
        let took_kills = take(|| self.waiting.kill.try_recv().ok(), KILLS, &mut jobs);
        let took_ends = take(|| self.waiting.end.try_recv().ok(), ENDS, &mut jobs);
        let is_busy = took_kills == KILLS || took_ends == ENDS;
        let grants = if is_busy { GRANTS_WHEN_BUSY } else { GRANTS };
        take(|| self.waiting.grant.try_recv().ok(), grants, &mut jobs);
        jobs.sort_by_key(Job::lane);
        Some(jobs)
    }

    async fn first(&mut self) -> Option<Job> {
        let closing = self.closing.clone();
        loop {
            tokio::select! {
                biased;
                () = closing.cancelled(), if !self.waiting.grant.is_closed() => {
                    self.waiting.kill.close();
                    self.waiting.end.close();
                    self.waiting.grant.close();
                }
                Some(job) = self.waiting.kill.recv() => return Some(job),
                Some(job) = self.waiting.end.recv() => return Some(job),
                Some(job) = self.waiting.grant.recv() => return Some(job),
                else => return None,
            }
        }
    }
}

fn take(next: impl FnMut() -> Option<Job>, most: usize, jobs: &mut Vec<Job>) -> usize {
    let before = jobs.len();
    jobs.extend(std::iter::from_fn(next).take(most));
    jobs.len() - before
}

/// Owns the writing connection.
pub(super) struct Writer {
    queues: Queues,
    tx: Tx,
    reserve: Reserve,
    /// Whether there was room to give something out when that was last asked.
    gives: bool,
    /// Held, so that no second broker opens the database.
    _place: Place,
}

/// Why a transaction was rolled back.
struct Failure {
    /// The job that failed, by its place in the batch; none if it was what is done for all of them.
    job: Option<usize>,
    in_commit: bool,
    error: StoreError,
}

impl Writer {
    pub(super) fn new(queues: Queues, tx: Tx, reserve: Reserve, place: Place) -> Self {
        Self { queues, tx, reserve, gives: false, _place: place }
    }

    pub(super) async fn run(mut self) {
        let beyond = if self.reserve.is_held() { 0 } else { self.reserve.bytes() };
        self.tx.bound_size(beyond).await;
        while let Some(jobs) = self.queues.next().await {
            self.work(jobs).await;
        }
        self.tx.close().await;
    }

    async fn work(&mut self, mut jobs: Vec<Job>) {
        if jobs.iter().any(|job| job.lane() == Lane::Grant) {
            self.gives = self.has_room_to_give().await;
            if !self.gives {
                jobs = fail_refusable(jobs, &no_room());
            }
        }
        let mut alone = Vec::new();
        while !jobs.is_empty() {
            match self.attempt(&mut jobs, Care::Recorded).await {
                Ok(()) => jobs.drain(..).for_each(Job::answer),
                // Whether a failed commit reached the disk is not known. A grant is never tried twice after one.
                Err(failure) if failure.in_commit || is_full(&failure.error) => {
                    alone.extend(fail_refusable(std::mem::take(&mut jobs), &failure.error));
                }
                Err(Failure { job: Some(index), .. }) => alone.push(jobs.remove(index)),
                Err(Failure { job: None, .. }) => alone.append(&mut jobs),
            }
        }
        for job in alone {
            self.work_alone(job).await;
        }
    }

    /// Does one job as carefully as it can be done: recorded; else from the reserve; else counted. The last two are only
    /// for what takes away.
    async fn work_alone(&mut self, mut job: Job) {
        let mut care = Care::Recorded;
        loop {
            let Err(failure) = self.attempt(slice::from_mut(&mut job), care).await else {
                return job.answer();
            };
            let full = is_full(&failure.error);
            if job.is_refusable() {
                return job.fail(failure.error);
            } else if full && self.reserve.is_held() {
                self.gives = false;
                self.reserve.release();
                self.tx.bound_size(self.reserve.bytes()).await;
                self.tx.shorten_log().await;
            } else if care == Care::Recorded && (full || failure.job.is_none()) {
                care = Care::Counted;
            } else {
                return job.fail(failure.error);
            }
        }
    }

    async fn attempt(&mut self, jobs: &mut [Job], care: Care) -> Result<(), Failure> {
        let gives = self.gives && care == Care::Recorded;
        let Err(failure) = self.transact(jobs, care, gives).await else { return Ok(()) };
        tracing::warn!(
            error = &failure.error as &dyn std::error::Error,
            jobs = jobs.len(),
            "a transaction of the store was rolled back"
        );
        self.tx.roll_back().await;
        Err(failure)
    }

    async fn transact(&mut self, jobs: &mut [Job], care: Care, gives: bool) -> Result<(), Failure> {
        let common = |error| Failure { job: None, in_commit: false, error };
        self.tx.begin(gives).await.map_err(common)?;
        for (index, job) in jobs.iter_mut().enumerate() {
            let job = job.run(&mut self.tx).await;
            job.map_err(|error| Failure { job: Some(index), in_commit: false, error })?;
        }
        self.tx.write_fresh_leases().await.map_err(common)?;
        self.tx.write_records(care).await.map_err(common)?;
        self.tx.commit().await.map_err(|error| Failure { job: None, in_commit: true, error })
    }

    async fn has_room_to_give(&mut self) -> bool {
        if self.reserve.is_held() {
            return self.reserve.leaves_room();
        }
        let has_room = self.tx.bound_size(0).await && self.reserve.leaves_room();
        if !has_room {
            self.tx.bound_size(self.reserve.bytes()).await;
        }
        has_room
    }
}

/// There is no room for more than taking away.
#[derive(Debug, Error)]
#[error("the disk is full: make room, what is left is kept for ends and revocations")]
struct NoRoom;

fn no_room() -> StoreError {
    StoreError::Database { what: "nothing is granted on a full disk", source: NoRoom.into() }
}

#[cfg(test)]
mod tests;
