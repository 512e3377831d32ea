//! Sessions of AWS roles and the documents that deny them, in the words of [`dayfly_domain::aws_deny`].

pub(super) mod rows;

use async_trait::async_trait;
use dayfly_domain::aws_deny::{RevokeWhen, Session, Slot, Written};
use dayfly_domain::id::{LeaseId, SessionId};
use dayfly_domain::time::{Timestamp, Ttl};

use super::StoreError;

/// Asks for a place on one of several roles, before the target hears of the session.
#[derive(Clone, Debug)]
pub struct SlotAsk {
    /// The lease, or the id of a canary, which is no lease.
    pub lease: LeaseId,
    /// The task tree that the session belongs to; none for a canary.
    pub tree: Option<SessionId>,
    /// When it is worth a deny.
    pub revoke_when: RevokeWhen,
    /// The roles, the first one to be filled first.
    pub roles: Vec<String>,
    /// The latest it can be issued.
    pub given_by: Timestamp,
    /// From when on it is refused by itself.
    pub gone_at: Timestamp,
    /// How far the target's clock may be from ours.
    pub skew: Ttl,
    /// Places that are kept for others.
    pub spare: u32,
    /// What picks a block.
    pub entropy: u32,
    /// Read before the store is asked.
    pub now: Timestamp,
}

/// A place that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The role.
    pub role: String,
    /// The slot.
    pub slot: Slot,
}

/// How far the denial of a session has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotStanding {
    /// Where it lies.
    pub place: Place,
    /// Version of the role's document that first denies it; none while it lives.
    pub denied_in: Option<u64>,
    /// The last version that the target took.
    pub written: u64,
    /// The last version that was shown to be effective.
    pub proven: u64,
    /// How that was shown.
    pub evidence: String,
}

/// Asks what a role's document must say.
#[derive(Clone, Debug)]
pub struct PlanAsk {
    /// The role.
    pub role: String,
    /// The broker that wants to write it.
    pub owner: String,
    /// The number under which it holds the document, if it thinks that it does.
    pub fence: Option<u64>,
    /// How long it wants to hold it.
    pub hold_for: Ttl,
    /// A canary to deny with whatever else is to be shown to be effective.
    pub canary: Option<LeaseId>,
    /// How long a document may take to reach all of the target.
    pub propagation: Ttl,
    /// Read before the store is asked.
    pub now: Timestamp,
}

/// What a role's document must say, for the one broker that may write it.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The number under which it may.
    pub fence: u64,
    /// Version of the document.
    pub version: u64,
    /// The last version that was shown to be effective.
    pub proven: u64,
    /// The one that the target took last, with its SHA-256 in hexadecimal.
    pub written: Option<(Written, String)>,
    /// Whether the canary is denied in this version.
    pub canary_taken: bool,
    /// Every session that may be usable.
    pub sessions: Vec<Session>,
    /// How many of them are leases.
    pub leases: u32,
}

/// A document that the target took.
#[derive(Clone, Debug)]
pub struct DocumentWritten {
    /// The role.
    pub role: String,
    /// The number under which it was written.
    pub fence: u64,
    /// Its version.
    pub version: u64,
    /// Of which state, and when.
    pub written: Written,
    /// Its SHA-256 in hexadecimal.
    pub digest: String,
}

/// The verbs of sessions that are ended by a document.
#[async_trait]
pub trait Slots: Send + Sync {
    /// Finds a place on the first role that has one for it; [`StoreError::RolesFull`] if none has. From then on the session
    /// counts, and its lease's end denies it.
    async fn reserve_slot(&self, ask: SlotAsk) -> Result<Place, StoreError>;

    /// Notes what the target's answer tells of when the session was issued and when it is gone. It never widens what was
    /// noted when it was reserved.
    async fn settle_slot(&self, lease: LeaseId, session: Session) -> Result<(), StoreError>;

    /// The target gave nothing: the place is free, unless a document may name it.
    async fn release_slot(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// How far the denial of a session has come; none once its slot is free.
    async fn slot(&self, lease: LeaseId) -> Result<Option<SlotStanding>, StoreError>;

    /// Takes or keeps the right to write a role's document, marks in its next version every session whose lease is being
    /// taken back and which is worth it, forgets what nothing can mean any more, and tells what the document must say.
    /// None while another broker holds it.
    async fn plan_document(&self, ask: PlanAsk) -> Result<Option<Plan>, StoreError>;

    /// Notes what the target took. False if another broker has taken over: what the target has is not known then.
    async fn document_written(&self, written: DocumentWritten) -> Result<bool, StoreError>;

    /// Notes that a version is effective, and how that was shown.
    async fn document_proven(&self, role: &str, version: u64, evidence: String) -> Result<(), StoreError>;

    /// Every role that has a session or a document.
    async fn slot_roles(&self) -> Result<Vec<String>, StoreError>;
}
