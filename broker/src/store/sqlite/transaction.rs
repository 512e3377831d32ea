//! The one open transaction of the writer: its connection, and what the writer knows without asking the database.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use dayfly_domain::audit::Record;
use dayfly_domain::id::{SessionId, TaskId};
use dayfly_domain::node::NodeState;
use dayfly_domain::spiffe::SpiffeId;
use dayfly_domain::time::Timestamp;
use sqlx::query::Query;
use sqlx::sqlite::{Sqlite, SqliteArguments, SqliteConnection, SqliteRow};
use sqlx::{Connection, Row};

use super::audit::{Care, Ledger, Line};
use super::counts::{Holders, LiveLeases};
use super::leases::{self, FreshLease};
use crate::store::StoreError;
use crate::store::desk::Transaction;
pub(super) use crate::store::failure::{self, corrupt, failed};
use crate::store::moves::Journal;
use crate::store::rows::Fields;

/// A statement with its values.
pub(super) type Sql<'q> = Query<'q, Sqlite, SqliteArguments>;

/// Most open tasks that are remembered.
const REMEMBERED_TASKS: usize = 16_384;

pub(super) struct Tx {
    connection: SqliteConnection,
    pub(super) live: LiveLeases,
    ledger: Ledger,
    open_tasks: HashMap<TaskId, OpenTask>,
    /// Nodes through which nothing is given. Lapse and Attach are in the same queue as this, so it holds.
    lapsed: HashSet<String>,
    fresh_leases: Vec<FreshLease>,
    max_bytes: Option<u64>,
    changes: u64,
    gives: bool,
}

/// What is remembered of a task that is open.
#[derive(Clone, Copy)]
struct OpenTask {
    session: SessionId,
    lapses_at: Timestamp,
}

impl Tx {
    pub(super) async fn new(
        mut connection: SqliteConnection,
        writer: &str,
        max_bytes: Option<u64>,
    ) -> Result<Self, StoreError> {
        let ledger = Ledger::open(&mut connection, writer).await?;
        let live = LiveLeases::count(&mut connection).await?;
        let lapsed = lapsed_nodes(&mut connection).await?;
        let open_tasks = HashMap::new();
        Ok(Self {
            connection,
            live,
            ledger,
            open_tasks,
            lapsed,
            fresh_leases: Vec::new(),
            max_bytes,
            changes: 0,
            gives: true,
        })
    }

    /// Whether anything may be given out in this transaction: there is room, and its records will be written.
    pub(super) fn gives(&self) -> bool {
        self.gives
    }

    /// Notes a record. It is chained when the transaction is committed.
    pub(super) fn record(&mut self, record: &Record) {
        self.note(Line::new(record));
    }

    /// Notes a record whose bytes were made before.
    pub(super) fn note(&mut self, line: Line) {
        self.changes += 1;
        self.ledger.note(line);
    }

    /// Puts a lease among those that are written together before the transaction is committed.
    pub(super) fn add_lease(&mut self, lease: FreshLease) {
        self.changes += 1;
        self.fresh_leases.push(lease);
    }

    /// Every row of a query.
    pub(super) async fn rows(
        &mut self,
        what: &'static str,
        sql: Sql<'_>,
    ) -> Result<Vec<SqliteRow>, StoreError> {
        self.write_fresh_leases().await?;
        sql.fetch_all(&mut self.connection).await.map_err(failed(what))
    }

    /// The first row of a query.
    pub(super) async fn row(
        &mut self,
        what: &'static str,
        sql: Sql<'_>,
    ) -> Result<Option<SqliteRow>, StoreError> {
        self.write_fresh_leases().await?;
        sql.fetch_optional(&mut self.connection).await.map_err(failed(what))
    }

    /// Runs a statement that changes something, and tells how many rows it changed.
    pub(super) async fn write(&mut self, what: &'static str, sql: Sql<'_>) -> Result<u64, StoreError> {
        self.write_fresh_leases().await?;
        let written = sql.execute(&mut self.connection).await.map_err(failed(what))?.rows_affected();
        self.changes += written;
        Ok(written)
    }

    /// Whether the task and all above it are open. Their ends are in the same queue as this, so what is remembered holds.
    pub(super) async fn require_open(
        &mut self,
        task: TaskId,
        session: SessionId,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let known = match self.open_tasks.get(&task) {
            Some(known) => *known,
            None => self.look_up(task).await?.ok_or(StoreError::TaskNotOpen)?,
        };
        let is_open = known.session == session && now < known.lapses_at;
        if is_open { Ok(()) } else { Err(StoreError::TaskNotOpen) }
    }

