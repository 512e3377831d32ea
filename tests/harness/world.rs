//! The whole of Dayfly on real parts: SPIRE, perhaps Vault, a broker with a user of its own, a node agent in its two
//! processes, and an admin.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use dayfly_client::{BrokerClient, BrokerEndpoint, CallError, Identity, IdentityOptions};
use dayfly_domain::audit::{Stream, Verifier};
use dayfly_proto::v1;
use serde_json::{Value, json};

use crate::parts;
use crate::ports::free_port;
use crate::process::{Program, Running};
use crate::proxy::TcpProxy;
use crate::scratch::Scratch;
use crate::spire::{Entry, Spire, SpireOptions};
use crate::uids::Uid;
use crate::vault::Vault;
use crate::wait::eventually;

const START: Duration = Duration::from_secs(30);
/// Path of the broker's identity.
pub const BROKER: &str = "/dayfly/broker";
/// The broker's name to clients that know no SPIFFE.
pub const BROKER_HOST: &str = "dayfly.example.org";
/// Path of the node agent's identity.
pub const NODE: &str = "/node/n1";
/// Path of the attest process's identity.
pub const ATTEST: &str = "/dayfly/attest";
/// Path of the admin's identity: this very process.
pub const ADMIN: &str = "/admin/test";
/// Path of the identity of the command line when root uses it.
pub const CLI_ADMIN: &str = "/admin/cli";

/// What a scenario may want otherwise.
#[derive(Debug, Default)]
pub struct WorldOptions {
    /// SPIRE's options; the attest process may always use the Delegated Identity API.
    pub spire: SpireOptions,
    /// SPIRE and Vault that are there already, instead of new ones.
    pub beside: Option<Peers>,
    /// Whether there is a Vault.
    pub vault: bool,
    /// Whether a proxy stands before Vault, for the broker and for workloads.
    pub vault_proxy: bool,
    /// Lines of `[limits]` in the broker's configuration.
    pub limits: String,
    /// Further sections of the broker's configuration.
    pub broker: String,
    /// What its tokens say they come from; where its discovery documents are served, if empty.
    pub issuer: String,
    /// Whether the broker listens for gRPC on every address of this machine; on loopback alone if not.
    pub everywhere: bool,
    /// `tasks.anchor` of the agent's configuration; `auto` if empty.
    pub anchor: String,
    /// Environment of the broker, for fault points.
    pub broker_env: Vec<(String, String)>,
    /// Environment of the agent, for fault points.
    pub agent_env: Vec<(String, String)>,
    /// An exact folder for the broker's state, such as a small tmpfs; one in the scratch folder if absent.
    pub state: Option<PathBuf>,
    /// Lines of `[state]` in the broker's configuration, where its state is in no folder.
    pub state_lines: Option<String>,
    /// The port on which the broker listens for gRPC; a free one if absent.
    pub grpc: Option<u16>,
    /// The broker's address as the agent has it, if something stands between.
    pub agents_broker: Option<String>,
}

/// What worlds beside each other share.
#[derive(Debug)]
pub struct Peers {
    spire: Spire,
    vault: Option<Vault>,
}

impl Peers {
    /// SPIRE, and Vault if the options want one, for worlds that come and go.
    ///
    /// # Errors
    /// Whatever does not start.
    pub async fn start(options: &WorldOptions) -> anyhow::Result<Self> {
        Self::start_with(options, |_| Vec::new()).await
    }

    /// The same for one world more. They end with this one.
    #[must_use]
    pub fn lent(&self) -> Self {
        Self { spire: self.spire.lent(), vault: self.vault.as_ref().map(Vault::lent) }
    }

    async fn start_with(
        options: &WorldOptions,
        more: impl FnOnce(&Spire) -> Vec<Entry>,
    ) -> anyhow::Result<Self> {
        let mut spire = options.spire.clone();
        spire.delegates = vec![ATTEST.to_owned()];
        let vault = async { if options.vault { Vault::start().await.map(Some) } else { Ok(None) } };
        let (spire, vault) = tokio::join!(Spire::start("example.org", spire), vault);
        let peers = Self { spire: spire?, vault: vault? };
        let entries = root_entries(&peers.spire)?.into_iter().chain(more(&peers.spire));
        peers.spire.create_entries(entries).await?;
        if let Some(vault) = &peers.vault {
            set_up_vault(vault, &peers.spire).await?;
        }
        Ok(peers)
    }
}

