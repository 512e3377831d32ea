//! Sessions of AWS roles get places that can be denied, and one broker at a time writes what denies them.

use std::collections::{BTreeMap, BTreeSet};

use dayfly_domain::aws_deny::{Block, Capacity, RevokeWhen, Session, Slot, Written};
use dayfly_domain::id::{LeaseId, SessionId};
use dayfly_domain::lease::{Lease, RevokeCause};
use dayfly_domain::task::{EndCause, Task};
use dayfly_domain::time::{Timestamp, Ttl};

use super::World;
use super::world::{T0, at};
use crate::store::slots::{DocumentWritten, Place, Plan, PlanAsk, SlotAsk};
use crate::store::{EndWhich, StoreError};

const ROLE: &str = "arn:aws:iam::111122223333:role/dayfly/one";
const OTHER: &str = "arn:aws:iam::111122223333:role/dayfly/two";
const SKEW: Ttl = Ttl::seconds(30);
const PROPAGATION: Ttl = Ttl::minutes(5);

fn ask(lease: LeaseId, tree: Option<SessionId>, now: Timestamp) -> SlotAsk {
    SlotAsk {
        lease,
        tree,
        revoke_when: RevokeWhen::Always,
        roles: vec![ROLE.to_owned(), OTHER.to_owned()],
        given_by: now + Ttl::minutes(2),
        gone_at: now + Ttl::minutes(20),
        skew: SKEW,
        spare: 0,
        entropy: 0,
        now,
    }
}

async fn reserve(w: &World, ask: SlotAsk) -> Result<Place, StoreError> {
    w.store().reserve_slot(ask).await
}

/// A session under a lease of the task.
async fn session(w: &mut World, task: &Task, revoke_when: RevokeWhen) -> (Lease, Place) {
    let lease = w.open_active(task, "a").await;
    let place = reserve(w, SlotAsk { revoke_when, ..ask(lease.id, Some(task.session), T0) }).await.unwrap();
    (lease, place)
}

fn wish(owner: &str, fence: Option<u64>, now: Timestamp) -> PlanAsk {
    PlanAsk {
        role: ROLE.to_owned(),
        owner: owner.to_owned(),
        fence,
        hold_for: Ttl::seconds(30),
        canary: None,
        propagation: PROPAGATION,
        now,
    }
}

async fn plan(w: &World, wish: PlanAsk) -> Option<Plan> {
    w.store().plan_document(wish).await.unwrap()
}

async fn write(w: &World, plan: &Plan, of: Timestamp) -> bool {
    let written = Written { of, at: of };
    let (role, digest) = (ROLE.to_owned(), format!("digest {}", plan.version));
    let note = DocumentWritten { role, fence: plan.fence, version: plan.version, written, digest };
    w.store().document_written(note).await.unwrap()
}

fn revoked(plan: &Plan) -> Vec<Slot> {
    plan.sessions.iter().filter(|session| session.revoked).map(|session| session.slot).collect()
}

pub(crate) async fn each_tree_has_blocks_of_its_own(w: &mut World) {
    let trees = [w.open_root("a").await, w.open_root("b").await, w.open_root("c").await];
    let mut owners = BTreeMap::<Block, BTreeSet<SessionId>>::new();
    let mut slots = BTreeSet::new();
    for number in 0..210_u64 {
        let tree = &trees[usize::try_from(number % 3).unwrap()];
        let lease = LeaseId::new(T0, u128::from(number));
        let place = reserve(w, ask(lease, Some(tree.session), T0)).await.unwrap();
        assert_eq!(place.role, ROLE);
        assert!(slots.insert(place.slot), "{} was given twice", place.slot);
        owners.entry(place.slot.block()).or_default().insert(tree.session);
        assert_eq!(w.store().slot(lease).await.unwrap().unwrap().place, place);
    }
    assert!(owners.values().all(|trees| trees.len() == 1), "{owners:?}");
    assert_eq!(owners.len(), 6, "70 sessions need two blocks of 64");
    assert_eq!(w.store().slot_roles().await.unwrap(), [ROLE]);
}