    async fn look_up(&mut self, task: TaskId) -> Result<Option<OpenTask>, StoreError> {
        // An offer is nobody's to act in. What was claimed is none again, so what is remembered holds.
        const LOOK_UP: &str = "
            SELECT session, lapses_at FROM tasks
            WHERE id = $1 AND state = 'open' AND offer_deadline IS NULL";
        let Some(row) = self.row("look up a task", sqlx::query(LOOK_UP).bind(task.to_string())).await? else {
            return Ok(None);
        };
        let session: String = row.try_get(0).map_err(failed("look up a task"))?;
        let lapses_at: i64 = row.try_get(1).map_err(failed("look up a task"))?;
        let session = session.parse().map_err(|error| corrupt("tasks.session", error))?;
        let known = OpenTask { session, lapses_at: Timestamp::from_unix_millis(lapses_at) };
        if self.open_tasks.len() >= REMEMBERED_TASKS {
            self.open_tasks.clear();
        }
        self.open_tasks.insert(task, known);
        Ok(Some(known))
    }

    /// Refuses what comes through a node that lapsed.
    pub(super) fn require_node(&self, node: Option<&SpiffeId>) -> Result<(), StoreError> {
        match node.filter(|node| self.lapsed.contains(node.as_str())) {
            Some(node) => Err(StoreError::NodeLapsed { node: node.clone() }),
            None => Ok(()),
        }
    }

    /// Remembers how a node stands from now on.
    pub(super) fn node_stands(&mut self, node: &SpiffeId, state: NodeState) {
        match state {
            NodeState::Attached => self.lapsed.remove(node.as_str()),
            NodeState::Lapsed => self.lapsed.insert(node.to_string()),
        };
    }

    /// Forgets tasks that are over.
    pub(super) fn forget_tasks(&mut self, ended: &[TaskId]) {
        for task in ended {
            self.open_tasks.remove(task);
        }
    }

    pub(super) async fn begin(&mut self, gives: bool) -> Result<(), StoreError> {
        self.gives = gives;
        self.execute("begin", "BEGIN IMMEDIATE").await
    }

    /// Writes what is left to write, except for the records.
    pub(super) async fn write_fresh_leases(&mut self) -> Result<(), StoreError> {
        let fresh = std::mem::take(&mut self.fresh_leases);
        insert_many(&mut self.connection, "write leases", &leases::INSERT, &fresh, leases::bind).await
    }

    /// Chains and writes the records, or counts them as lost.
    pub(super) async fn write_records(&mut self, care: Care) -> Result<(), StoreError> {
        self.ledger.write(&mut self.connection, care).await
    }

    pub(super) async fn commit(&mut self) -> Result<(), StoreError> {
        self.execute("commit", "COMMIT").await?;
        self.ledger.keep();
        self.live.keep();
        Ok(())
    }

