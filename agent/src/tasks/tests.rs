//! How tasks end, with real processes as leaders.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::time::SystemTime;

use dayfly_proto::v1::attach_request::Message;

use super::*;
use crate::anchor::{EndsWith, ProcessAnchor};
use crate::member::Standing;
use crate::process::Process;
use crate::testkit::{Shell, TestTree, eventually};

fn tasks(tree: Option<&TestTree>) -> Arc<Tasks> {
    Tasks::new(Roster::new(tree.map(|tree| tree.hierarchy().clone())), None, Arc::default())
}

fn new_task(id: &str, parent: Option<&str>, anchor: Anchor, leave_orphans: bool) -> NewTask {
    NewTask {
        id: id.to_owned(),
        session_id: "s".to_owned(),
        parent: parent.map(str::to_owned),
        deadline: Some(SystemTime::now() + Duration::from_secs(60)),
        anchor: Arc::new(anchor),
        leave_orphans,
        deliveries: std::collections::BTreeMap::default(),
        folder: None,
    }
}

fn on_cgroup(tree: &TestTree, tasks: &Tasks, name: &str, parent: Option<&str>, leader: Process) -> Anchor {
    let roster = tasks.roster();
    let above = parent.and_then(|parent| roster.cgroup_above(parent));
    let cgroup = tree.open_task(name, above, &leader).unwrap();
    Anchor::OwnedCgroup { cgroup, leader: Some(leader), ends_with: EndsWith::Leader }
}

fn on_process(leader: Process) -> Anchor {
    Anchor::Process(ProcessAnchor::again(leader))
}

async fn told(tasks: &Tasks) -> Vec<(String, String)> {
    let fresh = tokio::time::timeout(Duration::from_secs(5), tasks.outbox.fresh()).await.unwrap();
    let word = |message| match message {
        Message::TaskEnded(ended) => (ended.task_id, ended.signal),
        Message::EndAcknowledged(acknowledged) => (acknowledged.task_id, "acknowledged".to_owned()),
        other => panic!("{other:?}"),
    };
    fresh.into_iter().map(word).collect()
}

#[tokio::test]
async fn a_killed_leader_ends_its_task_and_those_below_and_nothing_is_left() {
    let tree = TestTree::new();
    let tasks = tasks(Some(&tree));
    let (mut outer, inner) = (Shell::start(), Shell::start());
    let daemon = outer.daemon();
    let task = tasks
        .insert(new_task("a", None, on_cgroup(&tree, &tasks, "a", None, outer.process()), false))
        .unwrap();
    let child = on_cgroup(&tree, &tasks, "b", Some("a"), inner.process());
    let child = tasks.insert(new_task("b", Some("a"), child, false)).unwrap();
    let (inner_process, late) = (inner.process(), outer.daemon());
    assert_eq!(tasks.inventory().len(), 2);

    outer.kill();
    task.ended().await;
    assert_eq!(task.over().unwrap().cause, "anchor_gone");
    assert_eq!(child.over().unwrap().cause, "parent_ended");
    assert!(tasks.inventory().is_empty());
    assert_eq!(told(&tasks).await, [("a".to_owned(), "exit".to_owned())], "the broker cascades by itself");
    tokio::task::spawn_blocking(move || {
        eventually(|| (!inner_process.is_alive() && !late.is_alive()).then_some(()));
    })
    .await
    .unwrap();
    assert!(daemon.is_alive(), "it was never inside");
    tasks.stop(Duration::from_millis(200)).await;
    assert!(tasks.get("a").is_none() && tasks.get("b").is_none());
    assert_eq!(
        std::fs::read_dir(tree.directory()).unwrap().filter(|e| e.as_ref().unwrap().path().is_dir()).count(),
        0
    );
}

#[tokio::test]
async fn who_says_that_it_is_done_lives_on_outside_and_its_helpers_do_not() {
    let tree = TestTree::new();
    let tasks = tasks(Some(&tree));
    let mut shell = Shell::start();
    let task = new_task("a", None, on_cgroup(&tree, &tasks, "a", None, shell.process()), false);
    tasks.insert(task).unwrap();
    let helper = shell.grandchild();
    assert_eq!(tasks.end("a", &EndSignal::Explicit), 1);
    assert_eq!(tasks.end("a", &EndSignal::Explicit), 0, "the second call is harmless");
    assert_eq!(told(&tasks).await, [("a".to_owned(), "explicit".to_owned())]);
    tasks.stop(Duration::from_millis(200)).await;
    assert!(!helper.is_alive());
    assert!(shell.process().is_alive());
    assert_eq!(tasks.roster().innermost(&shell.process()).unwrap(), Standing::Outside);
}

#[tokio::test]
async fn the_brokers_order_kills_and_is_acknowledged_even_twice() {
    let tasks = tasks(None);
    let shell = Shell::start();
    let process = shell.process();
    tasks.insert(new_task("a", None, on_process(process.clone()), false)).unwrap();
    let ordered = EndSignal::Ordered("deadline".to_owned());
    assert_eq!(tasks.end("a", &ordered), 1);
    assert_eq!(told(&tasks).await, [("a".to_owned(), "acknowledged".to_owned())]);
    // Without a cgroup the kill is not waited for.
    tokio::time::timeout(Duration::from_secs(5), dayfly_sys::pidfd::exited(&process)).await.unwrap().unwrap();
    tasks.stop(Duration::from_millis(500)).await;
    assert_eq!(tasks.end("a", &ordered), 0);
    assert_eq!(told(&tasks).await, [("a".to_owned(), "acknowledged".to_owned())]);
}

#[tokio::test]
async fn orphans_that_are_spared_stand_in_a_task_that_is_over_until_they_exit() {
    let tree = TestTree::new();
    let tasks = tasks(Some(&tree));
    let mut shell = Shell::start();
    let task = new_task("a", None, on_cgroup(&tree, &tasks, "a", None, shell.process()), true);
    let task = tasks.insert(task).unwrap();
    let orphan = shell.daemon();
    shell.kill();
    task.ended().await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(orphan.is_alive());
    assert_eq!(tasks.roster().innermost(&orphan).unwrap(), Standing::In("a".to_owned()));
    assert!(!tasks.get("a").unwrap().is_open());
    dayfly_sys::pidfd::kill(&orphan).unwrap();
    tasks.recorded("a");
    tasks.stop(Duration::from_secs(5)).await;
    assert!(tasks.get("a").is_none());
}

#[tokio::test]
async fn a_child_opened_while_its_parent_ended_has_ended_too() {
    let tasks = tasks(None);
    let shell = Shell::start();
    let late = tasks.insert(new_task("b", Some("gone"), on_process(shell.process()), true)).unwrap_err();
    assert!(!late.is_open());
    assert_eq!(told(&tasks).await, [("b".to_owned(), "explicit".to_owned())]);
}
