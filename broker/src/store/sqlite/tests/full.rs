//! A full disk: nothing is given, what ends goes on.

use dayfly_domain::audit::Record;
use dayfly_domain::lease::{LeaseEvent, LeaseState, RevokeCause};
use dayfly_domain::task::{EndCause, Task, TaskState};

use super::*;
use crate::store::contract::World;
use crate::store::contract::world::{T0, at};
use crate::store::{EndWhich, StoreError};

/// The database may grow to this; then SQLite answers SQLITE_FULL, as it does on a full disk.
const SMALL: u64 = 600 << 10;

/// Fills the database until not even a small record finds room.
async fn fill(world: &World) {
    for size in [2_000, 10] {
        let note = Record::new(Stream::Admin, "noted", T0).with("text", "x".repeat(size));
        let mut written = 0;
        while let Ok(()) = world.store().write_records(vec![note.clone()]).await {
            written += 1;
            assert!(written < 1_000, "the database never filled up");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_full_disk_nothing_is_given_and_what_ends_goes_on() {
    let options = Options { reserve_bytes: 256 << 10, max_bytes: Some(SMALL), ..Options::default() };
    let sqlite = Sqlite::with(options).await;
    let folder = sqlite.folder.path().to_owned();
    let reserve = folder.join("reserve");
    let mut world = World::new(sqlite);
    let root = world.open_root("a").await;
    let mut leases = Vec::new();
    for _ in 0..40 {
        leases.push(world.open_active(&root, "a").await);
    }
    let waiting = world.open_pending(&root, "a").await;
    fill(&world).await;
    assert!(reserve.exists(), "what gives has no part in the reserve");

    // The target answers: the handle is kept, the credential goes back.
    let answered = world.record(&waiting, world.answer(&waiting), at(1)).await;
    let LeaseState::Revoking { handle, .. } = &answered.state else {
        panic!("given out on a full disk: {answered:?}")
    };
    assert!(handle.is_some());
    let ended = world.end(EndWhich::Task(root.id), EndCause::AnchorGone, at(2)).await;
    assert_eq!(ended.leases.len(), leases.len());
    assert_eq!(world.task_state(&root).await, TaskState::Ended { at: at(2), cause: EndCause::AnchorGone });
    for lease in &leases {
        world.record(lease, LeaseEvent::Verify { evidence: "gone".to_owned() }, at(3)).await;
    }
    assert!(!reserve.exists(), "the reserve was given up for that");
    world.check().await;

    let other = world.root("b");
    let refusal = world.try_open(&other).await.unwrap_err();
    let StoreError::Database { source, .. } = &refusal else { panic!("{refusal}") };
    assert!(source.to_string().contains("make room"), "{source}");

    // Someone makes room. The rows are the test's own; nothing in a broker deletes records.
    let records = number_in(&folder, "SELECT COUNT(*) FROM audit WHERE stream = 'admin'").await;
    sql_in(&folder, "DELETE FROM audit WHERE stream = 'admin'".to_owned()).await;
    assert!(records > 0);
    let third = world.root("c");
    world.try_open(&third).await.unwrap();
    assert!(reserve.exists(), "it is taken again before anything is given");
    world.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_find_no_room_even_in_the_reserve_are_counted() {
    let options = Options { reserve_bytes: 4 << 10, max_bytes: Some(SMALL), ..Options::default() };
    let sqlite = Sqlite::with(options).await;
    let folder = sqlite.folder.path().to_owned();
    let mut world = World::new(sqlite);
    world.lost_records = true;
    let mut roots = Vec::new();
    for _ in 0..60 {
        let root = Task { intent: "x".repeat(500), ..world.root("a") };
        world.try_open(&root).await.unwrap();
        roots.push(root);
    }
    // What is written into the tasks finds room in their own pages; the records need new ones.
    sql_in(&folder, "UPDATE tasks SET intent = ''".to_owned()).await;
    fill(&world).await;
    for root in &roots {
        world.end(EndWhich::Task(root.id), EndCause::AnchorGone, at(1)).await;
    }
    let lost = number_in(&folder, "SELECT records FROM audit_lost").await;
    assert!(lost > 0, "the reserve of one page held them all");
    let written =
        world.records(Stream::Lease).await.iter().filter(|record| record["event"] == "task.ended").count();
    assert_eq!(written + usize::try_from(lost).unwrap(), roots.len());

    sql_in(&folder, "DELETE FROM audit WHERE stream = 'admin'".to_owned()).await;
    // The chain of that stream was cut by the test; the store goes on from the head it knows.
    let other = world.open_root("b").await;
    let confession = number_in(
        &folder,
        "SELECT json_extract(CAST(bytes AS TEXT), '$.count') FROM audit
         WHERE json_extract(CAST(bytes AS TEXT), '$.event') = 'audit.records_lost'",
    )
    .await;
    assert_eq!(confession, lost);
    assert_eq!(number_in(&folder, "SELECT records FROM audit_lost").await, 0);
    let lease = world.open_active(&other, "b").await;
    world.store().queue_revocations(vec![lease.id], RevokeCause::Admin, at(2), None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_reserve_the_store_opens_and_gives_nothing() {
    let options = Options { reserve_bytes: 1 << 60, ..Options::default() };
    let mut world = World::new(Sqlite::with(options).await);
    let root = world.root("a");
    assert!(matches!(world.try_open(&root).await, Err(StoreError::Database { .. })));
    world.end(EndWhich::Overdue, EndCause::Deadline, at(1)).await;
}
