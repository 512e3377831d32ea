//! `dayfly check`: asks, from inside a task, whether something may be done with an artifact before it is done.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use dayfly_client::{AgentClient, v1};
use serde::Serialize;

use crate::failure::Failure;
use crate::output::{self, Format};
use crate::wire::{self, At};

const EXAMPLES: &str = "\
Examples:
  dayfly run --scope model-load --param model=llama-3-8b --param digest=$DIGEST -- ./serve.sh
  # in serve.sh:
  dayfly check load-model models/llama-3-8b@sha256:$DIGEST && exec python serve.py
  dayfly check load-model models/llama-3-8b@sha256:$DIGEST --audience spiffe://prod.example/guard/models -o json

The answer holds for a minute at most: ask for each use. A receipt is printed only where --audience names its guard; it is good \
at that guard, in the hands of this identity. Exit code 0: it may be done; 1: it may not, or nobody could tell.";

/// Ask whether something may be done with an artifact, from inside a task
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub struct CheckArgs {
    /// What would be done: load-model, call-tool, query-index
    action: String,
    /// What it would be done with, and its digest where it has one
    #[arg(value_name = "NAME[@sha256:DIGEST]", value_parser = artifact)]
    artifact: v1::Artifact,
    /// SPIFFE ID of the guard that wants a receipt
    #[arg(long, value_name = "SPIFFE_ID", default_value = "", hide_default_value = true)]
    audience: String,
    /// The task this process stands in
    #[arg(long, env = "DAYFLY_TASK_ID", value_name = "TASK_ID")]
    task: Option<String>,
    /// The node agent's socket
    #[arg(long, env = "DAYFLY_AGENT_SOCKET", value_name = "PATH", default_value = "/run/dayfly/agent.sock")]
    agent_socket: PathBuf,
}

/// What is printed of an answer. The field names are stable.
#[derive(Serialize)]
struct View {
    decision_id: String,
    action: String,
    artifact: String,
    scope: String,
    parameters: BTreeMap<String, String>,
    digest_pinned: bool,
    valid_until: Option<At>,
    receipt: Option<String>,
    rules_digest: String,
}

/// Asks and prints.
pub async fn check(args: CheckArgs, format: Format) -> Result<(), Failure> {
    let format = format.not_yaml()?;
    let task_id = args.task.ok_or_else(|| {
        Failure::usage("no task is named: DAYFLY_TASK_ID is not set")
            .next("run this inside a task (dayfly run)")
    })?;
    let agent = AgentClient::connect(&args.agent_socket).await.map_err(|error| {
        Failure::from(error)
            .next("run this inside a task (dayfly run), or name the agent's socket with --agent-socket")
    })?;
    let shown = shown(&args.artifact);
    let request = v1::AuthorizeRequest {
        task_id,
        action: args.action.clone(),
        artifact: Some(args.artifact),
        receipt_audience: args.audience,
        ..v1::AuthorizeRequest::default()
    };
    let answer = agent.credentials().authorize(request).await?.into_inner();
    let line = answer.scope.unwrap_or_default();
    let view = View {
        decision_id: answer.decision_id,
        action: args.action,
        artifact: shown,
        scope: line.scope,
        parameters: wire::sorted(line.parameters),
        digest_pinned: answer.digest_pinned,
        valid_until: wire::at(answer.valid_until),
        receipt: wire::some(answer.receipt),
        rules_digest: answer.rules_digest,
    };
    match format {
        Format::Json => output::json(&view)?,
        Format::Table | Format::Yaml => output::text(&view.text())?,
    }
    Ok(())
}

impl View {
    fn text(self) -> String {
        let digest = if self.digest_pinned { "the one the scope names" } else { "any; the scope names none" };
        output::facts([
            ("allowed", format!("{} of {}", self.action, self.artifact)),
            ("scope", wire::scope(&self.scope, &self.parameters)),
            ("digest", digest.to_owned()),
            ("until", wire::or_dash(self.valid_until)),
            ("decision", self.decision_id),
            ("receipt", self.receipt.unwrap_or_default()),
        ])
    }
}

fn shown(artifact: &v1::Artifact) -> String {
    match artifact.digest.as_str() {
        "" => artifact.name.clone(),
        digest => format!("{}@{digest}", artifact.name),
    }
}

/// `NAME` or `NAME@sha256:…`. Whether they are well formed the broker says.
fn artifact(text: &str) -> Result<v1::Artifact, String> {
    let (name, digest) = text.split_once('@').unwrap_or((text, ""));
    match (name.is_empty(), digest.is_empty() != text.contains('@')) {
        (false, true) => Ok(v1::Artifact { name: name.to_owned(), digest: digest.to_owned() }),
        _ => Err("write it as NAME or NAME@sha256:DIGEST".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_stands_behind_the_name() {
        let read = |text: &str| artifact(text).map(|read| (read.name, read.digest));
        let owned = |name: &str, digest: &str| Ok((name.to_owned(), digest.to_owned()));
        assert_eq!(read("models/a"), owned("models/a", ""));
        assert_eq!(read("models/a@sha256:00"), owned("models/a", "sha256:00"));
        assert_eq!(read("index:papers@sha256:00"), owned("index:papers", "sha256:00"));
        for text in ["", "@sha256:00", "models/a@"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
