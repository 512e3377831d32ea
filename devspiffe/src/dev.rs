//! What `dayfly dev` serves on a laptop: a trust domain that nobody can take for a real one.

use std::path::{Path, PathBuf};
use std::time::Duration;

use spiffe::SpiffeId;

use crate::authority::Authority;
use crate::entry::Entry;
use crate::error::{AuthorityError, ServerError};
use crate::server::Server;

/// The trust domain of `dayfly dev`, unless it is told another.
pub const DEFAULT_TRUST_DOMAIN: &str = "dev.dayfly";

/// What every development trust domain's name begins with; brokers and agents know it by this.
pub const DEV_PREFIX: &str = "dev.";

/// What a development server needs; see [`serve`].
#[derive(Clone, Debug)]
pub struct DevConfig {
    /// Begins with `dev.`.
    pub trust_domain: String,
    /// Keeps the keys from one start to the next; made with mode 0700.
    pub keys: PathBuf,
    /// Where the Workload API listens; at most 107 bytes.
    pub workload_socket: PathBuf,
    /// Where the Delegated Identity API listens; at most 107 bytes.
    pub admin_socket: PathBuf,
    /// Who gets which SPIFFE ID; more can be added to the running server.
    pub entries: Vec<Entry>,
    /// Who may use the Delegated Identity API: the node agent's attest process.
    pub authorized_delegates: Vec<SpiffeId>,
    /// The life of X.509-SVIDs.
    pub x509_ttl: Duration,
    /// The life of JWT-SVIDs.
    pub jwt_ttl: Duration,
}

impl DevConfig {
    /// The defaults, with everything under one folder such as `.dayfly/spiffe`. X.509-SVIDs live an hour, JWT-SVIDs
    /// five minutes.
    #[must_use]
    pub fn in_folder(folder: &Path) -> Self {
        Self {
            trust_domain: DEFAULT_TRUST_DOMAIN.to_owned(),
            keys: folder.join("keys"),
            workload_socket: folder.join("workload.sock"),
            admin_socket: folder.join("admin.sock"),
            entries: Vec::new(),
            authorized_delegates: Vec::new(),
            x509_ttl: Duration::from_secs(3600),
            jwt_ttl: Duration::from_secs(300),
        }
    }
}

/// Opens the development trust domain's keys, or makes them, and starts a server.
///
/// # Errors
/// When the trust domain does not begin with `dev.`, the keys cannot be opened, or a socket cannot be bound.
pub async fn serve(config: DevConfig) -> Result<Server, ServerError> {
    if !is_dev(&config.trust_domain) {
        return Err(ServerError::NotDevelopment { trust_domain: config.trust_domain });
    }
    let authority = Authority::open(&config.trust_domain, &config.keys)?;
    keep_out_of_git(&config.keys)?;
    let mut server = Server::builder(authority)
        .workload_socket(config.workload_socket)
        .admin_socket(config.admin_socket)
        .x509_ttl(config.x509_ttl)
        .jwt_ttl(config.jwt_ttl);
    for entry in config.entries {
        server = server.entry(entry);
    }
    for delegate in config.authorized_delegates {
        server = server.authorized_delegate(delegate);
    }
    server.start().await
}

/// Whether a trust domain's name says that it is for development.
#[must_use]
pub fn is_dev(trust_domain: &str) -> bool {
    trust_domain.strip_prefix(DEV_PREFIX).is_some_and(|rest| !rest.is_empty())
}

/// A `.gitignore` of `*` hides the folder and itself, so that no key is committed by mistake.
fn keep_out_of_git(folder: &Path) -> Result<(), AuthorityError> {
    let path = folder.join(".gitignore");
    std::fs::write(&path, "*\n").map_err(|source| AuthorityError::folder("write", &path, source))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

    use super::*;

    #[tokio::test]
    async fn only_a_development_trust_domain_is_served() {
        let home = tempfile::tempdir().unwrap();
        for name in ["prod.example", "dev", "dev.", "developer.example", "Dev.dayfly"] {
            let config = DevConfig { trust_domain: name.to_owned(), ..DevConfig::in_folder(home.path()) };
            let refused = serve(config).await.unwrap_err();
            assert!(matches!(refused, ServerError::NotDevelopment { .. }), "{name}: {refused}");
        }
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "no key was made for them");
    }

    #[tokio::test]
    async fn a_restart_serves_the_same_roots() {
        let home = tempfile::tempdir().unwrap();
        let config = DevConfig::in_folder(home.path());
        let server = serve(config.clone()).await.unwrap();
        assert_eq!(server.authority().trust_domain().as_str(), "dev.dayfly");
        let roots = server.authority().roots_der();
        server.stop().await;
        assert!(!config.workload_socket.exists());

        let again = serve(config.clone()).await.unwrap();
        assert_eq!(again.authority().roots_der(), roots);
        assert_eq!(std::fs::read_to_string(config.keys.join(".gitignore")).unwrap(), "*\n");
    }
}
