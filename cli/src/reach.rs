//! `dayfly reach`: what an identity, a task or a session can get now, what it holds, and until when.

use clap::Args;
use dayfly_client::v1;
use serde::Serialize;

use crate::connect::{ConnectArgs, answer};
use crate::failure::Failure;
use crate::leases::LeaseView;
use crate::output::{self, BOLD, Format, ODD, paint};
use crate::question::{BoundView, Given, HorizonView, VerdictView, labelled};
use crate::tasks::TaskView;
use crate::wire::{self, At, Promise};

const EXAMPLES: &str = "\
Of an identity: every scope that a binding is for it with, and where: in a root task, or only under somebody. Of a task: each \
line of its ceiling, decided now, and all tasks below. Then what is out, and the last moment it can work.

Examples:
  dayfly reach --spiffe-id spiffe://prod.example/tool/search
  dayfly reach --task 01JZX0Q4V9N3F7T2K8M5R6W1YB
  dayfly reach --session 01JZX0Q4V9N3F7T2K8M5R6W1YB -o json";

/// What an identity, a task or a session can get and holds
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub struct ReachArgs {
    #[command(flatten)]
    subject: SubjectArgs,
}

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct SubjectArgs {
    /// Whatever this workload can get, in any task
    #[arg(long, value_name = "SPIFFE_ID")]
    spiffe_id: Option<String>,
    /// This task and all below it
    #[arg(long, value_name = "TASK")]
    task: Option<String>,
    /// All tasks of this session
    #[arg(long, value_name = "SESSION")]
    session: Option<String>,
}

/// Asks and prints.
pub async fn reach(args: ReachArgs, connect: ConnectArgs, format: Format) -> Result<(), Failure> {
    use v1::reach_request::Subject;
    let format = format.not_yaml()?;
    let SubjectArgs { spiffe_id, task, session } = args.subject;
    let identity = spiffe_id.clone();
    let subject = spiffe_id.map(Subject::SpiffeId);
    let subject = subject.or(task.map(Subject::TaskId)).or(session.map(Subject::SessionId));
    let admin = connect.admin().await?;
    let told = answer(admin.questions().reach(v1::ReachRequest { subject })).await?;
    let view = Reached::from(told);
    match format {
        Format::Json => output::json(&view)?,
        Format::Table | Format::Yaml => output::text(&show(&view, identity.as_deref()))?,
    }
    Ok(())
}

/// The answer as programs read it; the field names are stable.
#[derive(Debug, Serialize)]
struct Reached {
    at: Option<At>,
    revision: u64,
    stage: Option<String>,
    agents: Vec<String>,
    bound: Vec<BoundView>,
    tasks: Vec<TaskReach>,
    leases: Vec<LeaseReach>,
    horizon: HorizonView,
    more: bool,
}

#[derive(Debug, Serialize)]
struct TaskReach {
    task: TaskView,
    offered_until: Option<At>,
    lines: Vec<LineReach>,
    leases: Vec<LeaseReach>,
    horizon: HorizonView,
}

#[derive(Debug, Serialize)]
struct LineReach {
    scope: String,
    parameters: std::collections::BTreeMap<String, String>,
    act: Option<String>,
    verdict: VerdictView,
    promise: Option<Promise>,
}

#[derive(Debug, Serialize)]
struct LeaseReach {
    lease: LeaseView,
    horizon: HorizonView,
}

impl From<v1::ReachResponse> for Reached {
    fn from(wire: v1::ReachResponse) -> Self {
        Reached {
            at: wire::at(wire.at),
            revision: wire.revision,
            stage: wire::some(wire.stage),
            agents: wire.agents,
            bound: wire.bound.into_iter().map(BoundView::from).collect(),
            tasks: wire.tasks.into_iter().map(TaskReach::from).collect(),
            leases: wire.leases.into_iter().map(LeaseReach::from).collect(),
            horizon: wire.horizon.into(),
            more: wire.more,
        }
    }
}

impl From<v1::ReachedTask> for TaskReach {
    fn from(wire: v1::ReachedTask) -> Self {
        TaskReach {
            task: TaskView::from(wire.task.unwrap_or_default()),
            offered_until: wire::at(wire.offered_until),
            lines: wire.lines.into_iter().map(LineReach::from).collect(),
            leases: wire.leases.into_iter().map(LeaseReach::from).collect(),
            horizon: wire.horizon.into(),
        }
    }
}

impl From<v1::ReachedLine> for LineReach {
    fn from(wire: v1::ReachedLine) -> Self {
        let scope = wire.scope.unwrap_or_default();
        LineReach {
            scope: scope.scope,
            parameters: wire::sorted(scope.parameters),
            act: wire::some(wire.act),
            verdict: wire.verdict.unwrap_or_default().into(),
            promise: wire.promise.map(Promise::from),
        }
    }
}

