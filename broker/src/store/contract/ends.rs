//! What ends, and what cannot begin under it.

use dayfly_domain::audit::Stream;
use dayfly_domain::lease::{Lease, LeaseState, RevokeCause};
use dayfly_domain::task::{EndCause, Task, TaskState};
use dayfly_domain::time::Ttl;

use super::World;
use super::world::{T0, at, handle, identity, session};
use crate::store::{EndWhich, Ended, StoreError};

fn cause_of(state: TaskState) -> Option<EndCause> {
    match state {
        TaskState::Open { .. } => None,
        TaskState::Ended { cause, .. } => Some(cause),
    }
}

pub(super) fn why_revoked(state: &LeaseState) -> Option<RevokeCause> {
    match state {
        LeaseState::Revoking { cause, .. } => Some(*cause),
        LeaseState::Pending { .. } | LeaseState::Active { .. } | LeaseState::Ended { .. } => None,
    }
}

pub(crate) async fn an_end_takes_the_whole_tree_and_every_lease_in_it(w: &mut World) {
    let root = w.open_root("a").await;
    let child = w.open_child(&root, "b").await;
    let grandchild = w.open_child(&child, "c").await;
    let mut leases = Vec::new();
    for task in [&root, &child, &grandchild] {
        leases.push((task.id, w.open_active(task, "x").await));
    }
    let ended = w.end(EndWhich::Session(session(&child)), EndCause::AnchorGone, at(5)).await;

    assert_eq!(ended.tasks.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [root.id, child.id, grandchild.id]);
    assert!(ended.tasks.iter().all(|(_, node)| node.as_ref() == Some(&identity("node/1"))));
    assert_eq!(ended.leases.len(), 3);
    for (task, cause) in
        [(&root, EndCause::AnchorGone), (&child, EndCause::ParentEnded), (&grandchild, EndCause::ParentEnded)]
    {
        assert_eq!(w.task_state(task).await, TaskState::Ended { at: at(5), cause });
        let (_, lease) = leases.iter().find(|(id, _)| *id == task.id).unwrap();
        let expected = LeaseState::Revoking {
            requested_at: at(5),
            cause: RevokeCause::TaskEnded(cause),
            handle: Some(handle(&lease.id.to_string())),
            applied_at: None,
            runs_out_at: None,
            bound: at(600),
        };
        assert_eq!(w.lease_state(lease).await, expected);
    }
    let due = w.store().claim_revocations("vault", 10, Ttl::seconds(30), at(5)).await.unwrap();
    assert_eq!(due.len(), 3, "what an end takes back is due at once");
}

pub(crate) async fn what_stands_beside_the_ended_task_stays(w: &mut World) {
    let root = w.open_root("a").await;
    let ends = w.open_child(&root, "b").await;
    let under = w.open_child(&ends, "b").await;
    let stays = w.open_child(&root, "c").await;
    let lease = w.open_active(&stays, "c").await;
    let ended = w.end(EndWhich::Task(ends.id), EndCause::Explicit, at(1)).await;
    assert_eq!(ended.tasks.len(), 2);
    assert_eq!(cause_of(w.task_state(&under).await), Some(EndCause::ParentEnded));
    for task in [&root, &stays] {
        assert_eq!(cause_of(w.task_state(task).await), None);
    }
    assert_eq!(w.lease_state(&lease).await, lease.state);
}

pub(crate) async fn a_second_end_changes_nothing(w: &mut World) {
    let root = w.open_root("a").await;
    w.open_child(&root, "b").await;
    let lease = w.open_active(&root, "a").await;
    w.end(EndWhich::Task(root.id), EndCause::AnchorGone, at(1)).await;
    let (state, records) = (w.lease_state(&lease).await, w.chain(Stream::Lease).await);
    for which in [
        EndWhich::Task(root.id),
        EndWhich::Session(session(&root)),
        EndWhich::Identity(identity("a")),
        EndWhich::Node(identity("node/1")),
        EndWhich::Overdue,
    ] {
        assert_eq!(w.end(which, EndCause::Admin, at(9000)).await, Ended::default());
    }
    assert_eq!(w.task_state(&root).await, TaskState::Ended { at: at(1), cause: EndCause::AnchorGone });
    assert_eq!(w.lease_state(&lease).await, state);
    assert_eq!(w.chain(Stream::Lease).await, records);
}