/// All of it, running.
pub struct World {
    /// The identity service.
    pub spire: Spire,
    /// Vault, if the scenario wanted one.
    pub vault: Option<Vault>,
    /// The proxy before it. Dropped, nobody listens there any more.
    pub vault_proxy: Option<TcpProxy>,
    /// The broker.
    pub broker: Running,
    /// The attest process.
    pub attest: Running,
    /// The node agent.
    pub agent: Running,
    /// Where the broker listens for gRPC.
    pub broker_address: String,
    /// Where it serves discovery and JWKS.
    pub issuer: String,
    /// Where it serves introspection.
    pub introspection: String,
    broker_uid: Uid,
    attest_uid: Uid,
    options: WorldOptions,
    admin: Option<BrokerClient>,
    /// Where everything lies. Last, so that the folder goes after the processes.
    pub scratch: Scratch,
}

impl World {
    /// Starts all of it and waits until the agent is attached.
    ///
    /// # Errors
    /// Whatever does not start, with the end of its log.
    pub async fn start(mut options: WorldOptions) -> anyhow::Result<Self> {
        // A second world in this process finds the provider installed.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let scratch = Scratch::new()?;
        let (broker_uid, attest_uid) = (Uid::fresh(), Uid::fresh());
        let Peers { spire, vault } = match options.beside.take() {
            Some(peers) => {
                peers.spire.create_entries(process_entries(&peers.spire, broker_uid, attest_uid)).await?;
                peers
            }
            None => {
                let entries = |spire: &Spire| process_entries(spire, broker_uid, attest_uid);
                Peers::start_with(&options, entries).await?
            }
        };
        let vault_proxy = match &vault {
            Some(vault) if options.vault_proxy => Some(TcpProxy::before(vault.address()).await?),
            _ => None,
        };
        let vault_address = match &vault_proxy {
            Some(proxy) => Some(proxy.url()),
            None => vault.as_ref().map(Vault::url),
        };
        let (public, introspection) = (free_port(), free_port());
        let grpc = options.grpc.unwrap_or_else(free_port);
        let broker_address = format!("127.0.0.1:{grpc}");
        let issuer = format!("http://127.0.0.1:{public}/dayfly");
        let introspection = format!("127.0.0.1:{introspection}");
        write_broker_config(
            &scratch,
            &spire,
            vault_address.as_deref(),
            &options,
            &Addresses {
                grpc: &if options.everywhere { format!("0.0.0.0:{grpc}") } else { broker_address.clone() },
                public,
                introspection: &introspection,
            },
        )?;
        own_folders(&scratch, broker_uid, &options)?;
        let agents_broker = options.agents_broker.as_deref().unwrap_or(&broker_address);
        write_agent_config(&scratch, &spire, agents_broker, &options)?;
        let broker = start_broker(&scratch, broker_uid, &options)?;
        let attest = start_attest(&scratch, attest_uid)?;
        let agent = start_agent(&scratch, &options)?;
        let mut world = Self {
            scratch,
            spire,
            vault,
            vault_proxy,
            broker,
            attest,
            agent,
            broker_address,
            issuer,
            introspection,
            broker_uid,
            attest_uid,
            options,
            admin: None,
        };
        world.wait_until_ready().await?;
        Ok(world)
    }

    /// The id with this path.
    #[must_use]
    pub fn id(&self, path: &str) -> String {
        self.spire.id(path)
    }

    /// A user of its own with the identity of this path.
    ///
    /// # Errors
    /// When SPIRE does not take the entry.
    pub async fn workload(&self, path: &str) -> anyhow::Result<Uid> {
        let uid = Uid::fresh();
        self.spire.create_entry(Entry::of_uid(self.id(path), uid)).await?;
        Ok(uid)
    }

    /// The admin's connection: this very process.
    ///
    /// # Errors
    /// When the broker or SPIRE does not answer.
    pub async fn admin(&mut self) -> anyhow::Result<BrokerClient> {
        if self.admin.is_none() {
            let identity =
                Identity::from_workload_api(Some(&self.spire.endpoint()), IdentityOptions::default()).await?;
            let endpoint = BrokerEndpoint::new(&self.broker_address, [self.id(BROKER)])?;
            self.admin = Some(BrokerClient::connect_lazily(endpoint, &identity)?);
        }
        self.admin.clone().context("set one line up")
    }

