//! Crashes at every fault point of broker and agent. What is left is asked of Vault itself.
//!
//! Each case runs a task with a Vault token until the process kills itself, starts it again without the fault, kills the
//! workload if it lives, and looks until Vault has nothing left of that task.
#![expect(clippy::print_stdout, reason = "what was measured, for whoever asks with --nocapture")]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use harness::world::vault_documents;
use harness::{Program, Running, Uid, World, WorldOptions};

use crate::grpc::{asker, stubs};
use crate::life::{under_run, vault_tokens};

/// A token's first life at Vault, and the broker's patience with Vault: no token without a handle works for longer.
const FIRST_LIFE: Duration = Duration::from_secs(30 + 2);
/// How long a token with a handle may live on once the workload is dead and the crashed process is back. A task that is in
/// no journal is missing from the inventory, which is no word on tasks younger than 5 s.
const TAKEN_BACK: Duration = Duration::from_secs(5 + 3);
/// Vault's own delay at ending what has expired.
const VAULTS_DELAY: Duration = Duration::from_secs(2);

/// Reads its secret, says what came back, and lives until it is killed.
const READ: &str = r#"
import os, time, urllib.error, urllib.request
request = urllib.request.Request(
    os.environ["VAULT_ADDR"] + "/v1/secret/data/kb/a",
    headers={"X-Vault-Token": os.environ["VAULT_TOKEN"], "X-Vault-Request": "true"})
try:
    print("read", urllib.request.urlopen(request, timeout=15).status)
except urllib.error.HTTPError as refused:
    print("refused", refused.code, refused.read().decode())
except OSError as broken:
    print("broken", broken)
print("done", flush=True)
time.sleep(600)
"#;

/// What a crash at a point leaves: whether a token stands at Vault, if that is certain, and how the lease ends, if there
/// is one.
type Left = (&'static str, Option<bool>, Option<&'static str>);

const BROKER: [Left; 12] = [
    ("issue.before_open", Some(false), None),
    ("issue.after_pending", Some(false), Some("ran_out")),
    // Vault gave a token, and nobody knows its accessor.
    ("issue.after_target", Some(true), Some("ran_out")),
    ("issue.after_commit", Some(true), Some("verified")),
    ("issue.before_answer", Some(true), Some("verified")),
    ("renew.before_target", Some(true), Some("verified")),
    ("renew.after_target", Some(true), Some("verified")),
    ("end.before_commit", Some(true), Some("verified")),
    ("end.after_commit", Some(true), Some("verified")),
    ("revoke.after_claim", Some(true), Some("verified")),
    ("revoke.after_target", Some(false), Some("verified")),
    ("revoke.after_record", Some(false), Some("verified")),
];

const AGENT: [Left; 15] = [
    ("open.before_anchor", Some(false), None),
    ("open.after_anchor", Some(false), None),
    ("open.before_broker", Some(false), None),
    ("open.after_broker", Some(false), None),
    ("open.after_folder", Some(false), None),
    ("open.after_journal", Some(false), None),
    ("open.before_answer", Some(false), None),
    ("deliver.before_broker", Some(false), None),
    ("deliver.after_broker", Some(true), Some("verified")),
    ("deliver.before_answer", Some(true), Some("verified")),
    ("end.seen", Some(true), Some("verified")),
    ("end.after_stop_serving", Some(true), Some("verified")),
    // From here on the broker may or may not have heard of the end.
    ("end.after_report", None, Some("verified")),
    ("end.after_kill", None, Some("verified")),
    ("end.after_remove", None, Some("verified")),
];

#[tokio::test]
async fn a_broker_that_crashes_anywhere_leaves_nothing_that_outlives_its_task() {
    every_point(Crashing::Broker, &BROKER).await;
}

#[tokio::test]
async fn an_agent_that_crashes_anywhere_leaves_nothing_that_outlives_its_task() {
    every_point(Crashing::Agent, &AGENT).await;
}

