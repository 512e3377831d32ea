//! What a task gets while Vault is down, slow or loses answers, and what becomes of what was issued meanwhile.
#![expect(clippy::print_stdout, reason = "what was measured, for whoever asks with --nocapture")]

use std::time::{Duration, Instant};

use dayfly_proto::v1::Lease;
use harness::world::vault_documents;
use harness::{Answers, Entry, Running, TcpProxy, Uid, World, WorldOptions, eventually};
use serde_json::Value;

use crate::grpc::{asker, stubs};
use crate::life::{all_gone, hold, under_run, vault_tokens};

/// A token's first life at Vault, the broker's patience with Vault, and Vault's own delay at ending what has expired.
const FIRST_LIFE: Duration = Duration::from_secs(30 + 2 + 2);

/// Asks through the Vault address until it is told 200, and prints each answer.
const INSIST: &str = r#"
import os, time, urllib.error, urllib.request
request = urllib.request.Request(
    os.environ["VAULT_ADDR"] + "/v1/secret/data/kb/a",
    headers={"X-Vault-Token": os.environ["VAULT_TOKEN"], "X-Vault-Request": "true"})
for _ in range(100):
    try:
        print("read", urllib.request.urlopen(request, timeout=15).status, flush=True)
        break
    except urllib.error.HTTPError as refused:
        print("refused", refused.code, refused.read().decode(), flush=True)
    time.sleep(0.3)
time.sleep(600)
"#;

async fn start() -> (World, Uid) {
    let options = WorldOptions { vault: true, vault_proxy: true, ..WorldOptions::default() };
    let mut world = World::start(options).await.unwrap();
    world.apply(&vault_documents().unwrap()).await.unwrap();
    let uid = world.workload("/retrieval/ranker").await.unwrap();
    (world, uid)
}

fn proxy(world: &World) -> &TcpProxy {
    world.vault_proxy.as_ref().unwrap()
}

/// Waits until the program has said this.
async fn told(world: &World, program: &mut Running, text: &str) -> String {
    let log = program.log_path().to_owned();
    let said = move || {
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        async move { if said.contains(text) { Ok(said) } else { Err(said) } }
    };
    let said = program.ready(Duration::from_secs(30), said).await;
    said.unwrap_or_else(|error| panic!("{error:#}\n{}", world.logs()))
}

async fn newest(world: &mut World) -> Lease {
    let leases = world.leases().await.unwrap();
    leases.into_iter().max_by_key(|lease| lease.lease_id.clone()).unwrap()
}

/// The lease as `dayfly lease show` tells it.
async fn shown(world: &World, lease: &str) -> Value {
    let said = world.dayfly_admin().unwrap().args(["lease", "show", lease, "-o", "json"]).output().await;
    serde_json::from_str(&said.unwrap()).unwrap()
}

