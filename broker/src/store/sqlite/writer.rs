//! The one writer: takes what waits in three queues, commits it in one transaction, then answers.
//!
//! What takes away comes first in each batch and keeps its share of it, and so does what gives: neither starves. A
//! job that found its way into a queue is done, though its caller hangs up.
//!
//! Jobs share a transaction without savepoints. A job that fails after it changed something takes the transaction with
//! it; it is then tried alone, and the others again without it.

use std::future::Future;
use std::slice;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use thiserror::Error;
use tokio::sync::mpsc::{self, Receiver, Sender, UnboundedReceiver, UnboundedSender};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::audit::Care;
use super::files::Place;
use super::reserve::Reserve;
use super::transaction::{Tx, is_full};
use crate::store::StoreError;

/// Most jobs of one batch, by queue.
const KILLS: usize = 64;
const ENDS: usize = 256;
const GRANTS: usize = 512;
/// Most grants of a batch while more waits to be taken away than it holds.
const GRANTS_WHEN_BUSY: usize = 64;
/// Most grants that wait. Further callers wait before they enter the queue.
const GRANTS_WAITING: usize = 4_096;

/// The queues, in the order they are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lane {
    /// An admin takes away.
    Kill,
    /// Something ends, or its revocation goes on.
    End,
    /// Something is given, or only noted.
    Grant,
}

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

/// Where verbs are handed in.
#[derive(Clone, Debug)]
pub(super) struct Desk {
    kill: UnboundedSender<Job>,
    end: UnboundedSender<Job>,
    grant: Sender<Job>,
}

impl Desk {
    /// Hands a verb in and waits until it is committed, or refused.
    pub(super) async fn post<V: Verb>(&self, verb: V) -> Result<V::Answer, StoreError> {
        let (reply, answer) = oneshot::channel();
        let lane = verb.lane();
        let job = Job(Box::new(Posted { verb, outcome: None, reply }));
        let taken = match lane {
            Lane::Kill => self.kill.send(job).is_ok(),
            Lane::End => self.end.send(job).is_ok(),
            Lane::Grant => self.grant.send(job).await.is_ok(),
        };
        if !taken {
            return Err(closed());
        }
        answer.await.unwrap_or_else(|_| Err(closed()))
    }
}

fn closed() -> StoreError {
    StoreError::Database { what: "hand in a change", source: "the store is closed".into() }
}

/// The other end of the desk.
pub(super) struct Queues {
    kill: UnboundedReceiver<Job>,
    end: UnboundedReceiver<Job>,
    grant: Receiver<Job>,
    closing: CancellationToken,
}

pub(super) fn queues(closing: CancellationToken) -> (Desk, Queues) {
    let (kill, kills) = mpsc::unbounded_channel();
    let (end, ends) = mpsc::unbounded_channel();
    let (grant, grants) = mpsc::channel(GRANTS_WAITING);
    (Desk { kill, end, grant }, Queues { kill: kills, end: ends, grant: grants, closing })
}

impl Queues {
    /// The next batch, in the order it is to be done; none once the store is closed and the queues are empty.
    async fn next(&mut self) -> Option<Vec<Job>> {
        let mut jobs = vec![self.first().await?];
        let took_kills = take(|| self.kill.try_recv().ok(), KILLS, &mut jobs);
        let took_ends = take(|| self.end.try_recv().ok(), ENDS, &mut jobs);
        let is_busy = took_kills == KILLS || took_ends == ENDS;
        let grants = if is_busy { GRANTS_WHEN_BUSY } else { GRANTS };
        take(|| self.grant.try_recv().ok(), grants, &mut jobs);
        jobs.sort_by_key(Job::lane);
        Some(jobs)
    }

    async fn first(&mut self) -> Option<Job> {
        let closing = self.closing.clone();
        loop {
            tokio::select! {
                biased;
                () = closing.cancelled(), if !self.grant.is_closed() => {
                    self.kill.close();
                    self.end.close();
                    self.grant.close();
                }
                Some(job) = self.kill.recv() => return Some(job),
                Some(job) = self.end.recv() => return Some(job),
                Some(job) = self.grant.recv() => return Some(job),
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

/// The error of a whole batch, told to one of its jobs.
#[derive(Debug, Error)]
#[error("{0}")]
struct Shared(String);

fn fail_refusable(jobs: Vec<Job>, error: &StoreError) -> Vec<Job> {
    let (refusable, others): (Vec<Job>, Vec<Job>) = jobs.into_iter().partition(Job::is_refusable);
    for job in refusable {
        let (what, source) = match error {
            StoreError::Database { what, source } => (*what, source.to_string()),
            other => ("commit", other.to_string()),
        };
        job.fail(StoreError::Database { what, source: Shared(source).into() });
    }
    others
}

/// A verb on its way, whatever its answer is.
struct Job(Box<dyn AnyJob>);

impl Job {
    fn lane(&self) -> Lane {
        self.0.lane()
    }

    fn is_refusable(&self) -> bool {
        self.0.is_refusable()
    }

    async fn run(&mut self, tx: &mut Tx) -> Result<(), StoreError> {
        self.0.run(tx).await
    }

    fn answer(self) {
        self.0.answer();
    }

    fn fail(self, error: StoreError) {
        self.0.fail(error);
    }
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Job({:?})", self.lane())
    }
}

trait AnyJob: Send {
    fn lane(&self) -> Lane;
    fn is_refusable(&self) -> bool;
    fn run<'a>(&'a mut self, tx: &'a mut Tx) -> BoxFuture<'a, Result<(), StoreError>>;
    fn answer(self: Box<Self>);
    fn fail(self: Box<Self>, error: StoreError);
}

struct Posted<V: Verb> {
    verb: V,
    outcome: Option<Result<V::Answer, StoreError>>,
    reply: oneshot::Sender<Result<V::Answer, StoreError>>,
}

impl<V: Verb> AnyJob for Posted<V> {
    fn lane(&self) -> Lane {
        self.verb.lane()
    }

    fn is_refusable(&self) -> bool {
        self.verb.is_refusable()
    }

    fn run<'a>(&'a mut self, tx: &'a mut Tx) -> BoxFuture<'a, Result<(), StoreError>> {
        async move {
            let before = tx.changes();
            match self.verb.run(tx).await {
                Err(error) if matches!(error, StoreError::Database { .. }) || tx.changes() != before => {
                    Err(error)
                }
                // A refusal that changed nothing is an answer like any other.
                outcome => {
                    self.outcome = Some(outcome);
                    Ok(())
                }
            }
        }
        .boxed()
    }

    fn answer(self: Box<Self>) {
        if let Some(outcome) = self.outcome {
            // A caller that hung up needs no answer.
            let _ = self.reply.send(outcome);
        }
    }

    fn fail(self: Box<Self>, error: StoreError) {
        let _ = self.reply.send(Err(error));
    }
}

#[cfg(test)]
mod tests;
