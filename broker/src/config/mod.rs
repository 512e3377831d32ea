//! The broker's configuration: one TOML file, unknown keys refused, `DAYFLY_SECTION__KEY` over it.

mod overlay;
mod state;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use dayfly_domain::node::TrustDomainRule;
use dayfly_domain::pattern::SpiffePattern;
use dayfly_domain::spiffe::{SpiffeId, is_trust_domain};
use dayfly_domain::stage::Stage;
use serde::Deserialize;
use thiserror::Error;

pub use self::state::{PostgresConfig, StateConfig};
use crate::limits::Limits;
use crate::providers::aws::AwsConfig;
use crate::providers::vault::{TransitConfig, VaultConfig};
use crate::public::{ExchangeConfig, IntrospectionConfig, IssuerConfig};

/// Why the broker does not start with this configuration.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("could not read the configuration {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// Others than its owner could name themselves admins.
    #[error("{path} may be written by others than root and the broker's user; set its owner and mode 0644")]
    Writable {
        /// The file.
        path: PathBuf,
    },
    /// Others could read a password.
    #[error("{path} may be read by others than its owner; give it to the broker's user with mode 0400")]
    Readable {
        /// The file.
        path: PathBuf,
    },
    /// The file is not TOML, has an unknown key, or a value of the wrong kind.
    #[error("{path}: {problem}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        problem: String,
    },
    /// An environment variable sets what cannot be set.
    #[error("{variable}: {problem}")]
    Overlay {
        /// The variable.
        variable: String,
        /// What is wrong.
        problem: String,
    },
    /// The parts do not fit together. Every fault is told.
    #[error("{path}: {}", .faults.join("; "))]
    Faults {
        /// The file.
        path: PathBuf,
        /// What is wrong, each with its key.
        faults: Vec<String>,
    },
}

/// The whole configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Who the broker is.
    pub identity: IdentityConfig,
    /// Where it listens.
    pub listen: ListenConfig,
    /// Where its state is.
    pub state: StateConfig,
    /// Where its signing keys are.
    pub keys: KeysConfig,
    /// The trust domains it accepts, and what each may be.
    pub trust_domain: Vec<TrustDomainConfig>,
    /// Who its root admins are.
    pub admins: AdminsConfig,
    /// What its tokens say they come from.
    pub issuer: IssuerConfig,
    /// Where services ask about tokens.
    pub introspection: Option<IntrospectionConfig>,
    /// Where callers without gRPC exchange their identity for an access token.
    pub token_exchange: Option<ExchangeConfig>,
    /// Vault, if there is one.
    pub vault: Option<VaultConfig>,
    /// AWS, or a service that speaks its STS.
    pub aws: Option<AwsConfig>,
    /// Times and limits.
    #[serde(default)]
    pub limits: Limits,
    /// Development: accepts `dev.*` trust domains and marks tokens and records. Only in builds with the feature `dev`.
    #[serde(default)]
    pub dev: bool,
}

/// `[identity]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityConfig {
    /// `unix:/path` of the Workload API. Absent: `SPIFFE_ENDPOINT_SOCKET`.
    pub workload_api: Option<String>,
    /// Which SVID to use where several are offered.
    pub spiffe_id: Option<SpiffeId>,
}

/// `[listen]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListenConfig {
    /// gRPC over mTLS: `host:port` or `unix:/path`.
    pub grpc: String,
    /// The break-glass socket: uid 0 lists and revokes, without SPIRE.
    pub break_glass: Option<PathBuf>,
    /// Prometheus; loopback only.
    pub metrics: Option<SocketAddr>,
}

/// `[keys]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeysConfig {
    /// Folder of the signing keys: 0700, made at first start. Never within `state.dir`, so that no backup takes it along.
    pub dir: Option<PathBuf>,
    /// Vault's transit engine, where the keys are instead of in files.
    pub vault_transit: Option<TransitConfig>,
}

/// `[[trust_domain]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustDomainConfig {
    /// Its name.
    pub name: String,
    /// The stages its identities may fill.
    pub stages: BTreeSet<Stage>,
    /// The identities that count at all.
    pub patterns: Vec<SpiffePattern>,
}

/// `[admins]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdminsConfig {
    /// Exact SPIFFE IDs of the broker's own trust domain. Rows of the database neither add nor remove them.
    pub root: Vec<SpiffeId>,
    /// Whether an approval may come from the host that the request came from. For sites with one host of admins: two
    /// identities on it may be one person.
    #[serde(default)]
    pub approvals_from_one_host: bool,
}

