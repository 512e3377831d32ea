//! The way from the agent to Vault: https with named authorities, or plain http on this machine only.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// How long Vault may take for an answer. Database credentials can take a while.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest answer that is passed on, in bytes. It is read whole, to see what is in it.
const LONGEST_ANSWER: usize = 8 * 1024 * 1024;

/// Why Vault cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The file with the authorities cannot be used.
    #[error("could not read authorities from {}", path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The address cannot be used.
    #[error("the address of Vault cannot be used: {0}")]
    Address(String),
    /// https, and nobody may vouch for it.
    #[error("Vault is to be reached by https; name its authorities in native.vault_ca_file")]
    NoAuthorities,
    /// Vault does not answer.
    #[error("Vault cannot be reached")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Vault takes too long.
    #[error("Vault gave no answer within {PATIENCE:?}")]
    Slow,
    /// More than can be looked through.
    #[error("Vault's answer is longer than {LONGEST_ANSWER} bytes, or broke off")]
    Answer(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// An answer, whole.
pub type Answer = http::Response<Bytes>;

/// The client.
#[derive(Debug)]
pub struct Upstream {
    address: Option<Uri>,
    has_authorities: bool,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Upstream {
    /// `address` is the operator's word, which counts more than what comes with a credential.
    pub fn new(address: Option<Uri>, authorities: Option<&Path>) -> Result<Self, UpstreamError> {
        let mut roots = RootCertStore::empty();
        if let Some(path) = authorities {
            let failed = |source: Box<dyn std::error::Error + Send + Sync>| UpstreamError::Authorities {
                path: path.to_owned(),
                source,
            };
            let file = CertificateDer::pem_file_iter(path).map_err(|error| failed(error.into()))?;
            for certificate in file {
                let certificate = certificate.map_err(|error| failed(error.into()))?;
                roots.add(certificate).map_err(|error| failed(error.into()))?;
            }
            if roots.is_empty() {
                return Err(failed("there is no certificate in it".into()));
            }
        }
        let has_authorities = !roots.is_empty();
        let tls =
            rustls::ClientConfig::builder().with_root_certificates(Arc::new(roots)).with_no_client_auth();
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .build();
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(8).build(connector);
        Ok(Self { address, has_authorities, client })
    }

    /// Where a path and query go: the configured address, or the credential's.
    pub fn uri(&self, told: &str, path_and_query: &str) -> Result<Uri, UpstreamError> {
        let base = match &self.address {
            Some(address) => address.clone(),
            None => told.parse().map_err(|_| UpstreamError::Address(format!("`{told}` is no address")))?,
        };
        check(&base).map_err(|why| UpstreamError::Address(format!("`{base}` {why}")))?;
        if base.scheme_str() == Some("https") && !self.has_authorities {
            return Err(UpstreamError::NoAuthorities);
        }
        let mut parts = base.into_parts();
        let path =
            path_and_query.parse().map_err(|_| UpstreamError::Address("the path is no path".to_owned()))?;
        parts.path_and_query = Some(path);
        Uri::from_parts(parts).map_err(|error| UpstreamError::Address(error.to_string()))
    }

    /// Asks, and reads the answer to its end.
    pub async fn ask(&self, request: http::Request<Full<Bytes>>) -> Result<Answer, UpstreamError> {
        let asked = async {
            let answer =
                self.client.request(request).await.map_err(|e| UpstreamError::Unreachable(e.into()))?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, LONGEST_ANSWER).collect().await.map_err(UpstreamError::Answer)?;
            Ok(http::Response::from_parts(head, body.to_bytes()))
        };
        tokio::time::timeout(PATIENCE, asked).await.map_err(|_| UpstreamError::Slow)?
    }
}

/// Whether an address may be Vault's: https, or http on this machine, and nothing but a host.
pub fn check(address: &Uri) -> Result<(), &'static str> {
    let host = address.host().ok_or("must be https://host:port")?;
    if address.path() != "/" || address.query().is_some() {
        return Err("must not have a path or a query");
    }
    if address.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err("must not have a user in it");
    }
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let is_loopback = host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    match address.scheme_str() {
        Some("https") => Ok(()),
        Some("http") if is_loopback => Ok(()),
        Some("http") => Err("must be https; plain http is for a loopback address such as 127.0.0.1"),
        _ => Err("must be https://host:port"),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

    use super::*;

    #[test]
    fn vault_is_reached_by_https_or_on_this_machine() {
        for (address, good) in [
            ("https://vault.internal:8200", true),
            ("https://vault.internal:8200/", true),
            ("http://127.0.0.1:8200", true),
            ("http://[::1]:8200", true),
            ("http://vault.internal:8200", false),
            // A name is what the resolver makes of it.
            ("http://localhost:8200", false),
            ("http://127.0.0.1.example:8200", false),
            ("https://vault.internal:8200/v1", false),
            ("https://user:secret@vault.internal", false),
            ("ftp://vault.internal", false),
            ("/v1", false),
        ] {
            assert_eq!(check(&address.parse().unwrap()).is_ok(), good, "{address}");
        }
    }

    #[test]
    fn the_operators_address_counts_more_than_the_one_that_comes_with_a_credential() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let ours = Upstream::new(Some("http://127.0.0.1:1".parse().unwrap()), None).unwrap();
        let uri = ours.uri("https://elsewhere.example", "/v1/x?list=true").unwrap();
        assert_eq!(uri.to_string(), "http://127.0.0.1:1/v1/x?list=true");
        let theirs = Upstream::new(None, None).unwrap();
        assert_eq!(theirs.uri("http://127.0.0.1:2", "/v1/x").unwrap().to_string(), "http://127.0.0.1:2/v1/x");
        assert!(matches!(theirs.uri("http://elsewhere.example", "/v1/x"), Err(UpstreamError::Address(_))));
        assert!(matches!(
            theirs.uri("https://elsewhere.example", "/v1/x"),
            Err(UpstreamError::NoAuthorities)
        ));
    }
}
