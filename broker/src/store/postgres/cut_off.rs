//! Ends what a kill cuts off, some at a time.

use dayfly_domain::id::RequestId;
use dayfly_domain::lease::{LeaseEvent, RevokeCause};
use dayfly_domain::task::EndCause;
use dayfly_domain::time::Timestamp;

use super::ends::{End, named, tree_under};
use super::moves::save;
use super::transaction::{Sql, Tx, texts};
use super::verb::Verb;
use crate::store::desk::Lane;
use crate::store::kills::{CUT_OFF_AT_ONCE, CutOff};
use crate::store::moves::Moves;
use crate::store::rows;
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
        let mut ended = match self.sessions() {
            Some(sessions) => {
                let tasks = |found| self.tasks(found);
                End::found(tx, sessions, tasks, EndCause::Admin, (self.now, self.request)).await?
            }
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
            save(moves, tx).await?;
        }
        Ok(ended)
    }
}

impl EndCutOff {
    /// The trees in which something is cut off.
    fn sessions(&self) -> Option<Sql<'static>> {
        let most = i64::from(CUT_OFF_AT_ONCE);
        Some(match &self.which {
            CutOff::Identities(ids) => {
                sqlx::query(named!("opened_by = ANY($1) LIMIT $2")).bind(texts(ids)).bind(most)
            }
            CutOff::Node(node) => sqlx::query(named!("node = $1 LIMIT $2")).bind(node.to_string()).bind(most),
            CutOff::Everything => sqlx::query(named!("TRUE LIMIT $1")).bind(most),
            CutOff::Scope(_) | CutOff::Provider(_) => return None,
        })
    }

    fn tasks(&self, sessions: Vec<String>) -> Sql<'static> {
        let most = i64::from(CUT_OFF_AT_ONCE);
        let query = |sql: &'static str| sqlx::query(sql).bind(sessions);
        match &self.which {
            CutOff::Identities(ids) => {
                query(tree_under!("opened_by = ANY($2) LIMIT $3")).bind(texts(ids)).bind(most)
            }
            CutOff::Node(node) => query(tree_under!("node = $2 LIMIT $3")).bind(node.to_string()).bind(most),
            CutOff::Everything | CutOff::Scope(_) | CutOff::Provider(_) => {
                query(tree_under!("TRUE LIMIT $2")).bind(most)
            }
        }
    }

    /// Leases that no task's end takes along: of whole scopes, or held in the tasks of others.
    fn leases(&self) -> Option<Sql<'static>> {
        const OF_IDENTITIES: &str = "
            SELECT * FROM leases
            WHERE state <> 'ended'
              AND state <> 'revoking'
              AND spiffe_id = ANY($1)
            ORDER BY id
            LIMIT $2
            FOR UPDATE";
        const OF_SCOPE: &str = "
            SELECT * FROM leases
            WHERE state <> 'ended'
              AND state <> 'revoking'
              AND scope = $1
            ORDER BY id
            LIMIT $2
            FOR UPDATE";
        const OF_PROVIDER: &str = "
            SELECT * FROM leases
            WHERE state <> 'ended'
              AND state <> 'revoking'
              AND provider = $1
            ORDER BY id
            LIMIT $2
            FOR UPDATE";
        let found = match &self.which {
            CutOff::Identities(ids) => sqlx::query(OF_IDENTITIES).bind(texts(ids)),
            CutOff::Scope(name) => sqlx::query(OF_SCOPE).bind(name.clone()),
            CutOff::Provider(name) => sqlx::query(OF_PROVIDER).bind(name.clone()),
            // Every lease of those tasks ends with its task.
            CutOff::Node(_) | CutOff::Everything => return None,
        };
        Some(found.bind(i64::from(CUT_OFF_AT_ONCE)))
    }
}
