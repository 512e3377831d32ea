//! A broker as a user of its own on identities of a development Workload API, and a Vault; both keep their state on the same
//! disk.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use dayfly_client::{BrokerClient, BrokerEndpoint, CallError, Identity, IdentityOptions, Pick, SpiffeId};
use dayfly_devspiffe::{Authority, Entry, Server};
use dayfly_proto::v1;
use harness::ports::free_port;
use harness::{Running, Scratch, Uid, Vault, parts};
use serde_json::{Value, json};

const BROKER: &str = "spiffe://example.org/dayfly/broker";
const ADMIN: &str = "spiffe://example.org/admin/bench";
const CALLER: &str = "spiffe://example.org/tool/caller";
/// The scope that is asked for.
pub const SCOPE: &str = "index-read";
/// The role of Vault that gives its tokens.
pub const ROLE: &str = "bench";

const DOCUMENTS: &str = r#"
kind: Stage
metadata: {name: tool}
spec: {patterns: ["spiffe://example.org/tool/*"]}
---
kind: Scope
metadata: {name: index-read}
spec:
  stages: [tool]
  ttl: {default: 5m, max: 5m}
  target: {token: {audience: "spiffe://example.org/service/index", checked: introspect}}
---
kind: Binding
metadata: {name: caller-index}
spec: {identities: ["spiffe://example.org/tool/caller"], scope: index-read, start: root, via: direct}
"#;

/// All of it, running.
pub struct Site {
    /// The peer.
    pub vault: Vault,
    caller: Identity,
    admin: BrokerClient,
    address: String,
    state: PathBuf,
    _broker: Running,
    _identities: Server,
    _scratch: Scratch,
}

impl Site {
    /// Starts both and sets them up.
    ///
    /// # Errors
    /// When a part does not start, or the disk is none.
    pub async fn start() -> anyhow::Result<Self> {
        let scratch = Scratch::new()?;
        must_be_a_disk(scratch.path())?;
        let vault = start_vault().await?;
        let uid = Uid::fresh();
        let identities = start_identities(&scratch, uid).await?;
        let state = scratch.folder_of("state", uid.0)?;
        scratch.folder_of("keys", uid.0)?;
        let address = format!("127.0.0.1:{}", free_port());
        let config = scratch.file(
            "broker.toml",
            0o644,
            config(&scratch, &identities.workload_endpoint(), &address, free_port()),
        )?;
        let program = uid.program(parts::binary("dayfly-broker")?).args(["run", "--config"]).arg(config);
        let mut broker = program.start(&scratch.join("broker.log"))?;
        let admin = connect_lazily(&identity(&identities, ADMIN).await?, &address)?;
        let ready = broker.ready(Duration::from_secs(30), || apply(&admin, DOCUMENTS));
        let faults = ready.await?.faults;
        ensure!(faults.is_empty(), "{faults:#?}");
        let caller = identity(&identities, CALLER).await?;
        Ok(Self {
            vault,
            caller,
            admin,
            address,
            state,
            _broker: broker,
            _identities: identities,
            _scratch: scratch,
        })
    }

    /// A caller's connection to the broker, open.
    ///
    /// # Errors
    /// When the broker does not take it.
    pub async fn connect(&self) -> anyhow::Result<BrokerClient> {
        Ok(BrokerClient::connect(endpoint(&self.address)?, &self.caller).await?)
    }

    /// The admin's connection.
    pub fn admin(&self) -> &BrokerClient {
        &self.admin
    }

    /// The broker's database.
    pub fn database(&self) -> PathBuf {
        self.state.join("dayfly.db")
    }

    /// `vault` and its version.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn peer_name(&self) -> anyhow::Result<String> {
        name_of(&self.vault).await
    }
}

/// `vault` and its version.
///
/// # Errors
/// When it does not answer.
pub async fn name_of(vault: &Vault) -> anyhow::Result<String> {
    let (_, health) = vault.call("", "GET", "sys/health", None).await?;
    Ok(format!("vault {}", health["version"].as_str().context("vault does not say its version")?))
}