impl Config {
    /// Reads the file, lays the environment over it, and checks the whole.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let unread = |source| ConfigError::Read { path: path.to_owned(), source };
        let found = std::fs::metadata(path).map_err(unread)?;
        let owners = [0, rustix::process::geteuid().as_raw()];
        if !owners.contains(&found.uid()) || found.mode() & 0o022 != 0 {
            return Err(ConfigError::Writable { path: path.to_owned() });
        }
        let text = std::fs::read_to_string(path).map_err(unread)?;
        Self::read(path, &text, std::env::vars())
    }

    fn read(
        path: &Path,
        text: &str,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let parse = |problem: String| ConfigError::Parse {
            path: path.to_owned(),
            problem: problem.trim().to_owned(),
        };
        let mut table: toml::Table = toml::from_str(text).map_err(|error| parse(error.to_string()))?;
        overlay::apply(&mut table, environment)?;
        let config = Config::deserialize(table).map_err(|error| parse(error.to_string()))?;
        let faults = config.faults();
        if faults.is_empty() {
            Ok(config)
        } else {
            Err(ConfigError::Faults { path: path.to_owned(), faults })
        }
    }

    /// What does not fit together.
    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for domain in &self.trust_domain {
            let name = &domain.name;
            if !is_trust_domain(name) {
                faults.push(format!("trust_domain: {name:?} is not a trust domain"));
            }
            if is_dev(name) && !(cfg!(feature = "dev") && self.dev) {
                faults.push(format!(
                    "trust_domain: {name:?} is a development trust domain; only `dayfly dev` may use it"
                ));
            }
            for pattern in domain.patterns.iter().filter(|pattern| pattern.trust_domain() != name) {
                faults.push(format!("trust_domain {name}: pattern {pattern} is of another trust domain"));
            }
        }
        if self.dev && !cfg!(feature = "dev") {
            faults.push("dev: this build has no development mode".to_owned());
        }
        if self.trust_domain.is_empty() {
            faults.push("trust_domain: name at least one".to_owned());
        }
        faults.extend(self.state.faults());
        if self.keys.dir.is_some() == self.keys.vault_transit.is_some() {
            faults.push("keys: name either dir or vault_transit".to_owned());
        }
        let beneath = |keys: &PathBuf| self.state.dir.as_ref().is_some_and(|dir| keys.starts_with(dir));
        if self.keys.dir.as_ref().is_some_and(beneath) {
            faults.push(
                "keys.dir: must not lie within state.dir, or a backup of one takes the other along"
                    .to_owned(),
            );
        }
        if self.listen.metrics.is_some_and(|address| !address.ip().is_loopback()) {
            faults.push("listen.metrics: must be a loopback address".to_owned());
        }
        let known = |id: &&SpiffeId| self.trust_domain.iter().any(|domain| domain.name == id.trust_domain());
        for admin in self.admins.root.iter().filter(|admin| !known(admin)) {
            faults.push(format!("admins.root: {admin} is of no accepted trust domain"));
        }
        faults
    }

    /// Faults that show only once the broker knows who it is: what federated trust domains may not be.
    pub fn faults_as(&self, own_trust_domain: &str) -> Vec<String> {
        let mut faults = Vec::new();
        for domain in self.trust_domain.iter().filter(|domain| domain.name != own_trust_domain) {
            for stage in domain.stages.iter().filter(|stage| matches!(stage, Stage::Admin | Stage::Node)) {
                let name = &domain.name;
                faults
                    .push(format!("trust_domain {name}: a federated trust domain never fills stage {stage}"));
            }
        }
        for admin in self.admins.root.iter().filter(|admin| admin.trust_domain() != own_trust_domain) {
            faults.push(format!(
                "admins.root: {admin} is not of the broker's own trust domain {own_trust_domain}"
            ));
        }
        if !self.trust_domain.iter().any(|domain| domain.name == own_trust_domain) {
            faults.push(format!("trust_domain: the broker's own, {own_trust_domain}, is not among them"));
        }
        faults
    }

    /// The trust domains as decisions see them.
    pub fn trust_domain_rules(&self) -> Vec<TrustDomainRule> {
        let rule = |domain: &TrustDomainConfig| TrustDomainRule {
            name: domain.name.clone(),
            stages: domain.stages.clone(),
            patterns: domain.patterns.clone(),
        };
        self.trust_domain.iter().map(rule).collect()
    }
}

/// Whether a trust domain is one of `dayfly dev`.
fn is_dev(name: &str) -> bool {
    name == "dev" || name.starts_with("dev.")
}

#[cfg(test)]
mod tests;
