//! Two brokers on one PostgreSQL: one is killed, stands still or is cut off, and nothing that should end is lost. What is
//! left is asked of Vault itself.
#![expect(clippy::print_stdout, reason = "what was measured, for whoever asks with --nocapture")]

use std::time::{Duration, Instant};

use dayfly_proto::v1;
use harness::world::vault_documents;
use harness::{Answers, Pair, Running, Uid, Which, WorldOptions, eventually};
use nix::sys::signal::Signal;

use crate::life::{Holder, READ_AND_STAY, hold, under_run, vault_tokens};

/// A broker is taken for dead after 10 s; then its revocations are taken over. Far less than its claim of them.
const TAKEN_OVER: Duration = Duration::from_secs(10 + 8);
/// A credential of a task that ends while its broker is well.
const TAKEN_BACK: Duration = Duration::from_secs(8);

async fn start() -> (Pair, Uid) {
    let limits = "heartbeat_interval = \"500ms\"\nrevocation_claim = \"2m\"".to_owned();
    let options = WorldOptions { vault: true, vault_proxy: true, limits, ..WorldOptions::default() };
    let mut pair = Pair::start(options).await.unwrap();
    pair.world.apply(&vault_documents().unwrap()).await.unwrap();
    let uid = pair.world.workload("/retrieval/ranker").await.unwrap();
    (pair, uid)
}

/// The lease of a holder's task.
async fn lease_of(pair: &mut Pair, holder: &Holder) -> v1::Lease {
    let leases = pair.world.leases().await.unwrap();
    leases.into_iter().find(|lease| lease.task_id == holder.task).unwrap()
}

/// Waits until Vault has no token of this lease, and tells how long that took.
async fn gone(pair: &Pair, lease: &str, within: Duration) -> Duration {
    let since = Instant::now();
    let gone = eventually("the end of a token at Vault", within, || async {
        let tokens = vault_tokens(&pair.world).await;
        if tokens.iter().any(|(of, _)| of == lease) { Err(tokens) } else { Ok(()) }
    });
    if let Err(error) = gone.await {
        panic!("{error:#}\n{}", pair.logs());
    }
    since.elapsed()
}

async fn lives(pair: &Pair, lease: &str) -> bool {
    vault_tokens(&pair.world).await.iter().any(|(of, _)| of == lease)
}

