//! What broker and agent keep in memory some time after many short tasks, each of which was given an access token.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use harness::{Running, Uid, World, WorldOptions};
use tokio::task::JoinSet;

use crate::report::{Case, Report, say};

/// What may be chosen.
#[derive(clap::Args)]
pub struct Options {
    /// How many tasks
    #[arg(long, default_value_t = 1000)]
    tasks: usize,
    /// How long to wait after the last of them
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

const AT_ONCE: usize = 10;
const DOCUMENTS: &str = r#"
kind: Binding
metadata: {name: bench-index}
spec: {identities: ["spiffe://example.org/tool/short"], scope: index-read, start: root}
"#;
/// Waits for its token: it is written after `exec`, to the identity of the program itself.
const SCRIPT: &str = r#"until [ -s "$DAYFLY_TOKEN_FILE" ]; do sleep 0.01; done"#;

/// Runs the tasks, waits, and asks the kernel.
///
/// # Errors
/// When a part does not start, or a task fails or was given nothing.
pub async fn run(options: &Options) -> anyhow::Result<Report> {
    say("starting SPIRE, a broker and a node agent");
    let mut world = World::start(WorldOptions::default()).await?;
    world.apply(DOCUMENTS).await?;
    let uid = world.workload("/tool/short").await?;
    let mut report = Report::default();
    measure(&world, "at start", &mut report)?;
    say(&format!("{} tasks, {AT_ONCE} at a time", options.tasks));
    let begun = Instant::now();
    run_tasks(&world, uid, options.tasks).await?;
    let took = begun.elapsed().as_secs_f64();
    measure(&world, "after the last task", &mut report)?;
    say(&format!("waiting for {} s", options.seconds));
    tokio::time::sleep(Duration::from_secs(options.seconds)).await;
    measure(&world, &format!("{} s later", options.seconds), &mut report)?;
    let (tasks, leases) = (world.tasks().await?, world.leases().await?);
    let ended = tasks.iter().filter(|task| task.state == "ended").count();
    ensure!(ended == options.tasks, "{} tasks were run, {ended} have ended", options.tasks);
    ensure!(
        leases.len() == options.tasks,
        "{} tasks were run, {} were given a token",
        options.tasks,
        leases.len()
    );
    let over = leases.iter().filter(|lease| lease.state == "ended" && lease.outcome == "verified").count();
    report.notes.push(format!(
        "{ended} tasks ended, {} tokens issued, {over} verified as taken back; the tasks took {took:.1} s.",
        leases.len()
    ));
    Ok(report)
}

async fn run_tasks(world: &World, uid: Uid, tasks: usize) -> anyhow::Result<()> {
    let task = world.dayfly(uid)?.args(["run", "--scope", "index-read", "--", "sh", "-c", SCRIPT]);
    let mut running = JoinSet::new();
    for _ in 0..tasks {
        if running.len() == AT_ONCE {
            running.join_next().await.context("ten are running")???;
        }
        let task = task.clone();
        running.spawn(async move { task.output().await });
    }
    while let Some(done) = running.join_next().await {
        done??;
    }
    Ok(())
}

fn measure(world: &World, when: &str, report: &mut Report) -> anyhow::Result<()> {
    for (name, process) in [("broker", &world.broker), ("agent", &world.agent), ("attest", &world.attest)] {
        report.cases.push(Case::alone("memory", format!("{name}, {when}"), "MB", resident_mb(process)?));
    }
    Ok(())
}

/// `VmRSS` of proc_pid_status(5), which counts in KiB, in units of 10^6 bytes.
fn resident_mb(process: &Running) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid()))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .context("no VmRSS: the process is gone")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024.0 / 1e6)
}
