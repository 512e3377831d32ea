//! A real SPIRE: one server, one agent on this machine, attesting workloads by what the kernel says of them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::parts;
use crate::ports::free_port;
use crate::process::{Program, Running};
use crate::scratch::Scratch;
use crate::uids::Uid;
use crate::wait::eventually;

const START: Duration = Duration::from_secs(60);

/// What a scenario may want otherwise.
#[derive(Debug, Clone)]
pub struct SpireOptions {
    /// Life of an X.509-SVID whose entry says nothing.
    pub x509_ttl: Duration,
    /// Life of a JWT-SVID whose entry says nothing.
    pub jwt_ttl: Duration,
    /// Paths (`/agent`) of the identities that may use the Delegated Identity API.
    pub delegates: Vec<String>,
}

impl Default for SpireOptions {
    fn default() -> Self {
        Self {
            x509_ttl: Duration::from_secs(3600),
            jwt_ttl: Duration::from_secs(300),
            delegates: vec!["/agent".to_owned()],
        }
    }
}

/// A registration entry: whoever fits all selectors has this identity.
#[derive(Debug, Clone)]
pub struct Entry {
    spiffe_id: String,
    selectors: Vec<String>,
    x509_ttl: Option<Duration>,
    jwt_ttl: Option<Duration>,
    dns_name: Option<String>,
}

impl Entry {
    /// An entry such as `("spiffe://example.org/train", ["unix:uid:61000"])`.
    pub fn new<S: AsRef<str>>(spiffe_id: impl Into<String>, selectors: impl IntoIterator<Item = S>) -> Self {
        let selectors = selectors.into_iter().map(|selector| selector.as_ref().to_owned()).collect();
        Self { spiffe_id: spiffe_id.into(), selectors, x509_ttl: None, jwt_ttl: None, dns_name: None }
    }

    /// Every process of this user.
    pub fn of_uid(spiffe_id: impl Into<String>, uid: Uid) -> Self {
        Self::new(spiffe_id, [uid.selector()])
    }

    /// Sets the life of its X.509-SVIDs, in whole seconds.
    #[must_use]
    pub fn x509_ttl(mut self, ttl: Duration) -> Self {
        self.x509_ttl = Some(ttl);
        self
    }

    /// Sets the life of its JWT-SVIDs, in whole seconds.
    #[must_use]
    pub fn jwt_ttl(mut self, ttl: Duration) -> Self {
        self.jwt_ttl = Some(ttl);
        self
    }

    /// Sets the DNS name of its X.509-SVIDs, for clients that know no SPIFFE.
    #[must_use]
    pub fn dns_name(mut self, name: &str) -> Self {
        self.dns_name = Some(name.to_owned());
        self
    }

    fn json(&self, parent: &str) -> Value {
        let selectors = self.selectors.iter().map(|selector| {
            let (kind, value) = selector.split_once(':').unwrap_or((selector, ""));
            json!({ "type": kind, "value": value })
        });
        json!({
            "parent_id": parent,
            "spiffe_id": self.spiffe_id,
            "selectors": selectors.collect::<Vec<_>>(),
            "x509_svid_ttl": self.x509_ttl.map_or(0, |ttl| ttl.as_secs()),
            "dns_names": self.dns_name.iter().collect::<Vec<_>>(),
            "jwt_svid_ttl": self.jwt_ttl.map_or(0, |ttl| ttl.as_secs()),
        })
    }
}

/// A running SPIRE.
#[derive(Debug)]
pub struct Spire {
    trust_domain: String,
    server: Option<Running>,
    agent: Option<Running>,
    server_program: PathBuf,
    agent_program: PathBuf,
    // Last, so that the folder goes after the processes.
    scratch: Scratch,
}

impl Spire {
    /// Starts server and agent; returns when the agent answers, after some 4 s.
    ///
    /// # Errors
    /// When SPIRE was not built or does not start; with the tail of its log.
    pub async fn start(trust_domain: &str, options: SpireOptions) -> anyhow::Result<Self> {
        let scratch = Scratch::new()?;
        let port = free_port();
        for (folder, mode) in [("server", 0o700), ("agent", 0o700), ("api", 0o755), ("admin", 0o755)] {
            scratch.folder(folder, mode)?;
        }
        scratch.file("server.conf", 0o600, server_conf(scratch.path(), trust_domain, port, &options))?;
        scratch.file("agent.conf", 0o600, agent_conf(scratch.path(), trust_domain, port, &options))?;
        let mut spire = Self {
            trust_domain: trust_domain.to_owned(),
            server: None,
            agent: None,
            server_program: parts::peer("spire", "spire-server")?,
            agent_program: parts::peer("spire", "spire-agent")?,
            scratch,
        };
        spire.start_server().await?;
        spire.start_agent().await?;
        Ok(spire)
    }

