//! `dayfly task`: units of work, what each may ask for, and what it holds.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use dayfly_client::v1;
use serde::Serialize;

use crate::connect::{ConnectArgs, answer};
use crate::failure::Failure;
use crate::leases::{self, LeaseView};
use crate::output::{self, BOLD, Format, paint};
use crate::wire::{self, At, some};

const EXAMPLES: &str = "\
Examples:
  dayfly task list
  dayfly task list --spiffe-id spiffe://prod.example/training/trainer --all --limit 20
  dayfly task show 01JZX0Q4V9N3F7T2K8M5R6W1YB -o json";

/// See tasks
#[derive(Subcommand, Debug)]
#[command(after_long_help = EXAMPLES)]
pub enum TaskCommand {
    /// List tasks, newest first; those that ended only with --all
    List(ListArgs),
    /// Show one task and its leases
    Show {
        /// The task's id
        #[arg(value_name = "TASK")]
        id: String,
    },
}

/// Filters; all must hold.
#[derive(Args, Debug)]
pub struct ListArgs {
    /// Only tasks of this session
    #[arg(long, value_name = "SESSION", default_value = "", hide_default_value = true)]
    session: String,
    /// Only tasks this workload opened
    #[arg(long, value_name = "SPIFFE_ID", default_value = "", hide_default_value = true)]
    spiffe_id: String,
    /// Those that ended too
    #[arg(long)]
    all: bool,
    /// At most this many
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
}

/// Lists or shows.
pub async fn task(command: TaskCommand, connect: ConnectArgs, format: Format) -> Result<(), Failure> {
    let format = format.not_yaml()?;
    let admin = connect.admin().await?;
    match command {
        TaskCommand::List(filter) => {
            let request = v1::ListTasksRequest {
                session_id: filter.session,
                spiffe_id: filter.spiffe_id,
                include_ended: filter.all,
                limit: filter.limit,
            };
            let tasks = answer(admin.client().list_tasks(request)).await?.tasks;
            let tasks: Vec<TaskView> = tasks.into_iter().map(TaskView::from).collect();
            match format {
                Format::Json => output::json(&BTreeMap::from([("tasks", &tasks)]))?,
                Format::Table | Format::Yaml => output::text(&list(&tasks))?,
            }
        }
        TaskCommand::Show { id } => {
            let found = answer(admin.client().get_task(v1::GetTaskRequest { task_id: id })).await?;
            let task = found.task.ok_or_else(|| Failure::new("the broker's answer holds no task"))?;
            let shown = Shown {
                task: TaskView::from(task),
                leases: found.leases.into_iter().map(LeaseView::from).collect(),
            };
            match format {
                Format::Json => output::json(&shown)?,
                Format::Table | Format::Yaml => output::text(&show(&shown))?,
            }
        }
    }
    Ok(())
}

#[derive(Serialize)]
struct Shown {
    task: TaskView,
    leases: Vec<LeaseView>,
}

/// A task as programs read it; the field names are stable.
#[derive(Debug, Serialize)]
pub struct TaskView {
    pub task_id: String,
    session_id: String,
    parent_task_id: Option<String>,
    pub spiffe_id: String,
    stage: String,
    node: Option<String>,
    node_state: Option<String>,
    anchor: String,
    state: String,
    opened_at: Option<At>,
    deadline: Option<At>,
    ended_at: Option<At>,
    end_cause: Option<String>,
    ceiling: Vec<CeilingLine>,
    intent: Option<String>,
    live_leases: u32,
}

#[derive(Debug, Serialize)]
struct CeilingLine {
    scope: String,
    parameters: BTreeMap<String, String>,
}

impl From<v1::Task> for TaskView {
    fn from(wire: v1::Task) -> Self {
        let line = |line: v1::ScopeRequest| CeilingLine {
            scope: line.scope,
            parameters: wire::sorted(line.parameters),
        };
        TaskView {
            task_id: wire.task_id,
            session_id: wire.session_id,
            parent_task_id: some(wire.parent_task_id),
            spiffe_id: wire.spiffe_id,
            stage: wire.stage,
            node: some(wire.node),
            node_state: some(wire.node_state),
            anchor: wire.anchor,
            state: wire.state,
            opened_at: wire::at(wire.opened_at),
            deadline: wire::at(wire.deadline),
            ended_at: wire::at(wire.ended_at),
            end_cause: some(wire.end_cause),
            ceiling: wire.ceiling.into_iter().map(line).collect(),
            intent: some(wire.intent),
            live_leases: wire.live_leases,
        }
    }
}

impl TaskView {
    /// Where it stands, in words.
    pub fn told(&self) -> String {
        match &self.end_cause {
            Some(cause) => format!("{} at {} ({cause})", self.state, wire::or_dash(self.ended_at)),
            None => {
                let until = format!("{} until {}", self.state, wire::or_dash(self.deadline));
                match self.node_state.as_deref() {
                    // Nothing is given there now. What a scope's `on_agent_loss` holds is left until the deadline.
                    Some(lost @ ("silent" | "held" | "lapsed")) => format!("{until} (node {lost})"),
                    _ => until,
                }
            }
        }
    }

    fn ceiling(&self) -> String {
        let lines: Vec<String> =
            self.ceiling.iter().map(|line| wire::scope(&line.scope, &line.parameters)).collect();
        lines.join(", ")
    }
}

fn list(tasks: &[TaskView]) -> String {
    let row = |task: &TaskView| {
        [
            task.task_id.clone(),
            task.spiffe_id.clone(),
            task.stage.clone(),
            task.anchor.clone(),
            wire::or_dash(task.opened_at),
            task.told(),
            task.live_leases.to_string(),
        ]
    };
    output::table(
        ["TASK", "SPIFFE ID", "STAGE", "ANCHOR", "OPENED", "STATE", "LIVE LEASES"],
        tasks.iter().map(row),
    )
}

fn show(shown: &Shown) -> String {
    let task = &shown.task;
    let optional = |text: &Option<String>| text.clone().unwrap_or_default();
    let facts = output::facts([
        ("task", task.task_id.clone()),
        ("state", task.told()),
        ("session", task.session_id.clone()),
        ("parent", optional(&task.parent_task_id)),
        ("spiffe id", task.spiffe_id.clone()),
        ("stage", task.stage.clone()),
        ("node", optional(&task.node)),
        ("anchor", task.anchor.clone()),
        ("opened", wire::or_dash(task.opened_at)),
        ("ceiling", task.ceiling()),
        ("intent", task.intent.as_ref().map(|intent| format!("{intent} (claimed)")).unwrap_or_default()),
    ]);
    if shown.leases.is_empty() {
        return format!("{facts}\nno leases\n");
    }
    format!("{facts}\n{}\n{}", paint(BOLD, "leases"), leases::list(&shown.leases))
}
