//! Leases on their way from state to state.

use dayfly_domain::audit::{Record, Stream};
use dayfly_domain::lease::{Lease, LeaseEvent, LeaseState, Outcome, RevokeCause};
use dayfly_domain::scope::Promise;
use dayfly_domain::task::{EndCause, Task};

use super::World;
use super::world::{NO_LIMITS, T0, at, handle, identity, session};
use crate::store::{EndWhich, LeaseFilter, LeaseLimits, StoreError, TaskFilter};

pub(crate) async fn what_is_written_is_read_back(w: &mut World) {
    let root = Task { key_hash: Some([9; 32]), node: None, ..w.root("a") };
    w.try_open(&root).await.unwrap();
    let child = w.open_child(&root, "b").await;
    assert_eq!(w.store().lineage(child.id).await.unwrap(), [root.clone(), child.clone()]);
    let unknown = w.root("a").id;
    assert_eq!(w.store().lineage(unknown).await.unwrap(), []);

    let first = w.open_pending(&child, "b").await;
    let renewal = w.active(&child, "b");
    let leaves_behind = vec!["role_sessions".to_owned(), "keys".to_owned()];
    let promise = Promise { leaves_behind, ..renewal.promise.clone() };
    let narrowed = Some("ab".repeat(32));
    let renewal = Lease { renews: Some(first.id), promise, narrowed, ..renewal };
    w.try_lease(&renewal, T0).await.unwrap();
    assert_eq!(w.store().lease(first.id).await.unwrap().unwrap().lease, first);
    assert_eq!(w.store().lease(renewal.id).await.unwrap().unwrap().lease, renewal);

    // Each state on the way is what the domain makes of it, from the row as it was read.
    let mut expected = first.clone();
    for (event, seconds) in [
        (w.answer(&first), 1),
        (LeaseEvent::Extend { expires_at: at(900) }, 2),
        (LeaseEvent::AskRevoke(RevokeCause::TaskEnded(EndCause::Deadline)), 3),
        (LeaseEvent::Apply, 4),
        (LeaseEvent::CannotRevoke, 5),
        (LeaseEvent::Verify { evidence: "lookup: \"403\" ä".to_owned() }, 6),
        (LeaseEvent::Issue { expires_at: at(700), handle: handle("late") }, 7),
        (LeaseEvent::Tick, 701),
    ] {
        expected.state = expected.state.on(event.clone(), at(seconds)).unwrap();
        assert_eq!(w.record(&first, event, at(seconds)).await, expected);
        assert_eq!(w.store().lease(first.id).await.unwrap().unwrap().lease, expected);
    }
    assert_eq!(expected.state, LeaseState::Ended { at: at(701), outcome: Outcome::RanOut });
}

pub(crate) async fn a_lease_given_locally_is_active_at_once(w: &mut World) {
    let root = w.open_root("a").await;
    let lease = w.open_active(&root, "a").await;
    assert_eq!(w.lease_state(&lease).await, lease.state);
    let opened = w.records(Stream::Lease).await;
    assert_eq!(opened.last().unwrap()["event"], "lease.active");
}

async fn fill(w: &mut World, root: &Task, limits: LeaseLimits) -> Vec<Lease> {
    let mut leases = Vec::new();
    for _ in 0..2 {
        let lease = w.active(root, "a");
        let new = w.new_lease(&lease, limits);
        w.store().open_lease(new, T0).await.unwrap();
        leases.push(lease);
    }
    leases
}

async fn is_refused(w: &mut World, root: &Task, holder: &str, limits: LeaseLimits) -> bool {
    let lease = w.pending(root, holder);
    let new = w.new_lease(&lease, limits);
    match w.store().open_lease(new, T0).await {
        Ok(()) => false,
        Err(StoreError::TooManyLeases { limit: 2, .. }) => true,
        Err(other) => panic!("{other}"),
    }
}

pub(crate) async fn live_leases_are_limited_by_identity(w: &mut World) {
    let root = w.open_root("a").await;
    let limits = LeaseLimits { per_identity: 2, ..NO_LIMITS };
    let leases = fill(w, &root, limits).await;
    assert!(is_refused(w, &root, "a", limits).await);
    assert!(!is_refused(w, &root, "b", limits).await, "others have their own");
    // It is asked to go, but may still work.
    w.record(&leases[0], LeaseEvent::AskRevoke(RevokeCause::Holder), at(1)).await;
    assert!(is_refused(w, &root, "a", limits).await);
    w.reopen().await;
    assert!(is_refused(w, &root, "a", limits).await);
    w.record(&leases[0], LeaseEvent::Verify { evidence: "gone".to_owned() }, at(2)).await;
    assert!(!is_refused(w, &root, "a", limits).await);
    assert!(is_refused(w, &root, "a", limits).await);
    // It came back to life, and ends again.
    w.record(&leases[0], w.answer(&leases[0]), at(3)).await;
    w.record(&leases[1], LeaseEvent::Tick, at(600)).await;
    assert!(is_refused(w, &root, "a", limits).await);
    w.record(&leases[0], LeaseEvent::Tick, at(600)).await;
    assert!(!is_refused(w, &root, "a", limits).await);
}

