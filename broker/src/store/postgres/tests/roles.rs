//! What the broker's role may do to what was recorded.

use dayfly_domain::audit::{Record, Stream};
use sqlx::{Connection, Executor, PgConnection};

use super::{Database, PostgresStore, options};
use crate::store::Store;
use crate::store::contract::world::T0;
use crate::store::postgres::OpenError;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_brokers_role_can_only_add_to_the_audit() {
    let database = Database::new().await;
    let store = database.open("broker-1").await;
    store.write_records(vec![Record::new(Stream::Admin, "noted", T0)]).await.unwrap();
    let mut broker = PgConnection::connect(&database.options().url).await.unwrap();
    for sql in [
        "UPDATE audit SET bytes = ''",
        "DELETE FROM audit",
        "TRUNCATE audit",
        "UPDATE document_history SET body = NULL",
        "DELETE FROM document_history",
        "DELETE FROM leases",
        "DELETE FROM tasks",
        "ALTER TABLE audit DISABLE TRIGGER ALL",
        "DROP TABLE audit",
        "CREATE TABLE other (id INT)",
        "UPDATE schema_floor SET oldest = 0",
        "SET ROLE dayfly_owner",
    ] {
        let refused = broker.execute(sql).await.unwrap_err();
        let code =
            refused.as_database_error().and_then(|error| error.code()).map(std::borrow::Cow::into_owned);
        // insufficient_privilege
        assert_eq!(code.as_deref(), Some("42501"), "{sql}: {refused}");
    }
    assert_eq!(store.audit(Stream::Admin, 1, 10).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_brokers_role_has_rights_on_every_table() {
    const WITHOUT: &str = "
        SELECT relname::TEXT FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
          AND NOT has_table_privilege('dayfly_broker', oid, 'SELECT')";
    let database = Database::new().await;
    let without: Vec<String> =
        sqlx::query_scalar(WITHOUT).fetch_all(&mut database.root().await).await.unwrap();
    assert!(without.is_empty(), "deploy/postgres/rights.sql grants nothing on {without:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_could_change_the_past_is_refused() {
    let database = Database::new().await;
    for role in ["postgres", "dayfly_owner"] {
        let refused = PostgresStore::open(&options(database.server, role, &database.name), "broker-1").await;
        assert!(matches!(refused, Err(OpenError::TooMighty { .. })), "{role}: {refused:?}");
    }
    for (given, taken, told) in [
        ("GRANT UPDATE ON audit TO dayfly_broker", "REVOKE UPDATE ON audit FROM dayfly_broker", "change"),
        (
            "GRANT UPDATE (at) ON audit TO dayfly_broker",
            "REVOKE UPDATE (at) ON audit FROM dayfly_broker",
            "change",
        ),
        ("GRANT DELETE ON audit TO dayfly_broker", "REVOKE DELETE ON audit FROM dayfly_broker", "delete"),
        (
            "GRANT CREATE ON SCHEMA public TO dayfly_broker",
            "REVOKE CREATE ON SCHEMA public FROM dayfly_broker",
            "make",
        ),
    ] {
        database.sql(given).await;
        let refused = PostgresStore::open(&database.options(), "broker-1").await.map(drop).unwrap_err();
        assert!(refused.to_string().contains(told), "{given}: {refused}");
        database.sql(taken).await;
    }
    database.open("broker-1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_that_is_too_old_or_too_new_is_refused() {
    let database = Database::new().await;
    let ahead = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
                 VALUES (9999, 'later', TRUE, '', 0)";
    database.sql(ahead).await;
    // A later release only added to the schema: this one goes on.
    database.open("broker-1").await.close().await;
    database.sql("UPDATE schema_floor SET oldest = 9999").await;
    let refused = PostgresStore::open(&database.options(), "broker-1").await;
    assert!(matches!(refused, Err(OpenError::NewerSchema { oldest: 9999, .. })), "{refused:?}");
    database.sql("DELETE FROM _sqlx_migrations WHERE version > 1").await;
    let refused = PostgresStore::open(&database.options(), "broker-1").await;
    assert!(matches!(refused, Err(OpenError::OlderSchema { found: 1, .. })), "{refused:?}");
}
