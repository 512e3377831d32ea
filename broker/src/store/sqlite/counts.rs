//! How many leases of each identity, node, scope and session are not over. The writer alone changes leases, so it can
//! count them itself.

use std::collections::HashMap;

use dayfly_domain::lease::Lease;
use dayfly_domain::spiffe::SpiffeId;
use sqlx::Row;
use sqlx::sqlite::SqliteConnection;

use super::transaction::failed;
use crate::store::{LeaseLimits, StoreError};

/// Whose leases are counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Holder {
    Identity(String),
    Node(String),
    Scope(String),
    Session(String),
}

impl Holder {
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
    all: Vec<Holder>,
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
}

/// The counts, with what the open transaction changed of them.
#[derive(Debug, Default)]
pub(super) struct LiveLeases {
    counts: HashMap<Holder, u32>,
    undo: Vec<(Holder, u32)>,
}

impl LiveLeases {
    pub(super) async fn count(connection: &mut SqliteConnection) -> Result<Self, StoreError> {
        const COUNT: &str = "
            SELECT spiffe_id, node, scope, session, COUNT(*) FROM leases
            WHERE state <> 'ended'
            GROUP BY spiffe_id, node, scope, session";
        const WHAT: &str = "count leases";
        let mut live = Self::default();
        for row in sqlx::query(COUNT).fetch_all(connection).await.map_err(failed(WHAT))? {
            let text = |column: usize| row.try_get::<String, _>(column).map_err(failed(WHAT));
            let node: Option<String> = row.try_get(1).map_err(failed(WHAT))?;
            let count: u32 = row.try_get(4).map_err(failed(WHAT))?;
            let holders = [
                Some(Holder::Identity(text(0)?)),
                node.map(Holder::Node),
                Some(Holder::Scope(text(2)?)),
                Some(Holder::Session(text(3)?)),
            ];
            for holder in holders.into_iter().flatten() {
                *live.counts.entry(holder).or_default() += count;
            }
        }
        Ok(live)
    }

    /// Whether one more lease may stand beside those that are not over.
    pub(super) fn admit(&self, holders: &Holders, limits: LeaseLimits) -> Result<(), StoreError> {
        let room = u32::from(holders.renews);
        let full = |holder: &&Holder| self.of(holder) >= holder.most(limits).saturating_add(room);
        match holders.all.iter().find(full) {
            None => Ok(()),
            Some(holder) => {
                Err(StoreError::TooManyLeases { what: holder.told(), limit: holder.most(limits) })
            }
        }
    }

    pub(super) fn add(&mut self, holders: &Holders) {
        self.change(holders, |count| count.saturating_add(1));
    }

    pub(super) fn remove(&mut self, holders: &Holders) {
        self.change(holders, |count| count.saturating_sub(1));
    }

    fn change(&mut self, holders: &Holders, to: impl Fn(u32) -> u32) {
        for holder in &holders.all {
            let before = self.of(holder);
            self.undo.push((holder.clone(), before));
            self.set(holder.clone(), to(before));
        }
    }

    /// The transaction was committed.
    pub(super) fn keep(&mut self) {
        self.undo.clear();
    }

    /// The transaction was rolled back.
    pub(super) fn undo(&mut self) {
        while let Some((holder, before)) = self.undo.pop() {
            self.set(holder, before);
        }
    }

    fn of(&self, holder: &Holder) -> u32 {
        self.counts.get(holder).copied().unwrap_or(0)
    }

    fn set(&mut self, holder: Holder, count: u32) {
        if count == 0 {
            self.counts.remove(&holder);
        } else {
            self.counts.insert(holder, count);
        }
    }
}