#[derive(Clone, Copy, PartialEq)]
enum Crashing {
    Broker,
    Agent,
}

/// One crash, and what became of it.
struct Case {
    left: Left,
    lease: Option<String>,
    /// Whether a token stood at Vault when the process had crashed.
    stood: bool,
    /// When the token was issued at the latest.
    crashed: Instant,
    /// When the workload was dead and the crashed process was back.
    over: Instant,
    /// From then until Vault had nothing of it, once that is so.
    gone_after: Option<Duration>,
}

struct Site {
    world: World,
    uid: Uid,
    stubs: std::path::PathBuf,
}

async fn every_point(crashing: Crashing, expected: &[Left]) {
    let (binary, list) = match crashing {
        Crashing::Broker => ("dayfly-broker", "list-fault-points"),
        Crashing::Agent => ("dayfly-agent", "--list-fault-points"),
    };
    let listed = Program::new(harness::parts::binary(binary).unwrap()).arg(list).output().await.unwrap();
    let listed: BTreeSet<&str> = listed.lines().collect();
    assert_eq!(listed, expected.iter().map(|left| left.0).collect(), "each point has a case");

    let limits = "heartbeat_interval = \"500ms\"".to_owned();
    let options = WorldOptions { vault: true, limits, ..WorldOptions::default() };
    let mut world = World::start(options).await.unwrap();
    world.apply(&vault_documents().unwrap()).await.unwrap();
    let uid = world.workload("/retrieval/ranker").await.unwrap();
    let stubs = stubs(&world).await;
    let mut site = Site { world, uid, stubs };
    let mut cases = Vec::new();
    for left in expected {
        cases.push(crash(&mut site, crashing, *left).await);
    }
    for case in &mut cases {
        wait_until_gone(&mut site, case).await;
    }
    let table = conclude(&mut site.world, &cases).await;
    println!("{binary}\n{table}");
}

async fn crash(site: &mut Site, crashing: Crashing, left: Left) -> Case {
    let (point, token_stands, _) = left;
    let known: BTreeSet<String> = lease_ids(&mut site.world).await;
    start_again(&mut site.world, crashing, Some(point)).await;
    let mut program = start_workload(site, point);
    if point.starts_with("end.") || point.starts_with("revoke.") {
        let log = program.log_path().to_owned();
        let read = move || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            async move { if text.contains("read 200") { Ok(()) } else { Err(text) } }
        };
        let read = program.ready(Duration::from_secs(20), read).await;
        read.unwrap_or_else(|error| panic!("{point}: {error:#}\n{}", site.world.logs()));
        program.kill().unwrap();
    }
    let process = match crashing {
        Crashing::Broker => &mut site.world.broker,
        Crashing::Agent => &mut site.world.agent,
    };
    let (status, log) = (process.ended(Duration::from_secs(15)).await, process.log_tail());
    let status = status.unwrap_or_else(|error| {
        panic!("{point} was not reached: {error:#}\n{}\n{}", program.log(), site.world.logs())
    });
    let crashed = Instant::now();
    assert!(Running::was_killed(status) && log.contains(point), "{point}: {status}\n{log}");

    let tokens = vault_tokens(&site.world).await;
    let stood = tokens.iter().any(|(lease, _)| !known.contains(lease));
    assert!(token_stands.is_none_or(|stands| stood == stands), "{point}: {tokens:?}");

    start_again(&mut site.world, crashing, None).await;
    program.kill().unwrap();
    let over = Instant::now();
    let leases = site.world.leases().await.unwrap();
    for (lease, accessor) in &tokens {
        assert!(leases.iter().any(|row| row.lease_id == *lease), "{point}: nobody knows {accessor}");
    }
    let new: Vec<_> = leases.into_iter().filter(|row| !known.contains(&row.lease_id)).collect();
    assert!(new.len() <= 1, "{point}: {new:#?}");
    let lease = new.into_iter().next().map(|row| row.lease_id);
    let mut case = Case { left, lease, stood, crashed, over, gone_after: None };
    let lapses = stood && left.2 == Some("ran_out");
    if !lapses {
        wait_until_gone(site, &mut case).await;
    }
    case
}