    /// The same SPIRE for somebody else, who may register and ask, not stop or start it.
    #[must_use]
    pub fn lent(&self) -> Self {
        Self {
            trust_domain: self.trust_domain.clone(),
            server: None,
            agent: None,
            server_program: self.server_program.clone(),
            agent_program: self.agent_program.clone(),
            scratch: self.scratch.lent(),
        }
    }

    /// A `spire-agent` in this folder that speaks to this agent without being told where it is.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn command_in(&self, folder: &Path) -> anyhow::Result<()> {
        let (program, socket) = (self.agent_program.display(), self.workload_socket());
        let script = format!("#!/bin/sh\nexec {program} \"$@\" -socketPath {}\n", socket.display());
        let path = folder.join("spire-agent");
        std::fs::write(&path, script)?;
        let all = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&path, all).with_context(|| path.display().to_string())
    }

    /// The trust domain's name.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// The SPIFFE ID with this path, such as `/broker`.
    #[must_use]
    pub fn id(&self, path: &str) -> String {
        format!("spiffe://{}{path}", self.trust_domain)
    }

    /// The Workload API's socket, open to every user.
    #[must_use]
    pub fn workload_socket(&self) -> PathBuf {
        self.scratch.join("api/w.sock")
    }

    /// The same as `SPIFFE_ENDPOINT_SOCKET` wants it.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.workload_socket().display())
    }

    /// The admin socket, with the Delegated Identity API.
    #[must_use]
    pub fn admin_socket(&self) -> PathBuf {
        self.scratch.join("admin/a.sock")
    }

    /// Registers an identity and returns the entry's id when the agent knows it.
    ///
    /// # Errors
    /// When the server refuses it or the agent does not learn of it.
    pub async fn create_entry(&self, entry: Entry) -> anyhow::Result<String> {
        Ok(self.create_entries([entry]).await?.remove(0))
    }

    /// Registers identities in one batch and returns the entries' ids, in order, when the agent knows them all.
    ///
    /// # Errors
    /// When the server refuses one or the agent does not learn of them.
    pub async fn create_entries(
        &self,
        entries: impl IntoIterator<Item = Entry>,
    ) -> anyhow::Result<Vec<String>> {
        static CANARIES: AtomicU32 = AtomicU32::new(60_000);
        // The agent takes over all entries at once: when it serves the batch's canary, it serves the batch.
        let uid = Uid(CANARIES.fetch_add(1, Ordering::Relaxed));
        let canary = Entry::of_uid(self.id(&format!("/harness/canary/{}", uid.0)), uid);
        let parent = self.id("/harness/node");
        let batch: Vec<Value> =
            entries.into_iter().chain([canary]).map(|entry| entry.json(&parent)).collect();
        let file = self.scratch.file(
            &format!("entries-{}.json", uid.0),
            0o600,
            json!({ "entries": batch }).to_string(),
        )?;

        let answer =
            self.server_cli(["entry", "create", "-output", "json", "-data"]).arg(file).output().await?;
        let answer: Value = serde_json::from_str(&answer).context("spire-server did not answer JSON")?;
        let results = answer["results"].as_array().context("spire-server answered without results")?;
        let mut ids = Vec::with_capacity(results.len());
        for result in results {
            let id = result["entry"]["id"].as_str().filter(|id| !id.is_empty());
            ids.push(id.with_context(|| format!("the entry was refused: {result}"))?.to_owned());
        }
        ensure!(ids.len() == batch.len(), "{} entries were sent, {} answered", batch.len(), ids.len());
        self.wait_for_svid(uid, &self.id(&format!("/harness/canary/{}", uid.0))).await?;
        ids.pop();
        Ok(ids)
    }

    /// Removes an entry at the server; the agent learns of it about a second later.
    ///
    /// # Errors
    /// When the server does not know it.
    pub async fn delete_entry(&self, id: &str) -> anyhow::Result<()> {
        self.server_cli(["entry", "delete", "-entryID", id]).output().await.map(drop)
    }

    /// Waits until a process of this user is given this identity.
    ///
    /// # Errors
    /// When that does not come within 30 s.
    pub async fn wait_for_svid(&self, uid: Uid, spiffe_id: &str) -> anyhow::Result<()> {
        eventually(&format!("{spiffe_id} for uid {}", uid.0), Duration::from_secs(30), || async {
            let ids = self.svids_of(uid).await?;
            ensure!(ids.iter().any(|id| id == spiffe_id), "the agent gives it {ids:?}");
            Ok(())
        })
        .await
    }

    /// The SPIFFE IDs that a process of this user (`spire-agent` itself) is given; none is an error.
    ///
    /// # Errors
    /// When the agent does not answer or no entry fits.
    pub async fn svids_of(&self, uid: Uid) -> anyhow::Result<Vec<String>> {
        let answer = self.agent_cli(uid, ["api", "fetch", "x509", "-output", "json"]).output().await?;
        let answer: Value = serde_json::from_str(&answer).context("spire-agent did not answer JSON")?;
        let svids = answer["svids"].as_array().context("spire-agent answered without svids")?;
        Ok(svids.iter().filter_map(|svid| svid["spiffe_id"].as_str()).map(str::to_owned).collect())
    }

    /// A JWT-SVID as a process of this user (`spire-agent` itself) gets it from the Workload API.
    ///
    /// # Errors
    /// When the agent does not answer or no entry fits.
    pub async fn fetch_jwt(&self, uid: Uid, audience: &str) -> anyhow::Result<String> {
        let call = self.agent_cli(uid, ["api", "fetch", "jwt", "-output", "json", "-audience", audience]);
        let answer: Value =
            serde_json::from_str(&call.output().await?).context("spire-agent did not answer JSON")?;
        let svid = answer.pointer("/0/svids/0/svid").and_then(Value::as_str);
        Ok(svid.with_context(|| format!("no token in {answer}"))?.to_owned())
    }

    /// A JWT-SVID signed by the server for any identity of the trust domain, without an entry.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn mint_jwt(
        &self,
        spiffe_id: &str,
        audiences: &[&str],
        ttl: Duration,
    ) -> anyhow::Result<String> {
        let seconds = format!("{}s", ttl.as_secs());
        let mut call = self.server_cli(["jwt", "mint", "-spiffeID", spiffe_id, "-ttl", &seconds]);
        for audience in audiences {
            call = call.arg("-audience").arg(audience);
        }
        Ok(call.output().await?.trim().to_owned())
    }

    /// An X.509-SVID signed by the server for any identity of the trust domain, without an entry: a folder with `svid.pem`,
    /// `key.pem` and `bundle.pem`.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn mint_x509(&self, spiffe_id: &str, ttl: Duration) -> anyhow::Result<PathBuf> {
        let folder = self.scratch.folder(&format!("minted-{}", free_port()), 0o755)?;
        let seconds = format!("{}s", ttl.as_secs());
        let call = self.server_cli(["x509", "mint", "-spiffeID", spiffe_id, "-ttl", &seconds, "-write"]);
        call.arg(&folder).output().await?;
        Ok(folder)
    }

    /// The trust bundle, as PEM.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn bundle_pem(&self) -> anyhow::Result<String> {
        self.server_cli(["bundle", "show"]).output().await
    }

    /// The trust bundle as a SPIFFE key set, with `jwt-svid` and `x509-svid` keys.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn bundle_jwks(&self) -> anyhow::Result<Value> {
        let bundle = self.server_cli(["bundle", "show", "-format", "spiffe"]).output().await?;
        serde_json::from_str(&bundle).context("the bundle is not JSON")
    }

    /// Stops the agent: no new SVIDs, and the sockets are gone.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn stop_agent(&mut self) -> anyhow::Result<()> {
        stop(self.agent.take()).await
    }

    /// Stops the server; the agent goes on with what it has.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn stop_server(&mut self) -> anyhow::Result<()> {
        stop(self.server.take()).await
    }

    /// Starts whichever of the two is stopped, with the keys and entries it had.
    ///
    /// # Errors
    /// When one does not start; with the tail of its log.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        if self.server.is_none() {
            self.start_server().await?;
        }
        if self.agent.is_none() {
            self.start_agent().await?;
        }
        Ok(())
    }

    /// Freezes the agent (SIGSTOP): its sockets take connections and answer nothing.
    ///
    /// # Errors
    /// When it is not running.
    pub fn freeze_agent(&self) -> anyhow::Result<()> {
        self.agent.as_ref().context("the agent is stopped")?.signal(Signal::SIGSTOP)
    }

    /// Lets a frozen agent go on.
    ///
    /// # Errors
    /// When it is not running.
    pub fn thaw_agent(&self) -> anyhow::Result<()> {
        self.agent.as_ref().context("the agent is stopped")?.signal(Signal::SIGCONT)
    }

    /// What server and agent have logged up to now.
    #[must_use]
    pub fn logs(&self) -> String {
        let mut logs = String::new();
        for running in [&self.server, &self.agent].into_iter().flatten() {
            let _infallible = writeln!(logs, "{}", running.log());
        }
        logs
    }

    async fn start_server(&mut self) -> anyhow::Result<()> {
        let config = self.scratch.join("server.conf");
        let program = Program::new(&self.server_program).args(["run", "-config"]).arg(config);
        let mut server = program.start(&self.scratch.join("server.log"))?;
        server.ready(START, || async { self.server_cli(["healthcheck"]).output().await }).await?;
        self.server = Some(server);
        Ok(())
    }

    async fn start_agent(&mut self) -> anyhow::Result<()> {
        let config = self.scratch.join("agent.conf");
        let mut program = Program::new(&self.agent_program).args(["run", "-config"]).arg(config);
        // A join token is good for one attestation; afterwards the agent has an SVID of its own on disk.
        if !self.scratch.join("agent/agent-data.json").exists() {
            let id = self.id("/harness/node");
            let token =
                self.server_cli(["token", "generate", "-output", "json", "-spiffeID", &id]).output().await?;
            let token: Value = serde_json::from_str(&token).context("spire-server did not answer JSON")?;
            program = program.arg("-joinToken").arg(token["value"].as_str().context("no join token")?);
        }
        let mut agent = program.start(&self.scratch.join("agent.log"))?;
        let socket = self.workload_socket();
        agent
            .ready(START, || async {
                Program::new(&self.agent_program)
                    .args(["healthcheck", "-socketPath"])
                    .arg(&socket)
                    .output()
                    .await
            })
            .await?;
        self.agent = Some(agent);
        // SPIRE makes it for its own group; a node would put the attest process's user into that group.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(self.admin_socket(), open).context("the admin socket")
    }

    /// `spire-server` with the first words of a command; more may be added behind.
    fn server_cli<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Program {
        let mut words: Vec<&str> = words.into_iter().collect();
        let at = words.iter().position(|word| word.starts_with('-')).unwrap_or(words.len());
        let rest = words.split_off(at);
        let program = Program::new(&self.server_program).args(words).arg("-socketPath");
        program.arg(self.scratch.join("server.sock")).args(rest)
    }

    fn agent_cli<'a>(&self, uid: Uid, words: impl IntoIterator<Item = &'a str>) -> Program {
        uid.program(&self.agent_program).args(words).arg("-socketPath").arg(self.workload_socket())
    }
}

