//! Opens a task at the node agent and becomes a command in it, as `dayfly run` does.
//!
//! `workload --socket PATH [--scope NAME]… [--label KEY=VALUE]… -- COMMAND…`, or with `--end` instead of a command: then it
//! watches its task, ends it, and says what it saw. With `--check ACTION=NAME` it asks about an artifact before that. With
//! `--claim TASK` it takes a task that was opened for it; with
//! `--delegate SPIFFE_ID` it opens one for another, in the task it stands in, and says its id.
//!
//! The calling process is the task's leader: the agent moves it into the task, and `exec` keeps it there. The connection is
//! close-on-exec, which tells the agent that the command runs.

use std::collections::HashMap;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use clap::Parser;
use dayfly_client::v1::watch_task_response::Event;
use dayfly_client::v1::{
    Artifact, AuthorizeRequest, ClaimTaskRequest, DelegateTaskRequest, EndTaskRequest, OpenTaskRequest,
    ScopeRequest, WatchTaskRequest,
};
use dayfly_client::{AgentClient, CallError};

#[derive(Parser)]
struct Cli {
    /// The agent's socket.
    #[arg(long, env = "DAYFLY_AGENT_SOCKET")]
    socket: String,
    /// A scope the task may ask for, without parameters.
    #[arg(long)]
    scope: Vec<String>,
    /// A label, as KEY=VALUE.
    #[arg(long)]
    label: Vec<String>,
    /// An action on an artifact to ask about, as ACTION=NAME.
    #[arg(long)]
    check: Option<String>,
    /// A task that was opened for this program, instead of a new one.
    #[arg(long, conflicts_with = "scope")]
    claim: Option<String>,
    /// Whom to open a task for, with the scopes, instead of becoming something.
    #[arg(long, requires = "task")]
    delegate: Option<String>,
    /// The task that this program stands in.
    #[arg(long, env = "DAYFLY_TASK_ID")]
    task: Option<String>,
    /// End the task again, instead of becoming something.
    #[arg(long)]
    end: bool,
    /// What to become.
    #[arg(last = true, required_unless_present_any = ["end", "delegate"])]
    command: Vec<String>,
}

fn main() -> ExitCode {
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .expect("nothing has installed one before");
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let opened = match runtime {
        Ok(runtime) => runtime.block_on(open(&cli)),
        Err(error) => Err(error.into()),
    };
    let failed = match opened {
        Ok(_) if cli.command.is_empty() => return ExitCode::SUCCESS,
        // `exec` comes back only when it fails.
        Ok(environment) => {
            Command::new(&cli.command[0]).args(&cli.command[1..]).envs(environment).exec().into()
        }
        Err(error) => error,
    };
    say(&format!("refused: {}", dayfly_client::chain(&*failed)));
    ExitCode::FAILURE
}

/// The environment of the task this process leads now.
async fn open(cli: &Cli) -> Result<HashMap<String, String>, Box<dyn std::error::Error>> {
    let scope = |name: &String| ScopeRequest { scope: name.clone(), parameters: HashMap::new() };
    let ceiling = cli.scope.iter().map(scope).collect();
    let label = |text: &String| text.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
    let labels = cli.label.iter().filter_map(label).collect();
    let agent = AgentClient::connect(&cli.socket).await?;
    let mut calls = agent.credentials();
    if let Some(to) = &cli.delegate {
        let (task_id, spiffe_id) = (cli.task.clone().unwrap_or_default(), to.clone());
        let request = DelegateTaskRequest { task_id, spiffe_id, ceiling, labels, ..Default::default() };
        let offered = calls.delegate_task(request).await.map_err(CallError::from)?.into_inner();
        say(&offered.task_id);
        return Ok(HashMap::new());
    }
    if let Some(task_id) = &cli.claim {
        let request = ClaimTaskRequest { task_id: task_id.clone(), labels, ..Default::default() };
        let claimed = calls.claim_task(request).await.map_err(CallError::from)?.into_inner();
        return Ok(claimed.environment);
    }
    let intent = cli.command.join(" ");
    let request = OpenTaskRequest { ceiling, labels, intent, ..Default::default() };
    let task = calls.open_task(request).await.map_err(CallError::from)?.into_inner();
    if let Some((action, name)) = cli.check.as_deref().and_then(|check| check.split_once('=')) {
        check(&agent, &task.task_id, action, name).await?;
    }
    if cli.end {
        watch_and_end(&agent, &task.task_id).await?;
    }
    Ok(task.environment)
}

async fn check(
    agent: &AgentClient,
    task_id: &str,
    action: &str,
    name: &str,
) -> Result<(), Box<dyn std::error::Error>> {
    let request = AuthorizeRequest {
        task_id: task_id.to_owned(),
        action: action.to_owned(),
        artifact: Some(Artifact { name: name.to_owned(), digest: String::new() }),
        receipt_audience: "spiffe://prod.example/guard".to_owned(),
        ..Default::default()
    };
    let answer = agent.credentials().authorize(request).await.map_err(CallError::from)?.into_inner();
    say(&format!("authorized: {} {}", answer.decision_id, answer.receipt));
    Ok(())
}

async fn watch_and_end(agent: &AgentClient, task_id: &str) -> Result<(), Box<dyn std::error::Error>> {
    let watch = WatchTaskRequest { task_id: task_id.to_owned(), ..Default::default() };
    let mut events = agent.credentials().watch_task(watch).await.map_err(CallError::from)?.into_inner();
    let end = EndTaskRequest { task_id: task_id.to_owned(), ..Default::default() };
    let mut end = Some(end);
    while let Some(event) = events.message().await.map_err(CallError::from)? {
        match event.event {
            Some(Event::Watched(_)) => say("watched"),
            Some(Event::Over(over)) => say(&format!("over: {}", over.cause)),
            None => {}
        }
        if let Some(end) = end.take() {
            let ended = agent.credentials().end_task(end).await.map_err(CallError::from)?.into_inner();
            say(&format!("ended: {} tasks, {} leases", ended.tasks_ended, ended.leases_queued));
        }
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "what the program is for")]
fn say(line: &str) {
    println!("{line}");
}
