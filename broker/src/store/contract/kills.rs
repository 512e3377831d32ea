//! The kill switch.

use dayfly_domain::approval::Host;
use dayfly_domain::audit::{Record, Stream};
use dayfly_domain::id::KillId;
use dayfly_domain::kill::{Kill, State, Target, Word};
use dayfly_domain::lease::{LeaseEvent, LeaseState};
use dayfly_domain::task::{EndCause, TaskState};

use super::World;
use super::world::{T0, at, identity};
use crate::store::StoreError;
use crate::store::kills::{CUT_OFF_AT_ONCE, CutOff, LeaseTally};

fn kill(w: &mut World, target: Target, state: State) -> Kill {
    Kill {
        id: KillId::new(T0, w.entropy()),
        target,
        reason: "a \"leak\"".into(),
        asked: Word { by: "ann".into(), on: Host::Broker, at: T0 },
        approved: None,
        lifted: None,
        state,
    }
}

fn record(kill: &Kill) -> Record {
    Record::new(Stream::Admin, "kill", T0).with("kill_id", kill.id).with("state", kill.state.as_str())
}

async fn write(w: &World, kill: &Kill) -> Result<(), StoreError> {
    w.store().write_kill(kill.clone(), 2, record(kill)).await
}

async fn move_on(w: &World, kill: &Kill, from: State) -> Result<(), StoreError> {
    w.store().move_kill(kill.clone(), from, record(kill)).await
}

pub(crate) async fn a_kill_reads_back_as_it_was_asked_and_decided(w: &mut World) {
    let pattern = Target::Pattern("spiffe://example.org/train/**".parse().unwrap());
    let proposed = kill(w, pattern, State::Proposed);
    write(w, &proposed).await.unwrap();
    assert_eq!(w.store().kill(proposed.id).await.unwrap(), Some(proposed.clone()));
    let by = Word { by: "bob".into(), on: Host::At("192.0.2.7".parse().unwrap()), at: at(1) };
    let standing = Kill { state: State::Standing, approved: Some(by.clone()), ..proposed };
    move_on(w, &standing, State::Proposed).await.unwrap();
    w.reopen().await;
    assert_eq!(w.store().kills(false).await.unwrap(), std::slice::from_ref(&standing));
    let lifted = Kill { state: State::Lifted, lifted: Some(by), ..standing };
    move_on(w, &lifted, State::Standing).await.unwrap();
    assert!(w.store().kills(false).await.unwrap().is_empty());
    assert_eq!(w.store().kills(true).await.unwrap(), [lifted]);
}

pub(crate) async fn of_two_that_move_a_kill_at_once_one_is_told(w: &mut World) {
    let proposed = kill(w, Target::Everything, State::Proposed);
    write(w, &proposed).await.unwrap();
    let word = Some(Word { by: "bob".into(), on: Host::Broker, at: at(1) });
    let approved = Kill { state: State::Standing, approved: word.clone(), ..proposed.clone() };
    let lifted = Kill { state: State::Lifted, lifted: word, ..proposed };
    let (one, other) =
        tokio::join!(move_on(w, &approved, State::Proposed), move_on(w, &lifted, State::Proposed));
    let refused = [one, other].into_iter().filter_map(Result::err).collect::<Vec<_>>();
    assert!(matches!(refused[..], [StoreError::KillChanged(_)]), "{refused:?}");
}

pub(crate) async fn only_so_many_kills_stand_or_wait(w: &mut World) {
    for state in [State::Proposed, State::Standing] {
        let kill = kill(w, Target::Everything, state);
        write(w, &kill).await.unwrap();
    }
    let third = kill(w, Target::Everything, State::Standing);
    assert!(matches!(write(w, &third).await, Err(StoreError::TooManyKills { limit: 2 })));
}

pub(crate) async fn a_kill_stands_without_its_record_and_is_not_lifted_without(w: &mut World) {
    w.lost_records = true;
    w.break_records(Stream::Admin, true).await;
    let standing = kill(w, Target::Scope("s".into()), State::Standing);
    write(w, &standing).await.unwrap();
    let word = Some(Word { by: "bob".into(), on: Host::Broker, at: at(1) });
    let lifted = Kill { state: State::Lifted, lifted: word, ..standing.clone() };
    assert!(move_on(w, &lifted, State::Standing).await.is_err());
    assert_eq!(w.store().kills(false).await.unwrap(), [standing]);
    w.break_records(Stream::Admin, false).await;
    move_on(w, &lifted, State::Standing).await.unwrap();
}

