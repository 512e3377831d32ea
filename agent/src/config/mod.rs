//! The agent's TOML file: one for both processes, each reads what concerns it.
//!
//! Unknown keys are refused, all faults are told at once, and `DAYFLY_SECTION__KEY` in the environment replaces the
//! file's value (`DAYFLY_BROKER__ADDRESS`).

mod reader;

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dayfly_client::{Address, BrokerEndpoint, SpiffeId};
use toml::Table;

pub use reader::Fault;
use reader::{Reader, Section};

/// Everything the agent is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// The exact SPIFFE ID of this node's agent, the process that talks to the broker.
    pub spiffe_id: SpiffeId,
    /// The exact SPIFFE ID of the broker.
    pub broker_id: SpiffeId,
    /// Where the broker listens, and who it must be.
    pub broker: BrokerEndpoint,
    /// The SPIFFE Workload API; `None` takes `SPIFFE_ENDPOINT_SOCKET`.
    pub workload_api: Option<String>,
    /// The socket that workloads talk to.
    pub socket: PathBuf,
    /// Its permission bits.
    pub socket_mode: u32,
    /// A folder for per-task files; workloads must be able to enter it.
    pub runtime_dir: PathBuf,
    /// Whether to mount a memory file system there if it is none.
    pub mount_memory_fs: bool,
    /// What tasks hang on.
    pub anchors: Anchors,
    /// The folder below which task cgroups are made; `None`: one of its own below the agent's cgroup.
    pub cgroup: Option<PathBuf>,
    /// What becomes of tasks when the agent is told to stop.
    pub on_stop: OnStop,
    /// How long the end of the process waits for calls in flight and for the broker to record ends.
    pub drain: Duration,
    /// The attest process.
    pub attest: Attest,
    /// What one user, and all together, may occupy.
    pub limits: Limits,
    /// Endpoints that unmodified SDKs speak to.
    pub native: Native,
    /// Where Prometheus may scrape; `None`: nowhere.
    pub metrics: Option<SocketAddr>,
    /// How to log.
    pub log: Log,
}

/// The attest process, as both sides of its socket need to know it.
#[derive(Clone, Debug)]
pub struct Attest {
    /// Where it listens.
    pub socket: PathBuf,
    /// SPIRE's admin socket; only the attest process opens it.
    pub spire_admin_socket: Option<String>,
    /// The user as whom the other process runs; nobody else is answered.
    pub run_uid: u32,
    /// Requests it works on at the same time.
    pub in_flight: usize,
}

/// What tasks hang on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchors {
    /// A cgroup where the agent may make one, else the process.
    Auto,
    /// A cgroup, or the task is refused.
    Cgroup,
    /// The process, for nodes where a move would change what SPIRE sees (Slurm, Kubernetes).
    Process,
}

/// What becomes of tasks at SIGTERM. SIGINT ends them in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnStop {
    /// They go on; the next start takes them up again.
    Keep,
    /// They end.
    End,
}

/// What callers may occupy.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open connections, each of the listeners for itself.
    pub connections: usize,
    /// Open connections of one uid, each of the listeners for itself.
    pub connections_per_uid: usize,
    /// Attestations in flight for one uid.
    pub attestations_per_uid: usize,
}

/// Endpoints on the loopback address.
#[derive(Clone, Debug)]
pub struct Native {
    /// AWS container credentials.
    pub aws_listen: SocketAddr,
    /// The region to put into the environment of tasks with an AWS scope.
    pub aws_region: Option<String>,
    /// Vault.
    pub vault_listen: SocketAddr,
    /// Vault's own address; `None`: as the broker tells it with each credential.
    pub vault_address: Option<http::Uri>,
    /// PEM file with the authorities that may vouch for Vault. Needed for https.
    pub vault_ca_file: Option<PathBuf>,
}

