//! Where the broker's state is: a folder of its own, or a database that it shares with other brokers.

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use dayfly_domain::secret::Secret;
use serde::Deserialize;

use super::ConfigError;
use crate::store::postgres::{self, Tls};

/// `[state]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateConfig {
    /// Folder of the SQLite database: 0700, the broker's own, not on a network file system. Or else `postgres`.
    pub dir: Option<PathBuf>,
    /// The PostgreSQL database that this broker shares with others.
    pub postgres: Option<PostgresConfig>,
    /// Name of this broker in its audit chains.
    #[serde(default = "default_writer")]
    pub writer: String,
}

fn default_writer() -> String {
    "broker-1".to_owned()
}

impl StateConfig {
    /// What does not fit together.
    pub(super) fn faults(&self) -> Vec<String> {
        match (&self.dir, &self.postgres) {
            (Some(_), None) => Vec::new(),
            (None, Some(postgres)) => postgres.faults(),
            (None, None) => vec!["state: name a folder in dir, or a database in postgres".to_owned()],
            (Some(_), Some(_)) => vec!["state: dir and postgres exclude each other".to_owned()],
        }
    }
}

/// `[state.postgres]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresConfig {
    /// `postgres://role@host/database`, or `postgres:///database?host=/run/postgresql&user=role`. Never with a password.
    pub url: String,
    /// File with the role's password: the broker's own, 0400 or 0600. Absent: peer authentication or none.
    pub password_file: Option<PathBuf>,
    /// How the connection is protected.
    #[serde(default)]
    pub tls: Tls,
    /// Certificates that the server's must lead to; the system's if absent.
    pub ca_file: Option<PathBuf>,
}

impl PostgresConfig {
    /// How the store is opened. Reads the password.
    pub fn options(&self) -> Result<postgres::Options, ConfigError> {
        let password = self.password_file.as_deref().map(read_password).transpose()?;
        Ok(postgres::Options {
            url: self.url.clone(),
            password,
            tls: self.tls,
            ca_file: self.ca_file.clone(),
            readers: READERS,
        })
    }

    /// Every fault of it.
    pub fn check(&self) -> anyhow::Result<()> {
        let faults = self.faults();
        if faults.is_empty() { Ok(()) } else { anyhow::bail!("{}", faults.join("; ")) }
    }

    fn faults(&self) -> Vec<String> {
        let Ok(url) = reqwest::Url::parse(&self.url) else {
            return vec!["state.postgres.url: is no URL".to_owned()];
        };
        let mut faults = Vec::new();
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            faults.push("state.postgres.url: begins with postgres://".to_owned());
        }
        let parameter =
            |name: &str| url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
        if url.password().is_some() || parameter("password").is_some() {
            faults.push("state.postgres.url: holds a password; put it into password_file".to_owned());
        }
        if url.query_pairs().any(|(key, _)| key.starts_with("ssl")) {
            faults.push("state.postgres.url: TLS is set by state.postgres.tls".to_owned());
        }
        let host = parameter("host").or_else(|| url.host_str().map(str::to_owned)).unwrap_or_default();
        let is_here =
            host.starts_with('/') || matches!(host.as_str(), "localhost" | "127.0.0.1" | "[::1]" | "::1");
        if self.tls == Tls::Off && !is_here {
            faults.push("state.postgres.tls: may be off only for a Unix socket or this machine".to_owned());
        }
        if self.tls == Tls::VerifyCa && self.ca_file.is_none() {
            faults.push("state.postgres.ca_file: name it where the server's name is not verified".to_owned());
        }
        faults
    }
}

/// Reads at once for admins and questions.
const READERS: u32 = 8;
/// Longest password, in bytes.
const LONGEST_PASSWORD: u64 = 4096;

/// Reads a password that only its owner and root can read.
fn read_password(path: &Path) -> Result<Secret, ConfigError> {
    let unread = |source| ConfigError::Read { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(unread)?;
    let found = file.metadata().map_err(unread)?;
    let owners = [0, rustix::process::geteuid().as_raw()];
    if !owners.contains(&found.uid()) || found.mode() & 0o077 != 0 {
        return Err(ConfigError::Readable { path: path.to_owned() });
    }
    let mut bytes = Vec::new();
    file.take(LONGEST_PASSWORD).read_to_end(&mut bytes).map_err(unread)?;
    let mut text = String::from_utf8(bytes).map_err(|_| unread(std::io::ErrorKind::InvalidData.into()))?;
    text.truncate(text.trim_end_matches(['\r', '\n']).len());
    Ok(Secret::new(text))
}
