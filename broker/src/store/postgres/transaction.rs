//! One open transaction of a lane: what it locks before it does anything, and what it writes before it is committed.
//!
//! Locks are taken in one order, whoever takes them: roots of task trees, leases, counts, the lane's turn at the audit
//! chains. Within each kind they are taken by id.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use dayfly_domain::audit::Record;
use dayfly_domain::id::{LeaseId, SessionId, TaskId};
use dayfly_domain::spiffe::SpiffeId;
use dayfly_domain::time::Timestamp;
use sqlx::postgres::{PgArguments, PgConnectOptions, PgConnection, PgRow, Postgres};
use sqlx::query::Query;
use sqlx::types::{Json, JsonRawValue};
use sqlx::{Connection, Row, TypeInfo, ValueRef};
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::ledger::Ledger;
use super::membership::Membership;
use super::{counts, leases};
use crate::store::chain::{Care, Line};
use crate::store::desk::Transaction;
use crate::store::failure::{corrupt, failed};
use crate::store::fresh::FreshLease;
use crate::store::holders::{Holder, Holders};
use crate::store::moves::Journal;
use crate::store::rows::Fields;
use crate::store::{Hint, StoreError};

/// A statement with its values.
pub(super) type Sql<'q> = Query<'q, Postgres, PgArguments>;

/// What a verb has locked before it runs.
#[derive(Debug, Default)]
pub(super) struct Needs {
    /// Something is added under these tasks: their roots are locked shared, and whether they are open is read.
    pub(super) adds_under: Vec<TaskId>,
    /// The same for the tasks of these leases.
    pub(super) adds_to: Vec<LeaseId>,
    /// Nodes through which something is given: whether they lapsed is read, once the roots are locked.
    pub(super) through: Vec<SpiffeId>,
    /// Trees of these tasks end: their roots are locked for update.
    pub(super) ends: Vec<TaskId>,
    /// Leases that move.
    pub(super) moves: Vec<LeaseId>,
    /// Idempotency keys: what lives under them is locked with the leases that move.
    pub(super) keys: Vec<[u8; 32]>,
    /// Those for whom one more lease is counted.
    pub(super) counts: Vec<Holder>,
}

impl Needs {
    /// What all of them need.
    pub(super) fn and(mut self, other: Self) -> Self {
        self.adds_under.extend(other.adds_under);
        self.adds_to.extend(other.adds_to);
        self.through.extend(other.through);
        self.ends.extend(other.ends);
        self.moves.extend(other.moves);
        self.keys.extend(other.keys);
        self.counts.extend(other.counts);
        self
    }
}

pub(super) struct Tx {
    options: PgConnectOptions,
    connection: Option<PgConnection>,
    pub(super) member: Arc<Membership>,
    chains: Arc<Mutex<Ledger>>,
    turn: Option<OwnedMutexGuard<Ledger>>,
    open_tasks: HashMap<TaskId, OpenTask>,
    lapsed: HashSet<String>,
    locked: HashSet<String>,
    counted: HashMap<Holder, u32>,
    changed: BTreeMap<Holder, i64>,
    fresh_leases: Vec<FreshLease>,
    lines: Vec<Line>,
    hints: BTreeSet<Hint>,
    changes: u64,
    gives: bool,
    /// Whether something was decided by the rules that this broker holds.
    decided: bool,
    /// How often this transaction changed the documents, and the approvals.
    applied: (i64, i64),
}

/// What is known of a task that is open.
#[derive(Clone, Copy)]
struct OpenTask {
    session: SessionId,
    lapses_at: Timestamp,
}

impl Tx {
    pub(super) fn new(
        options: PgConnectOptions,
        member: Arc<Membership>,
        chains: Arc<Mutex<Ledger>>,
    ) -> Self {
        Self {
            options,
            connection: None,
            member,
            chains,
            turn: None,
            open_tasks: HashMap::new(),
            lapsed: HashSet::new(),
            locked: HashSet::new(),
            counted: HashMap::new(),
            changed: BTreeMap::new(),
            fresh_leases: Vec::new(),
            lines: Vec::new(),
            hints: BTreeSet::new(),
            changes: 0,
            gives: true,
            decided: false,
            applied: (0, 0),
        }
    }

    /// Whether anything may be given out in this transaction: its records will be written.
    pub(super) fn gives(&self) -> bool {
        self.gives
    }

