//! Ends what a kill cuts off, some at a time.

use dayfly_domain::id::RequestId;
use dayfly_domain::lease::{LeaseEvent, RevokeCause};
use dayfly_domain::task::EndCause;
use dayfly_domain::time::Timestamp;

use super::ends::{End, tree_under};
use super::moves::Moves;
use super::transaction::{Sql, Tx};
use super::writer::Verb;
use crate::store::desk::Lane;
use crate::store::kills::{CUT_OFF_AT_ONCE, CutOff};
use crate::store::rows::{self, json};
use crate::store::{Ended, StoreError};

pub(super) struct EndCutOff {
    pub(super) which: CutOff,
    pub(super) now: Timestamp,
    pub(super) request: Option<RequestId>,
}

impl Verb for EndCutOff {
    type Answer = Ended;

    fn lane(&self) -> Lane {
        Lane::Kill
    }

    async fn run(&self, tx: &mut Tx) -> Result<Ended, StoreError> {
        let mut ended = match self.tasks() {
            Some(named) => End::found(tx, named, EndCause::Admin, self.now, self.request).await?,
            None => Ended::default(),
        };
        if let Some(leases) = self.leases() {
            let mut moves = Moves::new(self.now, self.request);
            for row in tx.rows("find the leases that are cut off", leases).await? {
                let mut lease = rows::lease(&row)?;
                if moves.take(tx, &mut lease, LeaseEvent::AskRevoke(RevokeCause::Admin))? {
                    ended.leases.push(lease.lease.id);
                    ended.elsewhere.push(lease.lease.id);
                }
            }
            moves.save(tx).await?;
        }
        Ok(ended)
    }
}

impl EndCutOff {
    fn tasks(&self) -> Option<Sql<'static>> {
        Some(match &self.which {
            CutOff::Identities(ids) => {
                sqlx::query(tree_under!("opened_by IN (SELECT value FROM json_each($1)) LIMIT $2"))
                    .bind(json(ids))
                    .bind(CUT_OFF_AT_ONCE)
            }
            CutOff::Node(node) => {
                sqlx::query(tree_under!("node = $1 LIMIT $2")).bind(node.to_string()).bind(CUT_OFF_AT_ONCE)
            }
            CutOff::Everything => sqlx::query(tree_under!("TRUE LIMIT $1")).bind(CUT_OFF_AT_ONCE),
            CutOff::Scope(_) | CutOff::Provider(_) => return None,
        })
    }

    /// Leases that no task's end takes along: of whole scopes, or held in the tasks of others.
    fn leases(&self) -> Option<Sql<'static>> {
        const OF_IDENTITIES: &str = "
            SELECT * FROM leases
            WHERE state <> 'ended'
              AND state <> 'revoking'
              AND spiffe_id IN (SELECT value FROM json_each($1))
            LIMIT $2";
        const OF_SCOPE: &str = "
            SELECT * FROM leases
            WHERE state <> 'ended'
              AND state <> 'revoking'
              AND scope = $1
            LIMIT $2";
        const OF_PROVIDER: &str = "
            SELECT * FROM leases
            WHERE state <> 'ended'
              AND state <> 'revoking'
              AND provider = $1
            LIMIT $2";
        let found = match &self.which {
            CutOff::Identities(ids) => sqlx::query(OF_IDENTITIES).bind(json(ids)),
            CutOff::Scope(name) => sqlx::query(OF_SCOPE).bind(name.clone()),
            CutOff::Provider(name) => sqlx::query(OF_PROVIDER).bind(name.clone()),
            // Every lease of those tasks ends with its task.
            CutOff::Node(_) | CutOff::Everything => return None,
        };
        Some(found.bind(CUT_OFF_AT_ONCE))
    }
}
