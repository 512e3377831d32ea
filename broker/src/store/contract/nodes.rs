//! Node agents and their silence.

use dayfly_domain::audit::{Record, Stream};
use dayfly_domain::brake::Brake;
use dayfly_domain::lease::{Lease, RevokeCause};
use dayfly_domain::node::NodeState;
use dayfly_domain::task::EndCause;
use dayfly_domain::time::Timestamp;

use super::World;
use super::world::{T0, at, identity};
use crate::store::{EndWhich, Ended, StoreError};

pub(crate) async fn a_second_boot_waits_until_the_first_lapsed(w: &mut World) {
    let node = identity("node/1");
    assert_eq!(w.store().attach_node(&node, "boot-1", at(10), T0).await.unwrap(), 1);
    let refusal = w.store().attach_node(&node, "boot-2", at(20), at(10)).await;
    assert!(
        matches!(&refusal, Err(StoreError::NodeAttachedElsewhere { node: found }) if *found == node),
        "{refusal:?}"
    );
    assert_eq!(w.store().attach_node(&node, "boot-1", at(20), at(10)).await.unwrap(), 2, "the same boot");
    // Nothing was heard of it since the moment that counts.
    assert_eq!(w.store().attach_node(&node, "boot-2", at(60), at(21)).await.unwrap(), 3);
    w.end(silent("node/1", at(61), &[]), EndCause::NodeSilent, at(61)).await;
    assert_eq!(w.store().attach_node(&node, "boot-3", at(62), T0).await.unwrap(), 4, "it lapsed");
    let nodes = w.store().nodes().await.unwrap();
    assert_eq!(
        (nodes[0].boot_id.as_str(), nodes[0].epoch, nodes[0].state),
        ("boot-3", 4, NodeState::Attached)
    );
}

pub(crate) async fn only_the_newest_stream_speaks(w: &mut World) {
    let node = identity("node/1");
    assert!(!w.store().touch_node(&node, 1, T0).await.unwrap(), "nobody attached");
    let old = w.store().attach_node(&node, "boot-1", T0, T0).await.unwrap();
    let new = w.store().attach_node(&node, "boot-1", at(1), T0).await.unwrap();
    assert!(!w.store().touch_node(&node, old, at(5)).await.unwrap());
    assert!(w.store().touch_node(&node, new, at(5)).await.unwrap());
    assert_eq!(w.store().nodes().await.unwrap()[0].last_seen_at, at(5));
    w.open_root("a").await;
    assert_eq!(w.store().nodes().await.unwrap()[0].open_tasks, 1);
    w.end(silent("node/1", at(6), &[]), EndCause::NodeSilent, at(6)).await;
    assert!(!w.store().touch_node(&node, new, at(7)).await.unwrap(), "it lapsed");
}

fn silent(node: &str, since_before: Timestamp, spared: &[&str]) -> EndWhich {
    EndWhich::SilentNode {
        node: identity(node),
        silent_since_before: since_before,
        spared_scopes: spared.iter().map(|scope| (*scope).to_owned()).collect(),
    }
}

pub(crate) async fn a_node_lapses_with_its_tasks_in_one_step_and_once(w: &mut World) {
    let node = identity("node/1");
    w.store().attach_node(&node, "boot-1", at(1), T0).await.unwrap();
    let task = w.open_root("a").await;
    let lease = w.open_active(&task, "b").await;
    let end = |since_before, now| w.end(silent("node/1", since_before, &[]), EndCause::NodeSilent, now);
    assert_eq!(end(at(1), at(30)).await, Ended::default(), "it spoke at that moment");
    let ended = end(at(2), at(31)).await;
    assert_eq!((ended.tasks, ended.leases), (vec![(task.id, Some(node.clone()))], vec![lease.id]));
    assert_eq!(end(at(2), at(32)).await, Ended::default(), "once");
    let heard = w.store().nodes_heard(Some(&node)).await.unwrap();
    assert_eq!((heard[0].state, heard[0].epoch, heard[0].last_seen_at), (NodeState::Lapsed, 1, at(1)));
    assert_eq!(w.store().nodes_heard(None).await.unwrap(), heard);
    assert_eq!(w.store().nodes_heard(Some(&identity("node/2"))).await.unwrap(), []);
}

pub(crate) async fn a_spared_lease_holds_its_task_and_those_above_and_no_other_lease(w: &mut World) {
    w.store().attach_node(&identity("node/1"), "boot-1", T0, T0).await.unwrap();
    let root = w.open_root("a").await;
    let child = w.open_child(&root, "b").await;
    let beside = w.open_child(&root, "c").await;
    let spared = Lease { scope: "held".to_owned(), ..w.active(&child, "b") };
    w.try_lease(&spared, T0).await.unwrap();
    let lost = w.open_active(&child, "b").await;
    let ended = w.end(silent("node/1", at(9), &["held"]), EndCause::NodeSilent, at(10)).await;
    assert_eq!(ended.tasks.iter().map(|(task, _)| *task).collect::<Vec<_>>(), [beside.id]);
    assert_eq!(ended.leases, [lost.id]);
    assert_eq!(w.lease_state(&spared).await.name(), "active");
    assert_eq!(super::ends::why_revoked(&w.lease_state(&lost).await), Some(RevokeCause::NodeSilent));

    let more = w.active(&child, "b");
    let refused = w.try_lease(&more, at(11)).await;
    assert!(matches!(refused, Err(StoreError::NodeLapsed { .. })), "{refused:?}");
    let another = w.root("d");
    let refused = w.try_open(&another).await;
    assert!(matches!(refused, Err(StoreError::NodeLapsed { .. })), "{refused:?}");
    w.store().attach_node(&identity("node/1"), "boot-1", at(20), T0).await.unwrap();
    w.try_lease(&more, at(21)).await.expect("it attached anew");
}

pub(crate) async fn of_two_that_move_the_brake_one_does(w: &mut World) {
    let record = || Record::new(Stream::Admin, "brake.engaged", at(1));
    let open = w.store().brake().await.unwrap();
    assert_eq!(open, Brake::default());
    let engaged = Brake { engaged_at: Some(at(1)), ..Brake::default() };
    assert!(w.store().move_brake(open.clone(), engaged.clone(), record()).await.unwrap());
    assert!(!w.store().move_brake(open, engaged.clone(), record()).await.unwrap());
    let released = Brake { engaged_at: None, released_at: Some(at(2)), released_by: "ann".to_owned() };
    assert!(w.store().move_brake(engaged, released.clone(), record()).await.unwrap());
    assert_eq!(w.store().brake().await.unwrap(), released);
}