    /// The admin speaks to the broker at this address from now on.
    pub fn speak_to(&mut self, address: String) {
        self.broker_address = address;
        self.admin = None;
    }

    /// A broker with another configuration than the first, as the same user.
    ///
    /// # Errors
    /// When the binary is not there.
    pub fn broker_program(&self, config: &str) -> anyhow::Result<Program> {
        broker_program(&self.scratch, self.broker_uid, config)
    }

    /// Applies documents; faults are an error.
    ///
    /// # Errors
    /// Every fault, or the broker's refusal.
    pub async fn apply(&mut self, yaml: &str) -> anyhow::Result<()> {
        let request = v1::ApplyRequest { yaml: yaml.to_owned(), ..Default::default() };
        let answer = self.admin().await?.admin().apply(request).await.map_err(CallError::from)?.into_inner();
        ensure!(answer.faults.is_empty(), "{:#?}", answer.faults);
        Ok(())
    }

    /// Every lease, ended ones too.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn leases(&mut self) -> anyhow::Result<Vec<v1::Lease>> {
        let request = v1::ListLeasesRequest { include_ended: true, limit: 10_000, ..Default::default() };
        let answer = self.admin().await?.admin().list_leases(request).await.map_err(CallError::from)?;
        Ok(answer.into_inner().leases)
    }

    /// Every task, ended ones too.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn tasks(&mut self) -> anyhow::Result<Vec<v1::Task>> {
        let request = v1::ListTasksRequest { include_ended: true, limit: 10_000, ..Default::default() };
        let answer = self.admin().await?.admin().list_tasks(request).await.map_err(CallError::from)?;
        Ok(answer.into_inner().tasks)
    }

    /// Reads every audit record and follows its chain. Returns how many records each stream has.
    ///
    /// # Errors
    /// The broker's refusal, or where a chain does not hold.
    pub async fn verify_audit(&mut self) -> anyhow::Result<BTreeMap<&'static str, u64>> {
        let admin = self.admin().await?;
        let mut lengths = BTreeMap::new();
        for stream in Stream::ALL {
            let request = v1::ReadAuditRequest { stream: stream.as_str().to_owned(), from_seq: 1 };
            let mut records = admin.admin().read_audit(request).await.map_err(CallError::from)?.into_inner();
            let mut chains = BTreeMap::<String, Verifier>::new();
            while let Some(record) = records.message().await.map_err(CallError::from)? {
                let chain = chains.entry(record.writer.clone()).or_default();
                chain
                    .take(record.seq, &record.prev_hash, &record.hash, &record.bytes)
                    .with_context(|| format!("stream {} of {}", stream.as_str(), record.writer))?;
            }
            lengths.insert(stream.as_str(), chains.values().map(|chain| chain.seq).sum());
        }
        Ok(lengths)
    }

    /// `dayfly` as this user, with the agent's socket in its environment.
    ///
    /// # Errors
    /// When the binary is not there.
    pub fn dayfly(&self, uid: Uid) -> anyhow::Result<Program> {
        let program = uid.program(parts::binary("dayfly")?);
        Ok(program.env("DAYFLY_AGENT_SOCKET", self.agent_socket()))
    }

    /// `dayfly` as root, an admin.
    ///
    /// # Errors
    /// When the binary is not there.
    pub fn dayfly_admin(&self) -> anyhow::Result<Program> {
        Ok(Program::new(parts::binary("dayfly")?)
            .env("DAYFLY_BROKER", &self.broker_address)
            .env("DAYFLY_BROKER_ID", self.id(BROKER))
            .env("SPIFFE_ENDPOINT_SOCKET", self.spire.endpoint()))
    }

    /// The socket that workloads talk to.
    #[must_use]
    pub fn agent_socket(&self) -> PathBuf {
        self.scratch.join("agent/agent.sock")
    }

    /// The break-glass socket.
    #[must_use]
    pub fn break_glass(&self) -> PathBuf {
        self.scratch.join("broker/glass.sock")
    }

    /// The broker's folder of state.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.options.state.clone().unwrap_or_else(|| self.scratch.join("broker/state"))
    }

    /// Kills the broker where it stands.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill_broker(&mut self) -> anyhow::Result<()> {
        self.broker.kill().map(drop)
    }

    /// Starts a broker on the state of the last one.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start_broker_again(&mut self, env: &[(String, String)]) -> anyhow::Result<()> {
        self.start_broker_without_waiting(env)?;
        self.broker_answers().await
    }

    /// The same, for a broker that cannot answer yet.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn start_broker_without_waiting(&mut self, env: &[(String, String)]) -> anyhow::Result<()> {
        self.options.broker_env = env.to_vec();
        self.broker = start_broker(&self.scratch, self.broker_uid, &self.options)?;
        Ok(())
    }

    /// Puts sections at the end of the broker's configuration and starts it anew.
    ///
    /// # Errors
    /// When it does not start with them.
    pub async fn add_to_broker(&mut self, sections: &str) -> anyhow::Result<()> {
        let path = self.scratch.join("broker/broker.toml");
        let text = std::fs::read_to_string(&path)? + "\n" + sections;
        self.scratch.file("broker/broker.toml", 0o644, text)?;
        let before = self.epoch().await?;
        self.broker.terminate().await?;
        self.start_broker_again(&[]).await?;
        self.wait_for_agent(before).await
    }

    /// Kills the agent where it stands; the attest process lives.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill_agent(&mut self) -> anyhow::Result<()> {
        self.agent.kill().map(drop)
    }

    /// Starts an agent in the place of the last one, and waits until it is attached.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start_agent_again(&mut self, env: &[(String, String)]) -> anyhow::Result<()> {
        self.options.agent_env = env.to_vec();
        let before = self.epoch().await?;
        self.agent = start_agent(&self.scratch, &self.options)?;
        self.wait_for_agent(before).await
    }

    async fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        self.broker_answers().await?;
        self.apply(&base_documents()).await?;
        self.wait_for_agent(0).await
    }

    /// Waits until the broker answers its admin.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn broker_answers(&mut self) -> anyhow::Result<()> {
        let admin = self.admin().await?;
        let ask = || {
            let admin = admin.clone();
            async move { admin.admin().list_nodes(v1::ListNodesRequest {}).await.map_err(CallError::from) }
        };
        self.broker.ready(START, ask).await.map(drop)
    }

    /// Which stream of the agent's the broker took last, counted from 1; 0 if there was none.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn epoch(&mut self) -> anyhow::Result<u64> {
        epoch(&self.admin().await?).await
    }

    /// Waits until the agent has attached once more than `before`, and serves.
    ///
    /// # Errors
    /// When it does not in time, or ends.
    pub async fn wait_for_agent(&mut self, before: u64) -> anyhow::Result<()> {
        let admin = self.admin().await?;
        let attached = || {
            let admin = admin.clone();
            async move {
                let now = epoch(&admin).await?;
                ensure!(now > before, "not attached since epoch {before}");
                anyhow::Ok(())
            }
        };
        self.agent.ready(START, attached).await?;
        let socket = self.agent_socket();
        eventually("the agent's socket", START, || async {
            socket.exists().then_some(()).ok_or("it is not there")
        })
        .await
        .with_context(|| self.agent.log_tail())
    }

    /// The ends of all logs, for a failure's report.
    #[must_use]
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for (name, running) in [("broker", &self.broker), ("attest", &self.attest), ("agent", &self.agent)] {
            let _ = writeln!(text, "--- {name}\n{}", running.log_tail());
        }
        text
    }

    /// The user of the attest process.
    #[must_use]
    pub fn attest_uid(&self) -> Uid {
        self.attest_uid
    }
}

