//! How many leases of each identity, node, scope and session are not over. The writer alone changes leases, so it can
//! count them itself.

use std::collections::HashMap;

use sqlx::Row;
use sqlx::sqlite::SqliteConnection;

use super::transaction::failed;
use crate::store::holders::Holder;
pub(super) use crate::store::holders::Holders;
use crate::store::{LeaseLimits, StoreError};

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
        holders.admit(limits, |holder| self.of(holder))
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
