//! An agent that is back after a crash or an upgrade goes on with its tasks; what is not what it was is over.

use std::path::Path;
use std::process::Command;

use nix::unistd::Pid;

use crate::world::{BASH, Shell, World, eventually, example};

fn aws(shell: &mut Shell) -> String {
    let uri = shell.var("AWS_CONTAINER_CREDENTIALS_FULL_URI");
    let host = uri.strip_prefix("http://").unwrap().split('/').next().unwrap().to_owned();
    let bearer = shell.run("cat $AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE");
    shell.http(&host, &format!("GET /v1/aws/credentials HTTP/1.1\nAuthorization: {bearer}"))
}

async fn until_served(shell: &mut Shell) -> String {
    let served = |answer: &String| answer.starts_with("HTTP/1.1 200");
    eventually("it is served", || Some(aws(shell)).filter(served)).await
}

fn pid_of(shell: &Shell) -> i32 {
    i32::try_from(shell.child.id()).unwrap()
}

/// What every restart must leave as it was.
async fn goes_on_as_before(world: &mut World, shell: &mut Shell, file: &str) {
    let id = shell.var("DAYFLY_TASK_ID");
    until_served(shell).await;
    let issued = world.broker.book().issued.last().cloned().unwrap();
    assert_eq!(issued, (id.clone(), BASH.to_owned()), "in the name of the program that asks");
    eventually("the token file", || Path::new(file).exists().then_some(())).await;
    eventually("it is in the inventory", || {
        world.broker.book().inventories.last().is_some_and(|tasks| tasks.contains(&id)).then_some(())
    })
    .await;
    let book = world.broker.book();
    assert!(book.told.is_empty(), "no end was told: {:?}", book.told);
    assert!(book.ended_by_call.is_empty());
    let opened = book.opened[0].anchor.clone();
    let adopted = book.adopted.iter().find(|task| task.task_id == id).expect("the broker was asked");
    assert_eq!(adopted.anchor, opened, "what the kernel says is what is on record");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agent_takes_its_tasks_up_again_and_a_later_end_is_seen() {
    let mut world = World::start().await;
    let mut shell = world.task(&["--scope", "s3", "--scope", "index"]);
    let file = shell.var("DAYFLY_TOKEN_FILE");
    until_served(&mut shell).await;
    eventually("the token file", || Path::new(&file).exists().then_some(())).await;
    let daemon = Pid::from_raw(shell.run("(setsid sleep 600 >/dev/null & echo $!)").parse().unwrap());

    let journal = std::fs::read_to_string(world.home.path().join("run/journal")).unwrap();
    let bearer = shell.run("cat $AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE");
    assert!(journal.contains("bearer_sha256") && !journal.contains(&bearer), "no secret stands in it");
    assert!(!journal.contains("AKIA") && !journal.contains("access-L"));

    for _ in 0..2 {
        world.kill_agent();
        world.restart_agent().await;
        goes_on_as_before(&mut world, &mut shell, &file).await;
    }
    let id = shell.var("DAYFLY_TASK_ID");
    shell.kill();
    let told = eventually("the end", || world.broker.book().told.first().cloned()).await;
    assert_eq!((told.task_id, &*told.signal), (id, "exit"));
    eventually("its daemon is killed", || nix::sys::signal::kill(daemon, None).err()).await;
    eventually("its files are gone", || (!Path::new(&file).exists()).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_ends_no_task_and_its_child_stays_a_child() {
    let mut world = World::start().await;
    let mut shell = world.task(&["--scope", "s3", "--scope", "index"]);
    let file = shell.var("DAYFLY_TOKEN_FILE");
    until_served(&mut shell).await;
    let (program, socket) = (example().display().to_string(), world.socket().display().to_string());
    let child = shell.run(&format!("{program} --socket {socket} --scope s3 -- sleep 600 & echo $!"));
    eventually("the child task", || (world.broker.book().opened.len() == 2).then_some(())).await;
    eventually("it is in the inventory", || {
        world.broker.book().inventories.last().is_some_and(|tasks| tasks.len() == 2).then_some(())
    })
    .await;

    let status = world.terminate_agent().await;
    assert_eq!(status.code(), Some(0));
    assert!(shell.is_alive() && world.broker.book().told.is_empty());
    world.restart_agent().await;
    goes_on_as_before(&mut world, &mut shell, &file).await;
    assert_eq!(world.broker.book().inventories.last().map(Vec::len), Some(2));
    // The child's end is the child's alone, and the parent's takes what is left along.
    let adopted = world.broker.book().adopted.clone();
    assert!(adopted.len() == 2 && adopted[0].task_id != adopted[1].task_id, "{adopted:?}");
    shell.run(&format!("kill -9 {child}"));
    let told = eventually("the child's end", || world.broker.book().told.first().cloned()).await;
    assert_ne!(told.task_id, shell.var("DAYFLY_TASK_ID"));
    until_served(&mut shell).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_died_meanwhile_is_told_and_its_number_in_other_hands_is_nobody() {
    let mut world = World::start_with("anchor = \"process\"\n").await;
    let mut shell = world.task(&["--scope", "s3"]);
    let id = shell.var("DAYFLY_TASK_ID");
    let pid = pid_of(&shell);
    world.kill_agent();
    shell.kill();
    let mut impostor = with_pid(pid);
    world.restart_agent().await;
    let told = eventually("the end", || world.broker.book().told.first().cloned()).await;
    assert_eq!((told.task_id, &*told.signal), (id, "exit"));
    assert!(world.broker.book().adopted.is_empty(), "nothing was taken up");
    assert!(impostor.try_wait().unwrap().is_none(), "who has the number now is left alone");
    impostor.kill().unwrap();
    impostor.wait().unwrap();
}

/// A process with that very number: the kernel gives them out in order from the last one.
fn with_pid(pid: i32) -> std::process::Child {
    for _ in 0..1000 {
        std::fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).unwrap();
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        if i32::try_from(child.id()).unwrap() == pid {
            return child;
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    panic!("somebody else was always faster");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_broker_does_not_know_like_that_ends_and_is_never_served() {
    let mut world = World::start().await;
    let mut shell = world.task(&["--scope", "s3"]);
    let id = shell.var("DAYFLY_TASK_ID");
    let issued = world.broker.book().issued.len();
    world.kill_agent();
    world.broker.book().disowned.push(id.clone());
    world.restart_agent().await;
    let told = eventually("the end", || world.broker.book().told.first().cloned()).await;
    assert_eq!((told.task_id, &*told.signal), (id, "anchor_changed"));
    eventually("what is left is killed", || (!shell.is_alive()).then_some(())).await;
    assert_eq!(world.broker.book().issued.len(), issued);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_served_by_a_restarted_agent_before_the_broker_has_agreed() {
    let mut world = World::start().await;
    let mut shell = world.task(&["--scope", "s3"]);
    until_served(&mut shell).await;
    world.kill_agent();
    world.crash_broker();
    let attached = world.broker.book().attached;
    world.start_agent_again();
    // The endpoint is back where it was, and says that it has nothing yet.
    let answer = eventually("an answer", || Some(aws(&mut shell)).filter(|answer| !answer.is_empty())).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(shell.is_alive());
    world.revive_broker();
    world.until_attached(attached + 1).await;
    until_served(&mut shell).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_whose_endpoint_somebody_else_took_ends_and_others_go_on() {
    let mut world = World::start().await;
    let mut with_aws = world.task(&["--scope", "s3"]);
    let mut without = world.task(&[]);
    let (lost, kept) = (with_aws.var("DAYFLY_TASK_ID"), without.var("DAYFLY_TASK_ID"));
    let uri = with_aws.var("AWS_CONTAINER_CREDENTIALS_FULL_URI");
    let at = uri.strip_prefix("http://").unwrap().split('/').next().unwrap().to_owned();
    world.kill_agent();
    let _thief = std::net::TcpListener::bind(&at).unwrap();
    world.restart_agent().await;
    let told = eventually("the end", || world.broker.book().told.first().cloned()).await;
    assert_eq!((told.task_id, &*told.signal), (lost, "agent_restarted"));
    eventually("its program is killed", || (!with_aws.is_alive()).then_some(())).await;
    eventually("the other goes on", || {
        world.broker.book().inventories.last().filter(|tasks| ***tasks == [kept.clone()]).map(drop)
    })
    .await;
    assert!(without.is_alive());
}