/// Waits until a broker has claimed the revocation of a lease.
async fn claimed_by(pair: &Pair, which: Which) {
    let claimed = eventually("a claim", Duration::from_secs(10), || async {
        let claimed = pair.look("SELECT MAX(claimed_by) FROM leases WHERE state = 'revoking'").await;
        match claimed {
            Ok(Some(writer)) if writer == which.writer() => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    if let Err(error) = claimed.await {
        panic!("{error:#}\n{}", pair.logs());
    }
}

/// Records of a stream that hold both texts, with who wrote them.
async fn records(pair: &mut Pair, stream: &str, one: &str, two: &str) -> Vec<String> {
    let admin = pair.world.admin().await.unwrap();
    let request = v1::ReadAuditRequest { stream: stream.to_owned(), from_seq: 1 };
    let mut records = admin.admin().read_audit(request).await.unwrap().into_inner();
    let mut found = Vec::new();
    while let Some(record) = records.message().await.unwrap() {
        let text = String::from_utf8(record.bytes).unwrap();
        if text.contains(one) && text.contains(two) {
            found.push(record.writer);
        }
    }
    found
}

/// A program that would read its secret, and what it says until it has, or has ended.
async fn try_to_hold(pair: &Pair, uid: Uid, within: Duration) -> (Running, String) {
    let log = pair.world.scratch.join(format!("try-{}.log", rand::random::<u32>()));
    let mut program =
        under_run(&pair.world, uid, &["--scope", "kb-read"], READ_AND_STAY).start(&log).unwrap();
    let until = Instant::now() + within;
    while Instant::now() < until && program.exited().unwrap().is_none() && !program.log().contains("read c") {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let said = program.log();
    (program, said)
}

#[tokio::test]
async fn whichever_broker_is_killed_the_other_takes_back_what_it_was_at() {
    let (mut pair, uid) = start().await;
    for dies in [Which::First, Which::Second] {
        let point = [("DAYFLY_FAULT_POINT".to_owned(), "revoke.after_claim".to_owned())];
        pair.start_again(dies, &point).await.unwrap();
        pair.attach_to(dies).await.unwrap();
        let (mut ends, mut stays) = (hold(&pair.world, uid).await, hold(&pair.world, uid).await);
        let (ending, staying) = (lease_of(&mut pair, &ends).await, lease_of(&mut pair, &stays).await);

        // The survivor stands still for a moment, so that it is the other that claims the revocation, and dies with it.
        pair.broker(dies.other()).signal(Signal::SIGSTOP).unwrap();
        ends.program.kill().unwrap();
        let died = pair.broker(dies).ended(Duration::from_secs(8)).await;
        pair.broker(dies.other()).signal(Signal::SIGCONT).unwrap();
        let died = died.unwrap_or_else(|error| panic!("{error:#}\n{}", pair.logs()));
        assert!(Running::was_killed(died), "{died}");
        assert!(lives(&pair, &ending.lease_id).await, "it died before it asked Vault");

        pair.lead_to(dies.other());
        pair.speak_to(dies.other());
        let took = gone(&pair, &ending.lease_id, TAKEN_OVER).await;
        println!("{} died with a claim of 2 min; the token was gone {took:.1?} later", dies.writer());
        assert!(lives(&pair, &staying.lease_id).await, "its task lives\n{}", pair.logs());
        stays.program.kill().unwrap();
        let took = gone(&pair, &staying.lease_id, TAKEN_BACK).await;
        println!(
            "a task that went on at {}: its token was gone {took:.1?} after its end",
            dies.other().writer()
        );
        pair.start_again(dies, &[]).await.unwrap();
    }
    settle(&mut pair).await;
}

#[tokio::test]
async fn a_broker_that_stood_still_takes_nothing_back_late_and_decides_by_the_rules_that_stand() {
    let (mut pair, uid) = start().await;
    let index = pair.world.workload("/retrieval/index").await.unwrap();
    let (mut ends, mut stays) = (hold(&pair.world, uid).await, hold(&pair.world, index).await);
    let (ending, staying) = (lease_of(&mut pair, &ends).await, lease_of(&mut pair, &stays).await);

    // The first has claimed the revocation and waits for Vault when it is stopped.
    let vault = pair.world.vault_proxy.as_ref().unwrap();
    vault.set(Answers::Cut);
    pair.broker(Which::Second).signal(Signal::SIGSTOP).unwrap();
    ends.program.kill().unwrap();
    claimed_by(&pair, Which::First).await;
    pair.broker(Which::First).signal(Signal::SIGSTOP).unwrap();
    let stopped = Instant::now();
    pair.world.vault_proxy.as_ref().unwrap().set(Answers::Pass);
    pair.broker(Which::Second).signal(Signal::SIGCONT).unwrap();
    pair.attach_to(Which::Second).await.unwrap();
    gone(&pair, &ending.lease_id, TAKEN_OVER).await;
    let fenced = eventually("the fence", TAKEN_OVER, || async {
        let state = pair.look("SELECT state FROM brokers WHERE writer = 'broker-1'").await.unwrap();
        if state.as_deref() == Some("fenced") { Ok(()) } else { Err(format!("{state:?}")) }
    });
    fenced.await.unwrap();
    println!("the token was gone and the first fenced {:.1?} after it was stopped", stopped.elapsed());
    // The ranker is not bound to it any more.
    let narrowed =
        vault_documents().unwrap().replace("example.org/retrieval/**", "example.org/retrieval/index");
    pair.world.apply(&narrowed).await.unwrap();
    let rest = Duration::from_secs(20).saturating_sub(stopped.elapsed());
    tokio::time::sleep(rest).await;

    // It wakes with the rules of before in its memory, and is asked at once.
    pair.lead_to(Which::First);
    pair.broker(Which::First).signal(Signal::SIGCONT).unwrap();
    let (_program, said) = try_to_hold(&pair, uid, Duration::from_secs(10)).await;
    assert!(!said.contains("read c"), "the first gave by rules that do not stand\n{}", pair.logs());
    pair.answers(Which::First).await.unwrap();
    let log = pair.broker(Which::First).log();
    assert!(log.contains("broker_fenced"), "{}", pair.logs());
    assert!(lives(&pair, &staying.lease_id).await, "its task lives\n{}", pair.logs());

    let id = &ending.lease_id;
    assert_eq!(records(&mut pair, "lease", id, "lease.ended").await, ["broker-2"], "{}", pair.logs());
    assert_eq!(records(&mut pair, "admin", "broker.fence", "broker-1").await, ["broker-2"]);
    assert_eq!(records(&mut pair, "admin", "broker.rejoin", "").await, ["broker-1"]);

    // And it is a broker like any other again.
    pair.world.apply(&vault_documents().unwrap()).await.unwrap();
    let mut anew = hold(&pair.world, uid).await;
    anew.program.kill().unwrap();
    stays.program.kill().unwrap();
    gone(&pair, &staying.lease_id, TAKEN_BACK).await;
    settle(&mut pair).await;
}

#[tokio::test]
async fn a_broker_that_is_cut_off_from_the_database_gives_nothing_and_loses_no_end() {
    let (mut pair, uid) = start().await;
    let (mut ends, mut stays) = (hold(&pair.world, uid).await, hold(&pair.world, uid).await);
    let (ending, staying) = (lease_of(&mut pair, &ends).await, lease_of(&mut pair, &stays).await);
    pair.database_of(Which::First).set(Answers::Cut);
    let cut = Instant::now();
    ends.program.kill().unwrap();
    let (mut program, said) = try_to_hold(&pair, uid, Duration::from_secs(5)).await;
    assert!(!said.contains("read c"), "given without a record: {said}");
    program.kill().unwrap();
    pair.attach_to(Which::Second).await.unwrap();
    gone(&pair, &ending.lease_id, TAKEN_OVER).await;
    println!(
        "a task ended while its broker was cut off: its token was gone {:.1?} after the cut",
        cut.elapsed()
    );
    assert!(lives(&pair, &staying.lease_id).await, "its task lives\n{}", pair.logs());

    let rest = Duration::from_secs(13).saturating_sub(cut.elapsed());
    tokio::time::sleep(rest).await;
    pair.database_of(Which::First).set(Answers::Pass);
    pair.attach_to(Which::First).await.unwrap();
    // It refuses what it is asked before it has read the rules again.
    let log = pair.broker(Which::First).log_path().to_owned();
    let reads = eventually("the rules", TAKEN_BACK, || async {
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        if log.contains("rules of another broker are in force") { Ok(()) } else { Err("not read yet") }
    });
    reads.await.unwrap();
    let mut anew = hold(&pair.world, uid).await;
    anew.program.kill().unwrap();
    stays.program.kill().unwrap();
    gone(&pair, &staying.lease_id, TAKEN_BACK).await;
    assert_eq!(records(&mut pair, "admin", "broker.fence", "broker-1").await, ["broker-2"]);
    settle(&mut pair).await;
}

/// Nothing is left, at Vault or on record, and both tell the same unbroken chains.
async fn settle(pair: &mut Pair) {
    let until = Instant::now() + Duration::from_secs(40);
    loop {
        let leases = pair.world.leases().await.unwrap();
        let live = leases.iter().filter(|lease| lease.state != "ended").count();
        if live == 0 && vault_tokens(&pair.world).await.is_empty() {
            break;
        }
        assert!(Instant::now() < until, "{leases:#?}\n{}", pair.logs());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    for which in [Which::First, Which::Second] {
        pair.answers(which).await.unwrap();
        let records = pair.world.verify_audit().await.unwrap();
        println!("the chains hold at {}: {records:?}", which.writer());
        assert!(records.values().all(|records| *records > 0), "{records:?}");
    }
}
