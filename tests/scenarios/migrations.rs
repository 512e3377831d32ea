//! The schema on both engines: applied in order to an empty database, and the same in both.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use harness::Postgres;
use sqlx::migrate::{Migrate, Migrator};
use sqlx::postgres::PgConnection;
use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection, Row};

fn folder(engine: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations").join(engine)
}

async fn migrate<C: Migrate>(engine: &str, connection: &mut C) -> usize {
    let migrator = Migrator::new(folder(engine)).await.unwrap();
    migrator.run_direct(None, connection, false).await.unwrap();
    migrator.iter().count()
}

/// By table and column: whether it may be absent.
type Columns = BTreeMap<(String, String), (String, bool)>;

const OWN: &str = "_sqlx_migrations";

async fn columns_of_postgres(connection: &mut PgConnection) -> Columns {
    const COLUMNS: &str = "
        SELECT table_name::TEXT, column_name::TEXT, data_type::TEXT, is_nullable = 'YES'
        FROM information_schema.columns
        WHERE table_schema = 'public' AND table_name <> $1";
    let rows = sqlx::query(COLUMNS).bind(OWN).fetch_all(connection).await.unwrap();
    let column = |row: &sqlx::postgres::PgRow| ((row.get(0), row.get(1)), (row.get(2), row.get(3)));
    rows.iter().map(column).collect()
}

async fn columns_of_sqlite(connection: &mut SqliteConnection) -> Columns {
    const COLUMNS: &str = "
        SELECT tables.name, columns.name, columns.type, columns.\"notnull\" = 0
        FROM sqlite_schema AS tables, pragma_table_info(tables.name) AS columns
        WHERE tables.type = 'table' AND tables.name <> $1 AND tables.name NOT LIKE 'sqlite_%'";
    let rows = sqlx::query(COLUMNS).bind(OWN).fetch_all(connection).await.unwrap();
    let column = |row: &sqlx::sqlite::SqliteRow| ((row.get(0), row.get(1)), (row.get(2), row.get(3)));
    rows.iter().map(column).collect()
}

/// What a type of PostgreSQL is kept as in SQLite.
fn in_sqlite(postgres: &str) -> &'static str {
    match postgres {
        "bigint" | "boolean" => "INTEGER",
        "text" | "jsonb" => "TEXT",
        "bytea" => "BLOB",
        other => panic!("no column should be {other}"),
    }
}

#[tokio::test]
async fn the_migrations_make_the_same_schema_on_postgresql_and_sqlite() {
    let server = Postgres::start().await.unwrap();
    let empty = server.create_database("dayfly").await.unwrap();
    let mut postgres = PgConnection::connect(&empty).await.unwrap();
    let version: i32 = sqlx::query("SELECT current_setting('server_version_num')::INTEGER")
        .fetch_one(&mut postgres)
        .await
        .unwrap()
        .get(0);
    assert!(version >= 150_000, "PostgreSQL 15 is the oldest that is supported, this is {version}");
    let steps = migrate("postgres", &mut postgres).await;
    assert!(steps > 0);
    let mut sqlite = SqliteConnection::connect("sqlite::memory:").await.unwrap();
    assert_eq!(migrate("sqlite", &mut sqlite).await, steps);

    let mut expected = columns_of_postgres(&mut postgres).await;
    for (kind, _) in expected.values_mut() {
        *kind = in_sqlite(kind).to_owned();
    }
    assert!(!expected.is_empty());
    assert_eq!(columns_of_sqlite(&mut sqlite).await, expected);

    // A second start finds nothing to do.
    assert_eq!(migrate("postgres", &mut postgres).await, steps);
    let applied: i64 =
        sqlx::query("SELECT COUNT(*) FROM _sqlx_migrations").fetch_one(&mut postgres).await.unwrap().get(0);
    assert_eq!(usize::try_from(applied).unwrap(), steps);
}

#[tokio::test]
async fn postgresql_refuses_rows_that_no_state_allows() {
    let server = Postgres::start().await.unwrap();
    let mut postgres = PgConnection::connect(&server.url("postgres")).await.unwrap();
    migrate("postgres", &mut postgres).await;
    const TASK: &str = "
        INSERT INTO tasks
            (id, session, opened_by, stage, anchor, ceiling, intent, opened_at, deadline, lapses_at, state)
        VALUES ('t', 't', 'spiffe://example.org/a', 'training', '{}', '[]', '', 1, 2, 2, 'open')";
    sqlx::query(TASK).execute(&mut postgres).await.unwrap();
    const LEASE: &str = "
        INSERT INTO leases
            (id, task, session, spiffe_id, scope, parameters, provider, revocability, worst_case_ms, opened_at, state,
             bound_at, handle)
        VALUES ('l', $1, 't', 'spiffe://example.org/a', 's', '{}', 'vault', 'exact', 1, 1, 'active', 9, $2::JSONB)";
    for (task, handle) in [("t", None), ("another", Some("{}"))] {
        let refusal = sqlx::query(LEASE).bind(task).bind(handle).execute(&mut postgres).await;
        assert!(refusal.is_err(), "{task} {handle:?}");
    }
    sqlx::query(LEASE).bind("t").bind("{}").execute(&mut postgres).await.unwrap();
}
