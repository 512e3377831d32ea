//! Two brokers that work on one database.

use std::time::Duration;

use dayfly_domain::audit::Stream;
use dayfly_domain::id::{LeaseId, TaskId};
use dayfly_domain::lease::{LeaseEvent, LeaseState, RevokeCause};
use dayfly_domain::task::{EndCause, TaskState};

use super::{Database, PostgresStore, Shared};
use crate::store::contract::World;
use crate::store::contract::world::{NO_LIMITS, T0, at, identity};
use crate::store::{Change, EndWhich, Hint, LeaseLimits, Store, StoreError};

/// A world over the first of two brokers, and the second.
async fn two() -> (World, PostgresStore) {
    let database = Database::new().await;
    let (first, second) = (database.open("broker-1").await, database.open("broker-2").await);
    (World::new(Shared { store: first, database }), second)
}

fn change(expected_revision: u64) -> Change {
    Change { expected_revision, puts: Vec::new(), deletes: Vec::new(), by: "admin".to_owned(), at: T0 }
}

async fn next_hint(store: &PostgresStore) -> Hint {
    tokio::time::timeout(Duration::from_secs(5), store.hint()).await.expect("a hint comes")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_broker_applies_the_other_decides_by_before_it_grants_again() {
    let (mut world, second) = two().await;
    let root = world.open_root("a").await;
    second.apply(change(0), Vec::new()).await.unwrap();
    let lease = world.active(&root, "a");
    assert!(matches!(world.try_lease(&lease, T0).await, Err(StoreError::RulesChanged)));
    assert!(world.store().rules_moved().await.unwrap());
    assert!(!second.rules_moved().await.unwrap(), "its own change is no news to it");
    assert_eq!(world.store().load_documents().await.unwrap().0, 1);
    let refused = world.try_lease(&lease, T0).await;
    assert!(matches!(refused, Err(StoreError::RulesChanged)), "read, but not in force yet: {refused:?}");
    world.store().rules_in_force();
    world.try_lease(&lease, T0).await.unwrap();
    assert!(!world.store().rules_moved().await.unwrap());
    // What takes away never waits for rules.
    second.apply(change(1), Vec::new()).await.unwrap();
    assert_eq!(world.end(EndWhich::Task(root.id), EndCause::Explicit, at(1)).await.leases, [lease.id]);
    world.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_leases_are_counted_together() {
    let (mut world, second) = two().await;
    let root = world.open_root("a").await;
    let limits = LeaseLimits { per_identity: 20, ..NO_LIMITS };
    let new: Vec<_> = (0..60).map(|_| world.active(&root, "a")).collect();
    let new: Vec<_> = new.iter().map(|lease| world.new_lease(lease, limits)).collect();
    let asked = new.into_iter().enumerate().map(|(number, new)| {
        let store = if number % 2 == 0 { world.store() } else { &second };
        store.open_lease(new, T0)
    });
    let answers = futures_util::future::join_all(asked).await;
    let given = answers.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!(given, 20);
    assert!(answers.iter().all(|answer| matches!(answer, Ok(()) | Err(StoreError::TooManyLeases { .. }))));
    // Room that one broker makes is there for the other.
    let gone: LeaseId = world.all_leases().await[0].id;
    second.record_lease(gone, LeaseEvent::AskRevoke(RevokeCause::Holder), at(1), None).await.unwrap();
    let verified = LeaseEvent::Verify { evidence: "gone".to_owned() };
    second.record_lease(gone, verified, at(2), None).await.unwrap();
    let one = world.active(&root, "a");
    let one = world.new_lease(&one, limits);
    world.store().open_lease(one, T0).await.unwrap();
    let over = world.active(&root, "a");
    let over = world.new_lease(&over, limits);
    assert!(matches!(second.open_lease(over, T0).await, Err(StoreError::TooManyLeases { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_broker_ends_the_other_can_tell() {
    let (mut world, second) = two().await;
    let (root, other) = (world.open_root("a").await, world.open_root("b").await);
    let single = world.open_active(&other, "b").await;
    world.end(EndWhich::Task(root.id), EndCause::AnchorGone, at(5)).await;
    while next_hint(&second).await != Hint::Ends {}
    let revoked = vec![single.id];
    world.store().queue_revocations(revoked.clone(), RevokeCause::Admin, at(6), None).await.unwrap();
    while next_hint(&second).await != Hint::Revocations {}
    let over = second.over_since(at(5)).await.unwrap();
    assert_eq!(over.tasks, [(root.id, Some(identity("node/1")), EndCause::AnchorGone)]);
    assert_eq!(over.leases, revoked);
    assert_eq!(second.over_since(at(7)).await.unwrap().tasks, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_at_one_broker_is_known_to_the_other() {
    let (mut world, second) = two().await;
    let (seen, unseen) = (world.open_root("a").await.id, world.open_root("a").await.id);
    world.store().see_streams(vec![seen], at(10)).await.unwrap();
    let both: Vec<TaskId> = vec![seen, unseen];
    assert_eq!(second.streams_unseen_since(both.clone(), at(5)).await.unwrap(), [unseen]);
    assert_eq!(second.streams_unseen_since(both.clone(), at(15)).await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_broker_left_pending_another_gives_up() {
    let (mut world, second) = two().await;
    let root = world.open_root("a").await;
    let lease = world.open_pending(&root, "a").await;
    assert_eq!(second.sweep_pending(at(1), at(90)).await.unwrap(), 1);
    // The answer comes all the same: it is taken back, not given.
    let late = world.record(&lease, world.answer(&lease), at(91)).await;
    assert!(!matches!(late.state, LeaseState::Active { .. }), "{late:?}");
    assert!(matches!(world.task_state(&root).await, TaskState::Open { .. }));
    assert!(
        !world.chain(Stream::Lease).await.is_empty()
            && !second.audit(Stream::Lease, 1, 9).await.unwrap().is_empty()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_broker_records_where_the_chains_of_the_others_stand() {
    let (mut world, second) = two().await;
    second.witness(at(1)).await.unwrap();
    assert!(second.audit(Stream::Admin, 1, 9).await.unwrap().is_empty(), "there is nothing yet");
    world.open_root("a").await;
    second.witness(at(2)).await.unwrap();
    let told = second.audit(Stream::Admin, 1, 9).await.unwrap();
    let told: serde_json::Value = serde_json::from_slice(&told[0].bytes).unwrap();
    assert_eq!(told["event"], "audit.witness");
    let chain = world.chain(Stream::Lease).await;
    let last = chain.last().unwrap();
    let hash: String = last.hash.iter().map(|byte| format!("{byte:02x}")).collect();
    let head = serde_json::json!({"writer": "broker-1", "stream": "lease", "seq": last.seq, "hash": hash});
    assert!(told["heads"].as_array().unwrap().contains(&head), "{told}");
}
