//! One lane: a broker and an agent that die in one case after the other, and a task that lives through the broker's deaths.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use dayfly_client::CallError;
use dayfly_proto::v1;
use harness::world::vault_documents;
use harness::{Entry, Peers, Running, Uid, World, WorldOptions};

use super::expected::Left;
use super::target::{Newest, Service, at_vault};
use super::{Column, Crashing, Provider};
use crate::grpc::{asker, stubs};
use crate::life::under_run;

/// A token's first life at Vault, and the broker's patience with Vault: no token without a handle works for longer.
const FIRST_LIFE: Duration = Duration::from_secs(30 + 2);
/// How long a credential with a handle may live on once the workload is dead and the crashed process is back. A task that
/// is in no journal is missing from the inventory, which is no word on tasks younger than 5 s.
const TAKEN_BACK: Duration = Duration::from_secs(5 + 3);
/// Vault's own delay at ending what has expired.
const VAULTS_DELAY: Duration = Duration::from_secs(2);
/// How long a process may take on its way to a fault point.
const REACHED: Duration = Duration::from_secs(20);

/// The task beside renews its Vault token before this, and next long after: nobody else's renewal is in a case's way.
const RENEWED: Duration = Duration::from_secs(20);
/// When another task takes its place, before a renewal falls due.
const BESIDE_FOR: Duration = Duration::from_secs(100);

/// Reads its secret, says what came back, and lives until it is killed.
const READ: &str = r#"
import os, time, urllib.error, urllib.request
request = urllib.request.Request(
    os.environ["VAULT_ADDR"] + "/v1/secret/data/kb/a",
    headers={"X-Vault-Token": os.environ["VAULT_TOKEN"], "X-Vault-Request": "true"})
print("task", os.environ["DAYFLY_TASK_ID"])
try:
    print("holds", urllib.request.urlopen(request, timeout=15).status)
except urllib.error.HTTPError as refused:
    print("refused", refused.code, refused.read().decode())
except OSError as broken:
    print("broken", broken)
print("done", flush=True)
time.sleep(600)
"#;

/// Says each token that stands in its file, and lives until it is killed.
const SHOW: &str = r#"
import os, time
print("task", os.environ["DAYFLY_TASK_ID"], flush=True)
last = None
for _ in range(12000):
    try:
        token = open(os.environ["DAYFLY_TOKEN_FILE"]).read().strip()
    except FileNotFoundError:
        token = None
    if token and token != last:
        last = token
        print("holds", token, flush=True)
    time.sleep(0.05)
"#;

const BINDING: &str = r#"
kind: Binding
metadata: {name: retrieval-index}
spec: {identities: ["spiffe://example.org/retrieval/**"], scope: index-read, start: root}
"#;

/// What a lane saw.
#[derive(Default)]
pub struct Seen {
    pub rows: Vec<String>,
    pub hit: BTreeSet<&'static str>,
    /// Credentials that the target took after their task was over, beyond the declared windows.
    pub outlived: usize,
    /// Credentials that the target took no more although their task lives.
    pub wrongly_revoked: usize,
    pub chain_breaks: usize,
    /// What was otherwise than it must be, in words.
    pub wrong: Vec<String>,
}

struct Users {
    victim: Uid,
    killed: Uid,
    beside: Uid,
}

pub struct Lane {
    world: World,
    column: Column,
    crashing: Crashing,
    /// The path under which its identities lie.
    path: String,
    users: Users,
    service: Service,
    stubs: PathBuf,
    beside: Option<(Instant, Running)>,
    /// Leases that nobody can take back, which only run out.
    lapsing: BTreeSet<String>,
    seen: Seen,
}

/// One crash, and what became of it.
struct Case {
    left: Left,
    leases: Vec<String>,
    /// Access tokens that the workload was given.
    tokens: Vec<String>,
    /// Whether a token stood at Vault when the process had crashed.
    stood: bool,
    /// When the token was issued at the latest.
    crashed: Instant,
    /// When the task was over and the crashed process was back.
    over: Instant,
    /// From then until the target took nothing of it, once that is so.
    gone_after: Option<Duration>,
}