pub(crate) async fn a_pending_lease_is_given_up_and_its_late_answer_taken_back(w: &mut World) {
    let root = w.open_root("a").await;
    let lease = w.open_pending(&root, "a").await;
    let ended = w.end(EndWhich::Task(root.id), EndCause::AnchorGone, at(2)).await;
    assert_eq!(ended.leases, [lease.id]);
    let cause = RevokeCause::TaskEnded(EndCause::AnchorGone);
    let given_up = LeaseState::Revoking {
        requested_at: at(2),
        cause,
        handle: None,
        applied_at: None,
        runs_out_at: Some(at(60)),
        bound: at(60),
    };
    assert_eq!(w.lease_state(&lease).await, given_up);
    let due = w.store().claim_revocations("vault", 10, Ttl::seconds(30), at(3)).await.unwrap();
    assert!(due.is_empty(), "there is nothing to name to the target yet");

    let late = w.record(&lease, w.answer(&lease), at(4)).await;
    let taken_back = LeaseState::Revoking {
        requested_at: at(2),
        cause,
        handle: Some(handle(&lease.id.to_string())),
        applied_at: None,
        runs_out_at: None,
        bound: at(600),
    };
    assert_eq!(late.state, taken_back);
    assert_eq!(w.lease_state(&lease).await, taken_back);
    let due = w.store().claim_revocations("vault", 10, Ttl::seconds(30), at(4)).await.unwrap();
    assert_eq!(due.len(), 1);
}

pub(crate) async fn an_answer_past_the_deadline_is_taken_back(w: &mut World) {
    let root = w.open_root("a").await;
    let child = w.open_child(&root, "a").await;
    let lease = w.open_pending(&child, "a").await;
    let late = w.record(&lease, w.answer(&lease), at(3600)).await;
    assert_eq!(why_revoked(&late.state), Some(RevokeCause::TaskEnded(EndCause::Deadline)));
    let due = w.store().claim_revocations("vault", 10, Ttl::seconds(30), at(3600)).await.unwrap();
    assert_eq!(due.len(), 1);
}

pub(crate) async fn nothing_is_opened_under_what_is_over(w: &mut World) {
    let root = w.open_root("a").await;
    let child = w.open_child(&root, "b").await;
    w.open_active(&child, "b").await;
    w.end(EndWhich::Task(root.id), EndCause::Explicit, at(1)).await;
    let never_opened = w.root("a");
    for over in [&root, &child, &never_opened] {
        let below = w.child(over, "c");
        assert!(matches!(w.try_open(&below).await, Err(StoreError::TaskNotOpen)));
        let lease = w.active(over, "c");
        assert!(matches!(w.try_lease(&lease, at(2)).await, Err(StoreError::TaskNotOpen)));
        let lease = w.pending(over, "c");
        assert!(matches!(w.try_lease(&lease, at(2)).await, Err(StoreError::TaskNotOpen)));
    }
    assert_eq!(w.all_tasks().await.len(), 2);
    assert_eq!(w.all_leases().await.len(), 1);
}

pub(crate) async fn nothing_is_opened_past_a_deadline_above(w: &mut World) {
    let root = Task { state: TaskState::Open { deadline: at(100) }, ..w.root("a") };
    w.try_open(&root).await.unwrap();
    // The child's own deadline is later; nobody has ended the root yet.
    let child = w.open_child(&root, "b").await;
    let early = w.active(&child, "b");
    w.try_lease(&early, at(99)).await.unwrap();
    let late = w.active(&child, "b");
    assert!(matches!(w.try_lease(&late, at(100)).await, Err(StoreError::TaskNotOpen)));
    let below = Task { opened_at: at(100), ..w.child(&child, "c") };
    assert!(matches!(w.try_open(&below).await, Err(StoreError::TaskNotOpen)));
    let past_its_own = Task { state: TaskState::Open { deadline: T0 }, ..w.root("d") };
    assert!(matches!(w.try_open(&past_its_own).await, Err(StoreError::TaskNotOpen)));
}

pub(crate) async fn a_task_names_its_own_session(w: &mut World) {
    let (one, other) = (w.open_root("a").await, w.open_root("b").await);
    let child = Task { session: other.session, ..w.child(&one, "c") };
    assert!(matches!(w.try_open(&child).await, Err(StoreError::TaskNotOpen)));
    let lease = Lease { session: other.session, ..w.active(&one, "c") };
    assert!(matches!(w.try_lease(&lease, T0).await, Err(StoreError::TaskNotOpen)));
}

