//! How many leases of each identity and node are not over. The writer alone changes leases, so it can count them itself.

use std::collections::HashMap;

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
            SELECT spiffe_id, node, COUNT(*) FROM leases
            WHERE state <> 'ended'
            GROUP BY spiffe_id, node";
        let mut live = Self::default();
        let rows = sqlx::query(COUNT).fetch_all(connection).await.map_err(failed("count leases"))?;
        for row in rows {
            let identity: String = row.try_get(0).map_err(failed("count leases"))?;
            let node: Option<String> = row.try_get(1).map_err(failed("count leases"))?;
            let count: u32 = row.try_get(2).map_err(failed("count leases"))?;
            *live.counts.entry(Holder::Identity(identity)).or_default() += count;
            if let Some(node) = node {
                *live.counts.entry(Holder::Node(node)).or_default() += count;
            }
        }
        Ok(live)
    }

    /// Whether one more lease may stand beside those that are not over.
    pub(super) fn admit(
        &self,
        identity: &SpiffeId,
        node: Option<&SpiffeId>,
        limits: LeaseLimits,
    ) -> Result<(), StoreError> {
        let refuse =
            |holder: &SpiffeId, limit| Err(StoreError::TooManyLeases { what: holder.to_string(), limit });
        if self.of(&Holder::Identity(identity.to_string())) >= limits.per_identity {
            return refuse(identity, limits.per_identity);
        }
        match node {
            Some(node) if self.of(&Holder::Node(node.to_string())) >= limits.per_node => {
                refuse(node, limits.per_node)
            }
            _ => Ok(()),
        }
    }

    pub(super) fn add(&mut self, identity: &SpiffeId, node: Option<&SpiffeId>) {
        self.change(identity, node, |count| count.saturating_add(1));
    }

    pub(super) fn remove(&mut self, identity: &SpiffeId, node: Option<&SpiffeId>) {
        self.change(identity, node, |count| count.saturating_sub(1));
    }

    fn change(&mut self, identity: &SpiffeId, node: Option<&SpiffeId>, to: impl Fn(u32) -> u32) {
        let identity = Holder::Identity(identity.to_string());
        let node = node.map(|node| Holder::Node(node.to_string()));
        for holder in [Some(identity), node].into_iter().flatten() {
            let before = self.of(&holder);
            self.undo.push((holder.clone(), before));
            self.set(holder, to(before));
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
