//! `dayfly run`: opens a task for this very process, then becomes the program.
//!
//! The agent knows this process from the kernel and watches it by pidfd. Since the program replaces it by `exec`, pid,
//! exit code and signals are the program's own, and its exit is the end of the task. The connection to the agent closes
//! with `exec`: that is how the agent learns that the program runs.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use clap::Args;
use dayfly_client::{AgentClient, CallError, v1};
use dayfly_domain::time::Ttl;
use tokio::runtime::Runtime;
use tonic::Status;

use crate::ceiling::{Ceiling, key_value};
use crate::environment::{self, Changes};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output;
use crate::wire;

/// The agent's word for two scopes that would end up in the same place of the environment.
const TWO_SCOPES_ONE_SLOT: &str = "TWO_SCOPES_ONE_SLOT";

const EXAMPLES: &str = "\
Examples:
  dayfly run --scope s3-train-read --param dataset=corpus-7 -- python train.py
  dayfly run --scope s3-train-read --param dataset=corpus-7 --scope registry-push --param image=base \\
      --max-duration 2h --intent 'nightly training' --label run=42 -- ./train.sh
  dayfly run --claim 01JZX0Q4V9N3F7T2K8M5R6W1YB -- python search.py

A --param belongs to the --scope before it. The program finds its credentials where its SDKs look for them \
(AWS_CONTAINER_CREDENTIALS_FULL_URI, VAULT_ADDR, DAYFLY_TOKEN_FILE); variables that would win over them \
(AWS_ACCESS_KEY_ID, AWS_PROFILE, VAULT_TOKEN, …) are taken away, and ~/.aws/credentials is not read. \
When the program exits, however it exits, the task ends and what it was given is taken back.

The exit code is the program's own. Before it runs: 1 the task was not opened, 2 usage, \
126 the program cannot be executed, 127 it was not found.";

/// Run a program in a task of its own
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES, override_usage = "dayfly run [--scope SCOPE [--param KEY=VALUE]… | --claim TASK]… [OPTIONS] -- CMD [ARGS]…")]
pub struct RunArgs {
    #[command(flatten)]
    ceiling: Ceiling,
    /// A task that was opened for this workload with `dayfly delegate`, instead of a new one
    #[arg(long, value_name = "TASK", conflicts_with_all = ["scope", "param", "max_duration", "intent"])]
    claim: Option<String>,
    /// The longest the task may last, for example 90s, 15m, 1h30m; without it the most that the bindings allow
    #[arg(long, value_name = "DURATION")]
    max_duration: Option<Ttl>,
    /// What the task is for, in your words; recorded
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    intent: String,
    /// A label; recorded. May be given more than once
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = key_value)]
    labels: Vec<(String, String)>,
    /// The node agent's socket
    #[arg(long, env = "DAYFLY_AGENT_SOCKET", value_name = "PATH", default_value = "/run/dayfly/agent.sock")]
    agent_socket: PathBuf,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// Opens the task and becomes the program. Returns only if that failed.
pub fn run(runtime: &Runtime, args: RunArgs, verbose: bool) -> Failure {
    let (agent, task) = match runtime.block_on(open(&args)) {
        Ok(opened) => opened,
        Err(failure) => return failure,
    };
    let changes = environment::changes(task.environment, |name| std::env::var_os(name).is_some());
    if verbose {
        let until = wire::or_dash(wire::at(task.deadline));
        output::note(&format!("dayfly: task {} is open until {until} at the latest", task.id));
        output::note(&format!("dayfly: {}", told(&changes)));
    }
    let program = args.command[0].clone();
    let mut command = Command::new(&program);
    command.args(&args.command[1..]).envs(&changes.set);
    changes.removed.iter().for_each(|name| {
        command.env_remove(name);
    });
    // `agent` lives in this frame, so its socket closes (CLOEXEC) no sooner than the program has taken over.
    let error = command.exec();
    let exit = if error.kind() == ErrorKind::NotFound { Exit::NotFound } else { Exit::NotExecutable };
    let failure =
        Failure::new(format!("cannot execute {}", program.to_string_lossy())).because(&error).exit(exit);
    match runtime.block_on(end(&agent, task.id)) {
        Ok(()) => failure,
        // The task ends with this process anyway.
        Err(call) => failure.because(&call),
    }
}

/// The task that this process leads now.
struct Task {
    id: String,
    deadline: Option<prost_types::Timestamp>,
    environment: HashMap<String, String>,
}

async fn open(args: &RunArgs) -> Result<(AgentClient, Task), Failure> {
    let agent = AgentClient::connect(&args.agent_socket).await.map_err(|error| {
        Failure::from(error)
            .next("start dayfly-agent on this machine, or name its socket with --agent-socket")
    })?;
    let task = match &args.claim {
        Some(task) => claim(&agent, args, task).await,
        None => open_new(&agent, args).await,
    };
    match task {
        Ok(task) => Ok((agent, task)),
        Err(status) => {
            let failure = Failure::from(status);
            let usage = failure.told.reason.as_deref() == Some(TWO_SCOPES_ONE_SLOT);
            Err(if usage { failure.exit(Exit::Usage) } else { failure })
        }
    }
}