pub(crate) async fn a_full_role_spills_to_the_next_and_a_full_pool_refuses(w: &mut World) {
    let mut counts = BTreeMap::<String, u32>::new();
    let mut entropy = 0;
    let full = loop {
        // All of them young: each counts twice.
        entropy += 1;
        match reserve(w, ask(LeaseId::new(T0, entropy), None, T0)).await {
            Ok(place) => *counts.entry(place.role).or_default() += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(full, StoreError::RolesFull { roles: 2 }), "{full:?}");
    let capacity = Capacity::OF_A_ROLE.get();
    assert_eq!(counts, BTreeMap::from([(ROLE.to_owned(), capacity), (OTHER.to_owned(), capacity)]));

    // Once they are old, there is room for as many again; a place that is kept for others is not given.
    let later = ask(LeaseId::new(T0, 0), None, at(190));
    let place = reserve(w, SlotAsk { spare: capacity, ..later.clone() }).await;
    assert!(matches!(place, Err(StoreError::RolesFull { .. })), "{place:?}");
    assert_eq!(reserve(w, later).await.unwrap().role, ROLE);
}

pub(crate) async fn what_is_taken_back_is_denied_from_the_next_version_on(w: &mut World) {
    let (task, stays) = (w.open_root("a").await, w.open_root("b").await);
    let (lease, place) = session(w, &task, RevokeWhen::Always).await;
    session(w, &stays, RevokeWhen::Always).await;
    let first = plan(w, wish("one", None, at(1))).await.unwrap();
    assert_eq!((first.version, first.written.clone(), first.sessions.len(), first.leases), (0, None, 2, 2));
    assert_eq!(revoked(&first), []);
    assert!(write(w, &first, at(1)).await);

    w.end(EndWhich::Task(task.id), EndCause::AnchorGone, at(2)).await;
    let second = plan(w, wish("one", Some(first.fence), at(3))).await.unwrap();
    assert_eq!((second.fence, second.version), (first.fence, 1));
    assert_eq!(revoked(&second), [place.slot]);
    assert_eq!(second.written, Some((Written { of: at(1), at: at(1) }, "digest 0".to_owned())));
    let again = plan(w, wish("one", Some(first.fence), at(4))).await.unwrap();
    assert_eq!((again.version, revoked(&again)), (1, vec![place.slot]), "nothing new is no new version");

    let standing = async || w.store().slot(lease.id).await.unwrap().unwrap();
    assert_eq!((standing().await.denied_in, standing().await.written), (Some(1), 0));
    w.store().document_proven(ROLE, 1, "too early".to_owned()).await.unwrap();
    assert!(write(w, &second, at(4)).await);
    assert_eq!((standing().await.written, standing().await.proven), (1, 0), "not written, not proven");
    w.store().document_proven(ROLE, 1, "denied".to_owned()).await.unwrap();
    w.store().document_proven(ROLE, 0, "older".to_owned()).await.unwrap();
    assert_eq!((standing().await.proven, standing().await.evidence.as_str()), (1, "denied"));
}

pub(crate) async fn what_its_scope_does_not_want_denied_runs_out(w: &mut World) {
    let task = w.open_root("a").await;
    // Its lease is bound to T0 + 600 s.
    let (_, short) = session(w, &task, RevokeWhen::IfRemaining(Ttl::seconds(590))).await;
    let (_, long) = session(w, &task, RevokeWhen::IfRemaining(Ttl::seconds(580))).await;
    let (admins, theirs) = session(w, &task, RevokeWhen::AdminOnly).await;
    let stays = w.open_root("b").await;
    let (other, others) = session(w, &stays, RevokeWhen::AdminOnly).await;
    w.end(EndWhich::Task(task.id), EndCause::Explicit, at(15)).await;
    let asked = vec![other.id];
    w.store().queue_revocations(asked, RevokeCause::Admin, at(15), None).await.unwrap();
    let plan = plan(w, wish("one", None, at(16))).await.unwrap();
    let mut expected = vec![long.slot, others.slot];
    expected.sort();
    let mut denied = revoked(&plan);
    denied.sort();
    assert_eq!(denied, expected, "not {} and not {}", short.slot, theirs.slot);
    assert_eq!(w.store().slot(admins.id).await.unwrap().unwrap().denied_in, None);
}

pub(crate) async fn one_broker_at_a_time_writes_a_document(w: &mut World) {
    let task = w.open_root("a").await;
    session(w, &task, RevokeWhen::Always).await;
    let one = plan(w, wish("one", None, at(0))).await.unwrap();
    assert_eq!(plan(w, wish("two", None, at(29))).await, None);
    let kept = plan(w, wish("one", Some(one.fence), at(20))).await.unwrap();
    assert_eq!(kept.fence, one.fence);
    assert_eq!(plan(w, wish("two", None, at(49))).await, None);
    let two = plan(w, wish("two", None, at(50))).await.unwrap();
    assert!(two.fence > one.fence);
    assert!(!write(w, &kept, at(51)).await, "the first one slept too long");
    assert!(write(w, &two, at(51)).await);
    assert_eq!(plan(w, wish("one", Some(one.fence), at(52))).await, None);
    // The same broker in another life holds what it held, under another number.
    let reborn = plan(w, wish("two", None, at(53))).await.unwrap();
    assert!(reborn.fence > two.fence && !write(w, &two, at(54)).await);
}

pub(crate) async fn a_slot_is_free_again_only_when_no_document_can_mean_it(w: &mut World) {
    let task = w.open_root("a").await;
    let (lease, place) = session(w, &task, RevokeWhen::Always).await;
    let (unused, _) = session(w, &task, RevokeWhen::Always).await;
    w.store().release_slot(unused.id).await.unwrap();
    assert_eq!(w.store().slot(unused.id).await.unwrap(), None);
    w.end(EndWhich::Task(task.id), EndCause::Explicit, at(1)).await;
    let naming = plan(w, wish("one", None, at(2))).await.unwrap();
    assert!(write(w, &naming, at(2)).await);
    w.store().release_slot(lease.id).await.unwrap();
    let known = async || w.store().slot(lease.id).await.unwrap().is_some();
    assert!(known().await, "a document names it");

    // The answer tells when it is gone: sooner than was feared, and never later.
    let settled = |gone: u64| Session::between(place.slot, T0, at(1), at(gone), SKEW);
    w.store().settle_slot(lease.id, settled(900)).await.unwrap();
    w.store().settle_slot(lease.id, settled(9_000)).await.unwrap();
    let kept = plan(w, wish("one", None, at(899))).await.unwrap();
    assert_eq!(revoked(&kept), [place.slot]);
    assert_eq!((kept.sessions[0].latest, kept.sessions[0].gone_at), (settled(900).latest, at(900)));
    let without = plan(w, wish("one", None, at(900))).await.unwrap();
    assert_eq!(without.sessions, []);
    assert!(known().await, "the last document still names it");
    assert!(write(w, &without, at(900)).await);
    plan(w, wish("one", None, at(1199))).await.unwrap();
    assert!(known().await, "somewhere the document before may still be asked");
    plan(w, wish("one", None, at(1200))).await.unwrap();
    assert!(!known().await);
}

pub(crate) async fn a_canary_is_denied_with_what_it_is_to_prove(w: &mut World) {
    let task = w.open_root("a").await;
    session(w, &task, RevokeWhen::Always).await;
    let canary = LeaseId::new(T0, 1_000_000);
    let place = reserve(w, ask(canary, None, T0)).await.unwrap();
    let with = |now| PlanAsk { canary: Some(canary), ..wish("one", None, now) };
    let idle = plan(w, with(at(1))).await.unwrap();
    assert_eq!(
        (idle.canary_taken, idle.leases, revoked(&idle)),
        (false, 1, vec![]),
        "nothing is to be proven"
    );
    w.end(EndWhich::Task(task.id), EndCause::Explicit, at(2)).await;
    let taken = plan(w, with(at(3))).await.unwrap();
    assert!(taken.canary_taken && revoked(&taken).contains(&place.slot));
    assert_eq!(w.store().slot(canary).await.unwrap().unwrap().denied_in, Some(taken.version));
    // It was lost with its broker: another one proves what is left to be proven.
    let second = LeaseId::new(T0, 1_000_001);
    reserve(w, ask(second, None, T0)).await.unwrap();
    let later = plan(w, PlanAsk { canary: Some(second), ..wish("one", None, at(4)) }).await.unwrap();
    assert!(later.canary_taken && later.version == taken.version + 1);
    assert!(write(w, &later, at(5)).await);
    w.store().document_proven(ROLE, later.version, "denied".to_owned()).await.unwrap();
    let third = LeaseId::new(T0, 1_000_002);
    reserve(w, ask(third, None, T0)).await.unwrap();
    let after = plan(w, PlanAsk { canary: Some(third), ..wish("one", None, at(6)) }).await.unwrap();
    assert!(!after.canary_taken && after.proven == after.version);
}
