//! Node agents and their silence.

use super::World;
use super::world::{T0, at, identity};
use crate::store::{NodeState, StoreError};

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
    assert_eq!(w.store().lapse_nodes(at(61), at(61)).await.unwrap(), std::slice::from_ref(&node));
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
    w.store().lapse_nodes(at(6), at(6)).await.unwrap();
    assert!(!w.store().touch_node(&node, new, at(7)).await.unwrap(), "it lapsed");
}

pub(crate) async fn silent_nodes_lapse_once(w: &mut World) {
    let (silent, speaks) = (identity("node/1"), identity("node/2"));
    w.store().attach_node(&silent, "boot-1", at(1), T0).await.unwrap();
    w.store().attach_node(&speaks, "boot-1", at(30), T0).await.unwrap();
    assert_eq!(w.store().lapse_nodes(at(30), at(31)).await.unwrap(), std::slice::from_ref(&silent));
    assert_eq!(w.store().lapse_nodes(at(30), at(31)).await.unwrap(), []);
    let states: Vec<_> = w.store().nodes().await.unwrap().into_iter().map(|node| node.state).collect();
    assert_eq!(states, [NodeState::Lapsed, NodeState::Attached]);
}
