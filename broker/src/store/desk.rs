//! Where changes of state are handed in: three queues, so that what gives never starves what takes away.
//!
//! A job that found its way into a queue is done, though its caller hangs up.
//!
//! Jobs share a transaction without savepoints. A job that fails after it changed something takes the transaction with
//! it; it is then tried alone, and the others again without it.

use std::future::Future;

use dayfly_domain::lease::{LeaseEvent, RevokeCause};
use dayfly_domain::task::EndCause;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use thiserror::Error;
use tokio::sync::mpsc::{self, Receiver, Sender, UnboundedReceiver, UnboundedSender};
use tokio::sync::oneshot;

use super::StoreError;

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

impl Lane {
    /// Of the end of a task.
    pub(super) fn of_end(cause: EndCause) -> Self {
        match cause {
            EndCause::Admin => Lane::Kill,
            EndCause::Explicit
            | EndCause::AnchorGone
            | EndCause::Deadline
            | EndCause::ParentEnded
            | EndCause::NodeSilent
            | EndCause::MissingFromInventory
            | EndCause::AnchorChanged => Lane::End,
        }
    }

    /// Of the revocation of single leases.
    pub(super) fn of_revocation(cause: RevokeCause) -> Self {
        match cause {
            RevokeCause::Admin | RevokeCause::Uncovered => Lane::Kill,
            RevokeCause::TaskEnded(_)
            | RevokeCause::Holder
            | RevokeCause::NodeSilent
            | RevokeCause::Undelivered
            | RevokeCause::Renewal => Lane::End,
        }
    }

    /// Of what happens to a lease.
    pub(super) fn of_event(event: &LeaseEvent) -> Self {
        match event {
            LeaseEvent::Issue { .. } | LeaseEvent::Extend { .. } => Lane::Grant,
            LeaseEvent::AskRevoke(cause) => Self::of_revocation(*cause),
            LeaseEvent::Refuse
            | LeaseEvent::LoseAnswer
            | LeaseEvent::Apply
            | LeaseEvent::Verify { .. }
            | LeaseEvent::CannotRevoke
            | LeaseEvent::Tick => Lane::End,
        }
    }
}

/// A transaction that jobs run in.
pub(super) trait Transaction: Send + 'static {
    /// What a job has locked before it runs.
    type Needs: Default + Send;

    /// Grows with everything that would have to be taken back if the job that did it failed.
    fn changes(&self) -> u64;
}

/// One change of state within a transaction of the kind `T`.
pub(super) trait Work<T: Transaction>: Send + Sync + 'static {
    type Answer: Send + 'static;

    fn lane(&self) -> Lane;

    /// Whether it may be refused for want of room, or of a record.
    fn is_refusable(&self) -> bool;

    /// What must be locked first.
    fn needs(&self) -> T::Needs;

    /// Changes state. May run more than once, each time on the state before.
    fn run(&self, tx: &mut T) -> impl Future<Output = Result<Self::Answer, StoreError>> + Send;
}

/// Where work is handed in.
pub(super) struct Desk<T> {
    kill: UnboundedSender<Job<T>>,
    end: UnboundedSender<Job<T>>,
    grant: Sender<Job<T>>,
}

impl<T> Clone for Desk<T> {
    fn clone(&self) -> Self {
        Self { kill: self.kill.clone(), end: self.end.clone(), grant: self.grant.clone() }
    }
}

impl<T> std::fmt::Debug for Desk<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Desk")
    }
}

impl<T: Transaction> Desk<T> {
    /// Hands work in and waits until it is committed, or refused.
    pub(super) async fn post<W: Work<T>>(&self, work: W) -> Result<W::Answer, StoreError> {
        let (reply, answer) = oneshot::channel();
        let lane = work.lane();
        let job = Job(Box::new(Posted { work, outcome: None, reply }));
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
pub(super) struct Queues<T> {
    pub(super) kill: UnboundedReceiver<Job<T>>,
    pub(super) end: UnboundedReceiver<Job<T>>,
    pub(super) grant: Receiver<Job<T>>,
}

pub(super) fn queues<T>() -> (Desk<T>, Queues<T>) {
    let (kill, kills) = mpsc::unbounded_channel();
    let (end, ends) = mpsc::unbounded_channel();
    let (grant, grants) = mpsc::channel(GRANTS_WAITING);
    (Desk { kill, end, grant }, Queues { kill: kills, end: ends, grant: grants })
}

/// The error of a whole batch, told to one of its jobs.
#[derive(Debug, Error)]
#[error("{0}")]
struct Shared(String);

/// Tells those that may be refused that they are, and returns the others.
pub(super) fn fail_refusable<T: Transaction>(jobs: Vec<Job<T>>, error: &StoreError) -> Vec<Job<T>> {
    let (refusable, others): (Vec<Job<T>>, Vec<Job<T>>) = jobs.into_iter().partition(Job::is_refusable);
    for job in refusable {
        let (what, source) = match error {
            StoreError::Database { what, source } => (*what, source.to_string()),
            other => ("commit", other.to_string()),
        };
        job.fail(StoreError::Database { what, source: Shared(source).into() });
    }
    others
}

/// Work on its way, whatever its answer is.
pub(super) struct Job<T>(Box<dyn AnyJob<T>>);

impl<T: Transaction> Job<T> {
    pub(super) fn lane(&self) -> Lane {
        self.0.lane()
    }

    pub(super) fn is_refusable(&self) -> bool {
        self.0.is_refusable()
    }

    pub(super) fn needs(&self) -> T::Needs {
        self.0.needs()
    }

    pub(super) async fn run(&mut self, tx: &mut T) -> Result<(), StoreError> {
        self.0.run(tx).await
    }

    pub(super) fn answer(self) {
        self.0.answer();
    }

    pub(super) fn fail(self, error: StoreError) {
        self.0.fail(error);
    }
}

trait AnyJob<T: Transaction>: Send {
    fn lane(&self) -> Lane;
    fn is_refusable(&self) -> bool;
    fn needs(&self) -> T::Needs;
    fn run<'a>(&'a mut self, tx: &'a mut T) -> BoxFuture<'a, Result<(), StoreError>>;
    fn answer(self: Box<Self>);
    fn fail(self: Box<Self>, error: StoreError);
}

struct Posted<A, W> {
    work: W,
    outcome: Option<Result<A, StoreError>>,
    reply: oneshot::Sender<Result<A, StoreError>>,
}

impl<T: Transaction, W: Work<T>> AnyJob<T> for Posted<W::Answer, W> {
    fn lane(&self) -> Lane {
        self.work.lane()
    }

    fn is_refusable(&self) -> bool {
        self.work.is_refusable()
    }

    fn needs(&self) -> T::Needs {
        self.work.needs()
    }

    fn run<'a>(&'a mut self, tx: &'a mut T) -> BoxFuture<'a, Result<(), StoreError>> {
        async move {
            let before = tx.changes();
            match self.work.run(tx).await {
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
