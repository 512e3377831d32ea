//! A planner and its tool on real SPIRE: `examples/python/planner.py` and `search_tool.py` as users of their own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use harness::{Python, Running, Uid, World, WorldOptions, eventually};
use nix::sys::signal::Signal;

use crate::life::outcomes;

const WITHIN: Duration = Duration::from_secs(20);

/// The planner may hand the scope on to one tool, and has nothing of it.
const RULES: &str = r#"
kind: Binding
metadata: {name: planner-hands-on}
spec:
  identities: ["spiffe://example.org/retrieval/planner"]
  scope: index-read
  start: root
  grants: [delegate]
  delegate: {to: ["spiffe://example.org/tool/search"]}
"#;

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/python").join(name)
}

/// The example's text, for users that cannot read the checkout.
fn text(name: &str) -> String {
    std::fs::read_to_string(example(name)).unwrap()
}

/// Starts the planner and returns it with the task that it opened.
async fn plan(world: &World, planner: Uid, to: &str, claim_within: &str) -> (Running, String) {
    let dayfly = harness::parts::binary("dayfly").unwrap();
    let log = world.scratch.join(format!("planner-{}.log", rand::random::<u32>()));
    let program = world.dayfly(planner).unwrap().args(["run", "--scope", "index-read", "--"]);
    let program = program.arg(Python::find().unwrap().path()).args(["-c", &text("planner.py"), to]);
    let program = program.args(["--scope", "index-read", "--claim-within", claim_within, "--hold", "600"]);
    let mut running = program.arg("--dayfly").arg(dayfly).start(&log).unwrap();
    let task = running.ready(WITHIN, || word(&log, "task ")).await;
    let task = task.unwrap_or_else(|error| panic!("{error:#}\n{}", world.logs()));
    (running, task)
}

async fn word(log: &Path, name: &str) -> Result<String, String> {
    let said = std::fs::read_to_string(log).unwrap_or_default();
    let found = said.lines().find_map(|line| line.strip_prefix(name));
    found.map(|word| word.trim().to_owned()).ok_or(said)
}

async fn refused_claim(world: &World, who: Uid, task: &str) {
    let said =
        world.dayfly(who).unwrap().args(["run", "--claim", task, "--", "true"]).finish().await.unwrap();
    assert_eq!(said.status.code(), Some(1), "{}{}", said.stdout, said.stderr);
    assert!(said.stderr.contains("reason: TASK_NOT_OPEN"), "{}", said.stderr);
}

#[tokio::test]
async fn a_tool_works_with_what_its_planner_hands_on_until_the_planner_ends() {
    let mut world = World::start(WorldOptions::default()).await.unwrap();
    world.apply(RULES).await.unwrap();
    let planner = world.workload("/retrieval/planner").await.unwrap();
    let tool = world.workload("/tool/search").await.unwrap();
    let stranger = world.workload("/tool/other").await.unwrap();
    let (tool_id, planner_id) = (world.id("/tool/search"), world.id("/retrieval/planner"));
    let (mut planning, task) = plan(&world, planner, &tool_id, "30s").await;
    let waiting = world.tasks().await.unwrap();
    let waiting = waiting.iter().find(|found| found.task_id == task).unwrap();
    assert_eq!((&*waiting.anchor, &*waiting.state, &*waiting.spiffe_id), ("offer", "open", &*tool_id));

    refused_claim(&world, stranger, &task).await;
    refused_claim(&world, planner, &task).await;
    let log = world.scratch.join("tool.log");
    let program = world.dayfly(tool).unwrap().args(["run", "--claim", &task, "--"]);
    let program = program.arg(Python::find().unwrap().path()).args(["-c", &text("search_tool.py")]);
    let mut working = program.args(["--hold", "600"]).start(&log).unwrap();
    let file = working.ready(WITHIN, || word(&log, "token file ")).await;
    let file = file.unwrap_or_else(|error| panic!("{error:#}\n{}", world.logs()));
    assert_eq!(word(&log, "sub ").await.unwrap(), tool_id);
    assert_eq!(word(&log, "act ").await.unwrap(), format!("{{\"sub\": \"{planner_id}\"}}"));
    refused_claim(&world, tool, &task).await;
    let claimed = world.tasks().await.unwrap();
    let claimed = claimed.iter().find(|found| found.task_id == task).unwrap();
    assert_eq!((&*claimed.anchor, &*claimed.node), ("cgroup_owned", &*world.id(harness::world::NODE)));
    let token = std::fs::read_to_string(&file).unwrap();
    let service = world.workload("/service/index").await.unwrap();
    let shown = crate::tasks::introspect(&world, service, token.trim()).await;
    assert!(shown.contains("\"active\":true"), "{shown}");

    planning.signal(Signal::SIGKILL).unwrap();
    planning.ended(WITHIN).await.unwrap();
    // The agent that holds the tool's task hears of it from the broker, and what is left of the task is killed.
    working.ended(WITHIN).await.unwrap_or_else(|error| panic!("{error:#}\n{}", world.logs()));
    assert_eq!(outcomes(&mut world, WITHIN).await, ["verified"]);
    let shown = crate::tasks::introspect(&world, service, token.trim()).await;
    assert!(shown.contains("\"active\":false"), "{shown}");
    let leases = world.leases().await.unwrap();
    assert!(leases.iter().all(|lease| lease.spiffe_id == tool_id), "the planner never had one: {leases:#?}");
    let ended = world.tasks().await.unwrap();
    assert_eq!(ended.iter().find(|found| found.task_id == task).unwrap().end_cause, "parent_ended");
}

#[tokio::test]
async fn a_task_that_nobody_claims_in_time_is_nobodys() {
    let mut world = World::start(WorldOptions::default()).await.unwrap();
    world.apply(RULES).await.unwrap();
    let planner = world.workload("/retrieval/planner").await.unwrap();
    let tool = world.workload("/tool/search").await.unwrap();
    let (_planning, task) = plan(&world, planner, &world.id("/tool/search"), "1s").await;
    let admin = world.admin().await.unwrap();
    let over = eventually("the end of the offer", WITHIN, || async {
        let request = dayfly_client::v1::GetTaskRequest { task_id: task.clone() };
        let shown = admin.admin().get_task(request).await.unwrap().into_inner().task.unwrap();
        if shown.state == "ended" { Ok(shown.end_cause) } else { Err(shown.state) }
    });
    assert_eq!(over.await.unwrap(), "deadline");
    refused_claim(&world, tool, &task).await;
}