/// Stages, the node, and one `token` scope; more is applied by the scenarios.
#[must_use]
pub fn base_documents() -> String {
    r#"
kind: Stage
metadata: {name: training}
spec: {patterns: ["spiffe://example.org/train/**"]}
---
kind: Stage
metadata: {name: retrieval}
spec: {patterns: ["spiffe://example.org/retrieval/**"]}
---
kind: Stage
metadata: {name: tool}
spec: {patterns: ["spiffe://example.org/tool/**"]}
---
kind: Stage
metadata: {name: node}
spec: {patterns: ["spiffe://example.org/node/*"]}
---
kind: Node
metadata: {name: n1}
spec:
  agents: "spiffe://example.org/node/n1"
  workloads: ["spiffe://example.org/train/**", "spiffe://example.org/retrieval/**", "spiffe://example.org/tool/**"]
  trust_domains: [example.org]
  anchors: [cgroup_owned, process]
---
kind: Scope
metadata: {name: index-read}
spec:
  stages: [training, retrieval, tool]
  ttl: {default: 5m, max: 5m}
  target:
    token:
      audience: "spiffe://example.org/service/index"
      checked: introspect
---
kind: Binding
metadata: {name: train-index}
spec: {identities: ["spiffe://example.org/train/*"], scope: index-read}
---
kind: Binding
metadata: {name: tool-index}
spec: {identities: ["spiffe://example.org/tool/*"], scope: index-read}
"#
    .to_owned()
}

