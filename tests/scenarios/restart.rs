//! An agent that dies or is replaced while tasks run: they go on, and what ended meanwhile is over.

use std::time::{Duration, Instant};

use harness::world::vault_documents;
use harness::{Running, Uid, World, WorldOptions};

use crate::life::{all_gone, under_run};

/// Reads its secret again and again through the address it was given, and says when it worked.
const READ_ON: &str = r#"
import os, time, urllib.error, urllib.request
reads = 0
while True:
    request = urllib.request.Request(
        os.environ["VAULT_ADDR"] + "/v1/secret/data/kb/a",
        headers={"X-Vault-Token": os.environ["VAULT_TOKEN"], "X-Vault-Request": "true"})
    try:
        urllib.request.urlopen(request, timeout=15).read()
        reads += 1
        print("read", reads, flush=True)
    except OSError as broken:
        print("broken", broken, flush=True)
    time.sleep(0.2)
"#;

const WITHIN: Duration = Duration::from_secs(30);

struct Site {
    world: World,
    uid: Uid,
}

impl Site {
    async fn start() -> Self {
        let options = WorldOptions { vault: true, ..WorldOptions::default() };
        let mut world = World::start(options).await.unwrap();
        world.apply(&vault_documents().unwrap()).await.unwrap();
        let uid = world.workload("/retrieval/ranker").await.unwrap();
        Self { world, uid }
    }

    async fn reader(&self) -> Running {
        let log = self.world.scratch.join(format!("reader-{}.log", rand::random::<u32>()));
        let mut reader =
            under_run(&self.world, self.uid, &["--scope", "kb-read"], READ_ON).start(&log).unwrap();
        self.reads_more(&mut reader).await;
        reader
    }

    /// Waits until it has read three times more than by now.
    async fn reads_more(&self, reader: &mut Running) {
        let log = reader.log_path().to_owned();
        let reads = move || std::fs::read_to_string(&log).unwrap_or_default().matches("read ").count();
        let wanted = reads() + 3;
        let more = || {
            let reads = reads();
            async move { if reads >= wanted { Ok(()) } else { Err(format!("{reads} of {wanted}")) } }
        };
        let more = reader.ready(WITHIN, more).await;
        more.unwrap_or_else(|error| panic!("{error:#}\n{}", self.world.logs()));
    }

    /// The one task is open, and none of its leases was asked back.
    async fn nothing_was_taken_back(&mut self) {
        let tasks = self.world.tasks().await.unwrap();
        assert_eq!(tasks.len(), 1, "{tasks:#?}");
        assert_eq!(tasks[0].state, "open", "{tasks:#?}\n{}", self.world.logs());
        let leases = self.world.leases().await.unwrap();
        assert!(!leases.is_empty());
        for lease in leases {
            assert_eq!(lease.revoke_requested_at, None, "{lease:#?}\n{}", self.world.logs());
        }
    }

    async fn ended(&mut self) -> String {
        let until = Instant::now() + WITHIN;
        loop {
            let tasks = self.world.tasks().await.unwrap();
            if let Some(task) = tasks.iter().find(|task| task.state == "ended") {
                return task.end_cause.clone();
            }
            assert!(Instant::now() < until, "{tasks:#?}\n{}", self.world.logs());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test]
async fn an_agent_that_was_killed_goes_on_with_its_tasks_and_nothing_was_revoked() {
    let mut site = Site::start().await;
    let mut reader = site.reader().await;
    for _ in 0..2 {
        site.world.kill_agent().unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        site.world.start_agent_again(&[]).await.unwrap();
        site.reads_more(&mut reader).await;
        site.nothing_was_taken_back().await;
    }
    // It is watched again: its end is seen, and every token it had is gone.
    reader.kill().unwrap();
    assert_eq!(site.ended().await, "anchor_gone");
    all_gone(&site.world, Duration::from_secs(10)).await;
    site.world.verify_audit().await.unwrap();
}

#[tokio::test]
async fn an_upgraded_agent_goes_on_with_its_tasks() {
    let mut site = Site::start().await;
    let mut reader = site.reader().await;
    let status = site.world.agent.terminate().await.unwrap();
    assert!(status.success(), "{status}\n{}", site.world.logs());
    site.world.start_agent_again(&[]).await.unwrap();
    site.reads_more(&mut reader).await;
    site.nothing_was_taken_back().await;
}

#[tokio::test]
async fn a_program_that_died_while_no_agent_was_there_is_over_when_one_is_back() {
    let mut site = Site::start().await;
    let mut reader = site.reader().await;
    site.world.kill_agent().unwrap();
    reader.kill().unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(site.world.tasks().await.unwrap()[0].state, "open", "nobody saw it");
    let back = Instant::now();
    site.world.start_agent_again(&[]).await.unwrap();
    assert_eq!(site.ended().await, "anchor_gone");
    assert!(back.elapsed() < Duration::from_secs(20), "by the agent's word, not by silence");
    all_gone(&site.world, Duration::from_secs(10)).await;
}