async fn stop(running: Option<Running>) -> anyhow::Result<()> {
    if let Some(mut running) = running {
        running.terminate().await?;
    }
    Ok(())
}

fn server_conf(folder: &Path, trust_domain: &str, port: u16, options: &SpireOptions) -> String {
    let folder = folder.display();
    let (x509, jwt) = (options.x509_ttl.as_secs(), options.jwt_ttl.as_secs());
    // Keys on disk, so that a restart is one and not a new trust domain. The caches are read again each second, instead of
    // after five, so that a new entry is there soon.
    format!(
        r#"server {{
    bind_address = "127.0.0.1"
    bind_port = "{port}"
    socket_path = "{folder}/server.sock"
    trust_domain = "{trust_domain}"
    data_dir = "{folder}/server"
    log_level = "INFO"
    ca_ttl = "24h"
    agent_ttl = "1h"
    default_x509_svid_ttl = "{x509}s"
    default_jwt_svid_ttl = "{jwt}s"
    experimental {{ cache_reload_interval = "1s" }}
}}
plugins {{
    DataStore "sql" {{ plugin_data {{ database_type = "sqlite3" connection_string = "{folder}/server/data.sqlite3" }} }}
    NodeAttestor "join_token" {{ plugin_data {{}} }}
    KeyManager "disk" {{ plugin_data {{ keys_path = "{folder}/server/keys.json" }} }}
}}
"#
    )
}

fn agent_conf(folder: &Path, trust_domain: &str, port: u16, options: &SpireOptions) -> String {
    let folder = folder.display();
    let delegates: Vec<String> =
        options.delegates.iter().map(|path| format!("\"spiffe://{trust_domain}{path}\"")).collect();
    let delegates = delegates.join(", ");
    // No hash of the workload's file: our debug binaries are large and no entry asks for it.
    format!(
        r#"agent {{
    server_address = "127.0.0.1"
    server_port = "{port}"
    socket_path = "{folder}/api/w.sock"
    admin_socket_path = "{folder}/admin/a.sock"
    trust_domain = "{trust_domain}"
    data_dir = "{folder}/agent"
    log_level = "INFO"
    insecure_bootstrap = true
    authorized_delegates = [{delegates}]
    experimental {{ sync_interval = "1s" }}
}}
plugins {{
    NodeAttestor "join_token" {{ plugin_data {{}} }}
    KeyManager "disk" {{ plugin_data {{ directory = "{folder}/agent" }} }}
    WorkloadAttestor "unix" {{ plugin_data {{ discover_workload_path = true workload_size_limit = -1 }} }}
}}
"#
    )
}
