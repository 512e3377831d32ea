//! A broker that was taken for dead.

use std::time::Duration;

use dayfly_domain::audit::{Stream, Verifier};
use dayfly_domain::lease::{LeaseEvent, RevokeCause};
use dayfly_domain::task::EndCause;
use dayfly_domain::time::Ttl;
use sqlx::Row;

use super::{Database, PostgresStore, Shared};
use crate::store::contract::World;
use crate::store::contract::world::{T0, at};
use crate::store::postgres::OpenError;
use crate::store::{EndWhich, Store, StoreError};

/// What another broker does with one that fell silent.
const FENCE: &str = "UPDATE brokers SET epoch = epoch + 1, state = 'fenced' WHERE writer = 'broker-1'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_under_a_brokers_name_is_refused() {
    let database = Database::new().await;
    let first = database.open("broker-1").await;
    let refused = PostgresStore::open(&database.options(), "broker-1").await;
    assert!(matches!(refused, Err(OpenError::InUse { .. })), "{refused:?}");
    first.close().await;
    database.open("broker-1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fenced_broker_grants_nothing_until_it_has_read_the_rules_again_and_loses_no_end() {
    let fixture = Shared::start().await;
    let database = fixture.database.again();
    let mut world = World::new(fixture);
    let root = world.open_root("a").await;
    let waiting = world.active(&root, "a");
    database.sql(FENCE).await;
    let refused = world.try_lease(&waiting, T0).await;
    assert!(matches!(refused, Err(StoreError::Fenced { .. } | StoreError::RulesChanged)), "{refused:?}");
    // The end waits for the new epoch and is done in it.
    let ended = world.end(EndWhich::Task(root.id), EndCause::AnchorGone, at(1)).await;
    assert_eq!(ended.tasks.len(), 1);

    let other = world.root("b");
    assert!(matches!(world.try_open(&other).await, Err(StoreError::RulesChanged)));
    world.store().load_documents().await.unwrap();
    world.store().rules_in_force();
    world.try_open(&other).await.unwrap();
    let told = world.records(Stream::Admin).await;
    assert!(told.iter().any(|record| record["event"] == "broker.rejoin"), "{told:?}");
    world.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_broker_is_fenced_and_its_claims_are_taken_over() {
    let database = Database::new().await;
    let shared = Shared { store: database.open("broker-1").await, database: database.again() };
    let mut world = World::new(shared);
    let root = world.open_root("a").await;
    let lease = world.open_active(&root, "a").await;
    world.record(&lease, LeaseEvent::AskRevoke(RevokeCause::Holder), at(1)).await;
    let claim = Ttl::hours(1);
    let store = world.store();
    assert_eq!(store.claim_revocations("vault", 5, claim, at(2)).await.unwrap().len(), 1);

    let second = database.open("broker-2").await;
    assert!(second.claim_revocations("vault", 5, claim, at(3)).await.unwrap().is_empty());
    // Its process stopped long ago, as the others see it.
    database.sql("UPDATE brokers SET seen_at = 0 WHERE writer = 'broker-1'").await;
    let mut taken_over = Vec::new();
    for _ in 0..100 {
        taken_over = second.claim_revocations("vault", 5, claim, at(4)).await.unwrap();
        if !taken_over.is_empty() {
            break;
        }
        // The silent one is alive after all and says so each second; make it silent again.
        database.sql("UPDATE brokers SET seen_at = 0 WHERE writer = 'broker-1'").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(taken_over.len(), 1, "{taken_over:?}");
    let mut verifier = Verifier::default();
    let chain = second.audit(Stream::Admin, 1, 100).await.unwrap();
    assert!(chain.iter().any(|row| String::from_utf8_lossy(&row.bytes).contains("broker.fence")));
    for row in chain {
        verifier.take(row.seq, &row.prev_hash, &row.hash, &row.bytes).unwrap();
    }
    let epochs: i64 = sqlx::query("SELECT epoch FROM brokers WHERE writer = 'broker-1'")
        .fetch_one(&mut database.root().await)
        .await
        .unwrap()
        .get(0);
    assert!(epochs > 1, "it was fenced");
}