#[tokio::test]
async fn an_answer_that_vault_gave_and_nobody_got_is_hunted_down() {
    let (mut world, uid) = start().await;
    let stubs = stubs(&world).await;
    // Three ways to lose it: the connection breaks, silence, and an answer after the broker's patience.
    let mut lost = Vec::new();
    for (name, answers) in [
        ("broken", Answers::LostFor("auth/token/create".to_owned())),
        ("silent", Answers::Swallowed),
        ("late", Answers::Delayed(Duration::from_secs(4))),
    ] {
        proxy(&world).set(answers);
        let log = world.scratch.join(format!("{name}.log"));
        let mut program = asker(&world, uid, &stubs, false).start(&log).unwrap();
        let said = told(&world, &mut program, "done").await;
        let given_up = Instant::now();
        proxy(&world).set(Answers::Pass);
        assert!(said.contains("refused ABORTED PROVIDER_DID_NOT_ANSWER"), "{name}: {said}\n{}", world.logs());
        let lease = newest(&mut world).await;
        assert_eq!(lease.state, "revoking", "{name}: {lease:#?}");
        assert!(lease.runs_out_at.is_some(), "{name}: {lease:#?}");
        let tokens = vault_tokens(&world).await;
        assert!(
            tokens.iter().any(|(of, _)| *of == lease.lease_id),
            "{name}: Vault did give a token: {tokens:?}"
        );
        assert!(shown(&world, &lease.lease_id).await["runs_out_at"].is_string());
        lost.push((name, lease.lease_id, given_up));
        program.kill().unwrap();
    }
    for (name, lease, since) in lost {
        let gone = eventually(name, FIRST_LIFE.saturating_sub(since.elapsed()), || async {
            let tokens = vault_tokens(&world).await;
            if tokens.iter().any(|(of, _)| *of == lease) { Err(tokens) } else { Ok(()) }
        });
        gone.await.unwrap();
        println!("an answer that was {name}: gone at Vault {:.1?} later", since.elapsed());
        let until = Instant::now() + Duration::from_secs(5);
        while standing(&mut world, &lease).await != ("ended".to_owned(), "ran_out".to_owned()) {
            assert!(Instant::now() < until, "{name}\n{}", world.logs());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    world.verify_audit().await.unwrap();
}

async fn standing(world: &mut World, lease: &str) -> (String, String) {
    let leases = world.leases().await.unwrap();
    let lease = leases.into_iter().find(|row| row.lease_id == lease).unwrap();
    (lease.state, lease.outcome)
}

#[tokio::test]
async fn a_vault_that_is_slow_serves_and_one_that_is_down_is_named() {
    let (mut world, uid) = start().await;
    let stubs = stubs(&world).await;
    // Slow, within the broker's patience.
    proxy(&world).set(Answers::Delayed(Duration::from_millis(600)));
    let mut slow = asker(&world, uid, &stubs, false).start(&world.scratch.join("slow.log")).unwrap();
    assert!(told(&world, &mut slow, "done").await.contains("issued "), "{}", world.logs());
    slow.kill().unwrap();
    all_gone(&world, Duration::from_secs(10)).await;

    // Unheard for a while: the program's Vault client is told to come again, and then served.
    proxy(&world).set(Answers::LostFor("auth/token/create".to_owned()));
    let insist = under_run(&world, uid, &["--scope", "kb-read"], INSIST);
    let mut insisting = insist.start(&world.scratch.join("insist.log")).unwrap();
    let said = told(&world, &mut insisting, "refused").await;
    assert!(said.contains("refused 503") && said.contains("PROVIDER_DID_NOT_ANSWER"), "{said}");
    proxy(&world).set(Answers::Pass);
    told(&world, &mut insisting, "read 200").await;
    insisting.kill().unwrap();

    // Down: nobody listens there.
    drop(world.vault_proxy.take());
    let mut down = asker(&world, uid, &stubs, false).start(&world.scratch.join("down.log")).unwrap();
    let said = told(&world, &mut down, "done").await;
    assert!(said.contains("refused UNAVAILABLE PROVIDER_UNREACHABLE"), "{said}\n{}", world.logs());
    let lease = newest(&mut world).await;
    assert_eq!((lease.state.as_str(), lease.outcome.as_str()), ("ended", "never_issued"), "{lease:#?}");
}

#[tokio::test]
async fn a_revocation_waits_for_vault_in_sight_and_is_done_when_it_is_back() {
    let (mut world, uid) = start().await;
    let mut holder = hold(&world, uid).await;
    world.vault.as_mut().unwrap().kill().unwrap();
    holder.program.kill().unwrap();
    let lease = newest(&mut world).await.lease_id;
    let until = Instant::now() + Duration::from_secs(10);
    let seen = loop {
        let seen = shown(&world, &lease).await;
        if seen["attempts"].as_u64() >= Some(2) {
            break seen;
        }
        assert!(Instant::now() < until, "{seen:#}\n{}", world.logs());
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!(seen["state"], "revoking");
    let error = seen["last_error"].as_str().unwrap();
    assert!(error.contains("auth/token/revoke-accessor"), "{error}");
    world.vault.as_mut().unwrap().restart().await.unwrap();
    assert_eq!(vault_tokens(&world).await.len(), 1, "it works until it is taken back");
    let back = Instant::now();
    all_gone(&world, Duration::from_secs(10)).await;
    let until = Instant::now() + Duration::from_secs(5);
    while shown(&world, &lease).await["outcome"] != "verified" {
        assert!(Instant::now() < until, "{}", world.logs());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("verified {:.1?} after Vault was back; last error before: {error}", back.elapsed());
}

#[tokio::test]
async fn who_is_nobody_or_two_is_told_why() {
    let world = World::start(WorldOptions::default()).await.unwrap();
    let run = async |uid: Uid| world.dayfly(uid).unwrap().args(["run", "--", "true"]).finish().await.unwrap();
    let nobody = Uid::fresh();
    let said = run(nobody).await;
    assert_eq!(said.status.code(), Some(1));
    let program = harness::parts::binary("dayfly").unwrap().display().to_string();
    for word in
        ["NO_IDENTITY", "no registration entry", &format!("uid {}", nobody.0), program.as_str(), "next:"]
    {
        assert!(said.stderr.contains(word), "{word}: {}", said.stderr);
    }
    let two = world.workload("/train/one").await.unwrap();
    world.spire.create_entry(Entry::of_uid(world.id("/train/two"), two)).await.unwrap();
    let said = run(two).await;
    assert_eq!(said.status.code(), Some(1));
    for word in ["AMBIGUOUS_IDENTITY", &world.id("/train/one"), &world.id("/train/two"), "disjoint"] {
        assert!(said.stderr.contains(word), "{word}: {}", said.stderr);
    }
}
