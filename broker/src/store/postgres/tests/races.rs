//! Ends at one broker while another adds to the same trees.

use dayfly_domain::audit::{Record, Stream, Verifier};
use dayfly_domain::id::{RequestId, TaskId};
use dayfly_domain::idempotency::IssueKey;
use dayfly_domain::lease::{Lease, LeaseState};
use dayfly_domain::task::{EndCause, Task, TaskState};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{Database, Shared};
use crate::store::contract::World;
use crate::store::contract::world::{T0, at, identity};
use crate::store::{EndWhich, NewLease, Store, StoreError};

/// One thing that is done while others are done.
enum Act {
    Open(Task, RequestId),
    Give(NewLease),
    Answer(Lease),
    End(EndWhich),
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_brokers_that_issue_under_one_key_one_credential_is_left() {
    const ROUNDS: u8 = 20;
    let database = Database::new().await;
    let (first, second) = (database.open("broker-1").await, database.open("broker-2").await);
    let mut world = World::new(Shared { store: first, database });
    let root = world.open_root("a").await;
    let (mut given, mut live) = (0, 0);
    for round in 0..ROUNDS {
        let key = IssueKey { id: [round; 32], request: [7; 32] };
        let mut asked = Vec::new();
        for turn in 0..6 {
            let lease = world.active(&root, "a");
            let new = world.new_lease(&lease, crate::store::contract::world::NO_LIMITS);
            asked.push((turn, NewLease { key: Some(key.clone()), ..new }));
        }
        let answers = asked.into_iter().map(|(turn, new)| {
            let store: &dyn Store = if turn % 2 == 0 { &second } else { world.store() };
            store.open_lease(new, T0)
        });
        for answer in futures_util::future::join_all(answers.collect::<Vec<_>>()).await {
            match answer {
                Ok(()) => given += 1,
                Err(StoreError::KeyInFlight) => {}
                Err(other) => panic!("{other}"),
            }
        }
        let leases = world.all_leases().await;
        live = leases.iter().filter(|lease| matches!(lease.state, LeaseState::Active { .. })).count();
        assert_eq!(live, usize::from(round) + 1, "one of each key");
    }
    assert!(given >= live, "{given} were given");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_one_broker_adds_survives_an_end_by_the_other() {
    const SEED: u64 = 0x0da7_f171;
    const ROUNDS: usize = 60;
    const ACTS: usize = 40;
    let database = Database::new().await;
    let (first, second) = (database.open("broker-1").await, database.open("broker-2").await);
    let mut world = World::new(Shared { store: first, database });
    let mut dice = StdRng::seed_from_u64(SEED);
    let (mut done, mut given) = (0, 0);
    for _ in 0..ROUNDS {
        let mut tasks = Vec::new();
        for owner in ["a", "b", "c"] {
            let root = world.open_root(owner).await;
            tasks.push(world.open_child(&root, "a").await);
            tasks.push(root);
        }
        let pending = world.open_pending(&tasks[0], "a").await;
        let mut acts = vec![Act::Answer(pending)];
        for _ in 0..ACTS {
            let task = tasks[dice.random_range(0..tasks.len())].clone();
            acts.push(match dice.random_range(0..10) {
                0..4 => Act::Open(world.child(&task, "b"), world.request()),
                4..8 => {
                    let lease = world.active(&task, "b");
                    Act::Give(world.new_lease(&lease, crate::store::contract::world::NO_LIMITS))
                }
                8 => Act::End(EndWhich::Task(task.id)),
                _ => Act::End(
                    [EndWhich::Identity(identity("c")), EndWhich::Session(task.session)]
                        [dice.random_range(0..2)]
                    .clone(),
                ),
            });
        }
        let acted = acts.into_iter().map(|act| {
            let store: &dyn Store = if dice.random_range(0..2) == 0 { world.store() } else { &second };
            run(store, act)
        });
        let outcomes = futures_util::future::join_all(acted.collect::<Vec<_>>()).await;
        done += outcomes.len();
        given += outcomes.iter().filter(|given| **given).count();
        world.end(EndWhich::Session(tasks[1].session), EndCause::Explicit, at(1)).await;
        no_survivor(&world).await;
    }
    assert!(given > done / 10, "the test did something: {given} of {done} were given");
    chains_hold(&second).await;
    chains_hold(world.store()).await;
}

async fn run(store: &dyn Store, act: Act) -> bool {
    let outcome = match act {
        Act::Open(task, request) => {
            let decision = Record::new(Stream::Decision, "decision.allow", T0).with("task_id", task.id);
            store.open_task(task, decision, request).await
        }
        Act::Give(new) => store.open_lease(new, T0).await,
        Act::Answer(lease) => {
            let event = dayfly_domain::lease::LeaseEvent::Issue {
                expires_at: at(600),
                handle: crate::store::contract::world::handle("late"),
            };
            store.record_lease(lease.id, event, at(1), None).await.map(|_| ())
        }
        Act::End(which) => {
            store.end(which, EndCause::Admin, at(1), None).await.unwrap();
            return false;
        }
    };
    match outcome {
        Ok(()) => true,
        Err(StoreError::TaskNotOpen) => false,
        Err(other) => panic!("{other:?}"),
    }
}

async fn no_survivor(world: &World) {
    let tasks = world.all_tasks().await;
    let is_open = |task: &Task| matches!(task.state, TaskState::Open { .. });
    let open: std::collections::HashSet<TaskId> =
        tasks.iter().filter(|task| is_open(task)).map(|task| task.id).collect();
    for task in tasks.iter().filter(|task| is_open(task)) {
        assert!(task.parent.is_none_or(|parent| open.contains(&parent)), "{task:?} survived");
    }
    for lease in world.all_leases().await {
        let lives = matches!(lease.state, LeaseState::Pending { .. } | LeaseState::Active { .. });
        assert!(!lives || open.contains(&lease.task), "{lease:?} survived");
    }
}

async fn chains_hold(store: &dyn Store) {
    for stream in Stream::ALL {
        let mut verifier = Verifier::default();
        for row in store.audit(stream, 1, u32::MAX).await.unwrap() {
            verifier.take(row.seq, &row.prev_hash, &row.hash, &row.bytes).unwrap();
        }
    }
}
