//! Where Vault is and how the broker logs in there.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use dayfly_domain::time::Ttl;
use reqwest::{Certificate, Url};
use serde::Deserialize;
use thiserror::Error;

use super::BoxError;

/// How long one call to Vault may take, if the configuration does not say.
pub const DEFAULT_TIMEOUT: Ttl = Ttl::seconds(5);

/// Section `[vault]` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VaultConfig {
    /// `https://host:port`; `http` is taken only to a loopback address.
    pub address: String,
    /// PEM file with the certificates that vouch for Vault, and no others do. Needed with `https`.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Namespace of everything the broker does there (Vault Enterprise, OpenBao).
    #[serde(default)]
    pub namespace: Option<String>,
    /// Where the jwt auth method is mounted.
    #[serde(default = "default_mount")]
    pub auth_mount: String,
    /// Audience of the broker's JWT-SVIDs for Vault; `bound_audiences` of both roles.
    pub audience: String,
    /// Role at the jwt auth method whose token creates and renews.
    #[serde(default = "default_mint_role")]
    pub mint_role: String,
    /// Role at the jwt auth method whose token can only take back.
    #[serde(default = "default_revoke_role")]
    pub revoke_role: String,
    /// How long one call may take.
    #[serde(default = "default_timeout")]
    pub timeout: Ttl,
}

fn default_mount() -> String {
    "jwt".to_owned()
}

fn default_mint_role() -> String {
    "dayfly-mint".to_owned()
}

fn default_revoke_role() -> String {
    "dayfly-revoke".to_owned()
}

fn default_timeout() -> Ttl {
    DEFAULT_TIMEOUT
}

/// Why the configuration cannot be used.
#[derive(Debug, Error)]
pub enum VaultConfigError {
    /// The address is none, or holds more than scheme, host and port.
    #[error("address {0:?} must be https://host:port, without user, path or query")]
    Address(String),
    /// Tokens would cross the network in the clear.
    #[error("address {0:?} is plain http to another machine; use https with ca_file")]
    Plain(String),
    /// Nobody is named to vouch for the server.
    #[error("ca_file must name the CA of an https address")]
    NoCa,
    /// The CA file cannot be used.
    #[error("could not read certificates from ca_file {path}")]
    Ca {
        /// The file.
        path: PathBuf,
        /// What failed.
        #[source]
        source: BoxError,
    },
    /// A value that would end up in a URL or a header.
    #[error("{field} may hold letters, digits, dot, dash, underscore and inner slashes only")]
    Name {
        /// Which one.
        field: &'static str,
    },
    /// Under 100 ms or over 30 s.
    #[error("timeout must be from 100ms to 30s")]
    Timeout,
    /// The HTTP client could not be made.
    #[error("could not set up the connection to Vault")]
    Client {
        /// What failed.
        #[source]
        source: reqwest::Error,
    },
}

/// Where a Vault is and what is shown there, as one section of the configuration says it.
pub(super) struct Reach<'a> {
    pub(super) address: &'a str,
    pub(super) ca_file: Option<&'a Path>,
    pub(super) namespace: Option<&'a str>,
    pub(super) auth_mount: &'a str,
    pub(super) audience: &'a str,
    pub(super) timeout: Ttl,
    /// Further values that end up in a URL, by their field.
    pub(super) names: Vec<(&'static str, &'a str)>,
}

impl VaultConfig {
    /// Where it is.
    pub(super) fn reach(&self) -> Reach<'_> {
        Reach {
            address: &self.address,
            ca_file: self.ca_file.as_deref(),
            namespace: self.namespace.as_deref(),
            auth_mount: &self.auth_mount,
            audience: &self.audience,
            timeout: self.timeout,
            names: vec![("mint_role", &self.mint_role), ("revoke_role", &self.revoke_role)],
        }
    }
}