/// The Vault scope of `deploy/vault`, bound to everything in stage retrieval, in root tasks too.
///
/// # Errors
/// When the file is gone.
pub fn vault_documents() -> anyhow::Result<String> {
    let scope = deployed("vault/scope-kb-read.yaml")?;
    Ok(format!(
        "{scope}\n---\nkind: Binding\nmetadata: {{name: retrieval-kb}}\nspec: {{identities: [\"spiffe://example.org/retrieval/**\"], scope: kb-read, start: root}}\n"
    ))
}

/// A file of `deploy/`.
///
/// # Errors
/// When it is gone.
pub fn deployed(name: &str) -> anyhow::Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name);
    std::fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))
}

async fn epoch(admin: &BrokerClient) -> anyhow::Result<u64> {
    let request = v1::ListNodesRequest {};
    let nodes = admin.admin().list_nodes(request).await.map_err(CallError::from)?.into_inner().nodes;
    Ok(nodes.into_iter().filter(|node| node.state == "attached").map(|node| node.epoch).max().unwrap_or(0))
}

struct Addresses<'a> {
    grpc: &'a str,
    public: u16,
    introspection: &'a str,
}

/// Of the processes with users of their own.
fn process_entries(spire: &Spire, broker: Uid, attest: Uid) -> Vec<Entry> {
    vec![
        Entry::of_uid(spire.id(BROKER), broker).dns_name(BROKER_HOST),
        Entry::of_uid(spire.id(ATTEST), attest),
    ]
}

/// Of what runs as root, in any world.
fn root_entries(spire: &Spire) -> anyhow::Result<Vec<Entry>> {
    let root_at = |path: &Path| ["unix:uid:0".to_owned(), format!("unix:path:{}", path.display())];
    let this = std::env::current_exe()?;
    Ok(vec![
        Entry::new(spire.id(NODE), root_at(&parts::binary("dayfly-agent")?)),
        Entry::new(spire.id(ADMIN), root_at(&this)),
        Entry::new(spire.id(CLI_ADMIN), root_at(&parts::binary("dayfly")?)),
    ])
}

fn own_folders(scratch: &Scratch, broker: Uid, options: &WorldOptions) -> anyhow::Result<()> {
    for name in ["broker/state", "broker/keys"] {
        scratch.folder_of(name, broker.0)?;
    }
    if let Some(state) = &options.state {
        nix::unistd::chown(state, Some(broker.0.into()), Some(broker.0.into()))?;
    }
    Ok(())
}

fn write_broker_config(
    scratch: &Scratch,
    spire: &Spire,
    vault_address: Option<&str>,
    options: &WorldOptions,
    addresses: &Addresses<'_>,
) -> anyhow::Result<()> {
    scratch.folder("broker", 0o777)?;
    let folder = options.state.clone().unwrap_or_else(|| scratch.join("broker/state"));
    let state = options.state_lines.clone().unwrap_or_else(|| format!("dir = \"{}\"", folder.display()));
    let mut text = format!(
        r#"
[identity]
workload_api = "{workload_api}"
[listen]
grpc = "{grpc}"
break_glass = "{glass}"
[state]
{state}
[keys]
dir = "{keys}"
[[trust_domain]]
name = "example.org"
stages = ["training", "inference", "retrieval", "tool", "node", "admin"]
patterns = ["spiffe://example.org/**"]
[admins]
root = ["{admin}", "{cli}"]
[issuer]
url = "{issuer}"
listen = "127.0.0.1:{public}"
[introspection]
listen = "{introspection}"
[limits]
{limits}
{more}
"#,
        workload_api = spire.endpoint(),
        grpc = addresses.grpc,
        glass = scratch.join("broker/glass.sock").display(),
        keys = scratch.join("broker/keys").display(),
        admin = spire.id(ADMIN),
        cli = spire.id(CLI_ADMIN),
        issuer = match options.issuer.as_str() {
            "" => format!("http://127.0.0.1:{}/dayfly", addresses.public),
            issuer => issuer.to_owned(),
        },
        public = addresses.public,
        introspection = addresses.introspection,
        limits = options.limits,
        more = options.broker,
    );
    if let Some(address) = vault_address {
        let _ = write!(text, "[vault]\naddress = \"{address}\"\naudience = \"vault\"\ntimeout = \"2s\"\n");
    }
    scratch.file("broker/broker.toml", 0o644, text)?;
    Ok(())
}

