//! Asking again under a key leaves one credential, and keys end with their task.

use dayfly_domain::audit::Stream;
use dayfly_domain::idempotency::IssueKey;
use dayfly_domain::lease::{Lease, LeaseEvent, LeaseState, RevokeCause};
use dayfly_domain::task::{EndCause, Task};

use super::World;
use super::world::{NO_LIMITS, T0, at};
use crate::store::{EndWhich, LeaseLimits, NewLease, StoreError};

const KEY: IssueKey = IssueKey { id: [1; 32], request: [2; 32] };

fn keyed(w: &mut World, lease: &Lease, limits: LeaseLimits) -> NewLease {
    NewLease { key: Some(KEY), ..w.new_lease(lease, limits) }
}

async fn open_under_key(w: &mut World, task: &Task) -> Lease {
    let lease = w.active(task, "a");
    let new = keyed(w, &lease, NO_LIMITS);
    w.store().open_lease(new, T0).await.unwrap();
    lease
}

fn is_undelivered(state: &LeaseState) -> bool {
    matches!(state, LeaseState::Revoking { cause: RevokeCause::Undelivered, handle: Some(_), .. })
}

pub(crate) async fn who_asks_again_gets_another_in_the_place_of_the_first(w: &mut World) {
    let root = w.open_root("a").await;
    let first = open_under_key(w, &root).await;
    w.reopen().await;
    // The first still counts until its target has let it go; what takes its place may stand beside it.
    let full = LeaseLimits { per_identity: 1, ..NO_LIMITS };
    let second = w.active(&root, "a");
    let new = keyed(w, &second, full);
    w.store().open_lease(new, at(1)).await.unwrap();
    assert!(is_undelivered(&w.lease_state(&first).await));
    let stored = w.store().lease(second.id).await.unwrap().unwrap().lease;
    assert_eq!(stored, Lease { renews: Some(first.id), ..second.clone() });
    let decisions = w.records(Stream::Decision).await;
    assert_eq!(decisions.last().unwrap()["replaces"], serde_json::json!([first.id]));

    // A renewal stands in the place of what it renews.
    let renewal = Lease { renews: Some(second.id), ..w.active(&root, "a") };
    w.try_lease(&renewal, at(2)).await.unwrap();
    let third = open_under_key(w, &root).await;
    assert!(is_undelivered(&w.lease_state(&second).await) && is_undelivered(&w.lease_state(&renewal).await));
    assert_eq!(w.lease_state(&third).await, third.state);
    let late = Lease { renews: Some(second.id), ..w.active(&root, "a") };
    let refused = w.try_lease(&late, at(3)).await;
    assert!(
        matches!(refused, Err(StoreError::Illegal(_))),
        "what is on its way back is not renewed: {refused:?}"
    );
}

pub(crate) async fn a_key_in_flight_waits_and_another_request_under_it_is_refused(w: &mut World) {
    let root = w.open_root("a").await;
    let pending = w.pending(&root, "a");
    let new = keyed(w, &pending, NO_LIMITS);
    w.store().open_lease(new.clone(), T0).await.unwrap();
    let again = w.active(&root, "a");
    let again = keyed(w, &again, NO_LIMITS);
    assert!(matches!(w.store().open_lease(again.clone(), at(1)).await, Err(StoreError::KeyInFlight)));
    let other = NewLease { key: Some(IssueKey { request: [3; 32], ..KEY }), ..again.clone() };
    assert!(matches!(w.store().open_lease(other, at(1)).await, Err(StoreError::KeyReused)));
    let answer = w.answer(&pending);
    w.record(&pending, answer, at(2)).await;
    w.store().open_lease(again, at(3)).await.unwrap();
    assert!(is_undelivered(&w.lease_state(&pending).await));

    // What was refused leaves the key free.
    let next = w.open_root("b").await;
    let refused = w.pending(&next, "b");
    let other_key = IssueKey { id: [9; 32], ..KEY };
    let new = NewLease { key: Some(other_key.clone()), ..w.new_lease(&refused, NO_LIMITS) };
    w.store().open_lease(new, T0).await.unwrap();
    w.record(&refused, LeaseEvent::Refuse, at(1)).await;
    let lease = w.active(&next, "b");
    let new = NewLease { key: Some(other_key), ..w.new_lease(&lease, NO_LIMITS) };
    w.store().open_lease(new, at(2)).await.unwrap();
    assert_eq!(w.store().lease(lease.id).await.unwrap().unwrap().lease.renews, None);
}

pub(crate) async fn keys_are_forgotten_with_their_task(w: &mut World) {
    let (root, other) = (w.open_root("a").await, w.open_root("b").await);
    open_under_key(w, &root).await;
    assert_eq!(w.store().sweep_issue_keys(10).await.unwrap(), 0, "its task is open");
    w.end(EndWhich::Task(root.id), EndCause::Explicit, at(1)).await;
    assert_eq!(w.store().sweep_issue_keys(10).await.unwrap(), 1);
    let anew = w.active(&other, "b");
    let new = NewLease { key: Some(IssueKey { request: [3; 32], ..KEY }), ..w.new_lease(&anew, NO_LIMITS) };
    w.store().open_lease(new, at(2)).await.expect("nothing is known of it");
}

pub(crate) async fn of_many_at_once_under_one_key_one_lives(w: &mut World) {
    let root = w.open_root("a").await;
    let mut asked = Vec::new();
    for _ in 0..16 {
        let lease = w.active(&root, "a");
        asked.push(keyed(w, &lease, NO_LIMITS));
    }
    let store = w.store();
    let answers =
        futures_util::future::join_all(asked.into_iter().map(|new| store.open_lease(new, T0))).await;
    let mut given = 0;
    for answer in answers {
        match answer {
            Ok(()) => given += 1,
            Err(StoreError::KeyInFlight) => {}
            Err(other) => panic!("{other}"),
        }
    }
    let leases = w.all_leases().await;
    let live = leases.iter().filter(|lease| matches!(lease.state, LeaseState::Active { .. })).count();
    assert_eq!((live, leases.len()), (1, given));
}