impl Lane {
    pub async fn start(
        number: usize,
        column: Column,
        crashing: Crashing,
        peers: Peers,
        state: Option<String>,
    ) -> Self {
        let limits = "heartbeat_interval = \"500ms\"".to_owned();
        let options =
            WorldOptions { beside: Some(peers), limits, state_lines: state, ..WorldOptions::default() };
        let mut world = World::start(options).await.unwrap();
        world.apply(&vault_documents().unwrap()).await.unwrap();
        world.apply(BINDING).await.unwrap();
        let path = format!("/retrieval/lane{number}");
        let users = Users { victim: Uid::fresh(), killed: Uid::fresh(), beside: Uid::fresh() };
        let checks = Uid::fresh();
        let of = |name: &str, uid| Entry::of_uid(world.id(&format!("{path}/{name}")), uid);
        let entries = [
            of("victim", users.victim),
            of("killed", users.killed),
            of("beside", users.beside),
            Entry::of_uid(world.id("/service/index"), checks),
        ];
        world.spire.create_entries(entries).await.unwrap();
        let (service, stubs) = (Service::of(&world, checks).await, stubs(&world).await);
        let seen = Seen::default();
        Self {
            world,
            column,
            crashing,
            path,
            users,
            service,
            stubs,
            beside: None,
            lapsing: BTreeSet::new(),
            seen,
        }
    }

    pub async fn run(mut self, lefts: &[Left]) -> Seen {
        let (renewals, others): (Vec<Left>, Vec<Left>) =
            lefts.iter().partition(|left| left.point.starts_with("renew."));
        let mut cases = Vec::new();
        for left in others.into_iter().chain(renewals) {
            self.refresh_beside(left.point).await;
            self.settle().await;
            let case = self.crash(left).await;
            self.look_beside(left.point).await;
            cases.push(case);
        }
        for case in &mut cases {
            self.wait_until_gone(case).await;
        }
        self.look_beside("the end").await;
        self.conclude(&cases).await;
        self.seen
    }

    /// A task beside that will not renew anything soon. Beside an agent's death there is none: what it
    /// takes up again would ask for credentials once more, and reach the fault point before the case does.
    async fn refresh_beside(&mut self, point: &str) {
        if self.crashing == Crashing::Agent {
            return;
        }
        if self.beside.as_ref().is_none_or(|(since, _)| since.elapsed() > BESIDE_FOR) {
            drop(self.beside.take());
            let name = format!("beside-{}", rand::random::<u32>());
            let program = self.workload(self.users.beside, &name, false);
            self.beside = Some((Instant::now(), self.holding(program, "beside").await));
        }
        if let Some((since, _)) = &self.beside
            && point.starts_with("renew.")
        {
            tokio::time::sleep(RENEWED.saturating_sub(since.elapsed())).await;
        }
    }