    /// Notes a record whose bytes were made before.
    pub(super) fn note(&mut self, line: Line) {
        self.changes += 1;
        self.lines.push(line);
    }

    /// What is done here was decided by the rules that this broker holds: if others stand by now, nothing is committed.
    pub(super) fn is_decided(&mut self) {
        self.decided = true;
    }

    /// This transaction changes the documents.
    pub(super) fn applies_documents(&mut self) {
        self.applied.0 += 1;
        self.hint(Hint::Rules);
    }

    /// This transaction changes what was approved.
    pub(super) fn applies_approval(&mut self) {
        self.applied.1 += 1;
        self.hint(Hint::Rules);
    }

    /// Tells every broker, once this is committed, where to look.
    pub(super) fn hint(&mut self, hint: Hint) {
        self.hints.insert(hint);
    }

    /// Puts a lease among those that are written together before the transaction is committed.
    pub(super) fn add_lease(&mut self, lease: FreshLease) {
        self.changes += 1;
        self.fresh_leases.push(lease);
    }

    /// How many leases of a holder are not over. Only of those that the verb said it counts for.
    pub(super) fn live(&self, holder: &Holder) -> u32 {
        let counted = i64::from(self.counted.get(holder).copied().unwrap_or(0));
        let changed = self.changed.get(holder).copied().unwrap_or(0);
        u32::try_from((counted + changed).max(0)).unwrap_or(u32::MAX)
    }

    /// Every row of a query.
    pub(super) async fn rows(&mut self, what: &'static str, sql: Sql<'_>) -> Result<Vec<PgRow>, StoreError> {
        self.write_fresh_leases().await?;
        sql.fetch_all(self.connection()?).await.map_err(failed(what))
    }

    /// The first row of a query.
    pub(super) async fn row(
        &mut self,
        what: &'static str,
        sql: Sql<'_>,
    ) -> Result<Option<PgRow>, StoreError> {
        self.write_fresh_leases().await?;
        sql.fetch_optional(self.connection()?).await.map_err(failed(what))
    }

    /// Runs a statement that changes something, and tells how many rows it changed.
    pub(super) async fn write(&mut self, what: &'static str, sql: Sql<'_>) -> Result<u64, StoreError> {
        self.write_fresh_leases().await?;
        let written = sql.execute(self.connection()?).await.map_err(failed(what))?.rows_affected();
        self.changes += written;
        Ok(written)
    }

    /// Whether the task and all above it are open. Its root is locked, so nobody ends it before this is committed.
    pub(super) fn require_open(
        &self,
        task: TaskId,
        session: SessionId,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let known = self.open_tasks.get(&task).ok_or(StoreError::TaskNotOpen)?;
        let is_open = known.session == session && now < known.lapses_at;
        if is_open { Ok(()) } else { Err(StoreError::TaskNotOpen) }
    }

    /// Refuses what comes through a node that lapsed. Only for those that the verb said it gives through.
    pub(super) fn require_node(&self, node: Option<&SpiffeId>) -> Result<(), StoreError> {
        match node.filter(|node| self.lapsed.contains(node.as_str())) {
            Some(node) => Err(StoreError::NodeLapsed { node: node.clone() }),
            None => Ok(()),
        }
    }

    /// Begins with everything locked that the verbs need.
    pub(super) async fn begin(&mut self, gives: bool, needs: &Needs) -> Result<(), StoreError> {
        if self.connection.is_none() {
            let connected = PgConnection::connect_with(&self.options).await.map_err(failed("connect"))?;
            self.connection = Some(connected);
        }
        self.gives = gives;
        self.execute("begin", "BEGIN").await?;
        self.lock_roots(needs).await?;
        self.look_at_nodes(&needs.through).await?;
        self.lock_leases(needs).await?;
        self.counted = counts::lock(self.connection()?, &needs.counts).await?;
        Ok(())
    }

    /// A node that lapses locks the trees of its tasks first. So one of which the tree is locked here either lapsed before,
    /// and that is read; or lapses after this is committed, and takes back what was given.
    async fn look_at_nodes(&mut self, nodes: &[SpiffeId]) -> Result<(), StoreError> {
        const WHAT: &str = "read which nodes lapsed";
        const LAPSED: &str = "SELECT spiffe_id FROM nodes WHERE state = 'lapsed' AND spiffe_id = ANY($1)";
        if nodes.is_empty() {
            return Ok(());
        }
        for row in self.rows(WHAT, sqlx::query(LAPSED).bind(texts(nodes))).await? {
            self.lapsed.insert(row.try_get(0).map_err(failed(WHAT))?);
        }
        Ok(())
    }

