//! Which STS, in which region, with which audience.

use std::net::IpAddr;
use std::path::PathBuf;

use dayfly_domain::spiffe::SpiffeId;
use dayfly_domain::time::Ttl;
use reqwest::Url;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;
use thiserror::Error;

use super::BoxError;
use crate::public::Issuers;
use crate::signer::Use;

/// How long one call to STS may take, if the configuration does not say.
pub const DEFAULT_TIMEOUT: Ttl = Ttl::seconds(10);

/// How long a change of a role's policies may take to be effective everywhere, if the configuration does not say. AWS
/// names no bound but "a few minutes" (IAM User Guide, "Changes that I make are not always immediately visible").
pub const DEFAULT_PROPAGATION: Ttl = Ttl::minutes(5);

/// The audience that AWS expects, if the configuration does not say. It must be among the client ids of the OIDC provider.
pub const DEFAULT_AUDIENCE: &str = "sts.amazonaws.com";

/// Section `[aws]` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AwsConfig {
    /// Region whose STS is asked. Its sessions work in every region.
    pub region: String,
    /// `aud` of our assertions.
    #[serde(default = "default_audience")]
    pub audience: String,
    /// Another STS than AWS's own: `https://host:port`; `http` is taken only to a loopback address.
    #[serde(default)]
    pub endpoint_url: Option<String>,
    /// PEM file with the certificates that vouch for STS, and no others do. Absent: those of the system.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// How long one call may take.
    #[serde(default = "default_timeout")]
    pub timeout: Ttl,
    /// Who writes deny documents. Absent: sessions are not ended, they run out.
    #[serde(default)]
    pub revoker: Option<RevokerConfig>,
}

/// Section `[aws.revoker]` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevokerConfig {
    /// Path and name of the revoker's role, the same in each account: `dayfly/revoker`.
    pub role: String,
    /// Another IAM than AWS's own: `https://host:port`. Absent: `aws.endpoint_url`, or else AWS's own.
    #[serde(default)]
    pub iam_endpoint_url: Option<String>,
    /// How long a document that was written may take to be effective everywhere.
    #[serde(default = "default_propagation")]
    pub propagation: Ttl,
}

fn default_audience() -> String {
    DEFAULT_AUDIENCE.to_owned()
}

fn default_propagation() -> Ttl {
    DEFAULT_PROPAGATION
}

fn default_timeout() -> Ttl {
    DEFAULT_TIMEOUT
}

/// Why the configuration cannot be used.
#[derive(Debug, Error)]
pub enum AwsConfigError {
    /// The region would not make a host name.
    #[error("aws.region {0:?} must be a region such as eu-central-1")]
    Region(String),
    /// The audience is none, or is one of ours: a token for it could be taken for one of another kind.
    #[error(
        "aws.audience {0:?} must be 1 to 255 visible characters, and neither a SPIFFE ID nor under issuer.url"
    )]
    Audience(String),
    /// The address is none, or holds more than scheme, host and port.
    #[error("aws.endpoint_url {0:?} must be https://host:port, without user, path or query")]
    Endpoint(String),
    /// Sessions would cross the network in the clear.
    #[error("aws.endpoint_url {0:?} is plain http to another machine; use https")]
    Plain(String),
    /// AWS would not read our keys.
    #[error("AWS takes an issuer only if it is https without a port: change issuer.url {0:?}")]
    Issuer(String),
    /// The CA file cannot be used.
    #[error("could not read certificates from aws.ca_file {path}")]
    Ca {
        /// The file.
        path: PathBuf,
        /// What failed.
        #[source]
        source: BoxError,
    },
    /// Under 100 ms or over 30 s.
    #[error("aws.timeout must be from 100ms to 30s")]
    Timeout,
    /// No role could have that name.
    #[error("aws.revoker.role {0:?} must be the path and the name of a role, such as dayfly/revoker")]
    RevokerRole(String),
    /// Under 1 s or over 15 min.
    #[error("aws.revoker.propagation must be from 1s to 15m")]
    Propagation,
}