    /// Undoes the transaction, and reads again what the writer knew: a failed commit may or may not have reached the disk.
    pub(super) async fn roll_back(&mut self) {
        // SQLite has rolled back by itself after some errors; then there is no transaction to end.
        let _ = self.execute("roll back", "ROLLBACK").await;
        self.fresh_leases.clear();
        self.open_tasks.clear();
        self.live.undo();
        match lapsed_nodes(&mut self.connection).await {
            Ok(lapsed) => self.lapsed = lapsed,
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "could not read which nodes lapsed")
            }
        }
        if let Err(error) = self.ledger.reload(&mut self.connection).await {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "could not read the heads of the audit chains"
            );
        }
    }

    /// Bounds the database's size: with the reserve held, by what is for everyone; else by what is for ends too. False if
    /// it is over that bound, or so near that the next grant would be refused.
    pub(super) async fn bound_size(&mut self, beyond: u64) -> bool {
        let Some(max_bytes) = self.max_bytes else { return true };
        self.try_bound_size(max_bytes + beyond).await.unwrap_or(false)
    }

    async fn try_bound_size(&mut self, bytes: u64) -> Result<bool, StoreError> {
        const SPARE: i64 = 16;
        let page_size = self.pragma("PRAGMA page_size").await?.max(1);
        let wanted = i64::try_from(bytes).unwrap_or(i64::MAX) / page_size;
        let text = format!("PRAGMA max_page_count = {wanted}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(text))
            .execute(&mut self.connection)
            .await
            .map_err(failed("bound the size"))?;
        let used = self.pragma("PRAGMA page_count").await? - self.pragma("PRAGMA freelist_count").await?;
        Ok(used + SPARE <= wanted)
    }

    /// Moves the write-ahead log into the database and gives its room back, as far as readers and the disk let it.
    pub(super) async fn shorten_log(&mut self) {
        if let Err(error) = self.execute("shorten the log", "PRAGMA wal_checkpoint(TRUNCATE)").await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the write-ahead log could not be shortened"
            );
        }
    }

    async fn pragma(&mut self, sql: &'static str) -> Result<i64, StoreError> {
        let row = sqlx::query(sql).fetch_one(&mut self.connection).await.map_err(failed("read the size"))?;
        row.try_get(0).map_err(failed("read the size"))
    }

    async fn execute(&mut self, what: &'static str, sql: &'static str) -> Result<(), StoreError> {
        sqlx::query(sql).execute(&mut self.connection).await.map(|_| ()).map_err(failed(what))
    }

    pub(super) async fn close(self) {
        if let Err(error) = self.connection.close().await {
            tracing::warn!(error = &error as &dyn std::error::Error, "could not close the database");
        }
    }
}

impl Transaction for Tx {
    type Needs = ();

    fn changes(&self) -> u64 {
        self.changes
    }
}

impl Journal for Tx {
    fn record(&mut self, record: &Record) {
        self.note(Line::new(record));
    }

    fn lives(&mut self, holders: &Holders) {
        self.live.add(holders);
    }

    fn lives_no_more(&mut self, holders: &Holders) {
        self.live.remove(holders);
    }
}

async fn lapsed_nodes(connection: &mut SqliteConnection) -> Result<HashSet<String>, StoreError> {
    const WHAT: &str = "read which nodes lapsed";
    let rows = sqlx::query("SELECT spiffe_id FROM nodes WHERE state = 'lapsed'").fetch_all(connection).await;
    rows.map_err(failed(WHAT))?.iter().map(|row| row.try_get(0).map_err(failed(WHAT))).collect()
}

/// One statement for many rows: a trip to the connection's thread costs more than the row it carries.
pub(super) struct Insert {
    by_rows: [(usize, String); 4],
}

impl Insert {
    /// `head` is the statement up to and with `VALUES`.
    pub(super) fn new(head: &str, columns: usize) -> Self {
        let row = format!("({})", vec!["?"; columns].join(", "));
        Self {
            by_rows: [64, 16, 4, 1]
                .map(|rows| (rows, format!("{head} {}", vec![row.as_str(); rows].join(", ")))),
        }
    }
}

pub(super) async fn insert_many<T>(
    connection: &mut SqliteConnection,
    what: &'static str,
    insert: &'static LazyLock<Insert>,
    mut rows: &[T],
    bind: impl for<'q> Fn(&T, Sql<'q>) -> Sql<'q>,
) -> Result<(), StoreError> {
    for (size, sql) in &insert.by_rows {
        while let Some((now, later)) = rows.split_at_checked(*size) {
            let statement = now.iter().fold(sqlx::query(sql.as_str()), |statement, row| bind(row, statement));
            statement.execute(&mut *connection).await.map_err(failed(what))?;
            rows = later;
        }
    }
    Ok(())
}

impl Fields for SqliteRow {
    fn maybe_text(&self, name: &'static str) -> Result<Option<String>, sqlx::Error> {
        self.try_get(name)
    }

    fn maybe_number(&self, name: &'static str) -> Result<Option<i64>, sqlx::Error> {
        self.try_get(name)
    }

    fn maybe_bytes(&self, name: &'static str) -> Result<Option<Vec<u8>>, sqlx::Error> {
        self.try_get(name)
    }
}

/// Whether the database found no room.
pub(super) fn is_full(error: &StoreError) -> bool {
    // SQLITE_FULL, SQLITE_IOERR_WRITE, SQLITE_IOERR_SHMSIZE (sqlite.org/rescode.html).
    const NO_ROOM: [&str; 3] = ["13", "778", "4874"];
    failure::code(error).is_some_and(|code| NO_ROOM.contains(&code.as_str()))
}
