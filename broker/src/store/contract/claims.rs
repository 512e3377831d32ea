//! Tasks that wait for the workload they were opened for.

use dayfly_domain::audit::Stream;
use dayfly_domain::lease::LeaseState;
use dayfly_domain::task::{EndCause, Offer, Task, TaskState};

use super::World;
use super::world::{T0, at, identity, session};
use crate::store::{EndWhich, Ended, StoreError, TaskClaim};

async fn is_refused(w: &mut World, claim: TaskClaim) -> bool {
    match w.try_claim(claim).await {
        Err(StoreError::TaskNotOpen) => true,
        Err(other) => panic!("{other}"),
        Ok(_) => false,
    }
}

pub(crate) async fn a_claimed_task_is_the_claimants_until_the_offered_deadline(w: &mut World) {
    let root = w.open_root("a").await;
    let offer = w.open_offer(&root, "b").await;
    assert_eq!(w.store().lineage(offer.id).await.unwrap(), [root.clone(), offer.clone()]);
    let claim = TaskClaim { key_hash: Some([7; 32]), node: None, ..w.claim(&offer, "b", at(10)) };
    let claimed = w.try_claim(claim.clone()).await.unwrap();
    let expected = Task {
        stage: claim.stage,
        anchor: claim.anchor,
        key_hash: claim.key_hash,
        offer: None,
        state: TaskState::Open { deadline: at(600) },
        ..offer.clone()
    };
    assert_eq!(claimed, expected);
    assert_eq!(w.store().lineage(offer.id).await.unwrap(), [root.clone(), expected.clone()]);
    // What claimed it found an offer; until when that waited is no longer known.
    let found = Task { stage: expected.stage, state: expected.state, ..offer.clone() };
    assert_eq!(w.store().lineage_at(offer.id, at(10)).await.unwrap(), [root.clone(), found]);
    assert_eq!(w.store().lineage_at(offer.id, at(11)).await.unwrap(), [root.clone(), expected]);
    let late = w.active(&claimed, "b");
    w.try_lease(&late, at(599)).await.unwrap();
    // A claimant's own limit may come before what was offered.
    let other = w.open_offer(&root, "b").await;
    let claim = TaskClaim { latest_deadline: at(60), ..w.claim(&other, "b", at(10)) };
    assert_eq!(w.try_claim(claim).await.unwrap().state, TaskState::Open { deadline: at(60) });
    let late = w.active(&other, "b");
    assert!(matches!(w.try_lease(&late, at(60)).await, Err(StoreError::TaskNotOpen)));
}

pub(crate) async fn only_the_named_workload_claims_and_only_once(w: &mut World) {
    let root = w.open_root("a").await;
    let offer = w.open_offer(&root, "b").await;
    let ordinary = w.open_child(&root, "b").await;
    let never_opened = w.offer(&root, "b");
    let records = w.chain(Stream::Lease).await;
    for (task, claimant) in
        [(&offer, "a"), (&offer, "c"), (&ordinary, "b"), (&root, "a"), (&never_opened, "b")]
    {
        let claim = w.claim(task, claimant, at(1));
        assert!(is_refused(w, claim).await, "{claimant} claimed {task:?}");
    }
    assert_eq!(w.chain(Stream::Lease).await, records);
    assert_eq!(w.store().lineage(offer.id).await.unwrap().pop(), Some(offer.clone()));
    let claim = w.claim(&offer, "b", at(1));
    let first = w.try_claim(claim.clone()).await.unwrap();
    assert!(is_refused(w, claim).await);
    assert_eq!(w.store().lineage(offer.id).await.unwrap().pop(), Some(first));
}

pub(crate) async fn an_offer_lapses_with_its_own_end_and_with_any_deadline_above(w: &mut World) {
    let root = Task { state: TaskState::Open { deadline: at(20) }, ..w.root("a") };
    w.try_open(&root).await.unwrap();
    let middle = w.open_child(&root, "a").await;
    let under_both = w.open_offer(&middle, "b").await;
    // Nobody has ended the root yet.
    let claim = w.claim(&under_both, "b", at(20));
    assert!(is_refused(w, claim).await);
    let claim = w.claim(&under_both, "b", at(19));
    let claimed = w.try_claim(claim).await.unwrap();
    let late = w.active(&claimed, "b");
    assert!(matches!(w.try_lease(&late, at(20)).await, Err(StoreError::TaskNotOpen)));

    let longer = w.open_root("a").await;
    let unclaimed = w.open_offer(&longer, "b").await;
    let claim = w.claim(&unclaimed, "b", at(30));
    assert!(is_refused(w, claim).await);
    let ended = w.end(EndWhich::Overdue, EndCause::Deadline, at(30)).await;
    assert!(ended.tasks.contains(&(unclaimed.id, None)), "nobody claimed it: {ended:?}");
    let over = w.open_offer(&longer, "b").await;
    w.end(EndWhich::Task(longer.id), EndCause::Explicit, at(2)).await;
    let claim = w.claim(&over, "b", at(3));
    assert!(is_refused(w, claim).await);
}

