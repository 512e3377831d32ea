//! From the exit of a task's process, which is seen by its pidfd, to the first refusal at Vault of the request that was
//! granted just before. Beside it, under the same load, Vault's own revoke-accessor, from the call to the first refusal.

mod life;
mod probe;
mod site;
pub mod workload;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rand::Rng as _;
use tokio::sync::{Barrier, Mutex};
use tokio::task::JoinSet;

use crate::report::{Case, Report, Times, say};
use life::Slot;
use site::{Kind, Site};

/// What may be chosen.
#[derive(clap::Args)]
pub struct Options {
    /// Tasks whose processes are killed one at a time
    #[arg(long, default_value_t = 200)]
    tasks: usize,
    /// Bursts of ten at once
    #[arg(long, default_value_t = 20)]
    bursts: usize,
    /// Tasks with a certificate from Vault's PKI engine, killed one at a time
    #[arg(long, default_value_t = 50)]
    certificates: usize,
}

/// Tasks alive at any moment.
const ALIVE: usize = 10;
/// Between two looks in a burst: ten pollers without a pause would be the whole load of a small machine.
const PAUSE_IN_BURST: Duration = Duration::from_millis(1);

/// Ours and the peer's.
#[derive(Default)]
struct Both {
    ours: Times,
    theirs: Times,
}

/// Measures all three cases on one set of parts.
///
/// # Errors
/// When a part does not start, a credential outlives its task by long, or one was not taken back as promised.
pub async fn run(options: &Options) -> anyhow::Result<Report> {
    say("starting SPIRE, Vault, a broker and a node agent");
    let mut site = Site::start().await?;
    let peer = site.peer_name().await?;
    let mut report = Report::default();
    let mut add = |case: &str, both: &Both| {
        let [ours, theirs] = [&both.ours, &both.theirs].map(|times| (times.percentile_ms(50), times));
        report.cases.push(Case::beside("revoke", case, "ms", ours, &peer, theirs));
        let [most, theirs_most] = [&both.ours, &both.theirs].map(Times::max_ms);
        report
            .notes
            .push(format!("{case}: {} deaths, longest {most} ms; {peer} {theirs_most} ms.", both.ours.len()));
    };
    say(&format!("{} tasks, {ALIVE} alive at any moment, each killed alone", options.tasks));
    add("vault/alone", &one_at_a_time(&site, Kind::Secret, options.tasks).await?);
    say(&format!("{} bursts of {ALIVE} at once", options.bursts));
    add("vault/burst of 10", &bursts(&site, options.bursts).await?);
    say(&format!("{} tasks with a certificate, each killed alone", options.certificates));
    add("vault/pki lease", &one_at_a_time(&site, Kind::Certificate, options.certificates).await?);
    report.notes.push(site.proof().await?);
    report.notes.push(
        "Ours from the exit, the peer's from the call. A task that reads secrets holds two tokens, the one behind its \
         address and the one that is tried; the peer's holds one."
            .to_owned(),
    );
    Ok(report)
}

/// Ten slots, in each of which one process after another lives for a random time. Whoever measures, measures alone.
async fn one_at_a_time(site: &Site, kind: Kind, tasks: usize) -> anyhow::Result<Both> {
    let alone = Arc::new(Mutex::new(()));
    let mut slots = JoinSet::new();
    for slot in 0..ALIVE.min(tasks) {
        // The first slots take what does not divide.
        let share = tasks / ALIVE + usize::from(slot < tasks % ALIVE);
        let slot = Slot::open(site, kind)?;
        let probe = site.probe(Duration::ZERO);
        let alone = Arc::clone(&alone);
        slots.spawn(async move {
            let mut both = Both::default();
            for _ in 0..share {
                let life = slot.start().await?;
                a_moment().await;
                let turn = alone.lock().await;
                both.theirs.add(probe.vaults_own(kind, None).await?);
                drop(turn);
                a_moment().await;
                let turn = alone.lock().await;
                both.ours.add(probe.death(life, None).await?);
                drop(turn);
            }
            anyhow::Ok(both)
        });
    }
    let mut all = Both::default();
    while let Some(slot) = slots.join_next().await {
        let slot = slot.context("a slot broke off")??;
        all.ours.merge(slot.ours);
        all.theirs.merge(slot.theirs);
    }
    Ok(all)
}

async fn bursts(site: &Site, bursts: usize) -> anyhow::Result<Both> {
    let slots = (0..ALIVE).map(|_| Slot::open(site, Kind::Secret)).collect::<anyhow::Result<Vec<_>>>()?;
    let probe = site.probe(PAUSE_IN_BURST);
    let mut both = Both::default();
    for _ in 0..bursts {
        let mut lives = Vec::with_capacity(ALIVE);
        for slot in &slots {
            lives.push(slot.start().await?);
        }
        a_moment().await;
        at_once(&mut both.theirs, (0..ALIVE).map(|_| probe.clone()), |probe, together| async move {
            probe.vaults_own(Kind::Secret, Some(together)).await
        })
        .await?;
        a_moment().await;
        let probes = lives.into_iter().map(|life| (probe.clone(), life));
        at_once(&mut both.ours, probes, |(probe, life), together| async move {
            probe.death(life, Some(together)).await
        })
        .await?;
    }
    Ok(both)
}

/// All of them, begun at the same moment.
async fn at_once<T, F>(
    times: &mut Times,
    parts: impl Iterator<Item = T>,
    measure: impl Fn(T, Arc<Barrier>) -> F,
) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<Duration>> + Send + 'static,
{
    let together = Arc::new(Barrier::new(ALIVE));
    let mut running = JoinSet::new();
    for part in parts {
        running.spawn(measure(part, Arc::clone(&together)));
    }
    while let Some(done) = running.join_next().await {
        times.add(done.context("a probe broke off")??);
    }
    Ok(())
}

async fn a_moment() {
    let millis = rand::rng().random_range(100..800);
    tokio::time::sleep(Duration::from_millis(millis)).await;
}
