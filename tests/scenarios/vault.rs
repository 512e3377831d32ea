//! A task's Vault token on real SPIRE and real Vault: given to the task alone, taken back however the task ends.

use std::time::Duration;

use harness::world::vault_documents;
use harness::{SpireOptions, World, WorldOptions};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::life::{all_gone, ask_as, hold, outcomes, under_run, vault_tokens};

async fn start(options: WorldOptions) -> World {
    let mut world = World::start(WorldOptions { vault: true, ..options }).await.unwrap();
    world.apply(&vault_documents().unwrap()).await.unwrap();
    world
}

#[tokio::test]
async fn a_killed_task_loses_its_token_and_nobody_else_could_use_it() {
    let mut world = start(WorldOptions::default()).await;
    let uid = world.workload("/retrieval/ranker").await.unwrap();
    let holder = hold(&world, uid).await;
    assert_eq!(vault_tokens(&world).await.len(), 1);

    // Its own address and placeholder, in other hands: the same user, and root outside the task's cgroup.
    let url = format!("{}/v1/secret/data/kb/a", holder.address);
    let stolen = json!({ "X-Vault-Token": holder.placeholder, "X-Vault-Request": "true" });
    for thief in [Some(uid), None] {
        let (status, body) = ask_as(thief, &url, &stolen).await;
        assert_eq!(status, 403, "{body}");
    }
    let (status, _) = ask_as(Some(uid), &url, &json!({})).await;
    assert_eq!(status, 403, "a bare GET");

    holder.program.signal(Signal::SIGKILL).unwrap();
    all_gone(&world, Duration::from_secs(5)).await;
    assert_eq!(outcomes(&mut world, Duration::from_secs(5)).await, ["verified"]);
    let tasks = world.tasks().await.unwrap();
    assert_eq!(tasks.iter().map(|task| task.end_cause.as_str()).collect::<Vec<_>>(), ["anchor_gone"]);
    assert_eq!(tasks[0].task_id, holder.task);
    let leases = world.leases().await.unwrap();
    assert!(leases[0].evidence.contains("invalid accessor"), "{}", leases[0].evidence);
}

