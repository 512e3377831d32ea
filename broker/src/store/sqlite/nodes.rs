//! Node agents: their streams, and their silence.

use dayfly_domain::node::{NodeHeard, NodeState};
use dayfly_domain::spiffe::SpiffeId;
use dayfly_domain::time::Timestamp;
use sqlx::Row;
use sqlx::sqlite::{SqlitePool, SqliteRow};

use super::transaction::{Tx, corrupt, failed};
use super::writer::{Lane, Verb};
use crate::store::{NodeRow, StoreError};

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
            Some(row) => {
                tx.node_stands(&self.node, NodeState::Attached);
                Ok(row.try_get::<i64, _>(0).map_err(failed("attach a node"))?.unsigned_abs())
            }
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
            SET last_seen_at = MAX(last_seen_at, $1)
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

/// Marks a node as lapsed if it is attached and was silent since before the moment. False if not.
pub(super) async fn lapse(
    tx: &mut Tx,
    node: &SpiffeId,
    silent_since_before: Timestamp,
) -> Result<bool, StoreError> {
    const LAPSE: &str = "
        UPDATE nodes
        SET state = 'lapsed'
        WHERE spiffe_id = $1
          AND state = 'attached'
          AND last_seen_at < $2";
    let lapse = sqlx::query(LAPSE).bind(node.to_string()).bind(silent_since_before.unix_millis());
    let lapsed = tx.write("lapse a silent node", lapse).await? == 1;
    if lapsed {
        tx.node_stands(node, NodeState::Lapsed);
    }
    Ok(lapsed)
}

/// One node, or all, without what they hold: asked for with every request, and twice a second.
pub(super) async fn heard(
    readers: &SqlitePool,
    node: Option<&SpiffeId>,
) -> Result<Vec<NodeHeard>, StoreError> {
    const ONE: &str = "SELECT spiffe_id, epoch, last_seen_at, state FROM nodes WHERE spiffe_id = $1";
    const ALL: &str = "SELECT spiffe_id, epoch, last_seen_at, state FROM nodes";
    let query = match node {
        Some(node) => sqlx::query(ONE).bind(node.to_string()),
        None => sqlx::query(ALL),
    };
    let rows = query.fetch_all(readers).await.map_err(failed("read how nodes stand"))?;
    rows.iter()
        .map(|row| {
            Ok(NodeHeard {
                node: spiffe_id(row)?,
                epoch: epoch(row)?,
                last_seen_at: last_seen_at(row)?,
                state: state(row)?,
            })
        })
        .collect()
}

pub(super) async fn all(readers: &SqlitePool) -> Result<Vec<NodeRow>, StoreError> {
    const ALL: &str = "
        SELECT nodes.*,
               (SELECT COUNT(*) FROM tasks WHERE tasks.state = 'open' AND tasks.node = nodes.spiffe_id) AS open_tasks
        FROM nodes
        ORDER BY spiffe_id";
    let rows = sqlx::query(ALL).fetch_all(readers).await.map_err(failed("list nodes"))?;
    rows.iter().map(node).collect()
}

fn node(row: &SqliteRow) -> Result<NodeRow, StoreError> {
    Ok(NodeRow {
        spiffe_id: spiffe_id(row)?,
        boot_id: row.try_get("boot_id").map_err(failed("list nodes"))?,
        epoch: epoch(row)?,
        last_seen_at: last_seen_at(row)?,
        state: state(row)?,
        open_tasks: row.try_get("open_tasks").map_err(failed("list nodes"))?,
    })
}

fn state(row: &SqliteRow) -> Result<NodeState, StoreError> {
    let state: String = row.try_get("state").map_err(failed("read a node"))?;
    match state.as_str() {
        "attached" => Ok(NodeState::Attached),
        "lapsed" => Ok(NodeState::Lapsed),
        other => Err(corrupt("nodes.state", other.to_owned())),
    }
}

fn epoch(row: &SqliteRow) -> Result<u64, StoreError> {
    Ok(row.try_get::<i64, _>("epoch").map_err(failed("read a node"))?.unsigned_abs())
}

fn last_seen_at(row: &SqliteRow) -> Result<Timestamp, StoreError> {
    let at: i64 = row.try_get("last_seen_at").map_err(failed("read a node"))?;
    Ok(Timestamp::from_unix_millis(at))
}

fn spiffe_id(row: &SqliteRow) -> Result<SpiffeId, StoreError> {
    let text: String = row.try_get("spiffe_id").map_err(failed("read a node"))?;
    text.parse().map_err(|error| corrupt("nodes.spiffe_id", error))
}
