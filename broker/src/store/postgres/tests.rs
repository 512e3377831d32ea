//! The PostgreSQL store against the contract, and what several brokers on one database can do wrong.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fencing;
mod races;
mod roles;
mod together;

use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use dayfly_domain::audit::Stream;
use harness::postgres::Postgres;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tokio::sync::OnceCell;

use super::{Options, PostgresStore, Tls, migrate};
use crate::store::Store;
use crate::store::contract::{Fixture, store_contract};

/// One server for all tests; each has a database of its own.
static SERVER: OnceCell<Postgres> = OnceCell::const_new();
static DATABASES: AtomicU32 = AtomicU32::new(0);

async fn server() -> &'static Postgres {
    SERVER
        .get_or_init(|| async {
            let server = Postgres::start().await.unwrap();
            let url = server.create_database("pattern").await.unwrap();
            let roles = include_str!("../../../../deploy/postgres/roles.sql");
            PgConnection::connect(&url).await.unwrap().execute(roles).await.unwrap();
            migrate(&options(&server, "dayfly_owner", "pattern")).await.unwrap();
            server
        })
        .await
}

fn options(server: &Postgres, role: &str, database: &str) -> Options {
    let url = server.url(database).replace("postgres@", &format!("{role}@"));
    Options { url, password: None, tls: Tls::Off, ca_file: None, readers: 2 }
}

/// A database with the schema and nothing in it.
struct Database {
    server: &'static Postgres,
    name: String,
}

impl Database {
    async fn new() -> Self {
        let server = server().await;
        let name = format!("t{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        let database = Self { server, name };
        let create = format!("CREATE DATABASE {} TEMPLATE pattern", database.name);
        let mut root = PgConnection::connect(&server.url("postgres")).await.unwrap();
        root.execute(AssertSqlSafe(create)).await.unwrap();
        database
    }

    /// The same database, for another hand.
    fn again(&self) -> Self {
        Self { server: self.server, name: self.name.clone() }
    }

    fn options(&self) -> Options {
        options(self.server, "dayfly_broker", &self.name)
    }

    async fn open(&self, writer: &str) -> PostgresStore {
        PostgresStore::open(&self.options(), writer).await.unwrap()
    }

    /// A connection that may do everything.
    async fn root(&self) -> PgConnection {
        PgConnection::connect(&self.server.url(&self.name)).await.unwrap()
    }

    async fn sql(&self, sql: impl Into<String>) {
        self.root().await.execute(AssertSqlSafe(sql.into())).await.unwrap();
    }
}

struct Shared {
    database: Database,
    store: PostgresStore,
}

impl Shared {
    async fn start() -> Self {
        let database = Database::new().await;
        let store = database.open("broker-1").await;
        Self { database, store }
    }
}

#[async_trait]
impl Fixture for Shared {
    fn store(&self) -> &dyn Store {
        &self.store
    }

    async fn reopen(&mut self) {
        self.store.close().await;
        self.store = self.database.open("broker-1").await;
    }

    async fn break_records(&self, stream: Stream, broken: bool) {
        let name = stream.as_str();
        self.database
            .sql(if broken {
                format!(
                    "CREATE OR REPLACE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS
                     $$ BEGIN RAISE EXCEPTION 'broken by the test'; END $$;
                     CREATE TRIGGER broken_{name} BEFORE INSERT ON audit FOR EACH ROW
                     WHEN (NEW.stream = '{name}') EXECUTE FUNCTION broken()"
                )
            } else {
                format!("DROP TRIGGER broken_{name} ON audit")
            })
            .await;
    }
}

store_contract!(Shared::start());
