//! Every way in which a task ends, and that the broker hears of each.

use std::time::Duration;

use dayfly_client::v1::{self, attach_response::Message as Down};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::world::{Shell, World, eventually};

fn task_id(shell: &mut Shell) -> String {
    shell.var("DAYFLY_TASK_ID")
}

fn pid(text: &str) -> Pid {
    Pid::from_raw(text.parse().unwrap())
}

fn is_dead(process: Pid) -> Option<()> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    (stat.is_empty() || stat.contains(") Z ")).then_some(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_is_told_at_once_and_takes_its_daemons_along() {
    let world = World::start().await;
    let mut shell = world.task(&["--scope", "s3"]);
    let id = task_id(&mut shell);
    let daemon = pid(&shell.run("(setsid sleep 600 >/dev/null & echo $!)"));
    eventually("it is in the inventory", || {
        world.broker.book().inventories.last().is_some_and(|tasks| tasks.contains(&id)).then_some(())
    })
    .await;

    let begin = std::time::Instant::now();
    shell.kill();
    let told = eventually("the end", || world.broker.book().told.first().cloned()).await;
    assert!(
        begin.elapsed() < Duration::from_secs(1),
        "by event, not with a heartbeat: {:?}",
        begin.elapsed()
    );
    assert_eq!((told.task_id, &*told.signal), (id.clone(), "exit"));
    assert!(told.observed_at.is_some());
    eventually("the daemon dies", || is_dead(daemon)).await;
    eventually("it leaves the inventory", || {
        world.broker.book().inventories.last().is_some_and(|tasks| !tasks.contains(&id)).then_some(())
    })
    .await;
    let dirs =
        || std::fs::read_dir(&world.cgroup).unwrap().filter(|e| e.as_ref().unwrap().path().is_dir()).count();
    eventually("the cgroup is removed", || (dirs() == 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_code_and_signals_are_the_programs_own() {
    let world = World::start().await;
    let mut shell = world.task(&[]);
    let pid_of_launcher = shell.child.id();
    assert_eq!(shell.run("echo $$"), pid_of_launcher.to_string(), "no supervisor stands between");
    shell.run("trap 'exit 42' TERM");
    // A trap is run between commands.
    shell.send("while :; do sleep 0.05; done");
    kill(Pid::from_raw(i32::try_from(pid_of_launcher).unwrap()), Signal::SIGTERM).unwrap();
    let status = eventually("it exits", || shell.child.try_wait().unwrap()).await;
    assert_eq!(status.code(), Some(42));
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_are_spared_on_request() {
    let world = World::start().await;
    let mut shell = world.task(&["--label", "leave_orphans=true"]);
    let orphan = pid(&shell.run("(setsid sleep 600 >/dev/null & echo $!)"));
    shell.kill();
    eventually("the end", || world.broker.book().told.pop()).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(is_dead(orphan).is_none(), "it lives");
    kill(orphan, Signal::SIGKILL).unwrap();
    let dirs =
        || std::fs::read_dir(&world.cgroup).unwrap().filter(|e| e.as_ref().unwrap().path().is_dir()).count();
    eventually("the cgroup is removed", || (dirs() == 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_process_ends_a_task_that_waits_for_all() {
    let world = World::start().await;
    let mut shell = world.task(&["--label", "wait_all=true"]);
    let daemon = pid(&shell.run("(setsid sleep 600 >/dev/null & echo $!)"));
    shell.kill();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(world.broker.book().told.is_empty() && is_dead(daemon).is_none());
    kill(daemon, Signal::SIGKILL).unwrap();
    let told = eventually("the end", || world.broker.book().told.pop()).await;
    assert_eq!(told.signal, "cgroup_empty");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_brokers_order_ends_a_task_and_is_acknowledged() {
    let world = World::start().await;
    let mut shell = world.task(&["--scope", "s3"]);
    let id = task_id(&mut shell);
    world
        .broker
        .order(Down::EndTask(v1::EndTaskOrder { task_id: id.clone(), cause: "deadline".to_owned() }))
        .await;
    eventually("it is acknowledged", || world.broker.book().acknowledged.contains(&id).then_some(())).await;
    eventually("the program is killed", || (!shell.is_alive()).then_some(())).await;
    assert!(world.broker.book().told.is_empty(), "the broker knows");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_opened_over_the_socket_is_watched_and_ended_by_its_member() {
    let world = World::start().await;
    let said = world.watch_and_end().await;
    assert_eq!(said, "watched\nended: 1 tasks, 7 leases\nover: explicit\n", "the broker's own figures");
    assert_eq!(world.broker.book().ended_by_call.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_during_an_outage_is_told_afterwards_until_it_is_on_record() {
    let mut world = World::start().await;
    let mut shell = world.task(&["--scope", "s3"]);
    let id = task_id(&mut shell);
    world.broker.book().records = false;
    world.crash_broker();
    shell.kill();
    tokio::time::sleep(Duration::from_millis(300)).await;
    world.revive_broker();
    eventually("it is told again and again", || (world.broker.book().told.len() >= 3).then_some(())).await;
    assert!(world.broker.book().told.iter().all(|told| told.task_id == id && told.signal == "exit"));
    world.broker.book().records = true;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let count = world.broker.book().told.len();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.broker.book().told.len(), count, "it is on record");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_agent_ends_its_tasks_in_order() {
    let mut world = World::start().await;
    let mut shell = world.task(&["--scope", "s3"]);
    let id = task_id(&mut shell);
    kill(Pid::from_raw(i32::try_from(world.agent_pid()).unwrap()), Signal::SIGINT).unwrap();
    let status = world.agent_ended().await;
    assert_eq!(status.code(), Some(0));
    assert!(world.broker.book().told.iter().any(|told| told.task_id == id), "told before it was gone");
    assert!(!shell.is_alive());
    assert!(!world.socket().exists() && !world.cgroup.exists(), "nothing is left behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_gets_a_new_stream_and_no_end_is_lost_on_the_way() {
    let mut world = World::start().await;
    let mut shell = world.task(&["--scope", "s3"]);
    world.spiffe.rotate_now();
    world.until_attached(2).await;
    let id = task_id(&mut shell);
    shell.kill();
    let told = eventually("the end", || world.broker.book().told.first().cloned()).await;
    assert_eq!(told.task_id, id);
    assert!(
        !world.log().contains("the stream to the broker is lost"),
        "the old one was kept until the new one stood"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_identity_was_withdrawn_still_tells_ends() {
    let world = World::start().await;
    let mut shell = world.task(&["--scope", "s3"]);
    world.spiffe.withdraw(&dayfly_client::SpiffeId::new(crate::world::AGENT).unwrap());
    tokio::time::sleep(Duration::from_millis(300)).await;
    let words = world.refused(&["--scope", "s3"]);
    assert!(words.contains("refused: "), "nothing new is opened: {words}");
    shell.kill();
    let told = eventually("the end", || world.broker.book().told.first().cloned()).await;
    assert_eq!(told.signal, "exit");
    assert_eq!(world.broker.book().attached, 1, "on the stream that stood");
}
