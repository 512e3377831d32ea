//! A workload that speaks to the broker itself, with its own X.509-SVID: it opens a task, holds it open, is issued a
//! token, and ends the task.
//!
//! ```sh
//! export SPIFFE_ENDPOINT_SOCKET=unix:///run/spire/agent.sock
//! cargo run -p dayfly-client --example direct -- \
//!     --broker broker.internal:7443 --broker-id spiffe://prod.example/dayfly/broker \
//!     --scope call-search --param index=papers
//! ```
//!
//! Its binding must say `via: direct` and `start: root`. The task lives as long as its `WatchTask` stream: if this
//! program dies, however it dies, the broker takes the token back.

use std::{collections::HashMap, time::Duration};

use clap::Parser;
use dayfly_client::{
    BrokerClient, BrokerEndpoint, CallError, Identity, IdentityOptions, chain,
    v1::{self, issue_credential_response::Credential, watch_task_response::Event},
};
use tokio_stream::StreamExt;

#[derive(Parser)]
struct Arguments {
    /// `host:port` or `unix:/path`.
    #[arg(long, env = "DAYFLY_BROKER")]
    broker: String,
    /// The broker's exact SPIFFE ID.
    #[arg(long, env = "DAYFLY_BROKER_ID")]
    broker_id: String,
    /// A scope whose provider is `token`.
    #[arg(long, env = "DAYFLY_SCOPE")]
    scope: String,
    /// `name=value`; may be given several times.
    #[arg(long = "param", value_parser = parameter)]
    params: Vec<(String, String)>,
    /// How long to hold the token, in seconds.
    #[arg(long, default_value_t = 1)]
    hold: u64,
}

#[tokio::main]
async fn main() -> std::process::ExitCode {
    rustls::crypto::aws_lc_rs::default_provider().install_default().expect("nothing else installs one");
    match run(Arguments::parse()).await {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            say_error(&chain(&*error));
            std::process::ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let identity = Identity::from_workload_api(None, IdentityOptions::default()).await?;
    let endpoint = BrokerEndpoint::new(&arguments.broker, [&arguments.broker_id])?;
    let broker = BrokerClient::connect(endpoint, &identity).await?;
    let scope = v1::ScopeRequest {
        scope: arguments.scope,
        parameters: arguments.params.into_iter().collect::<HashMap<_, _>>(),
    };

    let task = broker
        .credentials()
        .open_task(v1::OpenTaskRequest {
            ceiling: vec![scope.clone()],
            intent: "show how a workload speaks to the broker itself".into(),
            ..Default::default()
        })
        .await
        .map_err(CallError::from)?
        .into_inner();
    say(&format!("task {}", task.task_id));

    // The anchor: the broker ends the task when this stream ends. Nothing is issued before it says that it stands.
    let watch = v1::WatchTaskRequest {
        task_id: task.task_id.clone(),
        task_key: task.task_key.clone(),
        ..Default::default()
    };
    let mut life = broker.credentials().watch_task(watch).await.map_err(CallError::from)?.into_inner();
    match life.next().await.transpose().map_err(CallError::from)?.and_then(|message| message.event) {
        Some(Event::Watched(_)) => {}
        Some(Event::Over(over)) => return Err(format!("the task is over already: {}", over.cause).into()),
        None => return Err("the broker closed the task's stream at once".into()),
    }

    let issued = broker
        .credentials()
        .issue_credential(v1::IssueCredentialRequest {
            task_id: task.task_id.clone(),
            task_key: task.task_key.clone(),
            scope: Some(scope),
            ..Default::default()
        })
        .await
        .map_err(CallError::from)?
        .into_inner();
    let Some(Credential::Token(token)) = issued.credential else {
        return Err("the scope's provider is not `token`; name one whose provider is".into());
    };
    let expires_at = issued.expires_at.ok_or("the broker named no expiry")?;
    say(&format!("lease {}", issued.lease_id));
    say(&format!("for {}, until {expires_at}", token.audience));

    // Here the work would be done, with `token.access_token` towards `token.audience`, for as long as the task lives.
    tokio::select! {
        () = tokio::time::sleep(Duration::from_secs(arguments.hold)) => {}
        end = life.next() => return Err(format!("the task ended: {end:?}").into()),
    }

    let ended = broker
        .credentials()
        .end_task(v1::EndTaskRequest { task_id: task.task_id, task_key: task.task_key, ..Default::default() })
        .await
        .map_err(CallError::from)?
        .into_inner();
    say(&format!("ended; {} leases are being taken back", ended.leases_queued));
    Ok(())
}

fn parameter(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write name=value")?;
    Ok((name.to_owned(), value.to_owned()))
}

#[expect(clippy::print_stdout, reason = "an example talks to a person")]
fn say(line: &str) {
    println!("{line}");
}

#[expect(clippy::print_stderr, reason = "an example talks to a person")]
fn say_error(line: &str) {
    eprintln!("direct: {line}");
}