async fn open_new(agent: &AgentClient, args: &RunArgs) -> Result<Task, Status> {
    let request = v1::OpenTaskRequest {
        ceiling: args.ceiling.0.clone(),
        max_duration: args.max_duration.map(wire::duration),
        intent: args.intent.clone(),
        labels: args.labels.iter().cloned().collect(),
        ..v1::OpenTaskRequest::default()
    };
    let opened = agent.credentials().open_task(request).await?.into_inner();
    Ok(Task { id: opened.task_id, deadline: opened.deadline, environment: opened.environment })
}

async fn claim(agent: &AgentClient, args: &RunArgs, task: &str) -> Result<Task, Status> {
    let request = v1::ClaimTaskRequest {
        task_id: task.to_owned(),
        labels: args.labels.iter().cloned().collect(),
        ..v1::ClaimTaskRequest::default()
    };
    let claimed = agent.credentials().claim_task(request).await?.into_inner();
    Ok(Task { id: claimed.task_id, deadline: claimed.deadline, environment: claimed.environment })
}

async fn end(agent: &AgentClient, task_id: String) -> Result<(), CallError> {
    let request = v1::EndTaskRequest { task_id, ..v1::EndTaskRequest::default() };
    agent.credentials().end_task(request).await.map(drop).map_err(CallError::from)
}

/// Names only: a value may be what a thief could use.
fn told(changes: &Changes) -> String {
    let set: Vec<&str> = changes.set.keys().map(String::as_str).collect();
    let list = |names: &[&str]| if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
    format!("sets {}; takes away {}", list(&set), list(&changes.removed))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use clap::{CommandFactory, FromArgMatches, Parser};

    use super::*;

    #[derive(Parser)]
    struct Just {
        #[command(flatten)]
        run: RunArgs,
    }

    fn parse(line: &str) -> Result<RunArgs, clap::Error> {
        let matches =
            Just::command().try_get_matches_from(std::iter::once("run").chain(line.split_whitespace()))?;
        Just::from_arg_matches(&matches).map(|just| just.run)
    }

    /// The ceiling as text: `a(k=v) b()`.
    fn ceiling(args: &RunArgs) -> String {
        let line = |line: &v1::ScopeRequest| {
            format!(
                "{}({})",
                line.scope,
                wire::sorted(line.parameters.clone())
                    .iter()
                    .map(|(k, v)| format!("{k}={v}"))
                    .collect::<Vec<_>>()
                    .join(",")
            )
        };
        args.ceiling.0.iter().map(line).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_parameter_belongs_to_the_scope_before_it() {
        for (line, expected) in [
            ("-- true", ""),
            ("--scope a -- true", "a()"),
            ("--scope a --param k=v -- true", "a(k=v)"),
            ("--scope a --param k=v --param l=w --scope b --param k=x -- true", "a(k=v,l=w) b(k=x)"),
            ("--scope a --scope b --param k=v -- true", "a() b(k=v)"),
            ("--scope a --intent x --param k=v --label q=r --scope b -- true", "a(k=v) b()"),
            ("-s a -p k=v -s b -p k=w -- true", "a(k=v) b(k=w)"),
            ("--scope=a --param=k=v=w -- true", "a(k=v=w)"),
            ("--scope a --param k= -- true", "a(k=)"),
            ("--scope a --param k=1 --scope a --param k=2 -- true", "a(k=1) a(k=2)"),
            ("--scope a -- true --param k=v --scope b", "a()"),
        ] {
            assert_eq!(ceiling(&parse(line).unwrap()), expected, "{line}");
        }
    }

    #[test]
    fn a_line_that_makes_no_sense_is_a_usage_error() {
        for (line, said) in [
            ("--param k=v -- true", "stands before any --scope"),
            ("--param k=v --scope a -- true", "stands before any --scope"),
            ("--scope a --param k=v --param k=w -- true", "given twice"),
            ("--scope a --param k -- true", "KEY=VALUE"),
            ("--scope a --param =v -- true", "KEY=VALUE"),
            ("--scope a", "CMD"),
            ("--scope a true", "unexpected argument"),
            ("--scope a --max-duration 15 -- true", "span of time"),
            ("--claim t --scope a -- true", "cannot be used with"),
            ("--claim t --max-duration 15m -- true", "cannot be used with"),
            ("--scope= -- true", "scope"),
        ] {
            let error = parse(line).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(error.to_string().contains(said), "{line}: {error}");
        }
    }

    #[test]
    fn the_programs_own_arguments_are_left_alone() {
        let args = parse("--scope a --max-duration 1h30m -- sh -c exit --scope -- x").unwrap();
        assert_eq!(args.command, ["sh", "-c", "exit", "--scope", "--", "x"]);
        assert_eq!(args.max_duration, Some(Ttl::minutes(90)));
    }
}
