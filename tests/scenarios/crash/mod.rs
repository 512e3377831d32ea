//! The crash matrix: broker and agent die by SIGKILL at every fault point, for each provider and each store. What is left is
//! asked of the targets themselves.
//!
//! Each case runs a task with a credential until the process kills itself, starts it again without the fault, ends the
//! workload if it lives, and looks until the target takes nothing of that task any more; beside it another task lives
//! through the broker's crashes, and must keep what it has. Lanes of cases run side by side, each with a broker and an agent
//! of its own, on one SPIRE, one Vault and one PostgreSQL.
//!
//! `scripts/test crash --all` runs every case; otherwise two columns are whole and a seeded sample is taken of the others.
#![expect(clippy::print_stdout, reason = "the table, for whoever asks with --nocapture")]

mod expected;
mod lane;
mod target;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use harness::{Peers, Postgres, Program, WorldOptions};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use self::expected::Left;
use self::lane::{Lane, Seen};

/// Lanes at once. A case mostly waits for processes to start.
const LANES: usize = 4;
/// Of each column that is not whole.
const SAMPLED: usize = 5;
/// Of what is sampled, unless `DAYFLY_CRASH_SEED` says otherwise.
const SEED: u64 = 1;
/// A database that is migrated, from which each lane's is copied.
const TEMPLATE: &str = "dayfly";

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Crashing {
    Broker,
    Agent,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Provider {
    Vault,
    Token,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Store {
    Sqlite,
    Postgres,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Column {
    pub provider: Provider,
    pub store: Store,
}

const fn column(provider: Provider, store: Store) -> Column {
    Column { provider, store }
}

/// The first two are run whole: between them they have every provider, store and fault point.
const COLUMNS: [Column; 4] = [
    column(Provider::Vault, Store::Sqlite),
    column(Provider::Token, Store::Postgres),
    column(Provider::Vault, Store::Postgres),
    column(Provider::Token, Store::Sqlite),
];

/// Cases of one column on one broker and one agent, one after the other.
struct Plan {
    column: Column,
    crashing: Crashing,
    cases: Vec<Left>,
}

fn plans(all: bool, dice: &mut StdRng) -> Vec<Plan> {
    let mut plans = Vec::new();
    for (index, column) in COLUMNS.into_iter().enumerate() {
        let mut both: Vec<(Crashing, Left)> = Vec::new();
        for crashing in [Crashing::Broker, Crashing::Agent] {
            both.extend(expected::of(column, crashing).into_iter().map(|left| (crashing, left)));
        }
        if !all && index >= 2 {
            // One kind of process per column, so that there is one lane.
            let kind = if dice.random() { Crashing::Broker } else { Crashing::Agent };
            both.retain(|(crashing, _)| *crashing == kind);
            both.shuffle(dice);
            both.truncate(SAMPLED);
        }
        for crashing in [Crashing::Broker, Crashing::Agent] {
            let cases: Vec<Left> =
                both.iter().filter(|(of, _)| *of == crashing).map(|(_, left)| *left).collect();
            if !cases.is_empty() {
                plans.push(Plan { column, crashing, cases });
            }
        }
    }
    plans
}

/// Every fault point that the binaries list.
async fn listed() -> BTreeSet<(&'static str, String)> {
    let mut points = BTreeSet::new();
    for (binary, list) in [("dayfly-broker", "list-fault-points"), ("dayfly-agent", "--list-fault-points")] {
        let listed = Program::new(harness::parts::binary(binary).unwrap()).arg(list).output().await.unwrap();
        points.extend(listed.lines().map(|point| (binary, point.to_owned())));
    }
    points
}

fn binary(crashing: Crashing) -> &'static str {
    match crashing {
        Crashing::Broker => "dayfly-broker",
        Crashing::Agent => "dayfly-agent",
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_anywhere_leaves_nothing_that_outlives_its_task_and_takes_nothing_of_one_that_lives() {
    let seed = std::env::var("DAYFLY_CRASH_SEED").map_or(SEED, |seed| seed.parse().expect("a number"));
    let all = std::env::var_os("DAYFLY_CRASH_ALL").is_some();
    let options = WorldOptions { vault: true, ..WorldOptions::default() };
    let postgres = async {
        let postgres = Postgres::start().await?;
        postgres.create_migrated_database(TEMPLATE).await?;
        anyhow::Ok(postgres)
    };
    let (peers, postgres) = tokio::join!(Peers::start(&options), postgres);
    let (peers, postgres) = (peers.unwrap(), postgres.unwrap());
    let (turns, mut lanes) = (Arc::new(Semaphore::new(LANES)), JoinSet::new());
    for (number, plan) in plans(all, &mut StdRng::seed_from_u64(seed)).into_iter().enumerate() {
        let database = format!("lane{number}");
        let state = match plan.column.store {
            Store::Sqlite => None,
            Store::Postgres => {
                let url = postgres.copy_database(TEMPLATE, &database).await.unwrap();
                let url = url.replace("postgres@", "dayfly_broker@");
                Some(format!("writer = \"broker-1\"\n[state.postgres]\nurl = \"{url}\"\ntls = \"off\""))
            }
        };
        let (peers, turns) = (peers.lent(), Arc::clone(&turns));
        lanes.spawn(async move {
            let _turn = turns.acquire().await.unwrap();
            let lane = Lane::start(number, plan.column, plan.crashing, peers, state).await;
            (plan.column, plan.crashing, lane.run(&plan.cases).await)
        });
    }
    let mut seen = Vec::new();
    let mut broken = 0;
    while let Some(lane) = lanes.join_next().await {
        match lane {
            Ok(lane) => seen.push(lane),
            // Its panic is printed; the table tells what the others saw.
            Err(_) => broken += 1,
        }
    }
    seen.sort_by_key(|(column, crashing, _)| format!("{crashing:?}{column:?}"));
    println!("seed {seed}, {}\n{}", if all { "every case" } else { "a sample" }, table(&seen));

    let points = listed().await;
    let hit: BTreeSet<(&str, String)> = seen
        .iter()
        .flat_map(|(_, crashing, seen)| seen.hit.iter().map(|point| (binary(*crashing), (*point).to_owned())))
        .collect();
    let total = |of: fn(&Seen) -> usize| seen.iter().map(|(_, _, seen)| of(seen)).sum::<usize>();
    let (outlived, wrongly_revoked, chain_breaks) =
        (total(|seen| seen.outlived), total(|seen| seen.wrongly_revoked), total(|seen| seen.chain_breaks));
    let figures = json!({
        "points": points.len(), "hit": hit.len(), "outlived": outlived, "wrongly_revoked": wrongly_revoked,
        "chain_breaks": chain_breaks,
    });
    println!("{figures}");
    if let Some(path) = std::env::var_os("DAYFLY_CRASH_JSON") {
        std::fs::write(path, format!("{figures}\n")).unwrap();
    }
    let wrong: Vec<&String> = seen.iter().flat_map(|(_, _, seen)| &seen.wrong).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(broken, 0, "lanes broke off");
    assert_eq!(hit, points, "every point is hit, and none that is not listed");
    assert_eq!((outlived, wrongly_revoked, chain_breaks), (0, 0, 0));
}

fn table(lanes: &[(Column, Crashing, Seen)]) -> String {
    let mut text = String::new();
    for (column, crashing, seen) in lanes {
        let _ = writeln!(text, "{} × {:?} × {:?}", binary(*crashing), column.provider, column.store);
        for row in &seen.rows {
            let _ = writeln!(text, "  {row}");
        }
    }
    text
}
