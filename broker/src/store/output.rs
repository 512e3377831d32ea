//! What verbs answer.

use dayfly_domain::audit::Stream;
use dayfly_domain::document::Document;
use dayfly_domain::id::{LeaseId, TaskId};
use dayfly_domain::key::{KeyFacts, Why, Withheld};
use dayfly_domain::lease::Lease;
use dayfly_domain::node::NodeState;
use dayfly_domain::spiffe::SpiffeId;
use dayfly_domain::task::EndCause;
use dayfly_domain::time::Timestamp;

/// A document as stored.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredDocument {
    /// The document.
    pub document: Document,
    /// Revision that last changed it.
    pub revision: u64,
    /// When that was.
    pub applied_at: Timestamp,
    /// Who applied it.
    pub applied_by: String,
}

/// What an end did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// Tasks that were open and are over now, with the node that must be told.
    pub tasks: Vec<(TaskId, Option<SpiffeId>)>,
    /// Leases whose revocation was queued.
    pub leases: Vec<LeaseId>,
    /// Those of them whose task goes on.
    pub elsewhere: Vec<LeaseId>,
}

/// A lease whose revocation is due, claimed for this process for a while.
#[derive(Clone, Debug)]
pub struct DueRevocation {
    /// The lease.
    pub lease: Lease,
    /// Tries in vain, since the target last took the word.
    pub attempts: u32,
    /// Until when nobody else works on it.
    pub claimed_until: Timestamp,
}

/// Where another broker's work may matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hint {
    /// Documents were applied, or something was said of an approval.
    Rules,
    /// Leases are to be taken back.
    Revocations,
    /// Tasks ended.
    Ends,
}

impl Hint {
    const ALL: [Hint; 3] = [Hint::Rules, Hint::Revocations, Hint::Ends];

    /// Its name on the way.
    pub const fn as_str(self) -> &'static str {
        match self {
            Hint::Rules => "rules",
            Hint::Revocations => "revocations",
            Hint::Ends => "ends",
        }
    }

    /// The hint of that name, if there is one.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|hint| hint.as_str() == name)
    }
}

/// What is over, for those who must be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Over {
    /// Tasks that ended, with the node that must be told and why.
    pub tasks: Vec<(TaskId, Option<SpiffeId>, EndCause)>,
    /// Leases that were taken back while their task goes on.
    pub leases: Vec<LeaseId>,
}

/// What is known of a node agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRow {
    /// The agent.
    pub spiffe_id: SpiffeId,
    /// Boot of its last stream.
    pub boot_id: String,
    /// Given at its last Attach.
    pub epoch: u64,
    /// When it last spoke.
    pub last_seen_at: Timestamp,
    /// How it stands.
    pub state: NodeState,
    /// Open tasks it holds.
    pub open_tasks: u32,
}

/// A lease with the state of its place in the revocation queue.
#[derive(Clone, Debug)]
pub struct LeaseRow {
    /// The lease.
    pub lease: Lease,
    /// Tries of its revocation in vain, since the target last took the word.
    pub attempts: u32,
    /// What the last one failed with; empty if none did.
    pub last_error: String,
}

/// A signing key that was taken out. It names a key and holds none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WithheldKey {
    /// What the key was for.
    pub purpose: String,
    /// What is known of it, this included.
    pub facts: KeyFacts,
    /// When and why.
    pub withheld: Withheld,
}

impl WithheldKey {
    /// From the columns of its row; none if it was withheld for no reason that is known.
    pub(crate) fn of(
        (purpose, kid): (String, String),
        announced_at: Timestamp,
        first: bool,
        why: &str,
        at: Timestamp,
    ) -> Option<Self> {
        let why = Why::ALL.into_iter().find(|one| one.as_str() == why)?;
        let withheld = Withheld { at, why };
        let facts = KeyFacts { kid, announced_at, first, withheld: Some(withheld) };
        Some(Self { purpose, facts, withheld })
    }
}

/// One audit record as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRow {
    /// The broker that wrote it.
    pub writer: String,
    /// Its chain.
    pub stream: Stream,
    /// Its number, counted from 1 without gaps.
    pub seq: u64,
    /// Hash of the record before.
    pub prev_hash: Vec<u8>,
    /// Hash of this one.
    pub hash: Vec<u8>,
    /// When it was written.
    pub at: Timestamp,
    /// The bytes that were hashed.
    pub bytes: Vec<u8>,
}