pub(crate) async fn overdue_tasks_end_with_all_under_them(w: &mut World) {
    let due = Task { state: TaskState::Open { deadline: at(100) }, ..w.root("a") };
    w.try_open(&due).await.unwrap();
    let under = w.open_child(&due, "a").await;
    let later = w.open_root("a").await;
    assert_eq!(w.end(EndWhich::Overdue, EndCause::Deadline, at(99)).await, Ended::default());
    let ended = w.end(EndWhich::Overdue, EndCause::Deadline, at(100)).await;
    assert_eq!(ended.tasks.len(), 2);
    assert_eq!(cause_of(w.task_state(&due).await), Some(EndCause::Deadline));
    assert_eq!(cause_of(w.task_state(&under).await), Some(EndCause::ParentEnded));
    assert_eq!(cause_of(w.task_state(&later).await), None);
}

pub(crate) async fn an_identity_loses_its_tasks_and_its_leases_elsewhere(w: &mut World) {
    let own = w.open_root("bad").await;
    let own_child = w.open_child(&own, "bad").await;
    let others = w.open_root("good").await;
    let in_own = w.open_active(&own, "good").await;
    let elsewhere = w.open_active(&others, "bad").await;
    let untouched = w.open_active(&others, "good").await;
    let ended = w.end(EndWhich::Identity(identity("bad")), EndCause::Admin, at(1)).await;
    assert_eq!(ended.tasks.len(), 2);
    assert_eq!(cause_of(w.task_state(&own_child).await), Some(EndCause::Admin), "it is named itself");
    assert_eq!(cause_of(w.task_state(&others).await), None);
    assert_eq!(ended.leases, [in_own.id, elsewhere.id]);
    assert_eq!(why_revoked(&w.lease_state(&elsewhere).await), Some(RevokeCause::Admin));
    assert_eq!(w.lease_state(&untouched).await, untouched.state);
}

pub(crate) async fn a_node_ends_with_its_tasks(w: &mut World) {
    let here = w.open_root("a").await;
    let there = Task { node: Some(identity("node/2")), ..w.root("a") };
    let direct = Task { node: None, key_hash: Some([7; 32]), ..w.root("a") };
    for task in [&there, &direct] {
        w.try_open(task).await.unwrap();
    }
    let ended = w.end(EndWhich::Node(identity("node/1")), EndCause::NodeSilent, at(1)).await;
    assert_eq!(ended.tasks, [(here.id, here.node.clone())]);
    for task in [&there, &direct] {
        assert_eq!(cause_of(w.task_state(task).await), None);
    }
}

pub(crate) async fn tasks_missing_from_an_inventory_end(w: &mut World) {
    let (held, missing) = (w.open_root("a").await, w.open_root("a").await);
    let fresh = Task { opened_at: at(50), ..w.root("a") };
    let there = Task { node: Some(identity("node/2")), ..w.root("a") };
    for task in [&fresh, &there] {
        w.try_open(task).await.unwrap();
    }
    let which =
        EndWhich::NodeExcept { node: identity("node/1"), inventory: vec![held.id], opened_before: at(50) };
    let ended = w.end(which, EndCause::MissingFromInventory, at(60)).await;
    assert_eq!(ended.tasks, [(missing.id, missing.node.clone())]);
    for task in [&held, &fresh, &there] {
        assert_eq!(cause_of(w.task_state(task).await), None);
    }
}

pub(crate) async fn a_tree_is_read_as_it_stood_at_a_moment(w: &mut World) {
    let root = w.open_root("a").await;
    let child = w.open_child(&root, "b").await;
    w.end(EndWhich::Task(child.id), EndCause::Explicit, at(5)).await;
    w.end(EndWhich::Task(root.id), EndCause::Explicit, at(9)).await;
    let states = async |moment| -> Vec<TaskState> {
        let lineage = w.store().lineage_at(child.id, moment).await.unwrap();
        assert_eq!(lineage.iter().map(|task| task.id).collect::<Vec<_>>(), [root.id, child.id]);
        lineage.into_iter().map(|task| task.state).collect()
    };
    let ended = |at| TaskState::Ended { at, cause: EndCause::Explicit };
    assert_eq!(states(at(4)).await, [root.state, child.state], "open, with the deadline each had");
    assert_eq!(states(at(5)).await, [root.state, ended(at(5))]);
    assert_eq!(states(at(9)).await, [ended(at(9)), ended(at(5))]);
}
