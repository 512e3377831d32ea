//! The SQLite store against the contract, and what only it can do wrong.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bench;
mod full;
mod opening;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use dayfly_domain::audit::Stream;
use dayfly_domain::task::EndCause;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, Connection, Row};
use tempfile::TempDir;

use super::{Options, SqliteStore};
use crate::store::contract::world::{T0, at};
use crate::store::contract::{Fixture, World, store_contract};
use crate::store::{EndWhich, Store};

struct Sqlite {
    folder: TempDir,
    options: Options,
    store: SqliteStore,
}

impl Sqlite {
    async fn start() -> Self {
        Self::with(Options { reserve_bytes: 1 << 20, ..Options::default() }).await
    }

    async fn with(options: Options) -> Self {
        let folder = private_folder();
        let store = SqliteStore::open(folder.path(), "broker-1", options.clone()).await.unwrap();
        Self { folder, options, store }
    }

    async fn sql(&self, sql: String) {
        sql_in(self.folder.path(), sql).await;
    }
}

fn private_folder() -> TempDir {
    let for_the_owner = Permissions::from_mode(0o700);
    tempfile::Builder::new().permissions(for_the_owner).tempdir().unwrap()
}

/// A hand in the database that is not the store's.
async fn connect(folder: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(folder.join("dayfly.db"));
    SqliteConnection::connect_with(&options).await.unwrap()
}

async fn sql_in(folder: &Path, sql: String) {
    let mut connection = connect(folder).await;
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

async fn number_in(folder: &Path, sql: &'static str) -> i64 {
    let mut connection = connect(folder).await;
    let number = sqlx::query(sql).fetch_one(&mut connection).await.unwrap().get(0);
    connection.close().await.unwrap();
    number
}

#[async_trait]
impl Fixture for Sqlite {
    fn store(&self) -> &dyn Store {
        &self.store
    }

    async fn reopen(&mut self) {
        self.store.close().await;
        self.store = SqliteStore::open(self.folder.path(), "broker-1", self.options.clone()).await.unwrap();
    }

    async fn break_records(&self, stream: Stream, broken: bool) {
        let name = stream.as_str();
        self.sql(if broken {
            format!(
                "CREATE TRIGGER broken_{name} BEFORE INSERT ON audit WHEN NEW.stream = '{name}'
                 BEGIN SELECT RAISE(ABORT, 'broken by the test'); END"
            )
        } else {
            format!("DROP TRIGGER broken_{name}")
        })
        .await;
    }
}

store_contract!(Sqlite::start());

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_whose_caller_hung_up_is_done_all_the_same() {
    let mut world = World::new(Sqlite::start().await);
    let root = world.open_root("a").await;
    let mut ending = world.store().end(EndWhich::Task(root.id), EndCause::Explicit, at(1), None);
    // Polled once, so that it is handed in, then dropped.
    assert!(futures_util::poll!(&mut ending).is_pending());
    drop(ending);
    for _ in 0..500 {
        if !world.task_state(&root).await.is_open(T0) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the end was lost with its caller");
}
