//! Ends what a kill cuts off, some at a time.

use dayfly_domain::id::RequestId;
use dayfly_domain::lease::{LeaseEvent, RevokeCause};
use dayfly_domain::task::EndCause;
use dayfly_domain::time::Timestamp;
use sqlx::Row;

use super::ends::{End, tree_under};
use super::moves::Moves;
use super::transaction::{Sql, Tx};
use super::writer::Verb;
use crate::store::desk::Lane;
use crate::store::failure::failed;
use crate::store::kills::{CUT_OFF_AT_ONCE, CutOff};
use crate::store::rows::{self, json};
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
            " LIMIT $1"
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
        moves.save(tx).await?;
        let more = ended.leases.len() >= usize::try_from(CUT_OFF_AT_ONCE).unwrap_or(usize::MAX);
        if let (false, Some(named)) = (more, self.tasks()) {
            let with_tasks = End::found(tx, named, EndCause::Admin, self.now, self.request).await?;
            ended.tasks = with_tasks.tasks;
            ended.leases.extend(with_tasks.leases);
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

    fn leases(&self) -> Sql<'static> {
        let query = |sql: &'static str| sqlx::query(sql).bind(CUT_OFF_AT_ONCE);
        match &self.which {
            CutOff::Identities(ids) => {
                query(live_leases!("spiffe_id IN (SELECT value FROM json_each($2))")).bind(json(ids))
            }
            CutOff::Node(node) => query(live_leases!("leases.node = $2")).bind(node.to_string()),
            CutOff::Scope(name) => query(live_leases!("scope = $2")).bind(name.clone()),
            CutOff::Provider(name) => query(live_leases!("provider = $2")).bind(name.clone()),
            CutOff::Everything => query(live_leases!("$2 IS NULL")).bind(None::<String>),
        }
    }
}
