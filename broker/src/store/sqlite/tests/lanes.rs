//! Who waits for whom.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use dayfly_domain::audit::Record;
use dayfly_domain::lease::RevokeCause;
use dayfly_domain::task::EndCause;

use super::*;
use crate::store::EndWhich;
use crate::store::contract::World;
use crate::store::contract::world::{T0, at};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_whose_caller_hung_up_is_done_all_the_same() {
    let sqlite = Sqlite::start().await;
    let mut world = World::new(sqlite);
    let root = world.open_root("a").await;
    let store = world.store();
    let mut ending = store.end(EndWhich::Task(root.id), EndCause::Explicit, at(1), None);
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_takes_away_is_not_starved_by_what_gives_nor_the_other_way_round() {
    let store = Arc::new(Sqlite::start().await);
    let stop = Arc::new(AtomicBool::new(false));
    let (given, taken) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let mut crowd = Vec::new();
    for _ in 0..600 {
        let (store, stop, given) = (store.clone(), stop.clone(), given.clone());
        crowd.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let note = Record::new(Stream::Admin, "noted", T0).with("text", "x".repeat(200));
                store.store.write_records(vec![note]).await.unwrap();
                given.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    for _ in 0..300 {
        let (store, stop, taken) = (store.clone(), stop.clone(), taken.clone());
        crowd.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                store.store.end(EndWhich::Overdue, EndCause::Deadline, T0, None).await.unwrap();
                taken.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    let mut slowest = Duration::ZERO;
    for _ in 0..20 {
        let begun = Instant::now();
        store.store.queue_revocations(Vec::new(), RevokeCause::Admin, T0, None).await.unwrap();
        slowest = slowest.max(begun.elapsed());
    }
    let (given, taken) = (given.load(Ordering::Relaxed), taken.load(Ordering::Relaxed));
    stop.store(true, Ordering::Relaxed);
    for one in crowd {
        one.await.unwrap();
    }
    assert!(given > 0, "nothing was given while {taken} ends were done");
    assert!(taken > 0, "nothing ended while {given} grants were done");
    // A kill waits for the batch that is being committed and goes first in the next one; twenty times the queue ahead
    // of it would take far longer.
    assert!(slowest < Duration::from_secs(5), "a kill waited {slowest:?}");
}