pub(crate) async fn nothing_is_opened_under_an_offer(w: &mut World) {
    let root = w.open_root("a").await;
    let offer = w.open_offer(&root, "b").await;
    for lease in [w.active(&offer, "b"), w.pending(&offer, "b")] {
        assert!(matches!(w.try_lease(&lease, T0).await, Err(StoreError::TaskNotOpen)));
    }
    for child in [w.child(&offer, "b"), w.offer(&offer, "c")] {
        assert!(matches!(w.try_open(&child).await, Err(StoreError::TaskNotOpen)));
    }
    let claim = w.claim(&offer, "b", at(1));
    w.try_claim(claim).await.unwrap();
    w.open_active(&offer, "b").await;
    w.open_child(&offer, "b").await;
}

pub(crate) async fn what_is_under_a_claimed_task_ends_with_the_task_above(w: &mut World) {
    let root = w.open_root("a").await;
    let offer = w.open_offer(&root, "b").await;
    let claim = w.claim(&offer, "b", at(1));
    w.try_claim(claim).await.unwrap();
    let lease = w.open_active(&offer, "b").await;
    let waiting = w.open_offer(&root, "c").await;
    let ended = w.end(EndWhich::Session(session(&root)), EndCause::AnchorGone, at(2)).await;
    let told = [(root.id, root.node.clone()), (offer.id, Some(identity("node/2"))), (waiting.id, None)];
    assert_eq!(ended, Ended { tasks: told.to_vec(), leases: vec![lease.id], elsewhere: Vec::new() });
    assert!(matches!(w.lease_state(&lease).await, LeaseState::Revoking { .. }));
    let cause = EndCause::ParentEnded;
    assert_eq!(w.task_state(&waiting).await, TaskState::Ended { at: at(2), cause });
    let claim = w.claim(&waiting, "c", at(3));
    assert!(is_refused(w, claim).await);
}

pub(crate) async fn an_inventory_judges_a_claimed_task_from_its_claim_on(w: &mut World) {
    let root = w.open_root("a").await;
    let (claimed, waiting) = (w.open_offer(&root, "b").await, w.open_offer(&root, "b").await);
    let claim = w.claim(&claimed, "b", at(20));
    w.try_claim(claim).await.unwrap();
    let missing = |node: &str, seconds| EndWhich::NodeExcept {
        node: identity(node),
        inventory: vec![root.id],
        opened_before: at(seconds),
    };
    // It was opened long before, but came to the node only now.
    for which in [missing("node/2", 20), missing("node/1", 60)] {
        assert_eq!(w.end(which, EndCause::MissingFromInventory, at(21)).await, Ended::default());
    }
    let ended = w.end(missing("node/2", 21), EndCause::MissingFromInventory, at(22)).await;
    assert_eq!(ended.tasks, [(claimed.id, Some(identity("node/2")))]);
    assert!(w.task_state(&waiting).await.is_open(at(22)), "an offer is on no node");
}

pub(crate) async fn of_many_claims_at_once_one_wins(w: &mut World) {
    let root = w.open_root("a").await;
    for _ in 0..20 {
        let offer = w.offer(&root, "b");
        let offer = Task { offer: Some(Offer { deadline: at(900) }), ..offer };
        w.try_open(&offer).await.unwrap();
        let mut claims = Vec::new();
        for node in 0..8 {
            let node = Some(identity(&format!("node/{node}")));
            claims.push((TaskClaim { node, ..w.claim(&offer, "b", at(1)) }, w.request()));
        }
        let store = w.store();
        let tries = claims.iter().map(|(claim, request)| {
            let decision = dayfly_domain::audit::Record::new(Stream::Decision, "decision.allow", at(1));
            store.claim_task(claim.clone(), decision.with("task_id", offer.id), *request)
        });
        let mut won = Vec::new();
        for ((claim, _), outcome) in claims.iter().zip(futures_util::future::join_all(tries).await) {
            match outcome {
                Ok(task) => won.push((claim.node.clone(), task)),
                Err(StoreError::TaskNotOpen) => {}
                Err(other) => panic!("{other}"),
            }
        }
        let [(node, task)] = won.as_slice() else { panic!("{} claims won", won.len()) };
        assert_eq!(task.node, *node);
        assert_eq!(w.store().lineage(offer.id).await.unwrap().last(), Some(task));
    }
}