/// The process that crashed once more, to crash at the point if there is one; and the agent attached to the broker.
async fn start_again(world: &mut World, crashing: Crashing, point: Option<&str>) {
    let env: Vec<_> =
        point.map(|point| ("DAYFLY_FAULT_POINT".to_owned(), point.to_owned())).into_iter().collect();
    match crashing {
        Crashing::Broker => {
            let before = match point {
                Some(_) => world.epoch().await.unwrap(),
                None => 0,
            };
            world.kill_broker().unwrap();
            world.start_broker_again(&env).await.unwrap();
            if point.is_some() {
                world.wait_for_agent(before).await.unwrap();
            }
        }
        Crashing::Agent => {
            world.kill_agent().unwrap();
            world.start_agent_again(&env).await.unwrap();
        }
    }
}

fn start_workload(site: &Site, point: &str) -> Running {
    let log = site.world.scratch.join(format!("workload-{point}.log"));
    let program = if point.starts_with("renew.") {
        asker(&site.world, site.uid, &site.stubs, true)
    } else {
        under_run(&site.world, site.uid, &["--scope", "kb-read"], READ)
    };
    program.start(&log).unwrap()
}

/// Waits until Vault has nothing of the case's lease, as long as that may take.
async fn wait_until_gone(site: &mut Site, case: &mut Case) {
    if case.gone_after.is_some() {
        return;
    }
    let (point, _, outcome) = case.left;
    let deadline = match outcome {
        Some("ran_out") => case.crashed + FIRST_LIFE + VAULTS_DELAY,
        _ => case.over + TAKEN_BACK,
    };
    loop {
        let asked = Instant::now();
        let tokens = vault_tokens(&site.world).await;
        if !tokens.iter().any(|(lease, _)| Some(lease) == case.lease.as_ref()) {
            case.gone_after = Some(asked.saturating_duration_since(case.over));
            return;
        }
        assert!(asked < deadline, "{point}: a token outlives its task\n{}", site.world.logs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until every task and lease is over, and holds the leases' ends and the chains against what they must be.
async fn conclude(world: &mut World, cases: &[Case]) -> String {
    let until = Instant::now() + FIRST_LIFE;
    loop {
        let open = world.tasks().await.unwrap().into_iter().filter(|task| task.state != "ended").count();
        let live = world.leases().await.unwrap().into_iter().filter(|lease| lease.state != "ended").count();
        if (open, live) == (0, 0) {
            break;
        }
        assert!(Instant::now() < until, "{open} tasks and {live} leases are not over\n{}", world.logs());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(vault_tokens(world).await.is_empty());
    let leases = world.leases().await.unwrap();
    let mut table = String::new();
    for case in cases {
        let (point, _, expected) = case.left;
        let row = leases.iter().find(|row| Some(&row.lease_id) == case.lease.as_ref());
        let outcome = row.map(|row| row.outcome.as_str());
        assert_eq!(outcome, expected, "{point}: {row:#?}");
        let gone = case.gone_after.unwrap();
        let at_vault =
            if case.stood { format!("token gone after {gone:.1?}") } else { "no token".to_owned() };
        table += &format!("  {point:24} {:14} {at_vault}\n", outcome.unwrap_or("no lease"));
    }
    let records = world.verify_audit().await.unwrap();
    assert!(records.values().all(|records| *records > 0), "{records:?}");
    table + &format!("  the chains hold: {records:?}\n")
}

async fn lease_ids(world: &mut World) -> BTreeSet<String> {
    world.leases().await.unwrap().into_iter().map(|row| row.lease_id).collect()
}