    async fn lock_roots(&mut self, needs: &Needs) -> Result<(), StoreError> {
        // The subquery sorts before the rows are locked, one by one, in that order.
        const SHARED: &str = "
            SELECT id FROM tasks
            WHERE id IN (
                SELECT session FROM tasks WHERE id = ANY($1)
                UNION
                SELECT session FROM leases WHERE id = ANY($2)
            )
            ORDER BY id
            FOR SHARE";
        const OPEN: &str = "
            SELECT id, session, lapses_at FROM tasks
            WHERE id = ANY($1) AND state = 'open' AND offer_deadline IS NULL";
        const WHAT: &str = "lock task trees";
        if !needs.adds_under.is_empty() || !needs.adds_to.is_empty() {
            let (tasks, leases) = (texts(&needs.adds_under), texts(&needs.adds_to));
            self.rows(WHAT, sqlx::query(SHARED).bind(&tasks).bind(leases)).await?;
            // Only now: what was read while waiting for the lock may be over.
            for row in self.rows(WHAT, sqlx::query(OPEN).bind(tasks)).await? {
                let text = |column: usize| row.try_get::<String, _>(column).map_err(failed(WHAT));
                let task = text(0)?.parse().map_err(|error| corrupt("tasks.id", error))?;
                let session = text(1)?.parse().map_err(|error| corrupt("tasks.session", error))?;
                let lapses_at = row.try_get(2).map(Timestamp::from_unix_millis).map_err(failed(WHAT))?;
                self.open_tasks.insert(task, OpenTask { session, lapses_at });
            }
        }
        self.lock_trees(&texts(&needs.ends)).await
    }

    /// Locks the trees of these tasks for their end.
    pub(super) async fn lock_trees(&mut self, tasks: &[String]) -> Result<(), StoreError> {
        const FOR_UPDATE: &str = "
            SELECT id FROM tasks
            WHERE id IN (SELECT session FROM tasks WHERE id = ANY($1))
            ORDER BY id
            FOR UPDATE";
        if tasks.is_empty() {
            return Ok(());
        }
        self.rows("lock task trees", sqlx::query(FOR_UPDATE).bind(tasks)).await.map(|_| ())
    }

    async fn lock_leases(&mut self, needs: &Needs) -> Result<(), StoreError> {
        const LOCK: &str = "SELECT id FROM leases WHERE id = ANY($1) ORDER BY id FOR UPDATE";
        const LOCK_UNDER_KEYS: &str = "
            SELECT id FROM leases
            WHERE id = ANY($1) OR id IN (
                WITH RECURSIVE line (id) AS (
                    SELECT lease FROM issue_keys WHERE id = ANY($2)
                    UNION
                    SELECT leases.id FROM leases JOIN line ON leases.renews = line.id
                )
                SELECT id FROM line
            )
            ORDER BY id
            FOR UPDATE";
        const WHAT: &str = "lock leases";
        if needs.moves.is_empty() && needs.keys.is_empty() {
            return Ok(());
        }
        let moves = texts(&needs.moves);
        let rows = if needs.keys.is_empty() {
            self.rows(WHAT, sqlx::query(LOCK).bind(moves)).await?
        } else {
            let keys: Vec<Vec<u8>> = needs.keys.iter().map(|id| id.to_vec()).collect();
            self.rows(WHAT, sqlx::query(LOCK_UNDER_KEYS).bind(moves).bind(keys)).await?
        };
        for row in rows {
            self.locked.insert(row.try_get(0).map_err(failed(WHAT))?);
        }
        Ok(())
    }

    /// Whether the lease was locked before anything was done.
    pub(super) fn is_locked(&self, lease: LeaseId) -> bool {
        self.locked.contains(&lease.to_string())
    }

    pub(super) async fn write_fresh_leases(&mut self) -> Result<(), StoreError> {
        if self.fresh_leases.is_empty() {
            return Ok(());
        }
        let fresh = std::mem::take(&mut self.fresh_leases);
        leases::insert(self.connection()?, &fresh).await
    }

    /// Writes what is left to write, except for the records.
    pub(super) async fn settle(&mut self) -> Result<(), StoreError> {
        self.write_fresh_leases().await?;
        let changed = std::mem::take(&mut self.changed);
        counts::change(self.connection()?, &changed).await
    }

