//! Node agents: their streams, and their silence.

use dayfly_domain::spiffe::SpiffeId;
use dayfly_domain::time::Timestamp;
use sqlx::Row;
use sqlx::postgres::{PgPool, PgRow};

use super::transaction::Tx;
use super::verb::Verb;
use crate::store::desk::Lane;
use crate::store::failure::{corrupt, failed};
use crate::store::{NodeRow, NodeState, StoreError};

/// A node begins a stream. What it holds may have ended meanwhile, so this is not refused on a full disk.
pub(super) struct Attach {
    pub(super) node: SpiffeId,
    pub(super) boot_id: String,
    pub(super) now: Timestamp,
    pub(super) live_since: Timestamp,
}

impl Verb for Attach {
    type Answer = u64;

    fn lane(&self) -> Lane {
        Lane::End
    }

    async fn run(&self, tx: &mut Tx) -> Result<u64, StoreError> {
        const ATTACH: &str = "
            INSERT INTO nodes (spiffe_id, boot_id, epoch, last_seen_at, state)
            VALUES ($1, $2, 1, $3, 'attached')
            ON CONFLICT (spiffe_id) DO UPDATE
            SET boot_id = excluded.boot_id,
                epoch = nodes.epoch + 1,
                last_seen_at = excluded.last_seen_at,
                state = 'attached'
            WHERE nodes.boot_id = excluded.boot_id
               OR nodes.state = 'lapsed'
               OR nodes.last_seen_at < $4
            RETURNING epoch";
        let attach = sqlx::query(ATTACH)
            .bind(self.node.as_str())
            .bind(&self.boot_id)
            .bind(self.now.unix_millis())
            .bind(self.live_since.unix_millis());
        match tx.row("attach a node", attach).await? {
            Some(row) => Ok(row.try_get::<i64, _>(0).map_err(failed("attach a node"))?.unsigned_abs()),
            None => Err(StoreError::NodeAttachedElsewhere { node: self.node.clone() }),
        }
    }
}

/// A node spoke.
pub(super) struct Touch {
    pub(super) node: SpiffeId,
    pub(super) epoch: u64,
    pub(super) now: Timestamp,
}

impl Verb for Touch {
    type Answer = bool;

    fn lane(&self) -> Lane {
        Lane::End
    }

    async fn run(&self, tx: &mut Tx) -> Result<bool, StoreError> {
        const TOUCH: &str = "
            UPDATE nodes
            SET last_seen_at = GREATEST(last_seen_at, $1)
            WHERE spiffe_id = $2
              AND epoch = $3
              AND state = 'attached'";
        let touch = sqlx::query(TOUCH)
            .bind(self.now.unix_millis())
            .bind(self.node.as_str())
            .bind(i64::try_from(self.epoch).unwrap_or(i64::MAX));
        Ok(tx.write("note that a node spoke", touch).await? == 1)
    }
}

/// Nodes fell silent.
pub(super) struct Lapse {
    pub(super) silent_since_before: Timestamp,
}

impl Verb for Lapse {
    type Answer = Vec<SpiffeId>;

    fn lane(&self) -> Lane {
        Lane::End
    }

    async fn run(&self, tx: &mut Tx) -> Result<Vec<SpiffeId>, StoreError> {
        const LAPSE: &str = "
            UPDATE nodes
            SET state = 'lapsed'
            WHERE state = 'attached'
              AND last_seen_at < $1
            RETURNING spiffe_id";
        let lapse = sqlx::query(LAPSE).bind(self.silent_since_before.unix_millis());
        tx.rows("lapse silent nodes", lapse).await?.iter().map(spiffe_id).collect()
    }
}

pub(super) async fn all(readers: &PgPool) -> Result<Vec<NodeRow>, StoreError> {
    const ALL: &str = "
        SELECT nodes.*,
               (SELECT COUNT(*) FROM tasks WHERE tasks.state = 'open' AND tasks.node = nodes.spiffe_id) AS open_tasks
        FROM nodes
        ORDER BY spiffe_id";
    let rows = sqlx::query(ALL).fetch_all(readers).await.map_err(failed("list nodes"))?;
    rows.iter().map(node).collect()
}

fn node(row: &PgRow) -> Result<NodeRow, StoreError> {
    let state: String = row.try_get("state").map_err(failed("list nodes"))?;
    let state = match state.as_str() {
        "attached" => NodeState::Attached,
        "lapsed" => NodeState::Lapsed,
        other => return Err(corrupt("nodes.state", other.to_owned())),
    };
    let last_seen_at: i64 = row.try_get("last_seen_at").map_err(failed("list nodes"))?;
    Ok(NodeRow {
        spiffe_id: spiffe_id(row)?,
        boot_id: row.try_get("boot_id").map_err(failed("list nodes"))?,
        epoch: row.try_get::<i64, _>("epoch").map_err(failed("list nodes"))?.unsigned_abs(),
        last_seen_at: Timestamp::from_unix_millis(last_seen_at),
        state,
        open_tasks: u32::try_from(row.try_get::<i64, _>("open_tasks").map_err(failed("list nodes"))?)
            .unwrap_or(u32::MAX),
    })
}

fn spiffe_id(row: &PgRow) -> Result<SpiffeId, StoreError> {
    let text: String = row.try_get("spiffe_id").map_err(failed("read a node"))?;
    text.parse().map_err(|error| corrupt("nodes.spiffe_id", error))
}
