//! The revocation queue.

use std::collections::HashSet;

use dayfly_domain::id::LeaseId;
use dayfly_domain::lease::{Handle, Lease, LeaseEvent, LeaseState, Outcome, RevokeCause};
use dayfly_domain::task::EndCause;
use dayfly_domain::time::{Timestamp, Ttl};
use serde_json::json;

use super::World;
use super::world::{T0, at};
use crate::store::{EndWhich, LeaseRow};

const CLAIM: Ttl = Ttl::seconds(30);

async fn claim(w: &World, limit: u32, now: Timestamp) -> Vec<LeaseId> {
    let due = w.store().claim_revocations("vault", limit, CLAIM, now).await.unwrap();
    due.into_iter().map(|due| due.lease.id).collect()
}

/// Leases to take back, in the order they were asked for.
async fn asked_back(w: &mut World, count: u64) -> Vec<Lease> {
    let root = w.open_root("a").await;
    let mut leases = Vec::new();
    for second in 0..count {
        let lease = w.open_active(&root, "a").await;
        w.record(&lease, LeaseEvent::AskRevoke(RevokeCause::Holder), at(second)).await;
        leases.push(lease);
    }
    leases
}

async fn row(w: &World, lease: &Lease) -> LeaseRow {
    w.store().lease(lease.id).await.unwrap().unwrap()
}

pub(crate) async fn two_claims_never_hold_the_same_lease(w: &mut World) {
    let leases = asked_back(w, 60).await;
    let claims = (0..10).map(|_| claim(w, 7, at(60)));
    let claimed: Vec<LeaseId> = futures_util::future::join_all(claims).await.into_iter().flatten().collect();
    let distinct: HashSet<LeaseId> = claimed.iter().copied().collect();
    assert_eq!(claimed.len(), leases.len());
    assert_eq!(distinct.len(), leases.len());
    assert!(claim(w, 7, at(60)).await.is_empty());
}

pub(crate) async fn claims_are_by_provider_oldest_first(w: &mut World) {
    let leases = asked_back(w, 3).await;
    let root = w.open_root("b").await;
    let other = Lease { provider: "aws".to_owned(), ..w.active(&root, "b") };
    w.try_lease(&other, T0).await.unwrap();
    w.end(EndWhich::Task(root.id), EndCause::Explicit, at(1)).await;
    let expected: Vec<LeaseId> = leases.iter().map(|lease| lease.id).collect();
    assert_eq!(claim(w, 2, at(9)).await, expected[..2]);
    assert_eq!(claim(w, 9, at(9)).await, expected[2..]);
    let due = w.store().claim_revocations("aws", 9, CLAIM, at(9)).await.unwrap();
    assert_eq!(due.len(), 1);
    assert_eq!((due[0].lease.id, due[0].attempts), (other.id, 0));
}

pub(crate) async fn a_claim_that_lapsed_can_be_taken_again(w: &mut World) {
    let leases = asked_back(w, 1).await;
    assert_eq!(claim(w, 1, at(10)).await, [leases[0].id]);
    assert!(claim(w, 1, at(39)).await.is_empty());
    assert_eq!(claim(w, 1, at(40)).await, [leases[0].id]);
}

pub(crate) async fn a_failed_revocation_is_tried_again_at_its_time(w: &mut World) {
    let leases = asked_back(w, 1).await;
    for (attempt, now) in [(0, 10), (1, 20), (2, 30)] {
        let due = w.store().claim_revocations("vault", 1, CLAIM, at(now)).await.unwrap();
        assert_eq!(due[0].attempts, attempt);
        let error = format!("503, time {attempt}");
        w.store().postpone_revocation(leases[0].id, at(now + 10), error.clone()).await.unwrap();
        assert!(claim(w, 1, at(now + 9)).await.is_empty());
        let row = row(w, &leases[0]).await;
        assert_eq!((row.attempts, row.last_error), (attempt + 1, error));
    }
    // The target took the word; that settles nothing.
    assert_eq!(claim(w, 1, at(40)).await, [leases[0].id]);
    w.record(&leases[0], LeaseEvent::Apply, at(41)).await;
    assert!(claim(w, 1, at(42)).await.is_empty(), "it is still claimed");
    w.store().postpone_revocation(leases[0].id, at(50), String::new()).await.unwrap();
    assert_eq!(claim(w, 1, at(50)).await, [leases[0].id]);
    let evidence = "lookup-accessor: 403".to_owned();
    let over = w.record(&leases[0], LeaseEvent::Verify { evidence: evidence.clone() }, at(51)).await;
    assert_eq!(over.state, LeaseState::Ended { at: at(51), outcome: Outcome::Verified { evidence } });
    w.store().postpone_revocation(leases[0].id, at(52), "late".to_owned()).await.unwrap();
    assert!(claim(w, 1, at(99_999)).await.is_empty());
}