impl From<v1::ReachedLease> for LeaseReach {
    fn from(wire: v1::ReachedLease) -> Self {
        LeaseReach { lease: wire.lease.unwrap_or_default().into(), horizon: wire.horizon.into() }
    }
}

fn show(reached: &Reached, identity: Option<&str>) -> String {
    let mut parts = Vec::new();
    if let Some(identity) = identity {
        parts.push(about(reached, identity));
        parts.push(can_get(&reached.bound));
        parts.extend(can_hand_on(&reached.bound));
    }
    parts.extend(reached.tasks.iter().map(show_task));
    if !reached.leases.is_empty() {
        parts.push(format!("{}\n{}", paint(BOLD, "leases in tasks of others"), leases(&reached.leases)));
    }
    if reached.more {
        parts.push(format!("{}\n", paint(ODD, "there is more than fits into one answer: ask task by task")));
    }
    parts.push(reached.horizon.told());
    parts.join("\n")
}

fn about(reached: &Reached, identity: &str) -> String {
    let optional = |text: &Option<String>, none: &str| text.clone().unwrap_or_else(|| none.to_owned());
    let agents = match &reached.agents[..] {
        [] => "none may speak for it".to_owned(),
        agents => agents.join(", "),
    };
    output::facts([
        ("identity", identity.to_owned()),
        ("stage", optional(&reached.stage, "none: nothing is ever granted to it")),
        ("agents", agents),
        ("revision", reached.revision.to_string()),
    ])
}

fn can_get(bound: &[BoundView]) -> String {
    let block = |one: &BoundView, given: Given| {
        let name = match given.values.as_str() {
            "-" => one.scope.clone(),
            values => format!("{} with {values}", one.scope),
        };
        let promise: Vec<String> = one.promise.iter().map(ToString::to_string).collect();
        format!(
            "  {}\n{}{}{}",
            output::printable(&name),
            labelled("where", &given.place),
            labelled("binding", &[one.by()]),
            labelled("taken back", &promise)
        )
    };
    let blocks = bound.iter().flat_map(|one| one.given().into_iter().map(move |given| block(one, given)));
    let blocks: String = blocks.collect();
    match blocks.is_empty() {
        true => "no binding lets it use anything\n".to_owned(),
        false => format!("{}\n{blocks}", paint(BOLD, "can get")),
    }
}

fn can_hand_on(bound: &[BoundView]) -> Option<String> {
    let block = |one: &BoundView| {
        let to = one.hands_on()?;
        let values = match one.values().as_str() {
            "-" => String::new(),
            values => format!(" with {values}"),
        };
        let name = output::printable(&format!("{}{values}", one.scope));
        Some(format!("  {name}\n{}{}", labelled("to", &[to]), labelled("binding", &[one.by()])))
    };
    let blocks: String = bound.iter().filter_map(block).collect();
    (!blocks.is_empty()).then(|| format!("{}\n{blocks}", paint(BOLD, "can hand on")))
}

fn show_task(reached: &TaskReach) -> String {
    let task = &reached.task;
    let state = match reached.offered_until {
        Some(until) => format!("waits until {until} to be claimed"),
        None => task.told(),
    };
    let title = format!("task {} of {}, {state}", task.task_id, task.spiffe_id);
    let mut shown = format!("{}\n", paint(BOLD, &output::printable(&title)));
    if !reached.lines.is_empty() {
        let row = |line: &LineReach| {
            let act = line.act.as_ref().map(|act| format!(" to {act}")).unwrap_or_default();
            let promise = line.promise.as_ref().map(ToString::to_string).unwrap_or_else(|| "-".to_owned());
            [format!("{}{act}", wire::scope(&line.scope, &line.parameters)), line.verdict.told(), promise]
        };
        let headings = ["MAY ASK FOR", "AND IS TOLD NOW", "TAKEN BACK"];
        shown.push_str(&output::table(headings, reached.lines.iter().map(row)));
    }
    if !reached.leases.is_empty() {
        shown.push_str(&leases(&reached.leases));
    }
    shown
}

fn leases(leases: &[LeaseReach]) -> String {
    let row = |held: &LeaseReach| {
        [
            held.lease.lease_id.clone(),
            held.lease.asked(),
            held.lease.told(),
            wire::or_dash(held.horizon.at_the_latest),
            wire::or_dash(held.horizon.if_ended_now),
        ]
    };
    let headings = ["LEASE", "SCOPE", "STATE", "OVER BY", "IF ENDED NOW"];
    output::table(headings, leases.iter().map(row))
}