impl Reach<'_> {
    /// Checks everything but the CA file.
    pub(super) fn check(&self) -> Result<Url, VaultConfigError> {
        let url = self.checked_address()?;
        let own = [("namespace", self.namespace.unwrap_or("root")), ("auth_mount", self.auth_mount)];
        for (field, value) in own.into_iter().chain(self.names.iter().copied()) {
            if !is_path(value) {
                return Err(VaultConfigError::Name { field });
            }
        }
        if !(Ttl::millis(100)..=Ttl::seconds(30)).contains(&self.timeout) {
            return Err(VaultConfigError::Timeout);
        }
        Ok(url)
    }

    /// The certificates that vouch for the server; none for plain http.
    pub(super) fn roots(&self) -> Result<Vec<Certificate>, VaultConfigError> {
        let Some(path) = self.ca_file else { return Ok(Vec::new()) };
        let read = || -> Result<Vec<Certificate>, BoxError> {
            let roots = Certificate::from_pem_bundle(&std::fs::read(path)?)?;
            if roots.is_empty() { Err("it holds no certificate".into()) } else { Ok(roots) }
        };
        read().map_err(|source| VaultConfigError::Ca { path: path.to_owned(), source })
    }

    fn checked_address(&self) -> Result<Url, VaultConfigError> {
        let unfit = || VaultConfigError::Address(self.address.to_owned());
        let url = Url::parse(self.address).map_err(|_| unfit())?;
        let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        if !bare || !url.username().is_empty() || url.password().is_some() {
            return Err(unfit());
        }
        match url.scheme() {
            "https" if self.ca_file.is_none() => Err(VaultConfigError::NoCa),
            "https" => Ok(url),
            "http" if is_loopback(&url) => Ok(url),
            "http" => Err(VaultConfigError::Plain(self.address.to_owned())),
            _ => Err(unfit()),
        }
    }
}

fn is_loopback(url: &Url) -> bool {
    // A name is what the resolver makes of it; an address is what it says.
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Segments of letters, digits, dot, dash and underscore, joined by `/`.
fn is_path(text: &str) -> bool {
    text.split('/').all(dayfly_domain::spiffe::is_segment)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> VaultConfig {
        toml::from_str(&format!("audience = \"vault\"\n{text}")).expect("a configuration")
    }

    #[test]
    fn tokens_never_cross_the_network_in_the_clear() {
        for plain in ["http://vault.example.org:8200", "http://10.0.0.7:8200", "http://localhost:8200"] {
            let refused = config(&format!("address = {plain:?}")).reach().check();
            assert!(matches!(refused, Err(VaultConfigError::Plain(_))), "{plain}");
        }
        for near in ["http://127.0.0.1:8200", "http://[::1]:8200"] {
            assert!(config(&format!("address = {near:?}")).reach().check().is_ok(), "{near}");
        }
    }

    #[test]
    fn https_needs_a_named_ca() {
        let without = config("address = \"https://vault.example.org:8200\"");
        assert!(matches!(without.reach().check(), Err(VaultConfigError::NoCa)));
        let with = config("address = \"https://vault.example.org:8200\"\nca_file = \"/nonexistent/ca.pem\"");
        assert!(with.reach().check().is_ok());
        assert!(matches!(with.reach().roots(), Err(VaultConfigError::Ca { .. })));
    }

    #[test]
    fn an_address_is_scheme_host_and_port() {
        for address in
            ["vault:8200", "https://u:p@vault", "https://vault/v1", "https://vault/?a=b", "ftp://vault"]
        {
            let refused = config(&format!("address = {address:?}\nca_file = \"/ca.pem\"")).reach().check();
            assert!(matches!(refused, Err(VaultConfigError::Address(_))), "{address}");
        }
    }

    #[test]
    fn names_cannot_leave_their_place_in_a_path() {
        for mount in ["../sys", "a//b", "", "a?b", "a b", "/jwt"] {
            let refused =
                config(&format!("address = \"http://127.0.0.1:1\"\nauth_mount = {mount:?}")).reach().check();
            assert!(matches!(refused, Err(VaultConfigError::Name { field: "auth_mount" })), "{mount}");
        }
        assert!(config("address = \"http://127.0.0.1:1\"\nnamespace = \"team/ml\"").reach().check().is_ok());
    }

    #[test]
    fn what_is_not_said_has_a_default() {
        let config = config("address = \"http://127.0.0.1:8200\"");
        assert_eq!(
            (
                config.auth_mount.as_str(),
                config.mint_role.as_str(),
                config.revoke_role.as_str(),
                config.timeout
            ),
            ("jwt", "dayfly-mint", "dayfly-revoke", Ttl::seconds(5))
        );
        assert!(
            toml::from_str::<VaultConfig>("address = \"http://127.0.0.1\"\naudience = \"v\"\ntoken = \"s\"")
                .is_err()
        );
    }
}
