//! The revocation queue as it is shown, its order, and what needs no target.

use dayfly_domain::lease::{Lease, LeaseEvent, LeaseState, Outcome, RevokeCause, Urgency};
use dayfly_domain::scope::Revocability;
use dayfly_domain::task::EndCause;
use dayfly_domain::time::Ttl;

use super::World;
use super::world::{T0, at};
use crate::store::EndWhich;
use crate::store::queue::{QueueDepth, QueueFilter};

const ALL: QueueFilter = QueueFilter { provider: None, failed_at_least: 0, limit: 100 };

pub(crate) async fn what_an_admin_takes_goes_first_and_what_ran_out_last(w: &mut World) {
    let late = w.open_root("a").await;
    let (expiry, end, kill) =
        (w.open_active(&late, "a").await, w.open_active(&late, "a").await, w.open_active(&late, "a").await);
    w.record(&expiry, LeaseEvent::AskRevoke(RevokeCause::Renewal), at(1)).await;
    w.record(&end, LeaseEvent::AskRevoke(RevokeCause::Holder), at(2)).await;
    w.record(&kill, LeaseEvent::AskRevoke(RevokeCause::Admin), at(3)).await;
    let listed = w.store().queued(ALL).await.unwrap();
    let told: Vec<_> = listed.iter().map(|row| (row.row.lease.id, row.urgency)).collect();
    assert_eq!(told, [(kill.id, Urgency::Kill), (end.id, Urgency::End), (expiry.id, Urgency::Expiry)]);
    let mut claimed = Vec::new();
    for _ in 0..3 {
        let due = w.store().claim_revocations("vault", 1, Ttl::seconds(30), at(4)).await.unwrap();
        claimed.extend(due.into_iter().map(|due| due.lease.id));
    }
    assert_eq!(claimed, [kill.id, end.id, expiry.id]);
}

pub(crate) async fn the_queue_tells_what_is_stuck_and_is_tried_again_at_a_word(w: &mut World) {
    let root = w.open_root("a").await;
    let (stuck, fresh) = (w.open_active(&root, "a").await, w.open_active(&root, "a").await);
    w.end(EndWhich::Task(root.id), EndCause::Explicit, at(1)).await;
    for _ in 0..3 {
        w.store().postpone_revocation(stuck.id, at(1_000), "503".into()).await.unwrap();
    }
    let filter = QueueFilter { provider: Some("vault".into()), failed_at_least: 3, limit: 9 };
    let listed = w.store().queued(filter).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (listed[0].row.lease.id, listed[0].row.attempts, listed[0].next_at),
        (stuck.id, 3, Some(at(1_000)))
    );
    assert_eq!(listed[0].row.last_error, "503");
    let depths = w.store().queue_depths(3).await.unwrap();
    assert_eq!(depths, [QueueDepth { provider: "vault".into(), queued: 2, stuck: 1, oldest: at(1) }]);
    // The target took the word, though nothing is proven: it is looked at again, and is not stuck.
    w.store().postpone_revocation(fresh.id, at(3), String::new()).await.unwrap();
    assert_eq!(w.store().queue_depths(1).await.unwrap()[0].stuck, 1);
    w.store().postpone_revocation(stuck.id, at(1_000), String::new()).await.unwrap();
    assert_eq!(w.store().queue_depths(1).await.unwrap()[0].stuck, 0);
    assert_eq!(w.store().retry_now(Some("aws"), at(2)).await.unwrap(), 0);
    assert_eq!(w.store().retry_now(None, at(2)).await.unwrap(), 2);
    let due = w.store().claim_revocations("vault", 9, Ttl::seconds(30), at(2)).await.unwrap();
    assert_eq!(due.len(), 2);
    assert!(due.iter().any(|due| due.lease.id == fresh.id));
}

pub(crate) async fn what_the_lease_alone_settles_is_verified_in_parts(w: &mut World) {
    let root = w.open_root("a").await;
    let mut leases = Vec::new();
    for _ in 0..5 {
        leases.push(w.open_active(&root, "a").await);
    }
    let offline = w.active(&root, "a");
    let promise =
        dayfly_domain::scope::Promise { revocability: Revocability::ExpiryOnly, ..offline.promise.clone() };
    let offline = Lease { promise, ..offline };
    w.try_lease(&offline, T0).await.unwrap();
    w.end(EndWhich::Task(root.id), EndCause::Explicit, at(1)).await;
    let settle = async |limit| w.store().verify_local("vault", "by the row", limit, at(2)).await.unwrap();
    assert_eq!((settle(3).await, settle(3).await, settle(3).await), (3, 2, 0));
    assert_eq!(w.store().verify_local("aws", "by the row", 9, at(2)).await.unwrap(), 0);
    for lease in &leases {
        let verified = Outcome::Verified { evidence: "by the row".into() };
        assert_eq!(w.lease_state(lease).await, LeaseState::Ended { at: at(2), outcome: verified });
    }
    assert!(matches!(w.lease_state(&offline).await, LeaseState::Revoking { .. }));
}