    /// Waits until the last case is on record, so that its rest is not what reaches the next fault point.
    async fn settle(&mut self) {
        let beside = self.beside.as_ref().map(|(_, program)| task_of(program));
        let until = Instant::now() + TAKEN_BACK;
        loop {
            let (tasks, leases) = (self.world.tasks().await.unwrap(), self.world.leases().await.unwrap());
            let open =
                tasks.iter().filter(|row| row.state == "open" && Some(&row.task_id) != beside.as_ref());
            let live = leases.iter().filter(|row| {
                row.state != "ended"
                    && Some(&row.task_id) != beside.as_ref()
                    && !self.lapsing.contains(&row.lease_id)
            });
            if open.count() + live.count() == 0 || Instant::now() > until {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn crash(&mut self, left: Left) -> Case {
        let (point, kill) = (left.point, left.point.starts_with("kill."));
        let known = self.lease_ids().await;
        let stood_before = self.at_vault(Newest::Wait).await;
        self.start_again(Some(&format!("{point}:{}", left.time))).await;
        let uid = if kill { self.users.killed } else { self.users.victim };
        let mut program = self.workload(uid, &format!("{point}-{}", left.time), point.starts_with("renew."));
        let ends = point.starts_with("end.") || point.starts_with("revoke.");
        if kill || ends {
            program = self.holding(program, point).await;
        }
        if kill {
            // The answer never comes: the broker dies under the call.
            let admin = self.world.admin().await.unwrap();
            let target =
                v1::KillTarget { kind: "identity".to_owned(), name: self.world.id(&self.path_of("killed")) };
            let request = v1::KillRequest {
                target: Some(target),
                reason: "a crash is due".to_owned(),
                wait_ms: 5_000,
                ..Default::default()
            };
            tokio::spawn(async move { admin.revocations().kill(request).await.map(drop) });
        } else if ends {
            program.kill().unwrap();
        }
        let process = match self.crashing {
            Crashing::Broker => &mut self.world.broker,
            Crashing::Agent => &mut self.world.agent,
        };
        let (status, log) = (process.ended(REACHED).await, process.log_tail());
        let status = status.unwrap_or_else(|error| {
            panic!("{point} was not reached: {error:#}\n{}\n{}", program.log(), self.world.logs())
        });
        let crashed = Instant::now();
        assert!(Running::was_killed(status) && log.contains(point), "{point}: {status}\n{log}");
        self.seen.hit.insert(point);

        let of_this_case: BTreeSet<String> =
            self.at_vault(Newest::Wait).await.difference(&stood_before).cloned().collect();
        let stood = !of_this_case.is_empty();
        if self.column.provider == Provider::Vault && left.stands.is_some_and(|stands| stands != stood) {
            self.seen.wrong.push(format!("{point}: a token stands at Vault: {stood}"));
        }
        self.start_again(None).await;
        // What was cut off is over though its process lives.
        if !kill {
            program.kill().unwrap();
        }
        let over = Instant::now();
        let leases: Vec<String> = self.lease_ids().await.difference(&known).cloned().collect();
        for lease in of_this_case.iter().filter(|lease| !leases.contains(lease)) {
            self.seen.wrong.push(format!("{point}: a token stands at Vault that nobody knows: {lease}"));
        }
        let tokens = held(&program).into_iter().filter(|token| token.contains('.')).collect();
        let mut case = Case { left, leases, tokens, stood, crashed, over, gone_after: None };
        if left.outcome == Some("ran_out") {
            self.lapsing.extend(case.leases.iter().cloned());
        }
        let lapses = stood && left.outcome == Some("ran_out");
        if !lapses {
            self.wait_until_gone(&mut case).await;
        }
        if kill {
            program.kill().unwrap();
            self.lift().await;
        }
        case
    }

    /// The process that crashed once more, to crash at the point if there is one; and the agent attached to the broker.
    async fn start_again(&mut self, point: Option<&str>) {
        let world = &mut self.world;
        let env: Vec<_> =
            point.map(|point| ("DAYFLY_FAULT_POINT".to_owned(), point.to_owned())).into_iter().collect();
        match self.crashing {
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

    fn path_of(&self, name: &str) -> String {
        format!("{}/{name}", self.path)
    }

    fn workload(&self, uid: Uid, name: &str, renews: bool) -> Running {
        let program = match self.column.provider {
            Provider::Vault if renews => asker(&self.world, uid, &self.stubs, true),
            Provider::Vault => under_run(&self.world, uid, &["--scope", "kb-read"], READ),
            Provider::Token => under_run(&self.world, uid, &["--scope", "index-read"], SHOW),
        };
        program.start(&self.world.scratch.join(format!("workload-{name}.log"))).unwrap()
    }

    /// The program once it has its credential.
    async fn holding(&self, mut program: Running, point: &str) -> Running {
        let log = program.log_path().to_owned();
        let holds = move || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            async move { if text.contains("holds ") { Ok(()) } else { Err(text) } }
        };
        let holds = program.ready(REACHED, holds).await;
        holds.unwrap_or_else(|error| panic!("{point}: {error:#}\n{}", self.world.logs()));
        program
    }

    /// Lifts what was killed, so that the next case may ask again. What ended stays over.
    async fn lift(&mut self) {
        let admin = self.world.admin().await.unwrap();
        let kills = admin.revocations().list_kills(v1::ListKillsRequest::default()).await;
        let kills = kills.map_err(CallError::from).unwrap().into_inner().kills;
        assert!(!kills.is_empty(), "the kill was on record before the crash");
        for kill in kills {
            let lift = v1::LiftKillRequest { kill_id: kill.kill_id };
            admin.revocations().lift_kill(lift).await.map_err(CallError::from).unwrap();
        }
    }

    async fn at_vault(&self, newest: Newest) -> BTreeSet<String> {
        match self.column.provider {
            Provider::Vault => at_vault(&self.world, &self.world.id(&self.path_of("")), newest).await,
            Provider::Token => BTreeSet::new(),
        }
    }

    async fn lease_ids(&mut self) -> BTreeSet<String> {
        self.world.leases().await.unwrap().into_iter().map(|row| row.lease_id).collect()
    }

    /// Whether the target takes anything of the case.
    async fn is_taken(&self, case: &Case) -> bool {
        match self.column.provider {
            Provider::Vault => {
                let tokens = self.at_vault(Newest::LeaveOut).await;
                case.leases.iter().any(|lease| tokens.contains(lease))
            }
            Provider::Token => !self.service.takes(&self.world, &case.tokens).await.is_empty(),
        }
    }

    /// Waits until the target takes nothing of the case, as long as that may take.
    async fn wait_until_gone(&mut self, case: &mut Case) {
        if case.gone_after.is_some() {
            return;
        }
        let deadline = match case.left.outcome {
            Some("ran_out") => case.crashed + FIRST_LIFE + VAULTS_DELAY,
            _ => case.over + TAKEN_BACK,
        };
        loop {
            let asked = Instant::now();
            if !self.is_taken(case).await {
                case.gone_after = Some(asked.saturating_duration_since(case.over));
                return;
            }
            if asked > deadline {
                self.seen.outlived += 1;
                let (point, logs) = (case.left.point, self.world.logs());
                self.seen.wrong.push(format!("{point}: a credential outlives its task\n{logs}"));
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The task beside must be open, and the target must take its credential.
    async fn look_beside(&mut self, point: &str) {
        let Some(task) = self.beside.as_ref().map(|(_, program)| task_of(program)) else { return };
        let until = Instant::now() + Duration::from_secs(3);
        loop {
            let tasks = self.world.tasks().await.unwrap();
            let open = tasks.iter().any(|row| row.task_id == task && row.state == "open");
            let taken = match self.column.provider {
                Provider::Vault => {
                    let tokens = self.at_vault(Newest::LeaveOut).await;
                    let leases = self.world.leases().await.unwrap();
                    leases.iter().any(|row| row.task_id == task && tokens.contains(&row.lease_id))
                }
                Provider::Token => {
                    let last = held(&self.beside.as_ref().unwrap().1).pop().unwrap();
                    !self.service.takes(&self.world, &[last]).await.is_empty()
                }
            };
            if open && taken {
                return;
            }
            // A token may just have been renewed by another.
            if Instant::now() > until {
                self.seen.wrongly_revoked += 1;
                let logs = self.world.logs();
                self.seen.wrong.push(format!(
                    "{point}: the task beside is open: {open}, its credential is taken: {taken}\n{logs}"
                ));
                // Told once; the next case gets another.
                self.beside = None;
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Waits until every task and lease is over, and holds the leases' ends and the chains against what they must be.
    async fn conclude(&mut self, cases: &[Case]) {
        drop(self.beside.take());
        let until = Instant::now() + FIRST_LIFE;
        let leases = loop {
            let tasks = self.world.tasks().await.unwrap();
            let open = tasks.iter().filter(|task| task.state != "ended").count();
            let leases = self.world.leases().await.unwrap();
            let live = leases.iter().filter(|lease| lease.state != "ended").count();
            if (open, live) == (0, 0) {
                break leases;
            }
            if Instant::now() > until {
                let logs = self.world.logs();
                self.seen.wrong.push(format!("{open} tasks and {live} leases are not over\n{logs}"));
                break leases;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        };
        self.seen.outlived += self.at_vault(Newest::Wait).await.len();
        for case in cases {
            let (point, expected) = (case.left.point, case.left.outcome);
            let of_case = leases.iter().filter(|row| case.leases.contains(&row.lease_id));
            let outcomes: Vec<&str> = of_case.map(|row| row.outcome.as_str()).collect();
            // The agent asks for a token file's content again while the task is open, Vault is asked by the program alone.
            let as_expected = match self.column.provider {
                Provider::Vault => outcomes == Vec::from_iter(expected),
                Provider::Token => {
                    outcomes.iter().all(|outcome| *outcome == "verified")
                        && (expected.is_none() || !outcomes.is_empty())
                }
            };
            if !as_expected {
                self.seen.wrong.push(format!("{point}: the leases ended as {outcomes:?}, not {expected:?}"));
            }
            let time = if case.left.time > 1 { format!(":{}", case.left.time) } else { String::new() };
            let target = match case.gone_after {
                None => "OUTLIVED".to_owned(),
                Some(gone) if case.stood || !case.tokens.is_empty() => format!("gone after {gone:.1?}"),
                Some(_) => "nothing at the target".to_owned(),
            };
            let outcome = outcomes.first().copied().unwrap_or("no lease");
            self.seen.rows.push(format!("{:24} {outcome:14} {target}", format!("{point}{time}")));
        }
        match self.world.verify_audit().await {
            Ok(records) => {
                if records.values().any(|records| *records == 0) {
                    self.seen.wrong.push(format!("a stream without a record: {records:?}"));
                }
                self.seen.rows.push(format!("the chains hold: {records:?}"));
            }
            Err(error) => {
                self.seen.chain_breaks += 1;
                self.seen.wrong.push(format!("{error:#}"));
            }
        }
    }
}

/// What a workload said it holds, the last one last.
fn held(program: &Running) -> Vec<String> {
    let log = program.log();
    log.lines().filter_map(|line| line.strip_prefix("holds ")).map(str::to_owned).collect()
}

fn task_of(program: &Running) -> String {
    let log = program.log();
    log.lines().find_map(|line| line.strip_prefix("task ")).expect("it holds a credential").to_owned()
}
