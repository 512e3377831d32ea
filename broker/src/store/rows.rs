//! Rows as the domain has them, and back.

use std::error::Error;
use std::str::FromStr;

use dayfly_domain::id::LeaseId;
use dayfly_domain::lease::{Handle, Lease, LeaseState, Outcome, Urgency};
use dayfly_domain::scope::{Promise, Revocability};
use dayfly_domain::spiffe::SpiffeId;
use dayfly_domain::task::{Anchor, AnchorKind, EndCause, Offer, Task, TaskState};
use dayfly_domain::time::{Timestamp, Ttl};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::failure::corrupt;
use crate::store::{LeaseRow, StoreError};

/// A row of either database, read column by column.
pub(super) trait Fields {
    /// Text, or JSON as text.
    fn maybe_text(&self, name: &'static str) -> Result<Option<String>, sqlx::Error>;

    /// A number.
    fn maybe_number(&self, name: &'static str) -> Result<Option<i64>, sqlx::Error>;

    /// Bytes.
    fn maybe_bytes(&self, name: &'static str) -> Result<Option<Vec<u8>>, sqlx::Error>;
}

/// Reads columns by name; a fault names the column.
pub(super) struct Columns<'r, R>(pub(super) &'r R);

impl<R: Fields> Columns<'_, R> {
    pub(super) fn text(&self, name: &'static str) -> Result<String, StoreError> {
        let text = self.maybe_text(name)?;
        self.demanded(name, text)
    }

    pub(super) fn number(&self, name: &'static str) -> Result<i64, StoreError> {
        let number = self.0.maybe_number(name).map_err(|error| corrupt(name, error))?;
        self.demanded(name, number)
    }

    pub(super) fn maybe_text(&self, name: &'static str) -> Result<Option<String>, StoreError> {
        self.0.maybe_text(name).map_err(|error| corrupt(name, error))
    }

    pub(super) fn maybe_time(&self, name: &'static str) -> Result<Option<Timestamp>, StoreError> {
        let millis = self.0.maybe_number(name).map_err(|error| corrupt(name, error))?;
        Ok(millis.map(Timestamp::from_unix_millis))
    }

    pub(super) fn time(&self, name: &'static str) -> Result<Timestamp, StoreError> {
        self.number(name).map(Timestamp::from_unix_millis)
    }

    pub(super) fn parsed<T>(&self, name: &'static str) -> Result<T, StoreError>
    where
        T: FromStr,
        T::Err: Into<Box<dyn Error + Send + Sync>>,
    {
        self.text(name)?.parse().map_err(|error: T::Err| corrupt(name, error))
    }

    pub(super) fn maybe_parsed<T>(&self, name: &'static str) -> Result<Option<T>, StoreError>
    where
        T: FromStr,
        T::Err: Into<Box<dyn Error + Send + Sync>>,
    {
        match self.maybe_text(name)? {
            Some(text) => text.parse().map(Some).map_err(|error: T::Err| corrupt(name, error)),
            None => Ok(None),
        }
    }

    fn json<T: DeserializeOwned>(&self, name: &'static str) -> Result<T, StoreError> {
        serde_json::from_str(&self.text(name)?).map_err(|error| corrupt(name, error))
    }

    fn maybe_json<T: DeserializeOwned>(&self, name: &'static str) -> Result<Option<T>, StoreError> {
        match self.maybe_text(name)? {
            Some(text) => serde_json::from_str(&text).map(Some).map_err(|error| corrupt(name, error)),
            None => Ok(None),
        }
    }

    /// What the state of the row demands to be there.
    fn demanded<T>(&self, name: &'static str, value: Option<T>) -> Result<T, StoreError> {
        value.ok_or_else(|| corrupt(name, "missing in this state"))
    }
}

/// JSON as it is stored.
pub(super) fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("the domain's data is plain")
}

pub(super) fn task(row: &impl Fields) -> Result<Task, StoreError> {
    let row = Columns(row);
    let state = match row.text("state")?.as_str() {
        "open" => TaskState::Open { deadline: row.time("deadline")? },
        "ended" => {
            let cause = row.text("end_cause")?;
            let cause = EndCause::from_name(&cause).ok_or_else(|| corrupt("end_cause", cause))?;
            TaskState::Ended { at: row.time("ended_at")?, cause }
        }
        other => return Err(corrupt("state", other.to_owned())),
    };
    let key_hash = row.0.maybe_bytes("key_hash").map_err(|error| corrupt("key_hash", error))?;
    let key_hash = key_hash
        .map(|hash| hash.try_into().map_err(|_| corrupt("key_hash", "not 32 bytes long")))
        .transpose()?;
    Ok(Task {
        id: row.parsed("id")?,
        session: row.parsed("session")?,
        parent: row.maybe_parsed("parent")?,
        opened_by: row.parsed("opened_by")?,
        stage: row.parsed("stage")?,
        node: row.maybe_parsed("node")?,
        anchor: row.json("anchor")?,
        key_hash,
        ceiling: row.json("ceiling")?,
        intent: row.text("intent")?,
        labels: row.json("labels")?,
        offer: row.maybe_time("offer_deadline")?.map(|deadline| Offer { deadline }),
        opened_at: row.time("opened_at")?,
        state,
    })
}

/// The task as it stood at a moment: what ended later was open, and what was claimed then or later was an offer.
pub(super) fn task_at(row: &impl Fields, at: Timestamp) -> Result<Task, StoreError> {
    let task = task(row)?;
    let columns = Columns(row);
    let deadline = columns.time("deadline")?;
    let state = match task.state {
        TaskState::Ended { at: ended, .. } if at < ended => TaskState::Open { deadline },
        other => other,
    };
    let task = Task { state, ..task };
    Ok(match columns.maybe_time("claimed_at")? {
        // Until when it waited is not kept: it was claimed in time.
        Some(claimed) if at <= claimed => Task {
            node: None,
            anchor: Anchor::of_no_process(AnchorKind::Offer),
            key_hash: None,
            offer: Some(Offer { deadline }),
            ..task
        },
        _ => task,
    })
}

/// A lease with all that its row says beside it.
#[derive(Clone, Debug)]
pub(super) struct StoredLease {
    pub(super) lease: Lease,
    pub(super) node: Option<SpiffeId>,
    pub(super) queue: Queued,
}

/// A lease's place in the revocation queue.
#[derive(Clone, Debug, Default)]
pub(super) struct Queued {
    pub(super) next_attempt_at: Option<Timestamp>,
    pub(super) claimed_until: Option<Timestamp>,
    pub(super) attempts: u32,
    pub(super) last_error: String,
}

impl From<StoredLease> for LeaseRow {
    fn from(stored: StoredLease) -> Self {
        let Queued { attempts, last_error, .. } = stored.queue;
        Self { lease: stored.lease, attempts, last_error }
    }
}

pub(super) fn lease(row: &impl Fields) -> Result<StoredLease, StoreError> {
    let row = Columns(row);
    let revocability: Revocability = serde_json::from_value(row.text("revocability")?.into())
        .map_err(|error| corrupt("revocability", error))?;
    let worst_case_after_end = Ttl::millis(row.number("worst_case_ms")?.unsigned_abs());
    let lease = Lease {
        id: row.parsed("id")?,
        task: row.parsed("task")?,
        session: row.parsed("session")?,
        spiffe_id: row.parsed("spiffe_id")?,
        scope: row.text("scope")?,
        parameters: row.json("parameters")?,
        provider: row.text("provider")?,
        promise: Promise {
            revocability,
            worst_case_after_end,
            leaves_behind: row.maybe_json("leaves_behind")?.unwrap_or_default(),
        },
        narrowed: row.maybe_text("narrowed")?,
        renews: row.maybe_parsed::<LeaseId>("renews")?,
        opened_at: row.time("opened_at")?,
        state: lease_state(&row)?,
    };
    let queue = Queued {
        next_attempt_at: row.maybe_time("next_attempt_at")?,
        claimed_until: row.maybe_time("claimed_until")?,
        attempts: u32::try_from(row.number("attempts")?).map_err(|error| corrupt("attempts", error))?,
        last_error: row.text("last_error")?,
    };
    Ok(StoredLease { lease, node: row.maybe_parsed("node")?, queue })
}

fn lease_state(row: &Columns<'_, impl Fields>) -> Result<LeaseState, StoreError> {
    let handle: Option<Handle> = row.maybe_json("handle")?;
    Ok(match row.text("state")?.as_str() {
        "pending" => {
            LeaseState::Pending { since: row.time("pending_since")?, residue_until: row.time("bound_at")? }
        }
        "active" => {
            LeaseState::Active { expires_at: row.time("bound_at")?, handle: row.demanded("handle", handle)? }
        }
        "revoking" => LeaseState::Revoking {
            requested_at: row.time("requested_at")?,
            cause: row.json("cause")?,
            handle,
            applied_at: row.maybe_time("applied_at")?,
            runs_out_at: row.maybe_time("runs_out_at")?,
            bound: row.time("bound_at")?,
        },
        "ended" => {
            let outcome = match row.text("outcome")?.as_str() {
                "verified" => Outcome::Verified { evidence: row.text("evidence")? },
                "ran_out" => Outcome::RanOut,
                "never_issued" => Outcome::NeverIssued,
                other => return Err(corrupt("outcome", other.to_owned())),
            };
            LeaseState::Ended { at: row.time("ended_at")?, outcome }
        }
        other => return Err(corrupt("state", other.to_owned())),
    })
}

/// Where a lease stands, column by column.
#[derive(Debug, Default, Serialize)]
pub(super) struct StateColumns {
    pub(super) state: &'static str,
    pub(super) pending_since: Option<i64>,
    pub(super) bound_at: Option<i64>,
    pub(super) handle: Option<String>,
    requested_at: Option<i64>,
    cause: Option<String>,
    applied_at: Option<i64>,
    runs_out_at: Option<i64>,
    ended_at: Option<i64>,
    outcome: Option<&'static str>,
    evidence: Option<String>,
    urgency: u8,
}

impl From<&LeaseState> for StateColumns {
    fn from(state: &LeaseState) -> Self {
        let millis = |at: &Timestamp| Some(at.unix_millis());
        let columns = Self { state: state.name(), urgency: Urgency::End.rank(), ..Self::default() };
        match state {
            LeaseState::Pending { since, residue_until } => {
                Self { pending_since: millis(since), bound_at: millis(residue_until), ..columns }
            }
            LeaseState::Active { expires_at, handle } => {
                Self { bound_at: millis(expires_at), handle: Some(json(handle)), ..columns }
            }
            LeaseState::Revoking { requested_at, cause, handle, applied_at, runs_out_at, bound } => Self {
                requested_at: millis(requested_at),
                cause: Some(json(cause)),
                handle: handle.as_ref().map(json),
                applied_at: applied_at.as_ref().and_then(millis),
                runs_out_at: runs_out_at.as_ref().and_then(millis),
                bound_at: millis(bound),
                urgency: cause.urgency().rank(),
                ..columns
            },
            LeaseState::Ended { at, outcome } => Self {
                ended_at: millis(at),
                outcome: Some(outcome.as_str()),
                evidence: match outcome {
                    Outcome::Verified { evidence } => Some(evidence.clone()),
                    Outcome::RanOut | Outcome::NeverIssued => None,
                },
                ..columns
            },
        }
    }
}

/// Why nothing may be added under the task of a lease, if so. The row has the task's state beside the lease's.
pub(super) fn why_task_over(row: &impl Fields, now: Timestamp) -> Result<Option<EndCause>, StoreError> {
    let row = Columns(row);
    if row.text("task_state")? == "ended" {
        let cause = row.text("task_end_cause")?;
        return EndCause::from_name(&cause).map(Some).ok_or_else(|| corrupt("end_cause", cause));
    }
    let open = TaskState::Open { deadline: row.time("task_lapses_at")? };
    Ok((!open.is_open(now)).then_some(EndCause::Deadline))
}