fn write_agent_config(
    scratch: &Scratch,
    spire: &Spire,
    broker_address: &str,
    options: &WorldOptions,
) -> anyhow::Result<()> {
    scratch.folder("agent", 0o755)?;
    scratch.folder("attest", 0o777)?;
    let anchor = if options.anchor.is_empty() { "auto" } else { &options.anchor };
    let text = format!(
        r#"
[agent]
spiffe_id = "{node}"
workload_api = "{workload_api}"
socket = "{socket}"
runtime_dir = "{runtime}"
mount_memory_fs = true
[broker]
address = "{broker_address}"
spiffe_id = "{broker}"
[attest]
socket = "{attest}"
spire_admin_socket = "unix:{admin}"
run_uid = 0
[tasks]
anchor = "{anchor}"
[log]
format = "plain"
"#,
        node = spire.id(NODE),
        workload_api = spire.endpoint(),
        socket = scratch.join("agent/agent.sock").display(),
        runtime = scratch.folder("agent/run", 0o755)?.display(),
        broker = spire.id(BROKER),
        attest = scratch.join("attest/attest.sock").display(),
        admin = spire.admin_socket().display(),
    );
    scratch.file("agent/agent.toml", 0o644, text)?;
    Ok(())
}

fn broker_program(scratch: &Scratch, uid: Uid, config: &str) -> anyhow::Result<Program> {
    let program = uid.program(parts::binary("dayfly-broker")?);
    Ok(program.args(["run", "--config"]).arg(scratch.join(config)))
}

fn start_broker(scratch: &Scratch, uid: Uid, options: &WorldOptions) -> anyhow::Result<Running> {
    let mut program = broker_program(scratch, uid, "broker/broker.toml")?;
    for (name, value) in &options.broker_env {
        program = program.env(name, value);
    }
    program.start(&scratch.join("broker.log"))
}

fn start_attest(scratch: &Scratch, uid: Uid) -> anyhow::Result<Running> {
    let program = uid.program(parts::binary("dayfly-agent")?);
    program
        .args(["attest", "--config"])
        .arg(scratch.join("agent/agent.toml"))
        .start(&scratch.join("attest.log"))
}

fn start_agent(scratch: &Scratch, options: &WorldOptions) -> anyhow::Result<Running> {
    let mut program = Program::new(parts::binary("dayfly-agent")?)
        .args(["run", "--config"])
        .arg(scratch.join("agent/agent.toml"));
    for (name, value) in &options.agent_env {
        program = program.env(name, value);
    }
    program.start(&scratch.join("agent.log"))
}

/// Applies `deploy/vault` as its README says, with a secret to read.
async fn set_up_vault(vault: &Vault, spire: &Spire) -> anyhow::Result<()> {
    let file = |name: &str| deployed(&format!("vault/{name}"));
    vault.enable_kv().await?;
    vault.api("POST", "secret/data/kb/a", json!({"data": {"b": "c"}})).await?;
    for policy in ["dayfly-mint", "dayfly-revoke", "kb-read"] {
        vault.write_policy(policy, &file(&format!("policy-{policy}.hcl"))?).await?;
    }
    vault.trust_jwt_svids("jwt", &spire.bundle_jwks().await?).await?;
    for role in ["dayfly-mint", "dayfly-revoke"] {
        let spec: Value = serde_json::from_str(&file(&format!("auth-jwt-role-{role}.json"))?)?;
        vault.api("POST", &format!("auth/jwt/role/{role}"), spec).await?;
    }
    let role: Value = serde_json::from_str(&file("token-role-dayfly-kb-read.json")?)?;
    vault.write_token_role("dayfly-kb-read", role).await
}
