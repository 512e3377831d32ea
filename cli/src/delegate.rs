//! `dayfly delegate`: opens a task for another workload, from inside a task. The workload claims it; nobody else can.

use std::path::PathBuf;

use clap::Args;
use dayfly_client::{AgentClient, v1};
use dayfly_domain::time::Ttl;
use serde::Serialize;

use crate::ceiling::{Ceiling, key_value};
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::wire::{self, At};

const EXAMPLES: &str = "\
Examples:
  task=$(dayfly delegate --to spiffe://prod.example/tool/search --scope index-query --param index=papers)
  dayfly delegate --to spiffe://prod.example/tool/search --scope index-query --param index=papers \\
      --claim-within 10s --max-duration 5m --intent 'look up citations' -o json
  # where the tool runs, within that time:
  dayfly run --claim $task -- python search.py

The id of the new task is printed. It is no secret: only the workload that is named can claim it, once. Whoever delegates \
gets nothing of it, and what the tool was given is taken back when the task that delegated ends.";

/// Open a task for another workload, from inside a task
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES, override_usage = "dayfly delegate --to SPIFFE_ID --scope SCOPE [--param KEY=VALUE]… [OPTIONS]")]
pub struct DelegateArgs {
    /// The workload that may claim the task: one exact SPIFFE ID
    #[arg(long, value_name = "SPIFFE_ID")]
    to: String,
    #[command(flatten)]
    ceiling: Ceiling,
    /// How long the task waits to be claimed; without it 30s, and never more than the broker's limit
    #[arg(long, value_name = "DURATION")]
    claim_within: Option<Ttl>,
    /// The longest the task may last; never longer than the task it is opened in
    #[arg(long, value_name = "DURATION")]
    max_duration: Option<Ttl>,
    /// What the task is for, in your words; recorded
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    intent: String,
    /// A label; recorded. May be given more than once
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = key_value)]
    labels: Vec<(String, String)>,
    /// The task this process stands in
    #[arg(long, env = "DAYFLY_TASK_ID", value_name = "TASK_ID")]
    task: Option<String>,
    /// The node agent's socket
    #[arg(long, env = "DAYFLY_AGENT_SOCKET", value_name = "PATH", default_value = "/run/dayfly/agent.sock")]
    agent_socket: PathBuf,
}

/// What is printed with `-o json`. The field names are stable.
#[derive(Serialize)]
struct View {
    task_id: String,
    session_id: String,
    spiffe_id: String,
    claim_until: Option<At>,
    deadline: Option<At>,
}

/// Asks and prints.
pub async fn delegate(args: DelegateArgs, format: Format) -> Result<(), Failure> {
    let format = format.not_yaml()?;
    let task_id = args.task.ok_or_else(|| {
        Failure::usage("no task is named: DAYFLY_TASK_ID is not set")
            .next("run this inside a task (dayfly run)")
    })?;
    if args.ceiling.0.is_empty() {
        return Err(Failure::usage("no --scope is given, so the task could ask for nothing"));
    }
    let agent = AgentClient::connect(&args.agent_socket).await.map_err(|error| {
        Failure::from(error)
            .next("run this inside a task (dayfly run), or name the agent's socket with --agent-socket")
    })?;
    let request = v1::DelegateTaskRequest {
        task_id,
        spiffe_id: args.to.clone(),
        ceiling: args.ceiling.0,
        max_duration: args.max_duration.map(wire::duration),
        claim_within: args.claim_within.map(wire::duration),
        intent: args.intent,
        labels: args.labels.into_iter().collect(),
        ..v1::DelegateTaskRequest::default()
    };
    let offered = agent.credentials().delegate_task(request).await?.into_inner();
    let view = View {
        task_id: offered.task_id,
        session_id: offered.session_id,
        spiffe_id: args.to,
        claim_until: wire::at(offered.claim_until),
        deadline: wire::at(offered.deadline),
    };
    match format {
        Format::Json => output::json(&view)?,
        Format::Table | Format::Yaml => output::text(&format!("{}\n", view.task_id))?,
    }
    Ok(())
}
