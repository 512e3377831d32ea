//! Whatever happens at once, nothing lives under what is over.

use dayfly_domain::audit::{Record, Stream};
use dayfly_domain::id::{RequestId, TaskId};
use dayfly_domain::lease::{Lease, LeaseEvent, LeaseState};
use dayfly_domain::stage::Stage;
use dayfly_domain::task::{EndCause, Task};
use dayfly_domain::time::Ttl;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::World;
use super::world::{NO_LIMITS, T0, at, handle, identity};
use crate::store::{EndWhich, NewLease, Store, StoreError, TaskClaim};

/// One thing that is done while others are done.
enum Act {
    OpenTask(Task),
    ClaimTask(TaskClaim),
    OpenLease(Lease),
    Answer(Lease),
    End(EndWhich),
    ClaimRevocations,
}

pub(crate) async fn no_interleaving_leaves_anything_alive_under_an_ended_task(w: &mut World) {
    const SEED: u64 = 0x0da7_f170;
    let mut dice = StdRng::seed_from_u64(SEED);
    let mut tasks = Vec::new();
    let mut leases = Vec::new();
    for _ in 0..40 {
        for _ in 0..2 {
            tasks.push(w.open_root("a").await);
        }
        let mut acts = Vec::new();
        for _ in 0..24 {
            let task: Task = tasks[dice.random_range(0..tasks.len())].clone();
            let offers: Vec<&Task> = tasks.iter().filter(|task| task.offer.is_some()).collect();
            acts.push(match dice.random_range(0..26) {
                20.. if !offers.is_empty() => {
                    let offer = offers[dice.random_range(0..offers.len())];
                    // Wanted several times, and by whom it is not for.
                    Act::ClaimTask(w.claim(offer, ["b", "b", "c"][dice.random_range(0..3)], T0))
                }
                0..6 => {
                    let child = match dice.random_range(0..2) {
                        0 => w.offer(&task, "b"),
                        _ => w.child(&task, ["a", "b", "c"][dice.random_range(0..3)]),
                    };
                    // Known at once, so that others go under it while it is being opened.
                    tasks.push(child.clone());
                    Act::OpenTask(child)
                }
                6..11 => Act::OpenLease(w.active(&task, "a")),
                11..15 => {
                    let lease = w.pending(&task, "a");
                    leases.push(lease.clone());
                    Act::OpenLease(lease)
                }
                15..19 if !leases.is_empty() => {
                    Act::Answer(leases[dice.random_range(0..leases.len())].clone())
                }
                19 => Act::End(match dice.random_range(0..8) {
                    0 => EndWhich::Session(task.session),
                    1 => EndWhich::Identity(identity("c")),
                    _ => EndWhich::Task(task.id),
                }),
                _ => Act::ClaimRevocations,
            });
        }
        let decisions: Vec<_> = acts.into_iter().map(|act| prepare(w, act)).collect();
        let store = w.store();
        futures_util::future::join_all(decisions.into_iter().map(|act| run(store, act))).await;
        w.check().await;
        let open: Vec<TaskId> = w
            .all_tasks()
            .await
            .into_iter()
            .filter(|task| task.state.is_open(T0))
            .map(|task| task.id)
            .collect();
        // Some that are over are kept, to be tried again.
        let mut kept = 0;
        tasks.retain(|task| {
            let is_open = open.contains(&task.id);
            kept += usize::from(!is_open);
            is_open || kept < 4
        });
        tasks.truncate(24);
    }
    let leases = w.all_leases().await;
    let held = leases.iter().filter(|lease| matches!(lease.state, LeaseState::Active { .. })).count();
    assert!(leases.len() > 100 && held > 10 && held < leases.len(), "the test did something: {held} held");
    let tasks = w.all_tasks().await;
    // Who claims fills another stage than who opens.
    let claimed = tasks.iter().filter(|task| task.stage == Stage::Tool).count();
    let waiting = tasks.iter().filter(|task| task.offer.is_some()).count();
    assert!(
        claimed > 10 && waiting > 10,
        "the test did something: {claimed} of {} offers were claimed",
        claimed + waiting
    );
    w.reopen().await;
}

type Prepared = (Act, RequestId, Option<NewLease>);

fn prepare(w: &mut World, act: Act) -> Prepared {
    let new = match &act {
        Act::OpenLease(lease) => Some(w.new_lease(lease, NO_LIMITS)),
        _ => None,
    };
    (act, w.request(), new)
}

async fn run(store: &dyn Store, (act, request, new): Prepared) {
    let done = match act {
        Act::OpenTask(task) => {
            let decision = Record::new(Stream::Decision, "decision.allow", T0).with("task_id", task.id);
            store.open_task(task, decision, request).await
        }
        Act::OpenLease(_) => store.open_lease(new.expect("prepared for each of them"), T0).await,
        Act::Answer(lease) => {
            let handle = handle(&lease.id.to_string());
            let answer = LeaseEvent::Issue { expires_at: at(600), handle };
            store.record_lease(lease.id, answer, at(1), Some(request)).await.map(|_| ())
        }
        Act::End(which) => store.end(which, EndCause::Admin, at(1), Some(request)).await.map(|_| ()),
        Act::ClaimTask(claim) => {
            let decision = Record::new(Stream::Decision, "decision.allow", T0).with("task_id", claim.task);
            store.claim_task(claim, decision, request).await.map(|_| ())
        }
        Act::ClaimRevocations => {
            store.claim_revocations("vault", 5, Ttl::seconds(1), at(1)).await.map(|_| ())
        }
    };
    match done {
        Ok(()) | Err(StoreError::TaskNotOpen | StoreError::Unknown("lease") | StoreError::Illegal(_)) => {}
        Err(other) => panic!("{other}"),
    }
}