/// How to log.
#[derive(Clone, Debug)]
pub struct Log {
    /// `true`: one JSON object a line; `false`: for people.
    pub json: bool,
    /// A `tracing` filter, for example `info` or `info,dayfly_agent=debug`.
    pub filter: String,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("could not read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Others than its owner could make the agent trust another broker.
    #[error("{} may be written by others than root and the agent's user; set its owner and mode 0644", path.display())]
    Writable {
        /// The file.
        path: PathBuf,
    },
    /// Not TOML.
    #[error("{} is not TOML", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and what.
        #[source]
        source: toml::de::Error,
    },
    /// TOML, but not this program's.
    #[error("{} cannot be used:{}", path.display(), listed(faults))]
    Faults {
        /// The file.
        path: PathBuf,
        /// All that is wrong.
        faults: Vec<Fault>,
    },
}

impl Config {
    /// Reads a file and the environment.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let read_error = |source| ConfigError::Read { path: path.to_owned(), source };
        let meta = fs::metadata(path).map_err(read_error)?;
        let owners = [0, rustix::process::geteuid().as_raw()];
        if !owners.contains(&meta.uid()) || meta.mode() & 0o022 != 0 {
            return Err(ConfigError::Writable { path: path.to_owned() });
        }
        let text = fs::read_to_string(path).map_err(read_error)?;
        let table = text.parse().map_err(|source| ConfigError::Syntax { path: path.to_owned(), source })?;
        // Names that are no text are not ours.
        let vars =
            std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
        Self::read(table, vars).map_err(|faults| ConfigError::Faults { path: path.to_owned(), faults })
    }

    fn read(table: Table, vars: impl IntoIterator<Item = (String, String)>) -> Result<Self, Vec<Fault>> {
        let mut reader = Reader::new(table);
        reader.override_with(
            vars,
            &["agent", "broker", "attest", "tasks", "limits", "native", "metrics", "log"],
        );

        let agent = reader.section("agent", |s| {
            let spiffe_id = spiffe_id(s, "spiffe_id");
            let socket = path(s, "socket", "/run/dayfly/agent.sock");
            let runtime_dir = path(s, "runtime_dir", "/run/dayfly/agent");
            let mode = s.mode("socket_mode", 0o666);
            (spiffe_id, socket, mode, runtime_dir, s.flag("mount_memory_fs", false), s.text("workload_api"))
        });
        let broker = reader.section("broker", |s| {
            s.require("address");
            (s.parsed::<Address>("address"), spiffe_id(s, "spiffe_id"))
        });
        let attest = reader.section("attest", |s| Attest {
            socket: path(s, "socket", "/run/dayfly/attest.sock"),
            spire_admin_socket: s.text("spire_admin_socket"),
            run_uid: s.number("run_uid", rustix::process::geteuid().as_raw(), 0),
            in_flight: s.number("in_flight", 64, 1) as usize,
        });
        let (anchors, cgroup, on_stop, drain) = reader.section("tasks", |s| {
            let anchors = match s.text("anchor").as_deref() {
                None | Some("auto") => Anchors::Auto,
                Some("cgroup") => Anchors::Cgroup,
                Some("process") => Anchors::Process,
                Some(other) => {
                    s.fault("anchor", format!("`{other}` is no anchor; write auto, cgroup or process"));
                    Anchors::Auto
                }
            };
            let cgroup = s.text("cgroup").map(PathBuf::from);
            let on_stop = match s.text("on_stop").as_deref() {
                None | Some("keep") => OnStop::Keep,
                Some("end") => OnStop::End,
                Some(other) => {
                    s.fault("on_stop", format!("`{other}` is neither keep nor end"));
                    OnStop::Keep
                }
            };
            (anchors, cgroup, on_stop, s.span("drain", Duration::from_secs(10)))
        });
        let limits = reader.section("limits", |s| Limits {
            connections: s.number("connections", 1024, 1) as usize,
            connections_per_uid: s.number("connections_per_uid", 256, 1) as usize,
            attestations_per_uid: s.number("attestations_per_uid", 16, 1) as usize,
        });
        let native = reader.section("native", |s| Native {
            aws_listen: loopback(s, "aws_listen").unwrap_or(ANY_PORT),
            aws_region: s.text("aws_region"),
            vault_listen: loopback(s, "vault_listen").unwrap_or(ANY_PORT),
            vault_address: vault_address(s),
            vault_ca_file: s.text("vault_ca_file").map(PathBuf::from),
        });
        let metrics = reader.section("metrics", |s| loopback(s, "listen"));
        let log = reader.section("log", |s| {
            let json = match s.text("format").as_deref() {
                None | Some("json") => true,
                Some("plain") => false,
                Some(other) => {
                    s.fault("format", format!("`{other}` is no format; write json or plain"));
                    true
                }
            };
            let filter = s.text("level").unwrap_or_else(|| "info".to_owned());
            if let Err(error) = filter.parse::<tracing_subscriber::filter::Targets>() {
                s.fault("level", format!("`{filter}` is no filter: {error}"));
            }
            Log { json, filter }
        });

        let mut faults = reader.finish();
        let (id, socket, socket_mode, runtime_dir, mount_memory_fs, workload_api) = agent;
        let (Some(spiffe_id), (Some(address), Some(broker_id)), true) = (id, broker, faults.is_empty())
        else {
            return Err(faults);
        };
        let broker = match BrokerEndpoint::new(&address.to_string(), [broker_id.to_string()]) {
            Ok(broker) => broker,
            Err(error) => {
                faults.push(Fault { path: "broker.address".to_owned(), what: error.to_string() });
                return Err(faults);
            }
        };
        Ok(Self {
            spiffe_id,
            broker_id,
            broker,
            workload_api,
            socket,
            socket_mode,
            runtime_dir,
            mount_memory_fs,
            anchors,
            cgroup,
            on_stop,
            drain,
            attest,
            limits,
            native,
            metrics,
            log,
        })
    }

    /// The one audience of subject tokens that this node's agent may show to this broker.
    pub fn audience(&self) -> String {
        format!("{}?via={}", self.broker_id, self.spiffe_id)
    }
}