#[tokio::test]
async fn the_address_serves_the_whole_task_and_gives_no_token_away() {
    let world = start(WorldOptions::default()).await;
    let uid = world.workload("/retrieval/ranker").await.unwrap();
    let script = r#"
import json, os, subprocess, sys, urllib.error, urllib.request
base = os.environ["VAULT_ADDR"] + "/v1/"
full = {"X-Vault-Token": os.environ["VAULT_TOKEN"], "X-Vault-Request": "true"}
def ask(path, headers, method="GET"):
    try:
        answer = urllib.request.urlopen(urllib.request.Request(base + path, headers=headers, method=method), timeout=10)
        return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read().decode()
if len(sys.argv) > 1:
    print("grandchild", ask("secret/data/kb/a", full)[0]); sys.exit()
print("own", ask("secret/data/kb/a", full)[0])
print("bare", ask("secret/data/kb/a", {})[0])
print("no-marker", ask("secret/data/kb/a", {"X-Vault-Token": full["X-Vault-Token"]})[0])
print("wrong", ask("secret/data/kb/a", dict(full, **{"X-Vault-Token": "hvs.guess"}))[0])
for path in ["auth/token/lookup-self", "auth/token/create", "sys/wrapping/wrap", "sys/leases/lookup",
             "secret/../auth/token/lookup-self", "secret/%2e%2e/auth/token/lookup-self", "//auth/token/lookup-self"]:
    status, body = ask(path, full)
    print("path", path, status, "hvs." in body)
print("wrap", ask("secret/data/kb/a", dict(full, **{"X-Vault-Wrap-TTL": "60s"}))[0])
print("forwarded", ask("secret/data/kb/a", dict(full, **{"X-Forwarded-For": "10.0.0.1"}))[0])
print("host", ask("secret/data/kb/a", dict(full, Host="vault.internal"))[0], flush=True)
subprocess.run(["sh", "-c", '"$0" -c "$1" again', sys.executable, open("/proc/self/cmdline").read().split("\0")[2]])
"#;
    let said = under_run(&world, uid, &["--scope", "kb-read"], script).output().await;
    let said = said.unwrap_or_else(|error| panic!("{error:#}\n{}", world.logs()));
    let line = |start: &str| {
        said.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{start}: {said}"))
    };
    assert_eq!(line("own"), "own 200");
    assert_eq!(line("grandchild"), "grandchild 200");
    for refused in ["bare", "no-marker", "wrong", "wrap", "forwarded", "host"] {
        assert!(line(refused).contains(" 40"), "{said}");
    }
    for path in said.lines().filter(|line| line.starts_with("path")) {
        assert!(path.contains(" 40") && path.ends_with("False"), "{path}");
    }
    all_gone(&world, Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_task_that_ends_while_the_broker_is_down_is_over_when_it_comes_back() {
    let mut world = start(WorldOptions::default()).await;
    let uid = world.workload("/retrieval/ranker").await.unwrap();
    let holder = hold(&world, uid).await;
    world.kill_broker().unwrap();
    holder.program.signal(Signal::SIGKILL).unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(vault_tokens(&world).await.len(), 1, "nobody could take it back yet");
    world.start_broker_again(&[]).await.unwrap();
    all_gone(&world, Duration::from_secs(2)).await;
    assert_eq!(outcomes(&mut world, Duration::from_secs(5)).await, ["verified"]);
}

#[tokio::test]
async fn an_identity_outage_stops_no_revocation() {
    let spire = SpireOptions {
        x509_ttl: Duration::from_secs(20),
        jwt_ttl: Duration::from_secs(20),
        ..SpireOptions::default()
    };
    let mut world = start(WorldOptions { spire, ..WorldOptions::default() }).await;
    let uid = world.workload("/retrieval/ranker").await.unwrap();
    let holder = hold(&world, uid).await;
    world.spire.stop_agent().await.unwrap();
    world.spire.stop_server().await.unwrap();
    tokio::time::sleep(Duration::from_secs(25)).await;
    assert_eq!(vault_tokens(&world).await.len(), 1, "silence of SPIRE is no end");
    holder.program.signal(Signal::SIGKILL).unwrap();
    all_gone(&world, Duration::from_secs(5)).await;

    // A broker that starts now knows not who it is: it grants nothing, and break-glass still lists and ends.
    world.kill_broker().unwrap();
    world.start_broker_without_waiting(&[]).unwrap();
    let glass = world.break_glass().display().to_string();
    let list = || {
        harness::Program::new(harness::parts::binary("dayfly").unwrap())
            .args(["task", "list", "--all", "-o", "json"])
    };
    let listed = harness::eventually("break-glass without SPIRE", Duration::from_secs(20), || async {
        list().args(["--break-glass", &glass]).output().await
    });
    let listed = listed.await.unwrap_or_else(|error| panic!("{error:#}\n{}", world.logs()));
    assert!(listed.contains(&holder.task), "{listed}");
    world.spire.restart().await.unwrap();
    world.broker_answers().await.unwrap();
}

#[tokio::test]
async fn a_dead_agent_is_a_silent_node() {
    let limits = "lapse_after = \"3s\"\nheartbeat_interval = \"500ms\"".to_owned();
    let mut world = start(WorldOptions { limits, ..WorldOptions::default() }).await;
    let uid = world.workload("/retrieval/ranker").await.unwrap();
    let _holder = hold(&world, uid).await;
    world.kill_agent().unwrap();
    all_gone(&world, Duration::from_secs(10)).await;
    let tasks = world.tasks().await.unwrap();
    assert_eq!(tasks[0].end_cause, "node_silent");
}

#[tokio::test]
async fn an_agent_that_lost_its_journal_kills_what_it_left_and_its_tasks_are_over() {
    let mut world = start(WorldOptions::default()).await;
    let uid = world.workload("/retrieval/ranker").await.unwrap();
    let mut holder = hold(&world, uid).await;
    world.kill_agent().unwrap();
    std::fs::remove_file(world.scratch.join("agent/run/journal")).unwrap();
    world.start_agent_again(&[]).await.unwrap();
    holder.program.ended(Duration::from_secs(10)).await.unwrap();
    let second = hold(&world, uid).await;
    let tokens = harness::eventually("the first token's end", Duration::from_secs(15), || async {
        let tokens = vault_tokens(&world).await;
        if tokens.len() == 1 { Ok(tokens) } else { Err(format!("{} live", tokens.len())) }
    });
    tokens.await.unwrap_or_else(|error| panic!("{error:#}\n{}", world.logs()));
    drop(second);
}

#[tokio::test]
async fn what_is_left_in_the_cgroup_ends_with_its_leader() {
    let world = start(WorldOptions::default()).await;
    let uid = world.workload("/retrieval/ranker").await.unwrap();
    let script = r#"
import os, subprocess
daemon = subprocess.Popen(["setsid", "sleep", "600"])
print(daemon.pid, flush=True)
"#;
    let said = under_run(&world, uid, &["--scope", "kb-read"], script).output().await.unwrap();
    let pid: i32 = said.trim().parse().unwrap();
    harness::eventually("the daemon's end", Duration::from_secs(5), || async {
        match nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None) {
            Err(nix::errno::Errno::ESRCH) => Ok(()),
            _ if std::fs::read_to_string(format!("/proc/{pid}/stat"))
                .is_ok_and(|stat| stat.contains(") Z ")) =>
            {
                Ok(())
            }
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn an_explicit_end_and_an_admins_word_take_back_too() {
    let world = start(WorldOptions::default()).await;
    let uid = world.workload("/retrieval/ranker").await.unwrap();
    let holder = hold(&world, uid).await;
    let said = world.dayfly_admin().unwrap().args(["revoke", "--task", &holder.task]).finish().await.unwrap();
    assert_eq!(said.status.code(), Some(0), "{}{}", said.stdout, said.stderr);
    assert!(said.stdout.contains("verified"), "{}", said.stdout);
    all_gone(&world, Duration::from_secs(1)).await;
    let url = format!("{}/v1/secret/data/kb/a", holder.address);
    let (status, _) = ask_as(Some(uid), &url, &json!({})).await;
    assert_eq!(status, 403);
    // Break-glass: uid 0 on the broker's host, without SPIRE.
    let second = hold(&world, uid).await;
    let glass = world.break_glass().display().to_string();
    let program = harness::Program::new(harness::parts::binary("dayfly").unwrap());
    let said = program
        .args(["revoke", "--spiffe-id", &world.id("/retrieval/ranker"), "--break-glass", &glass])
        .finish()
        .await
        .unwrap();
    assert_eq!(said.status.code(), Some(0), "{}{}", said.stdout, said.stderr);
    all_gone(&world, Duration::from_secs(1)).await;
    drop(second);
}