impl AwsConfig {
    /// Checks everything but the CA file.
    pub(super) fn check(&self, issuers: &Issuers) -> Result<(), AwsConfigError> {
        if !is_region(&self.region) {
            return Err(AwsConfigError::Region(self.region.clone()));
        }
        let visible =
            (1..=255).contains(&self.audience.len()) && self.audience.bytes().all(|b| b.is_ascii_graphic());
        if !visible || self.audience.parse::<SpiffeId>().is_ok() || issuers.own(&self.audience) {
            return Err(AwsConfigError::Audience(self.audience.clone()));
        }
        if !(Ttl::millis(100)..=Ttl::seconds(30)).contains(&self.timeout) {
            return Err(AwsConfigError::Timeout);
        }
        if let Some(revoker) = &self.revoker {
            revoker.check()?;
        }
        match &self.endpoint_url {
            Some(url) => check_endpoint(url),
            None => check_issuer(issuers.url(Use::Federation)),
        }
    }

    /// Whether STS is on this machine, over plain http: a test's or a laptop's.
    pub(super) fn is_plain(&self) -> bool {
        self.endpoint_url.as_deref().is_some_and(|url| url.starts_with("http:"))
    }

    /// The certificates that vouch for STS, in PEM; none for those of the system.
    pub(super) fn roots(&self) -> Result<Option<Vec<u8>>, AwsConfigError> {
        let Some(path) = self.ca_file.clone() else { return Ok(None) };
        let read = || -> Result<Vec<u8>, BoxError> {
            let pem = std::fs::read(&path)?;
            let mut store = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(&pem) {
                store.add(certificate?)?;
            }
            if store.is_empty() { Err("it holds no certificate".into()) } else { Ok(pem) }
        };
        read().map(Some).map_err(|source| AwsConfigError::Ca { path, source })
    }
}

impl RevokerConfig {
    fn check(&self) -> Result<(), AwsConfigError> {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"+=,.@_/-".contains(&byte);
        let role = &self.role;
        let named = (1..=512).contains(&role.len()) && role.bytes().all(legal);
        if !named || role.split('/').any(str::is_empty) {
            return Err(AwsConfigError::RevokerRole(role.clone()));
        }
        if !(Ttl::seconds(1)..=Ttl::minutes(15)).contains(&self.propagation) {
            return Err(AwsConfigError::Propagation);
        }
        self.iam_endpoint_url.as_deref().map_or(Ok(()), check_endpoint)
    }
}