pub(crate) async fn what_cannot_be_taken_back_is_not_claimed_and_runs_out(w: &mut World) {
    let leases = asked_back(w, 2).await;
    assert_eq!(claim(w, 1, at(10)).await, [leases[0].id]);
    let declared = w.record(&leases[0], LeaseEvent::CannotRevoke, at(11)).await;
    assert!(matches!(declared.state, LeaseState::Revoking { runs_out_at: Some(end), .. } if end == at(600)));
    assert_eq!(claim(w, 9, at(500)).await, [leases[1].id]);
    assert_eq!(w.store().sweep_leases(at(599), 100).await.unwrap(), 0);
    assert_eq!(w.store().sweep_leases(at(600), 1).await.unwrap(), 1);
    assert_eq!(w.store().sweep_leases(at(600), 9).await.unwrap(), 1);
    assert_eq!(w.store().sweep_leases(at(600), 9).await.unwrap(), 0);
    for lease in &leases {
        let ran_out = LeaseState::Ended { at: at(600), outcome: Outcome::RanOut };
        assert_eq!(w.lease_state(lease).await, ran_out);
    }
}

pub(crate) async fn lost_answers_are_given_up(w: &mut World) {
    let root = w.open_root("a").await;
    let lost = w.open_pending(&root, "a").await;
    let waiting = Lease {
        state: LeaseState::Pending { since: at(20), residue_until: at(80) },
        ..w.pending(&root, "a")
    };
    w.try_lease(&waiting, T0).await.unwrap();
    let active = w.open_active(&root, "a").await;
    assert_eq!(w.store().sweep_pending(at(20), at(30)).await.unwrap(), 1);
    assert_eq!(w.store().sweep_pending(at(20), at(30)).await.unwrap(), 0);
    let state = w.lease_state(&lost).await;
    assert!(
        matches!(state, LeaseState::Revoking { cause: RevokeCause::Undelivered, handle: None, .. }),
        "{state:?}"
    );
    for lease in [&waiting, &active] {
        assert_eq!(w.lease_state(lease).await, lease.state);
    }
    assert_eq!(w.store().sweep_leases(at(60), 9).await.unwrap(), 1);
    assert_eq!(w.lease_state(&lost).await, LeaseState::Ended { at: at(60), outcome: Outcome::RanOut });
}

pub(crate) async fn single_leases_are_taken_back(w: &mut World) {
    let root = w.open_root("a").await;
    let (one, two, stays) =
        (w.open_active(&root, "a").await, w.open_pending(&root, "a").await, w.open_active(&root, "a").await);
    let unknown = w.active(&root, "a");
    let asked = vec![one.id, two.id, unknown.id];
    let queue = |leases: Vec<LeaseId>| w.store().queue_revocations(leases, RevokeCause::Admin, at(1), None);
    assert_eq!(queue(asked.clone()).await.unwrap(), [one.id, two.id]);
    assert_eq!(queue(asked).await.unwrap(), []);
    assert_eq!(claim(w, 9, at(1)).await, [one.id]);
    assert_eq!(w.lease_state(&stays).await, stays.state);
    assert!(w.task_state(&root).await.is_open(at(1)));
}

pub(crate) async fn a_handle_is_amended_where_there_is_one(w: &mut World) {
    let root = w.open_root("a").await;
    let (active, pending) = (w.open_active(&root, "a").await, w.open_pending(&root, "a").await);
    let amended = Handle(json!({"accessor": "x", "leases": ["pki/issue/1"]}));
    for lease in [&active, &pending] {
        w.store().amend_handle(lease.id, amended.clone()).await.unwrap();
    }
    assert_eq!(w.lease_state(&pending).await, pending.state);
    let expected = LeaseState::Active { expires_at: at(600), handle: amended.clone() };
    assert_eq!(w.lease_state(&active).await, expected);
    w.end(EndWhich::Task(root.id), EndCause::Explicit, at(1)).await;
    let due = w.store().claim_revocations("vault", 9, CLAIM, at(1)).await.unwrap();
    assert!(
        matches!(&due[0].lease.state, LeaseState::Revoking { handle: Some(found), .. } if *found == amended)
    );
}
