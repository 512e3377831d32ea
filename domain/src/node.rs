//! Which node agents may speak for which workloads, and which trust domains may fill which stages.

use std::collections::BTreeSet;

use crate::pattern::SpiffePattern;
use crate::spiffe::SpiffeId;
use crate::stage::Stage;
use crate::task::AnchorKind;
use crate::time::{Timestamp, Ttl};

/// What agents that match a pattern may do.
#[derive(Clone, Debug)]
pub struct NodeRule {
    /// Its name, unique among nodes.
    pub name: String,
    /// The agents it is for: one exact SPIFFE ID per machine.
    pub agents: SpiffePattern,
    /// The workloads they may speak for.
    pub workloads: Vec<SpiffePattern>,
    /// The trust domains those workloads may be of.
    pub trust_domains: BTreeSet<String>,
    /// The anchors they may name.
    pub anchors: BTreeSet<AnchorKind>,
    /// Whether a caller known by `SO_PEERCRED` alone is good enough.
    pub allow_peercred: bool,
    /// Most live leases of one such agent.
    pub max_live_leases: u32,
    /// SHA-256 of the document it was written in, hexadecimal.
    pub digest: String,
}

impl NodeRule {
    /// Whether an agent under this rule may speak for the workload.
    pub fn speaks_for(&self, workload: &SpiffeId) -> bool {
        self.trust_domains.contains(workload.trust_domain())
            && self.workloads.iter().any(|pattern| pattern.matches(workload))
    }
}

/// What identities of one trust domain may be. Comes from the broker's configuration, not from the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustDomainRule {
    /// The trust domain's name.
    pub name: String,
    /// The stages its identities may fill. A federated domain never fills `admin` or `node`.
    pub stages: BTreeSet<Stage>,
    /// The identities that count at all.
    pub patterns: Vec<SpiffePattern>,
}

impl TrustDomainRule {
    /// Whether an identity of this domain may fill the stage.
    pub fn admits(&self, id: &SpiffeId, stage: Stage) -> bool {
        id.trust_domain() == self.name
            && self.stages.contains(&stage)
            && self.patterns.iter().any(|pattern| pattern.matches(id))
    }
}

/// How a node agent stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// A stream stands, or stood a moment ago.
    Attached,
    /// It did not speak for too long: nothing is given through it until it attaches anew.
    Lapsed,
}

/// A node agent, as it last spoke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeHeard {
    /// The agent.
    pub node: SpiffeId,
    /// Given at its last Attach.
    pub epoch: u64,
    /// When it last spoke.
    pub last_seen_at: Timestamp,
    /// How it stands.
    pub state: NodeState,
}

impl NodeHeard {
    /// Whether something may be given through a stream of this epoch now: it is the node's newest, and it speaks.
    ///
    /// A node that is silent for too long is refused before anything has ended there, so also while a brake holds its end
    /// back.
    pub fn speaks(&self, epoch: u64, now: Timestamp, lapse_after: Ttl) -> bool {
        self.state == NodeState::Attached && self.epoch == epoch && now <= self.last_seen_at + lapse_after
    }
}
