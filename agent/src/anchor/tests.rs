#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::time::Instant;

use dayfly_sys::pidfd;

use super::*;
use crate::process::{ProcessId, Stat};
use crate::testkit::{Shell, TestTree, eventually};

fn on_cgroup(tree: &TestTree, leader: Process, ends_with: EndsWith) -> Anchor {
    let cgroup = tree.open_task("t", None, &leader).unwrap();
    Anchor::OwnedCgroup { cgroup, leader: Some(leader), ends_with }
}

fn on_process(leader: Process) -> Anchor {
    Anchor::Process(ProcessAnchor::new(&leader.clone(), leader).unwrap())
}

/// To be watched from a spawned task.
fn must_be_send<T: Send>(future: T) -> T {
    future
}

async fn ends_quickly(anchor: &Anchor) -> EndCause {
    let begin = Instant::now();
    let cause = must_be_send(anchor.ended()).await;
    assert!(begin.elapsed() < RECHECK * 2, "{:?}", begin.elapsed());
    cause
}

#[tokio::test]
async fn a_killed_leader_ends_the_task_and_the_orphan_daemon_dies_with_it() {
    let tree = TestTree::new();
    let mut shell = Shell::start();
    let anchor = on_cgroup(&tree, shell.process(), EndsWith::Leader);
    let daemon = shell.daemon();
    let early = tokio::time::timeout(Duration::from_millis(50), anchor.ended()).await;
    assert!(early.is_err());
    shell.kill();
    assert_eq!(ends_quickly(&anchor).await, EndCause::LeaderExited);
    assert!(daemon.is_alive(), "the task is over although its daemon lives");
    must_be_send(anchor.kill_rest(Spare::Nobody)).await.unwrap();
    assert!(!daemon.is_alive());
    drop(shell);
    anchor.remove().unwrap();
}

#[tokio::test]
async fn a_process_anchor_ends_when_its_leader_is_killed() {
    let mut shell = Shell::start();
    let anchor = on_process(shell.process());
    let early = tokio::time::timeout(Duration::from_millis(50), anchor.ended()).await;
    assert!(early.is_err());
    shell.kill();
    assert_eq!(ends_quickly(&anchor).await, EndCause::LeaderExited);
    assert_eq!(ends_quickly(&anchor).await, EndCause::LeaderExited, "and stays so once reaped");
}

#[tokio::test]
async fn waiting_for_all_outlasts_the_leader_and_ends_with_the_last_process() {
    let tree = TestTree::new();
    let mut shell = Shell::start();
    let anchor = on_cgroup(&tree, shell.process(), EndsWith::LastProcess);
    let daemon = shell.daemon();
    shell.kill();
    let early = tokio::time::timeout(Duration::from_millis(50), anchor.ended()).await;
    assert!(early.is_err(), "the daemon still works");
    pidfd::kill(&daemon).unwrap();
    assert_eq!(ends_quickly(&anchor).await, EndCause::CgroupEmpty);
}

#[tokio::test]
async fn a_task_whose_leader_was_lost_in_a_restart_has_ended() {
    let tree = TestTree::new();
    let shell = Shell::start();
    let cgroup = tree.open_task("t", None, &shell.process()).unwrap();
    let anchor = Anchor::OwnedCgroup { cgroup, leader: None, ends_with: EndsWith::Leader };
    assert_eq!(ends_quickly(&anchor).await, EndCause::LeaderExited);
}

#[tokio::test]
async fn a_leader_that_ends_its_own_task_lives_on_outside_it() {
    let tree = TestTree::new();
    let mut shell = Shell::start();
    let anchor = on_cgroup(&tree, shell.process(), EndsWith::Leader);
    let daemon = shell.daemon();
    anchor.kill_rest(Spare::Leader).await.unwrap();
    assert!(!daemon.is_alive());
    assert_eq!(shell.run("echo alive"), "alive");
    anchor.remove().unwrap();
}

#[tokio::test]
async fn a_process_anchor_kills_its_descendants_and_spares_whom_it_should() {
    let mut shell = Shell::start();
    let mut bystander = Shell::start();
    let anchor = on_process(shell.process());
    let grandchild = shell.grandchild();
    anchor.kill_rest(Spare::Leader).await.unwrap();
    eventually(|| (!grandchild.is_alive()).then_some(()));
    assert_eq!(shell.run("echo alive"), "alive");

    let grandchild = shell.grandchild();
    anchor.kill_rest(Spare::Nobody).await.unwrap();
    eventually(|| (!grandchild.is_alive() && !shell.process_is_alive()).then_some(()));
    assert_eq!(bystander.run("echo alive"), "alive");
}

#[tokio::test]
async fn after_its_death_a_leader_of_a_session_is_still_answered_for() {
    let mut shell = Shell::start();
    // The leader of a session of its own, with one child in it.
    let leader = shell.started("setsid bash -c 'sleep 60 & echo $!; exec sleep 61' & sleep 0.2");
    let leader = Process::open(leader.facts().unwrap().ppid).unwrap();
    let anchor = on_process(leader.clone());
    let Anchor::Process(inner) = &anchor else { unreachable!() };
    let child = inner.rest().unwrap().pop().unwrap();
    pidfd::kill(&leader).unwrap();
    assert_eq!(anchor.ended().await, EndCause::LeaderExited);
    assert!(child.is_alive());
    anchor.kill_rest(Spare::Nobody).await.unwrap();
    eventually(|| (!child.is_alive()).then_some(()));
    assert_eq!(shell.run("echo alive"), "alive");
}

#[test]
fn a_group_that_took_the_leaders_number_later_is_not_the_tasks() {
    let shell = Shell::start();
    let leader = shell.process();
    let anchor = ProcessAnchor::again(leader.clone());
    let ProcessId { pid, start_time } = leader.id();
    let stat = |pid, start_time, pgrp, session| Stat {
        id: ProcessId { pid, start_time },
        ppid: 1,
        pgrp,
        session,
        is_dead: false,
    };
    let dead_since = start_time + 100;
    let all = [
        stat(90_001, start_time + 1, pid, 5),
        stat(90_002, start_time + 1, 5, pid),
        stat(90_003, dead_since + 1, pid, pid),
        stat(90_004, start_time - 1, pid, pid),
        stat(90_005, start_time + 1, 5, 5),
    ];
    let heirs: Vec<i32> = anchor.heirs(dead_since, &all).iter().map(|id| id.pid).collect();
    assert_eq!(heirs, [90_001, 90_002]);
}

#[test]
fn a_task_hangs_on_the_caller_or_its_child_and_on_nobody_else() {
    let mut caller = Shell::start();
    let stranger = Shell::start();
    let child = caller.started("sleep 60 & echo $!");
    let grandchild = caller.grandchild();
    assert!(ProcessAnchor::new(&caller.process(), caller.process()).is_ok());
    assert!(ProcessAnchor::new(&caller.process(), child).is_ok());
    for other in [grandchild, stranger.process(), Process::open(1).unwrap()] {
        let refused = ProcessAnchor::new(&caller.process(), other);
        assert!(matches!(refused, Err(AnchorError::NotYours)));
    }
}