/// Figures from memory say nothing about a disk, of either side.
fn must_be_a_disk(folder: &Path) -> anyhow::Result<()> {
    // TMPFS_MAGIC and RAMFS_MAGIC of linux/magic.h.
    const MEMORY: [i64; 2] = [0x0102_1994, 0x8584_58f6];
    let kind = rustix::fs::statfs(folder)?.f_type;
    ensure!(!MEMORY.contains(&kind), "{} lies in memory; /tmp must be on a disk for this", folder.display());
    Ok(())
}

/// Raft and a file audit device, as always here; the role is the shape of what Dayfly makes of a scope.
async fn start_vault() -> anyhow::Result<Vault> {
    let vault = Vault::start().await?;
    let role = json!({
        "allowed_policies": "kb-read", "token_no_default_policy": true, "orphan": true, "renewable": true,
        "token_type": "service", "token_explicit_max_ttl": "8h",
    });
    vault.write_token_role(ROLE, role).await?;
    vault.write_policy("kb-read", r#"path "secret/data/kb/*" { capabilities = ["read"] }"#).await?;
    vault.api("GET", "sys/audit", Value::Null).await?;
    Ok(vault)
}

async fn start_identities(scratch: &Scratch, broker: Uid) -> anyhow::Result<Server> {
    let ours = nix::unistd::geteuid().as_raw();
    let server = Server::builder(Authority::in_memory("example.org")?)
        .workload_socket(scratch.join("w.sock"))
        .socket_mode(0o666)
        .x509_ttl(Duration::from_secs(24 * 3600))
        .entry(Entry::new(BROKER)?.uid(broker.0))
        .entry(Entry::new(ADMIN)?.uid(ours))
        .entry(Entry::new(CALLER)?.uid(ours));
    Ok(server.start().await?)
}

async fn identity(identities: &Server, id: &str) -> anyhow::Result<Identity> {
    let options = IdentityOptions { pick: Pick::Id(SpiffeId::new(id)?), ..IdentityOptions::default() };
    Ok(Identity::from_workload_api(Some(&identities.workload_endpoint()), options).await?)
}

fn endpoint(address: &str) -> anyhow::Result<BrokerEndpoint> {
    Ok(BrokerEndpoint::new(address, [BROKER])?)
}

fn connect_lazily(identity: &Identity, address: &str) -> anyhow::Result<BrokerClient> {
    Ok(BrokerClient::connect_lazily(endpoint(address)?, identity)?)
}

async fn apply(admin: &BrokerClient, yaml: &str) -> Result<v1::ApplyResponse, CallError> {
    let request = v1::ApplyRequest { yaml: yaml.to_owned(), ..Default::default() };
    Ok(admin.admin().apply(request).await?.into_inner())
}

/// As an operator would write it, but for its limits: here one identity is many callers, and a task may last as long as a case.
fn config(scratch: &Scratch, workload_api: &str, address: &str, introspection: u16) -> String {
    format!(
        r#"
[identity]
workload_api = "{workload_api}"
[listen]
grpc = "{address}"
[state]
dir = "{state}"
[keys]
dir = "{keys}"
[[trust_domain]]
name = "example.org"
stages = ["tool", "admin"]
patterns = ["spiffe://example.org/**"]
[admins]
root = ["{ADMIN}"]
[issuer]
url = "http://127.0.0.1:9/dayfly"
[introspection]
listen = "127.0.0.1:{introspection}"
[limits]
live_leases_per_identity = 1000000000
live_leases_per_scope = 1000000000
live_leases_per_session = 1000000000
requests_per_minute_per_identity = 1000000000
requests_per_minute_per_scope = 1000000000
requests_per_minute_per_session = 1000000000
direct_task = "8h"
"#,
        state = scratch.join("state").display(),
        keys = scratch.join("keys").display(),
    )
}