    /// Waits for the lane's turn at the chains, makes sure that this broker may still write, and writes the records.
    pub(super) async fn seal(&mut self, care: Care) -> Result<(), StoreError> {
        self.tell_hints().await?;
        let mut turn = Arc::clone(&self.chains).lock_owned().await;
        let connection = self.connection.as_mut().ok_or_else(not_connected)?;
        self.member.check(connection, self.decided, self.applied).await?;
        turn.write(connection, std::mem::take(&mut self.lines), care).await?;
        self.turn = Some(turn);
        Ok(())
    }

    async fn tell_hints(&mut self) -> Result<(), StoreError> {
        const TELL: &str = "SELECT pg_notify($1, hint) FROM unnest($2::TEXT[]) AS hint";
        if self.hints.is_empty() {
            return Ok(());
        }
        let hints: Vec<&'static str> = self.hints.iter().map(|hint| hint.as_str()).collect();
        let tell = sqlx::query(TELL).bind(super::CHANNEL).bind(hints);
        tell.execute(self.connection()?).await.map(|_| ()).map_err(failed("tell the other brokers"))
    }

    pub(super) async fn commit(&mut self) -> Result<(), StoreError> {
        self.execute("commit", "COMMIT").await?;
        if let Some(mut turn) = self.turn.take() {
            turn.keep();
        }
        self.member.applied(self.applied);
        self.forget();
        Ok(())
    }

    /// Undoes the transaction. Whether a failed commit reached the disk is not known, so the chains are read anew.
    pub(super) async fn roll_back(&mut self) {
        if let Some(mut turn) = self.turn.take() {
            turn.doubt();
        }
        if self.execute("roll back", "ROLLBACK").await.is_err() {
            self.connection = None;
        }
        self.forget();
    }

    fn forget(&mut self) {
        self.open_tasks.clear();
        self.lapsed.clear();
        self.locked.clear();
        self.counted.clear();
        self.changed.clear();
        self.fresh_leases.clear();
        self.lines.clear();
        self.hints.clear();
        self.decided = false;
        self.applied = (0, 0);
    }

    async fn execute(&mut self, what: &'static str, sql: &'static str) -> Result<(), StoreError> {
        sqlx::query(sql).execute(self.connection()?).await.map(|_| ()).map_err(failed(what))
    }

    fn connection(&mut self) -> Result<&mut PgConnection, StoreError> {
        self.connection.as_mut().ok_or_else(not_connected)
    }

    /// Whether there is a connection at all.
    pub(super) fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    pub(super) async fn close(&mut self) {
        if let Some(connection) = self.connection.take() {
            // The server notices by itself, too.
            let _ = connection.close().await;
        }
    }
}

fn not_connected() -> StoreError {
    StoreError::Database { what: "reach the database", source: "not connected".into() }
}

impl Transaction for Tx {
    type Needs = Needs;

    fn changes(&self) -> u64 {
        self.changes
    }
}

impl Journal for Tx {
    fn record(&mut self, record: &Record) {
        self.note(Line::new(record));
    }

    fn lives(&mut self, holders: &Holders) {
        for holder in &holders.all {
            *self.changed.entry(holder.clone()).or_default() += 1;
        }
    }

    fn lives_no_more(&mut self, holders: &Holders) {
        for holder in &holders.all {
            *self.changed.entry(holder.clone()).or_default() -= 1;
        }
    }
}

impl Fields for PgRow {
    fn maybe_text(&self, name: &'static str) -> Result<Option<String>, sqlx::Error> {
        if self.try_get_raw(name)?.type_info().name() == "JSONB" {
            let json: Option<Json<Box<JsonRawValue>>> = self.try_get(name)?;
            return Ok(json.map(|json| json.0.get().to_owned()));
        }
        self.try_get(name)
    }

    fn maybe_number(&self, name: &'static str) -> Result<Option<i64>, sqlx::Error> {
        self.try_get(name)
    }

    fn maybe_bytes(&self, name: &'static str) -> Result<Option<Vec<u8>>, sqlx::Error> {
        self.try_get(name)
    }
}

/// Ids as the database has them.
pub(super) fn texts<T: ToString>(ids: &[T]) -> Vec<String> {
    ids.iter().map(ToString::to_string).collect()
}