/// Whether a text is shaped like a region; it becomes part of a host name.
pub(super) fn is_region(text: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (3..=32).contains(&text.len())
        && text.bytes().all(legal)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn check_endpoint(text: &str) -> Result<(), AwsConfigError> {
    let unfit = || AwsConfigError::Endpoint(text.to_owned());
    let url = Url::parse(text).map_err(|_| unfit())?;
    let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    if !bare || !url.username().is_empty() || url.password().is_some() {
        return Err(unfit());
    }
    // A name is what the resolver makes of it; an address is what it says.
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let is_loopback = host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    match url.scheme() {
        "https" => Ok(()),
        "http" if is_loopback => Ok(()),
        "http" => Err(AwsConfigError::Plain(text.to_owned())),
        _ => Err(unfit()),
    }
}

/// AWS, "Create an OpenID Connect identity provider": the URL begins with https:// and carries no port.
fn check_issuer(issuer: &str) -> Result<(), AwsConfigError> {
    let fits = Url::parse(issuer).is_ok_and(|url| url.scheme() == "https" && url.port().is_none());
    if fits { Ok(()) } else { Err(AwsConfigError::Issuer(issuer.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issuers() -> Issuers {
        Issuers::new("https://issuer.example").expect("a base")
    }

    fn config(text: &str) -> AwsConfig {
        toml::from_str(&format!("region = \"eu-central-1\"\n{text}")).expect("a configuration")
    }

    #[test]
    fn what_is_not_said_has_a_default() {
        let config = config("");
        assert_eq!((config.audience.as_str(), config.timeout), ("sts.amazonaws.com", Ttl::seconds(10)));
        assert!(config.check(&issuers()).is_ok() && config.roots().expect("none").is_none());
        assert!(toml::from_str::<AwsConfig>("region = \"eu-central-1\"\naccess_key_id = \"AKIA\"").is_err());
    }

    #[test]
    fn sessions_never_cross_the_network_in_the_clear() {
        for plain in ["http://sts.example.org", "http://10.0.0.7:9000", "http://localhost:9000"] {
            let refused = config(&format!("endpoint_url = {plain:?}")).check(&issuers());
            assert!(matches!(refused, Err(AwsConfigError::Plain(_))), "{plain}");
        }
        for good in ["http://127.0.0.1:9000", "http://[::1]:9000", "https://minio.example.org:9000"] {
            assert!(config(&format!("endpoint_url = {good:?}")).check(&issuers()).is_ok(), "{good}");
        }
        for unfit in
            ["minio:9000", "https://u:p@minio", "https://minio/sts", "https://minio/?a=b", "ftp://minio"]
        {
            let refused = config(&format!("endpoint_url = {unfit:?}")).check(&issuers());
            assert!(matches!(refused, Err(AwsConfigError::Endpoint(_))), "{unfit}");
        }
    }

    #[test]
    fn a_revoker_has_a_role_and_says_how_long_changes_take() {
        let with = |text: &str| config(&format!("[revoker]\n{text}"));
        let revoker = with("role = \"dayfly/revoker\"");
        assert!(revoker.check(&issuers()).is_ok());
        assert_eq!(revoker.revoker.expect("it is there").propagation, Ttl::minutes(5));
        for role in ["", "/revoker", "dayfly/", "arn:aws:iam::111122223333:role/x", "a b", "a*"] {
            let refused = with(&format!("role = {role:?}")).check(&issuers());
            assert!(matches!(refused, Err(AwsConfigError::RevokerRole(_))), "{role}");
        }
        for (text, refused) in [
            ("propagation = \"0s\"", true),
            ("propagation = \"16m\"", true),
            ("iam_endpoint_url = \"http://iam.example.org\"", true),
            ("iam_endpoint_url = \"https://iam.example.org\"", false),
        ] {
            let checked = with(&format!("role = \"r\"\n{text}")).check(&issuers());
            assert_eq!(checked.is_err(), refused, "{text}");
        }
    }

    #[test]
    fn our_own_names_are_no_audience() {
        for audience in [
            "",
            "a b",
            "spiffe://example.org/broker",
            "https://issuer.example",
            "https://issuer.example/access",
        ] {
            let refused = config(&format!("audience = {audience:?}")).check(&issuers());
            assert!(matches!(refused, Err(AwsConfigError::Audience(_))), "{audience}");
        }
    }

    #[test]
    fn aws_itself_needs_an_issuer_it_can_read() {
        for base in ["https://issuer.example:8443", "http://127.0.0.1:8080"] {
            let issuers = Issuers::new(base).expect("a base");
            assert!(matches!(config("").check(&issuers), Err(AwsConfigError::Issuer(_))), "{base}");
            assert!(config("endpoint_url = \"http://127.0.0.1:9000\"").check(&issuers).is_ok(), "{base}");
        }
    }

    #[test]
    fn a_region_is_part_of_a_host_name_and_nothing_else() {
        for region in ["", "eu", "EU-central-1", "eu-central-1.evil.example", "a/b", "-eu-1"] {
            let refused = AwsConfig { region: region.to_owned(), ..config("") }.check(&issuers());
            assert!(matches!(refused, Err(AwsConfigError::Region(_))), "{region}");
        }
    }

    #[test]
    fn a_ca_file_without_certificates_is_refused() {
        let home = tempfile::tempdir().expect("a folder");
        let empty = home.path().join("ca.pem");
        std::fs::write(&empty, "not a certificate").expect("our own file");
        for path in [empty, home.path().join("absent.pem")] {
            let refused = config(&format!("ca_file = {path:?}")).roots();
            assert!(matches!(refused, Err(AwsConfigError::Ca { .. })), "{path:?}");
        }
    }
}
