//! A full disk under the broker's state, and files that others may read.
#![expect(clippy::print_stdout, reason = "what was measured, for whoever asks with --nocapture")]

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use harness::world::vault_documents;
use harness::{Program, Scratch, Uid, World, WorldOptions};

use crate::grpc::{asker, stubs};
use crate::life::{all_gone, hold, outcomes, vault_tokens};

/// A file system in memory of 40 MiB: room for the store's reserve of 16 MiB and a little more.
struct SmallDisk {
    scratch: Scratch,
}

impl SmallDisk {
    async fn mount() -> Self {
        let disk = Self { scratch: Scratch::new().unwrap() };
        disk.scratch.folder("state", 0o700).unwrap();
        let options = "size=40m,mode=0700";
        let mount =
            Program::new("mount").args(["-t", "tmpfs", "-o", options, "dayfly-test"]).arg(disk.path());
        mount.output().await.unwrap();
        disk
    }

    fn path(&self) -> PathBuf {
        self.scratch.join("state")
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }

    /// Takes every byte that is left.
    fn fill(&self) {
        let mut ballast = File::options().create(true).append(true).open(self.ballast()).unwrap();
        for size in [1 << 20, 1 << 12, 1] {
            while ballast.write_all(&vec![0; size]).is_ok() {}
        }
    }

    fn free(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let gone = std::process::Command::new("umount").arg("--lazy").arg(self.path()).status();
        assert!(gone.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

struct Site {
    world: World,
    uid: Uid,
    stubs: PathBuf,
}

impl Site {
    /// Opens a task, and says how that went.
    async fn runs(&self) -> String {
        let said = self.world.dayfly(self.uid).unwrap().args(["run", "--scope", "kb-read", "--", "true"]);
        let said = said.finish().await.unwrap();
        format!("{:?} {}", said.status.code(), said.stderr)
    }
}

#[tokio::test]
async fn on_a_full_disk_nothing_is_granted_and_ends_go_on() {
    // Declared first, so that it goes last.
    let disk = SmallDisk::mount().await;
    let options = WorldOptions { vault: true, state: Some(disk.path()), ..WorldOptions::default() };
    let mut world = World::start(options).await.unwrap();
    world.apply(&vault_documents().unwrap()).await.unwrap();
    let uid = world.workload("/retrieval/ranker").await.unwrap();
    let stubs = stubs(&world).await;
    let mut site = Site { world, uid, stubs };
    let mut first = hold(&site.world, uid).await;
    let mut second = hold(&site.world, uid).await;

    // A task that is open and asks only once the disk is full.
    let go = site.world.scratch.join("go");
    let waiting = asker(&site.world, uid, &site.stubs, false).env("WAIT_FOR", &go);
    let mut waiting = waiting.start(&site.world.scratch.join("waiting.log")).unwrap();
    said(&mut waiting, "waiting").await;
    disk.fill();
    fs::write(&go, "").unwrap();
    let refused = said(&mut waiting, "done").await;
    assert!(refused.contains("refused UNAVAILABLE STORE_UNAVAILABLE"), "{refused}\n{}", site.world.logs());
    let refused = site.runs().await;
    assert!(refused.contains("Some(1)") && refused.contains("STORE_UNAVAILABLE"), "{refused}");
    assert_eq!(vault_tokens(&site.world).await.len(), 2, "nothing was issued");

    let killed = Instant::now();
    first.program.kill().unwrap();
    one_left(&site.world).await;
    println!("on a full disk: gone at Vault {:.1?} after SIGKILL", killed.elapsed());
    let refused = site.runs().await;
    assert!(refused.contains("STORE_UNAVAILABLE"), "{refused}");

    // Nor does a broker need more room to start and to take back what ended while it was away.
    site.world.kill_broker().unwrap();
    second.program.kill().unwrap();
    let before = Instant::now();
    site.world.start_broker_again(&[]).await.unwrap();
    all_gone(&site.world, Duration::from_secs(5)).await;
    println!("broker started on a full disk: gone at Vault {:.1?} later", before.elapsed());

    waiting.kill().unwrap();
    disk.free();
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let said = site.runs().await;
        if said.starts_with("Some(0)") {
            break;
        }
        assert!(Instant::now() < until, "{said}\n{}", site.world.logs());
    }
    drop(hold(&site.world, uid).await);
    all_gone(&site.world, Duration::from_secs(5)).await;
    let outcomes = outcomes(&mut site.world, Duration::from_secs(5)).await;
    assert!(outcomes.iter().all(|outcome| outcome == "verified"), "{outcomes:?}");
    assert_eq!(outcomes.len(), 3);
    let records = site.world.verify_audit().await.unwrap();
    println!("the chains hold: {records:?}");
}

async fn one_left(world: &World) {
    let left = harness::eventually("the end of one token", Duration::from_secs(5), || async {
        let tokens = vault_tokens(world).await;
        if tokens.len() == 1 { Ok(()) } else { Err(tokens) }
    });
    left.await.unwrap_or_else(|error| panic!("{error:#}\n{}", world.logs()));
}

async fn said(program: &mut harness::Running, word: &str) -> String {
    let log = program.log_path().to_owned();
    let said = move || {
        let text = fs::read_to_string(&log).unwrap_or_default();
        async move { if text.contains(word) { Ok(text) } else { Err(text) } }
    };
    program.ready(Duration::from_secs(20), said).await.unwrap()
}

#[tokio::test]
async fn state_that_others_may_read_keeps_the_broker_from_starting() {
    let mut world = World::start(WorldOptions::default()).await.unwrap();
    world.broker.terminate().await.unwrap();
    let state = world.state();
    let keys = world.scratch.join("broker/keys");
    for (path, wrong, right) in [
        (state.clone(), 0o755, 0o700),
        (state.join("dayfly.db"), 0o644, 0o600),
        (state.join("reserve"), 0o640, 0o600),
        (keys.clone(), 0o750, 0o700),
    ] {
        chmod(&path, wrong);
        let refusal = world.start_broker_again(&[]).await.unwrap_err();
        let refusal = format!("{refusal:#}");
        for word in [
            format!("{} has mode {wrong:04o}", path.display()),
            format!("set it to {right:04o}"),
            "ended with exit status: 1".to_owned(),
        ] {
            assert!(refusal.contains(&word), "{word}: {refusal}");
        }
        chmod(&path, right);
    }
    world.start_broker_again(&[]).await.unwrap();
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}