pub(crate) async fn live_leases_are_limited_by_node(w: &mut World) {
    let root = w.open_root("a").await;
    let limits = LeaseLimits { per_node: 2, ..NO_LIMITS };
    let leases = fill(w, &root, limits).await;
    assert!(is_refused(w, &root, "b", limits).await);
    w.end(EndWhich::Node(identity("node/1")), EndCause::NodeSilent, at(1)).await;
    let root = w.open_root("a").await;
    assert!(is_refused(w, &root, "b", limits).await, "they are not gone yet");
    w.record(&leases[0], LeaseEvent::Verify { evidence: "gone".to_owned() }, at(2)).await;
    assert!(!is_refused(w, &root, "b", limits).await);
}

pub(crate) async fn live_leases_are_limited_by_scope_and_by_session(w: &mut World) {
    let root = w.open_root("a").await;
    let by_scope = LeaseLimits { per_scope: 2, ..NO_LIMITS };
    let by_session = LeaseLimits { per_session: 2, ..NO_LIMITS };
    let leases = fill(w, &root, by_scope).await;
    let (child, other) = (w.open_child(&root, "b").await, w.open_root("c").await);
    assert!(is_refused(w, &other, "c", by_scope).await, "whoever asks, and wherever");
    assert!(is_refused(w, &child, "b", by_session).await, "in whichever task of the tree");
    assert!(!is_refused(w, &other, "c", by_session).await, "other sessions have their own");
    w.reopen().await;
    assert!(is_refused(w, &child, "b", by_session).await);
    let elsewhere = Lease { scope: "vault-read".to_owned(), ..w.pending(&other, "c") };
    let elsewhere = w.new_lease(&elsewhere, by_scope);
    w.store().open_lease(elsewhere, T0).await.expect("other scopes have their own");
    w.record(&leases[0], LeaseEvent::AskRevoke(RevokeCause::Holder), at(1)).await;
    w.record(&leases[0], LeaseEvent::Verify { evidence: "gone".to_owned() }, at(2)).await;
    assert!(!is_refused(w, &child, "b", by_session).await);
}

pub(crate) async fn a_renewal_may_stand_beside_what_it_renews(w: &mut World) {
    let root = w.open_root("a").await;
    let limits = LeaseLimits { per_identity: 2, per_scope: 2, per_session: 2, ..NO_LIMITS };
    let leases = fill(w, &root, limits).await;
    for (renews, taken) in [(None, false), (Some(leases[0].id), true), (Some(leases[1].id), false)] {
        let lease = Lease { renews, ..w.active(&root, "a") };
        let new = w.new_lease(&lease, limits);
        assert_eq!(w.store().open_lease(new, T0).await.is_ok(), taken, "{renews:?}");
    }
}

pub(crate) async fn a_refused_lease_counts_for_nothing(w: &mut World) {
    let root = w.open_root("a").await;
    let limits = LeaseLimits { per_identity: 2, ..NO_LIMITS };
    let lease = w.open_active(&root, "a").await;
    // The row is there already, so this transaction is rolled back.
    let twice = w.new_lease(&lease, limits);
    assert!(matches!(w.store().open_lease(twice, T0).await, Err(StoreError::Database { .. })));
    assert!(!is_refused(w, &root, "a", limits).await);
    assert!(is_refused(w, &root, "a", limits).await);
}

pub(crate) async fn a_change_that_fails_takes_no_other_with_it(w: &mut World) {
    let root = w.open_root("a").await;
    let good: Vec<Lease> = (0..30).map(|_| w.active(&root, "a")).collect();
    let opened = w.open_active(&root, "a").await;
    let given: Vec<_> = good.iter().map(|lease| w.new_lease(lease, NO_LIMITS)).collect();
    let twice = w.new_lease(&opened, NO_LIMITS);
    let request = w.request();
    let again = || {
        let decision = Record::new(Stream::Decision, "again", T0);
        w.store().open_task(root.clone(), decision, request)
    };
    // All at once, so that they share transactions.
    let (given, twice, first, second) = tokio::join!(
        futures_util::future::join_all(given.into_iter().map(|new| w.store().open_lease(new, T0))),
        w.store().open_lease(twice, T0),
        again(),
        again(),
    );
    for outcome in given {
        outcome.unwrap();
    }
    for outcome in [twice, first, second] {
        assert!(matches!(outcome, Err(StoreError::Database { .. })), "{outcome:?}");
    }
    assert_eq!(w.all_leases().await.len(), good.len() + 1);
    let limits = LeaseLimits { per_identity: 32, ..NO_LIMITS };
    let last = w.active(&root, "a");
    let last = w.new_lease(&last, limits);
    w.store().open_lease(last, T0).await.unwrap();
    let over = w.active(&root, "a");
    let over = w.new_lease(&over, limits);
    assert!(matches!(w.store().open_lease(over, T0).await, Err(StoreError::TooManyLeases { .. })));
}

