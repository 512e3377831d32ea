//! The program in a task: it uses its Vault address, has a token issued for itself, hands that to the bench, and goes on
//! using its address until it is killed.
//!
//! Through the address the token never reaches a program; so that the bench can try the real one at Vault itself, the
//! program asks the agent's socket for a token that it may hold.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use dayfly_client::{AgentClient, CallError};
use dayfly_proto::v1;
use dayfly_proto::v1::issue_credential_response::Credential;
use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;

use super::site::Kind;
use crate::http::Http;

/// How it is started.
#[derive(clap::Args)]
pub struct Options {
    /// What it asks for.
    #[arg(long)]
    kind: Kind,
    /// The socket it reports to.
    #[arg(long)]
    report: PathBuf,
}

/// What it hands over. Tokens of a test Vault, to the test that owns it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Held {
    /// The token that it was issued itself.
    pub token: Option<String>,
    /// Vault's name for the lease of its certificate.
    pub certificate: Option<String>,
}

/// Pause between two uses of the address.
const USE: Duration = Duration::from_millis(500);

/// Runs until killed.
///
/// # Errors
/// When something is refused.
pub async fn run(options: &Options) -> anyhow::Result<()> {
    let mut address = Address::from_environment().await?;
    let held = match options.kind {
        Kind::Secret => {
            address.read_secret().await?;
            Held { token: Some(issue(options.kind).await?), certificate: None }
        }
        Kind::Certificate => {
            let body = json!({ "common_name": "a.example.org", "ttl": "5m" });
            let leaf = address.ask(Method::POST, "pki/issue/leaf", &body).await?;
            let lease = leaf["lease_id"].as_str().context("the certificate has no lease")?;
            Held { token: None, certificate: Some(lease.to_owned()) }
        }
    };
    let mut bench = UnixStream::connect(&options.report).await.context("the bench does not listen")?;
    bench.write_all(format!("{}\n", serde_json::to_string(&held)?).as_bytes()).await?;
    loop {
        tokio::time::sleep(USE).await;
        if options.kind == Kind::Secret {
            address.read_secret().await?;
        }
    }
}

async fn issue(kind: Kind) -> anyhow::Result<String> {
    let agent = AgentClient::connect(variable("DAYFLY_AGENT_SOCKET")?).await?;
    let request = v1::IssueCredentialRequest {
        task_id: variable("DAYFLY_TASK_ID")?,
        scope: Some(v1::ScopeRequest { scope: kind.scope().to_owned(), ..Default::default() }),
        ..Default::default()
    };
    let issued = agent.credentials().issue_credential(request).await.map_err(CallError::from)?.into_inner();
    match issued.credential {
        Some(Credential::Vault(mut vault)) => Ok(std::mem::take(&mut vault.token)),
        _ => bail!("the answer holds no Vault token"),
    }
}

/// The Vault that the environment names: the agent's address and the task's placeholder.
struct Address {
    http: Http,
    placeholder: String,
}

impl Address {
    async fn from_environment() -> anyhow::Result<Self> {
        let address = variable("VAULT_ADDR")?;
        let address = address.trim_start_matches("http://").parse().context("VAULT_ADDR")?;
        Ok(Self { http: Http::connect(address).await?, placeholder: variable("VAULT_TOKEN")? })
    }

    async fn ask(&mut self, method: Method, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.http.api(method, path, &self.placeholder, body).await
    }

    async fn read_secret(&mut self) -> anyhow::Result<()> {
        let secret = self.ask(Method::GET, "secret/data/kb/a", &Value::Null).await?;
        ensure!(secret["data"]["data"]["b"] == "c", "not the secret: {secret}");
        Ok(())
    }
}

fn variable(name: &str) -> anyhow::Result<String> {
    std::env::var(name).with_context(|| format!("{name} is not in the environment"))
}