pub(crate) async fn what_is_cut_off_ends_in_parts_and_the_rest_stays(w: &mut World) {
    let (mut struck, spared) = (Vec::new(), w.open_root("b").await);
    for _ in 0..=CUT_OFF_AT_ONCE {
        struck.push(w.open_root("a").await);
    }
    let below = w.open_child(&struck[0], "b").await;
    let leases = [w.open_active(&struck[0], "a").await, w.open_active(&below, "b").await];
    let elsewhere = w.open_active(&spared, "a").await;
    let kept = w.open_active(&spared, "b").await;
    let which = CutOff::Identities(vec![identity("a"), identity("c")]);
    let mut parts = Vec::new();
    loop {
        let ended = w.store().end_cut_off(which.clone(), at(1), None).await.unwrap();
        if ended.tasks.is_empty() && ended.leases.is_empty() {
            break;
        }
        assert!(ended.elsewhere.iter().all(|lease| *lease == elsewhere.id));
        parts.push(ended.tasks.len());
    }
    assert!(parts.len() >= 2, "{parts:?}");
    assert_eq!(parts.iter().sum::<usize>(), struck.len() + 1);
    for task in struck.iter().chain([&below]) {
        assert!(matches!(w.task_state(task).await, TaskState::Ended { .. }));
    }
    assert!(matches!(w.task_state(&spared).await, TaskState::Open { .. }));
    for lease in leases.iter().chain([&elsewhere]) {
        assert!(matches!(w.lease_state(lease).await, LeaseState::Revoking { .. }));
    }
    assert!(matches!(w.lease_state(&kept).await, LeaseState::Active { .. }));
}

pub(crate) async fn a_scope_a_provider_and_a_node_are_cut_off_by_themselves(w: &mut World) {
    let root = w.open_root("a").await;
    let (read, pending) = (w.open_active(&root, "a").await, w.open_pending(&root, "a").await);
    let other =
        dayfly_domain::lease::Lease { scope: "other".into(), provider: "aws".into(), ..w.active(&root, "a") };
    w.try_lease(&other, T0).await.unwrap();
    let late = w.open_root("b").await;
    let late = crate::store::Ended { tasks: vec![(late.id, late.node)], ..Default::default() };
    let live = async |lease: &dayfly_domain::lease::Lease| {
        matches!(w.lease_state(lease).await, LeaseState::Active { .. } | LeaseState::Pending { .. })
    };
    let cut = async |which: CutOff| w.store().end_cut_off(which, at(1), None).await.unwrap();
    assert!(cut(CutOff::Scope("nobody's".into())).await.leases.is_empty());
    let ended = cut(CutOff::Scope("s3-train-read".into())).await;
    assert_eq!((ended.tasks.len(), ended.leases.len(), ended.elsewhere.len()), (0, 2, 2));
    assert!(!live(&read).await && !live(&pending).await && live(&other).await);
    assert_eq!(cut(CutOff::Provider("aws".into())).await.leases, [other.id]);
    assert!(matches!(w.task_state(&root).await, TaskState::Open { .. }));
    assert_eq!(cut(CutOff::Node(identity("node/2"))).await.tasks, []);
    assert_eq!(cut(CutOff::Identities(vec![identity("a")])).await.tasks, [(root.id, root.node.clone())]);
    assert_eq!(cut(CutOff::Node(identity("node/1"))).await, late);
    assert_eq!(cut(CutOff::Everything).await, crate::store::Ended::default());
}

pub(crate) async fn what_is_live_is_counted_and_what_was_taken_is_tallied(w: &mut World) {
    let root = w.open_root("a").await;
    w.open_child(&root, "a").await;
    let leases =
        [w.open_active(&root, "a").await, w.open_active(&root, "a").await, w.open_pending(&root, "b").await];
    let live = w.store().live().await.unwrap();
    let count = |id: &str, scope: Option<&str>| {
        let of = live.iter().filter(|one| one.spiffe_id == identity(id) && one.scope.as_deref() == scope);
        of.map(|one| one.count).sum::<u64>()
    };
    assert_eq!(
        (count("a", None), count("a", Some("s3-train-read")), count("b", Some("s3-train-read"))),
        (2, 2, 1)
    );
    w.end(crate::store::EndWhich::Task(root.id), EndCause::Admin, at(1)).await;
    w.record(&leases[0], LeaseEvent::Verify { evidence: "gone".into() }, at(2)).await;
    let ids: Vec<_> = leases.iter().map(|lease| lease.id).collect();
    let tally = w.store().tally(&ids).await.unwrap();
    assert_eq!(tally, LeaseTally { verified: 1, revoking: 1, running_out: 1, ..LeaseTally::default() });
    assert!(w.store().live().await.unwrap().is_empty());
}