pub(crate) async fn an_event_that_makes_no_sense_changes_nothing(w: &mut World) {
    let root = w.open_root("a").await;
    let lease = w.open_active(&root, "a").await;
    let verified = LeaseEvent::Verify { evidence: "too early".to_owned() };
    let refusal = w.store().record_lease(lease.id, verified.clone(), at(1), None).await;
    assert!(matches!(refusal, Err(StoreError::Illegal(_))), "{refusal:?}");
    assert_eq!(w.lease_state(&lease).await, lease.state);
    let unknown = w.active(&root, "a");
    let refusal = w.store().record_lease(unknown.id, verified, at(1), None).await;
    assert!(matches!(refusal, Err(StoreError::Unknown("lease"))), "{refusal:?}");
}

pub(crate) async fn an_extension_needs_an_open_task(w: &mut World) {
    let root = w.open_root("a").await;
    let lease = w.open_active(&root, "a").await;
    let longer = LeaseEvent::Extend { expires_at: at(9000) };
    let refusal = w.store().record_lease(lease.id, longer.clone(), at(3600), None).await;
    assert!(matches!(refusal, Err(StoreError::TaskNotOpen)), "{refusal:?}");
    assert_eq!(w.lease_state(&lease).await, lease.state);
    // On its way already when the end came: the bound moves, the end stands.
    w.end(EndWhich::Task(root.id), EndCause::Explicit, at(10)).await;
    let state = w.record(&lease, longer, at(11)).await.state;
    assert!(matches!(state, LeaseState::Revoking { bound, .. } if bound == at(9000)), "{state:?}");
}

pub(crate) async fn a_lease_is_opened_in_no_other_state(w: &mut World) {
    let root = w.open_root("a").await;
    let over = LeaseState::Ended { at: T0, outcome: Outcome::NeverIssued };
    let lease = Lease { state: over, ..w.pending(&root, "a") };
    assert!(matches!(w.try_lease(&lease, T0).await, Err(StoreError::Illegal(_))));
}

pub(crate) async fn lists_are_filtered_and_newest_first(w: &mut World) {
    let one = w.open_root("a").await;
    let child = w.open_child(&one, "b").await;
    let other = w.open_root("b").await;
    let first = w.open_active(&one, "a").await;
    let second = Lease { scope: "vault-read".to_owned(), ..w.active(&child, "b") };
    w.try_lease(&second, T0).await.unwrap();
    let third = w.open_active(&other, "b").await;
    w.record(&third, LeaseEvent::AskRevoke(RevokeCause::Admin), at(1)).await;
    w.record(&third, LeaseEvent::Verify { evidence: "gone".to_owned() }, at(2)).await;

    let all = LeaseFilter { include_ended: true, ..LeaseFilter::default() };
    for (filter, expected) in [
        (LeaseFilter::default(), vec![second.id, first.id]),
        (all.clone(), vec![third.id, second.id, first.id]),
        (LeaseFilter { limit: 1, ..all.clone() }, vec![third.id]),
        (LeaseFilter { task: Some(child.id), ..all.clone() }, vec![second.id]),
        (LeaseFilter { session: Some(session(&one)), ..all.clone() }, vec![second.id, first.id]),
        (LeaseFilter { spiffe_id: Some(identity("b")), ..all.clone() }, vec![third.id, second.id]),
        (LeaseFilter { scope: Some("vault-read".to_owned()), ..all }, vec![second.id]),
    ] {
        let found = w.store().leases(filter.clone()).await.unwrap();
        assert_eq!(found.iter().map(|row| row.lease.id).collect::<Vec<_>>(), expected, "{filter:?}");
    }

    w.end(EndWhich::Task(other.id), EndCause::Explicit, at(3)).await;
    let all = TaskFilter { include_ended: true, ..TaskFilter::default() };
    for (filter, expected) in [
        (TaskFilter::default(), vec![(child.id, 1), (one.id, 2)]),
        (all.clone(), vec![(other.id, 0), (child.id, 1), (one.id, 2)]),
        (TaskFilter { limit: 2, ..all.clone() }, vec![(other.id, 0), (child.id, 1)]),
        (TaskFilter { session: Some(session(&one)), ..all.clone() }, vec![(child.id, 1), (one.id, 2)]),
        (TaskFilter { spiffe_id: Some(identity("b")), ..all }, vec![(other.id, 0), (child.id, 1)]),
    ] {
        let found = w.store().tasks(filter.clone()).await.unwrap();
        let found: Vec<_> = found.iter().map(|(task, live)| (task.id, *live)).collect();
        assert_eq!(found, expected, "{filter:?}");
    }
}
