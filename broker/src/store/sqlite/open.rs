//! How the store is opened, and why it is not.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::migrate::MigrateError;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use thiserror::Error;

use crate::store::{StoreError, migrations};

/// How long a connection waits for another process that holds the database, a backup for example.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// Room kept for taking away on a full disk, in bytes.
    pub reserve_bytes: u64,
    /// The most that the database may grow to for giving, in bytes; as much as the disk holds if absent. What takes away
    /// may go beyond by the reserve.
    pub max_bytes: Option<u64>,
    /// How many reads may run at once.
    pub readers: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { reserve_bytes: 16 << 20, max_bytes: None, readers: 4 }
    }
}

/// Why the store was not opened. The broker does not start.
#[derive(Debug, Error)]
pub enum OpenError {
    /// A file or folder could not be made or read.
    #[error("could not open {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Something else stands in its place.
    #[error("{} is not a {wanted}", path.display())]
    Kind {
        /// Which.
        path: PathBuf,
        /// What it should be.
        wanted: &'static str,
    },
    /// It belongs to another user.
    #[error("{} belongs to uid {owner}, and the broker runs as {us}; give it to the broker's user", path.display())]
    Owner {
        /// Which.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Whose it should be.
        us: u32,
    },
    /// Others could read or write it.
    #[error("{} has mode {found:04o}, so others can reach it; set it to {wanted:04o}", path.display())]
    Mode {
        /// Which.
        path: PathBuf,
        /// Its mode.
        found: u32,
        /// What it should be.
        wanted: u32,
    },
    /// The folder lies on another machine, where neither locks nor durability can be relied on.
    #[error("{} lies on a {kind} file system; the database needs a local disk", path.display())]
    Elsewhere {
        /// The folder.
        path: PathBuf,
        /// The file system.
        kind: &'static str,
    },
    /// Another process has it open.
    #[error("{} is in use by another broker", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// A later release wrote it.
    #[error(
        "the database is at schema {found} and this release knows schemas up to {known}; run a later release"
    )]
    NewerSchema {
        /// The schema found.
        found: i64,
        /// The newest this release knows.
        known: i64,
    },
    /// The schema could not be brought up to date.
    #[error("could not bring the schema of the database up to date")]
    Migrate(#[source] MigrateError),
    /// The database could not be opened or read.
    #[error("could not open the database")]
    Database(#[source] sqlx::Error),
    /// What stands in it could not be read.
    #[error("could not read the state in the database")]
    State(#[source] StoreError),
}

/// The write-ahead log is moved into the database when it has this many pages of 4 KiB, if the reserve is large enough.
const LOG_PAGES: u64 = 1_000;

pub(super) fn for_writing(database: &Path, reserve_bytes: u64) -> SqliteConnectOptions {
    const PAGE: u64 = 4_096;
    // Moving the log may find the disk full; then it is the reserve that must hold it.
    let log_pages = (reserve_bytes / 4 / PAGE).clamp(16, LOG_PAGES);
    SqliteConnectOptions::new()
        .filename(database)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT)
        .pragma("secure_delete", "ON")
        .pragma("trusted_schema", "OFF")
        // Nothing goes to files of other modes in other folders.
        .pragma("temp_store", "MEMORY")
        .pragma("wal_autocheckpoint", log_pages.to_string())
        .pragma("journal_size_limit", (log_pages * PAGE).to_string())
}

pub(super) fn for_reading(database: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(database)
        .read_only(true)
        .busy_timeout(BUSY_TIMEOUT)
        .pragma("query_only", "ON")
        .pragma("trusted_schema", "OFF")
        .pragma("temp_store", "MEMORY")
}

pub(super) fn migration_failed(error: MigrateError) -> OpenError {
    let known = migrations::newest();
    match error {
        MigrateError::VersionMissing(found) if found > known => OpenError::NewerSchema { found, known },
        other => OpenError::Migrate(other),
    }
}
