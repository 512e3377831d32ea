//! What both databases read alike, and what is decided from it.

use dayfly_domain::aws_deny::{Block, Capacity, RevokeWhen, Session, Slot, State, Written};
use dayfly_domain::lease::RevokeCause;
use dayfly_domain::time::Timestamp;

use super::{Place, Plan, PlanAsk, SlotAsk, SlotStanding};
use crate::store::StoreError;
use crate::store::failure::{corrupt, failed};
use crate::store::rows::Fields;

/// The tree that owns the blocks of a role's canaries.
const CANARY: &str = "canary";

impl SlotAsk {
    /// The tree's name.
    pub(in crate::store) fn tree_name(&self) -> String {
        self.tree.map_or_else(|| CANARY.to_owned(), |tree| tree.to_string())
    }

    /// Whether a role of so many sessions takes one more; `row` counts them.
    pub(in crate::store) fn fits(&self, row: &impl Fields) -> Result<bool, StoreError> {
        let small = |count: i64| u32::try_from(count).unwrap_or(u32::MAX);
        let (sessions, young) = (small(number(row, "sessions")?), small(number(row, "young")?));
        Ok(Capacity::OF_A_ROLE.admits(sessions, young, self.spare))
    }

    /// What is known of the session before STS answers.
    pub(in crate::store) fn session(&self, slot: Slot) -> Session {
        Session::between(slot, self.now, self.given_by, self.gone_at, self.skew)
    }

    /// The second before which nothing can be issued any more that is not known.
    pub(in crate::store) fn settled(&self) -> i64 {
        State::settled(self.now, self.skew)
    }
}

/// The row of a document.
pub(in crate::store) struct DocumentRow {
    owner: String,
    fence: i64,
    held_until: Timestamp,
    version: i64,
    proven: i64,
    written: Option<(Written, String)>,
}

/// How a document is held, and in which version.
pub(in crate::store) struct Hold {
    pub(in crate::store) fence: i64,
    pub(in crate::store) version: i64,
    canary_taken: bool,
}

impl DocumentRow {
    pub(in crate::store) fn read(row: &impl Fields) -> Result<Self, StoreError> {
        let moment = |name| -> Result<Option<Timestamp>, StoreError> {
            Ok(row.maybe_number(name).map_err(failed(name))?.map(Timestamp::from_unix_millis))
        };
        let digest = text(row, "digest")?;
        let written = moment("written_of")?.zip(moment("written_at")?);
        Ok(Self {
            owner: text(row, "owner")?,
            fence: number(row, "fence")?,
            held_until: Timestamp::from_unix_millis(number(row, "held_until")?),
            version: number(row, "version")?,
            proven: number(row, "proven_version")?,
            written: written.map(|(of, at)| (Written { of, at }, digest)),
        })
    }

    /// Whether another broker may write it.
    pub(in crate::store) fn is_anothers(&self, ask: &PlanAsk) -> bool {
        self.owner != ask.owner && self.held_until > ask.now
    }

    /// Denied sessions that are gone by this moment may be forgotten: the last document does not name them, and it is
    /// everywhere. As [`Session::is_forgettable`] has it.
    pub(in crate::store) fn unnamed_until(&self, ask: &PlanAsk) -> i64 {
        let last = self.written.as_ref().map(|(written, _)| *written);
        let everywhere = last.filter(|last| last.at + ask.propagation <= ask.now);
        everywhere.map_or(i64::MIN, |last| last.of.unix_millis())
    }

    /// Adds the canary to what is to be denied, if that is to be proven, and tells how the document is held from now on.
    pub(in crate::store) fn hold(&self, ask: &PlanAsk, denied: &mut Vec<String>) -> Hold {
        let keeps =
            self.owner == ask.owner && ask.fence.is_some_and(|fence| i64::try_from(fence) == Ok(self.fence));
        let unproven = !denied.is_empty() || self.proven < self.version;
        let canary = ask.canary.filter(|_| unproven);
        denied.extend(canary.map(|canary| canary.to_string()));
        Hold {
            fence: if keeps { self.fence } else { self.fence + 1 },
            version: if denied.is_empty() { self.version } else { self.version + 1 },
            canary_taken: canary.is_some(),
        }
    }

    /// The plan, for these rows of sessions.
    pub(in crate::store) fn plan(self, hold: &Hold, rows: &[impl Fields]) -> Result<Plan, StoreError> {
        let mut leases = 0;
        let mut sessions = Vec::with_capacity(rows.len());
        for row in rows {
            leases += u32::from(text(row, "tree")? != CANARY);
            sessions.push(Session {
                slot: slot(row)?,
                earliest: number(row, "earliest")?,
                latest: number(row, "latest")?,
                gone_at: Timestamp::from_unix_millis(number(row, "gone_at")?),
                revoked: maybe_number(row, "denied_in")?.is_some(),
            });
        }
        Ok(Plan {
            fence: counted(hold.fence),
            version: counted(hold.version),
            proven: counted(self.proven),
            written: self.written,
            canary_taken: hold.canary_taken,
            sessions,
            leases,
        })
    }
}

/// The lease of a row whose session is worth a deny.
pub(in crate::store) fn wanted(row: &impl Fields) -> Result<Option<String>, StoreError> {
    let when: RevokeWhen =
        text(row, "revoke_when")?.parse().map_err(|error| corrupt("revoke_when", error))?;
    let cause: RevokeCause =
        serde_json::from_str(&text(row, "cause")?).map_err(|error| corrupt("cause", error))?;
    let moment = |name| number(row, name).map(Timestamp::from_unix_millis);
    let remaining = moment("requested_at")?.until(moment("bound_at")?);
    match when.wants(cause, remaining) {
        true => text(row, "lease").map(Some),
        false => Ok(None),
    }
}

pub(in crate::store) fn standing(row: &impl Fields) -> Result<SlotStanding, StoreError> {
    Ok(SlotStanding {
        place: Place { role: text(row, "role")?, slot: slot(row)? },
        denied_in: maybe_number(row, "denied_in")?.map(counted),
        written: counted(number(row, "written")?),
        proven: counted(number(row, "proven")?),
        evidence: text(row, "evidence")?,
    })
}

pub(in crate::store) fn slot(row: &impl Fields) -> Result<Slot, StoreError> {
    text(row, "slot")?.parse().map_err(|error| corrupt("aws_slots.slot", error))
}

pub(in crate::store) fn block(row: &impl Fields) -> Result<Block, StoreError> {
    text(row, "block")?.parse().map_err(|error| corrupt("aws_slots.block", error))
}

pub(in crate::store) fn text(row: &impl Fields, name: &'static str) -> Result<String, StoreError> {
    row.maybe_text(name).map_err(failed(name))?.ok_or_else(|| corrupt(name, "missing"))
}

fn number(row: &impl Fields, name: &'static str) -> Result<i64, StoreError> {
    maybe_number(row, name)?.ok_or_else(|| corrupt(name, "missing"))
}

fn maybe_number(row: &impl Fields, name: &'static str) -> Result<Option<i64>, StoreError> {
    row.maybe_number(name).map_err(failed(name))
}

fn counted(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}

pub(in crate::store) fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
