//! Ends what a kill cuts off, some at a time.

use dayfly_domain::id::RequestId;
use dayfly_domain::lease::{LeaseEvent, RevokeCause};
use dayfly_domain::task::EndCause;
use dayfly_domain::time::Timestamp;
use sqlx::Row;

use super::ends::{End, named, tree_under};
use super::moves::save;
use super::transaction::{Sql, Tx, texts};
use super::verb::Verb;
use crate::store::desk::Lane;
use crate::store::failure::failed;
use crate::store::kills::{CUT_OFF_AT_ONCE, CutOff};
use crate::store::moves::Moves;
use crate::store::rows;
use crate::store::{Ended, StoreError};

/// Leases that are not yet asked for, with the holder of their task. The first value is how many at most.
macro_rules! live_leases {
    ($which:literal) => {
        concat!(
            "SELECT leases.*, tasks.opened_by AS task_holder
            FROM leases JOIN tasks ON tasks.id = leases.task
            WHERE leases.state <> 'ended'
              AND leases.state <> 'revoking'
              AND ",
            $which,
            "
            ORDER BY leases.id
            LIMIT $1
            FOR UPDATE OF leases"
        )
    };
}

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

    /// Leases first: a task may hold many, and ends with all that are left. Whoever is cut off gets no new ones meanwhile.
    async fn run(&self, tx: &mut Tx) -> Result<Ended, StoreError> {
        const WHAT: &str = "find the leases that are cut off";
        let mut ended = Ended::default();
        let mut moves = Moves::new(self.now, self.request);
        for row in tx.rows(WHAT, self.leases()).await? {
            let mut lease = rows::lease(&row)?;
            if !moves.take(tx, &mut lease, LeaseEvent::AskRevoke(RevokeCause::Admin))? {
                continue;
            }
            ended.leases.push(lease.lease.id);
            let holder: String = row.try_get("task_holder").map_err(failed(WHAT))?;
            if self.which.spares(&holder) {
                ended.elsewhere.push(lease.lease.id);
            }
        }
        save(moves, tx).await?;
        let more = ended.leases.len() >= usize::try_from(CUT_OFF_AT_ONCE).unwrap_or(usize::MAX);
        if let (false, Some(sessions)) = (more, self.sessions()) {
            let tasks = |found| self.tasks(found);
            let with_tasks =
                End::found(tx, sessions, tasks, EndCause::Admin, (self.now, self.request)).await?;
            ended.tasks = with_tasks.tasks;
            ended.leases.extend(with_tasks.leases);
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

    fn leases(&self) -> Sql<'static> {
        let query = |sql: &'static str| sqlx::query(sql).bind(i64::from(CUT_OFF_AT_ONCE));
        match &self.which {
            CutOff::Identities(ids) => query(live_leases!("spiffe_id = ANY($2)")).bind(texts(ids)),
            CutOff::Node(node) => query(live_leases!("leases.node = $2")).bind(node.to_string()),
            CutOff::Scope(name) => query(live_leases!("scope = $2")).bind(name.clone()),
            CutOff::Provider(name) => query(live_leases!("provider = $2")).bind(name.clone()),
            CutOff::Everything => query(live_leases!("$2::TEXT IS NULL")).bind(None::<String>),
        }
    }
}
