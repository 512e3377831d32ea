//! For whom a lease counts, and whether one more may stand.

use dayfly_domain::lease::Lease;
use dayfly_domain::spiffe::SpiffeId;

use super::{LeaseLimits, StoreError};

/// Whose leases are counted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Holder {
    Identity(String),
    Node(String),
    Scope(String),
    Session(String),
}

impl Holder {
    /// Its name in the database.
    pub(super) fn key(&self) -> String {
        match self {
            Holder::Identity(id) => format!("identity {id}"),
            Holder::Node(id) => format!("node {id}"),
            Holder::Scope(name) => format!("scope {name}"),
            Holder::Session(id) => format!("session {id}"),
        }
    }

    /// What a caller is told of it.
    fn told(&self) -> String {
        match self {
            Holder::Identity(id) | Holder::Node(id) => id.clone(),
            Holder::Scope(name) => format!("scope {name:?}"),
            Holder::Session(id) => format!("session {id}"),
        }
    }

    fn most(&self, limits: LeaseLimits) -> u32 {
        match self {
            Holder::Identity(_) => limits.per_identity,
            Holder::Node(_) => limits.per_node,
            Holder::Scope(_) => limits.per_scope,
            Holder::Session(_) => limits.per_session,
        }
    }
}

/// Everybody one lease counts for.
#[derive(Clone, Debug)]
pub(super) struct Holders {
    pub(super) all: Vec<Holder>,
    /// Whether the lease takes the place of another, which may stand until this one has arrived.
    renews: bool,
}

impl Holders {
    pub(super) fn of(lease: &Lease, node: Option<&SpiffeId>) -> Self {
        let holders = [
            Some(Holder::Identity(lease.spiffe_id.to_string())),
            node.map(|node| Holder::Node(node.to_string())),
            Some(Holder::Scope(lease.scope.clone())),
            Some(Holder::Session(lease.session.to_string())),
        ];
        Self { all: holders.into_iter().flatten().collect(), renews: lease.renews.is_some() }
    }

    /// Whether one more lease may stand beside so many of each holder that are not over.
    pub(super) fn admit(
        &self,
        limits: LeaseLimits,
        count: impl Fn(&Holder) -> u32,
    ) -> Result<(), StoreError> {
        let room = u32::from(self.renews);
        let full = |holder: &&Holder| count(holder) >= holder.most(limits).saturating_add(room);
        match self.all.iter().find(full) {
            None => Ok(()),
            Some(holder) => {
                Err(StoreError::TooManyLeases { what: holder.told(), limit: holder.most(limits) })
            }
        }
    }
}
