//! What the store finds when it starts.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use dayfly_domain::lease::{LeaseEvent, RevokeCause};
use dayfly_domain::time::Ttl;

use super::super::OpenError;
use super::*;
use crate::store::contract::World;
use crate::store::migrations;

async fn open(folder: &Path) -> Result<SqliteStore, OpenError> {
    SqliteStore::open(folder, "broker-1", Options { reserve_bytes: 1 << 20, ..Options::default() }).await
}

#[tokio::test]
async fn every_file_is_for_the_owner_alone() {
    let above = private_folder();
    let folder = above.path().join("state").join("broker");
    let store = open(&folder).await.unwrap();
    let mut files: Vec<String> = Vec::new();
    for entry in fs::read_dir(&folder).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().mode() & 0o777, 0o600, "{:?}", entry.path());
        files.push(entry.file_name().into_string().unwrap());
    }
    files.sort();
    assert_eq!(files, ["dayfly.db", "dayfly.db-shm", "dayfly.db-wal", "lock", "reserve"]);
    assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(folder.join("reserve")).unwrap().len(), 1 << 20);
    store.close().await;
}

#[tokio::test]
async fn files_that_others_can_read_keep_the_broker_from_starting() {
    let above = private_folder();
    let folder = above.path().join("state");
    open(&folder).await.unwrap().close().await;
    let database = folder.join("dayfly.db");
    fs::set_permissions(&database, fs::Permissions::from_mode(0o644)).unwrap();
    let refusal = open(&folder).await.unwrap_err();
    assert!(matches!(refusal, OpenError::Mode { found: 0o644, wanted: 0o600, .. }), "{refusal}");
    fs::set_permissions(&database, fs::Permissions::from_mode(0o600)).unwrap();
    open(&folder).await.unwrap().close().await;
}

#[tokio::test]
async fn a_second_store_over_one_folder_is_refused() {
    let folder = private_folder();
    let first = open(folder.path()).await.unwrap();
    assert!(matches!(open(folder.path()).await, Err(OpenError::InUse { .. })));
    first.close().await;
    open(folder.path()).await.unwrap().close().await;
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let folder = private_folder();
    open(folder.path()).await.unwrap().close().await;
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
                 VALUES (9999, 'later', TRUE, x'00', 0)";
    sql_in(folder.path(), newer.to_owned()).await;
    let refusal = open(folder.path()).await.unwrap_err();
    let OpenError::NewerSchema { found: 9999, known } = refusal else { panic!("{refusal}") };
    assert_eq!(known, migrations::newest());
}

#[tokio::test]
async fn the_database_is_durable_and_wipes_what_it_deletes() {
    let sqlite = Sqlite::start().await;
    let mut connection = SqliteConnection::connect_with(&super::super::open::for_writing(
        &sqlite.folder.path().join("dayfly.db"),
        1 << 20,
    ))
    .await
    .unwrap();
    const FULL: i64 = 2;
    for (pragma, expected) in [
        ("PRAGMA synchronous", FULL),
        ("PRAGMA foreign_keys", 1),
        ("PRAGMA secure_delete", 1),
        ("PRAGMA busy_timeout", 5_000),
    ] {
        let found: i64 = sqlx::query(pragma).fetch_one(&mut connection).await.unwrap().get(0);
        assert_eq!(found, expected, "{pragma}");
    }
    let mode: String = sqlx::query("PRAGMA journal_mode").fetch_one(&mut connection).await.unwrap().get(0);
    assert_eq!(mode, "wal");
}

#[tokio::test]
async fn readers_cannot_write() {
    let sqlite = Sqlite::start().await;
    let refusal = sqlx::query("DELETE FROM rules").execute(&sqlite.store.readers).await;
    assert!(refusal.unwrap_err().to_string().contains("readonly"));
}

#[tokio::test]
async fn what_an_earlier_broker_had_claimed_is_free_at_once() {
    let mut world = World::new(Sqlite::start().await);
    let root = world.open_root("a").await;
    let lease = world.open_active(&root, "a").await;
    world.record(&lease, LeaseEvent::AskRevoke(RevokeCause::Holder), T0).await;
    let claimed = async |world: &World| {
        world.store().claim_revocations("vault", 1, Ttl::seconds(30), at(1)).await.unwrap().len()
    };
    assert_eq!(claimed(&world).await, 1);
    assert_eq!(claimed(&world).await, 0);
    world.reopen().await;
    assert_eq!(claimed(&world).await, 1);
}

#[tokio::test]
async fn what_is_asked_of_a_closed_store_fails() {
    let sqlite = Sqlite::start().await;
    sqlite.store.close().await;
    sqlite.store.stopped().await;
    let mut world = World::new(sqlite);
    let task = world.root("a");
    assert!(world.try_open(&task).await.is_err());
}