const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// An exact SPIFFE ID of a workload. A development trust domain is for builds that `dayfly dev` starts.
fn spiffe_id(s: &mut Section<'_>, key: &str) -> Option<SpiffeId> {
    let text = s.required(key)?;
    let id = match SpiffeId::new(&text) {
        Ok(id) => id,
        Err(error) => {
            s.fault(key, format!("`{text}` is no SPIFFE ID: {error}"));
            return None;
        }
    };
    if id.path().is_empty() {
        s.fault(key, format!("`{text}` names a trust domain; give the exact SPIFFE ID of the workload"));
        return None;
    }
    if is_dev(id.trust_domain_name()) && !cfg!(feature = "dev") {
        s.fault(key, format!("`{text}` is of a development trust domain, which this build refuses"));
        return None;
    }
    Some(id)
}

fn is_dev(trust_domain: &str) -> bool {
    trust_domain == "dev" || trust_domain.starts_with("dev.")
}

fn path(s: &mut Section<'_>, key: &str, default: &str) -> PathBuf {
    let path = PathBuf::from(s.text(key).unwrap_or_else(|| default.to_owned()));
    // unix(7): `sun_path` holds 107 bytes and a zero; folders are held to it as well, for what lies in them.
    if !path.is_absolute() || path.as_os_str().len() > 107 {
        s.fault(key, format!("`{}` must be an absolute path of at most 107 bytes", path.display()));
    }
    path
}

fn loopback(s: &mut Section<'_>, key: &str) -> Option<SocketAddr> {
    let address: SocketAddr = s.parsed(key)?;
    if !address.ip().is_loopback() || !address.is_ipv4() {
        s.fault(key, format!("`{address}` must be on 127.0.0.1; port 0 takes any free one"));
        return None;
    }
    Some(address)
}

fn vault_address(s: &mut Section<'_>) -> Option<http::Uri> {
    let address: http::Uri = s.parsed("vault_address")?;
    if let Err(why) = crate::native::upstream::check(&address) {
        s.fault("vault_address", why);
    }
    Some(address)
}

fn listed(faults: &[Fault]) -> String {
    faults.iter().map(|fault| format!("\n  {fault}")).collect()
}

#[cfg(test)]
mod tests;
