//! A server's side of TLS where the client may show an X.509-SVID, or come without any and prove itself later.
//!
//! A certificate that is shown must hold: one that does not is not taken for none. rustls checks chain, time and
//! signature against the bundle of the peer's own trust domain; what it does not look at is checked here.

use std::{
    fmt::{self, Debug, Formatter},
    sync::Arc,
};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, RootCertStore, ServerConfig,
    SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, UnixTime},
    server::{
        NoServerSessionStorage, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    version::TLS13,
};
use spiffe::{BundleSource, TrustDomain, X509Source};
use spiffe_rustls::TlsStatus;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, server};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::{HandshakeError, Speaks, TlsError, alpn, check_protocol, peer_of, server_of};
use crate::{identity::Identity, peer::Peer};

/// A server's side of TLS that hears clients without a certificate too.
#[derive(Clone)]
pub struct OptionalTls {
    acceptor: TlsAcceptor,
    speaks: Speaks,
}

impl OptionalTls {
    /// Shows `identity`, and takes whoever proves an identity in one of the `accepted` trust domains, or none at all.
    ///
    /// # Errors
    /// `accepted` is empty, or the identity has no certificate now.
    pub fn new(identity: &Identity, accepted: &[TrustDomain], speaks: Speaks) -> Result<Self, TlsError> {
        let (strict, status) = server_of(identity, accepted, speaks)?;
        let provider = Arc::clone(strict.crypto_provider());
        let verifier = Verifier {
            source: identity.x509_source().clone(),
            accepted: accepted.into(),
            status,
            provider: Arc::clone(&provider),
        };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(|source| TlsError::Provider { source })?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::clone(&strict.cert_resolver));
        config.alpn_protocols = alpn(speaks).iter().map(|name| name.to_vec()).collect();
        // A resumed session would skip the verifier.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(OptionalTls { acceptor: TlsAcceptor::from(Arc::new(config)), speaks })
    }

    /// Shakes hands, and says with whom, if the client showed who it is.
    ///
    /// # Errors
    /// The peer showed a certificate that does not hold, or spoke another protocol. There is no time limit here; set one.
    pub async fn accept<S>(&self, io: S) -> Result<(server::TlsStream<S>, Option<Peer>), HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let stream = self.acceptor.accept(io).await.map_err(|source| HandshakeError::Tls { source })?;
        let connection = stream.get_ref().1;
        check_protocol(connection, self.speaks)?;
        let peer = match peer_of(connection) {
            Ok(peer) => Some(peer),
            Err(HandshakeError::NoCertificate) => None,
            Err(error) => return Err(error),
        };
        Ok((stream, peer))
    }
}

impl Debug for OptionalTls {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("OptionalTls").field("speaks", &self.speaks).finish_non_exhaustive()
    }
}

/// Why a client's certificate is no X.509-SVID that is accepted here.
#[derive(Debug, Error)]
enum Unacceptable {
    #[error("the trust domain {0} is not accepted here")]
    TrustDomain(TrustDomain),
    #[error("there is no bundle of the trust domain {0} now")]
    NoBundle(TrustDomain),
    #[error("this server's own identity cannot be used now")]
    NoIdentity,
    #[error("the certificate is no leaf of an X.509-SVID: {0}")]
    Leaf(&'static str),
    #[error("an intermediate certificate may not sign certificates")]
    Intermediate,
    #[error("the verifier cannot be made")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
}

struct Verifier {
    source: X509Source,
    accepted: Arc<[TrustDomain]>,
    status: TlsStatus,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    /// The roots of one trust domain, as the Workload API has them now.
    fn roots(&self, domain: &TrustDomain) -> Result<Arc<RootCertStore>, Unacceptable> {
        if !self.accepted.contains(domain) {
            return Err(Unacceptable::TrustDomain(domain.clone()));
        }
        if !self.status.current().available {
            return Err(Unacceptable::NoIdentity);
        }
        let bundle = self.source.bundle_for_trust_domain(domain).map_err(|_| Unacceptable::NoIdentity)?;
        let mut roots = RootCertStore::empty();
        for authority in bundle.iter().flat_map(|bundle| bundle.authorities()) {
            roots.add_parsable_certificates([CertificateDer::from(authority.as_bytes().to_vec())]);
        }
        if roots.is_empty() { Err(Unacceptable::NoBundle(domain.clone())) } else { Ok(Arc::new(roots)) }
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Bundles change; a list that is out of date would keep clients from showing their certificate.
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let peer = Peer::from_der(leaf).map_err(other)?;
        let roots = self.roots(peer.spiffe_id.trust_domain()).map_err(other)?;
        check_leaf(leaf).map_err(|why| other(Unacceptable::Leaf(why)))?;
        if !intermediates.iter().all(|one| may_sign(one)) {
            return Err(other(Unacceptable::Intermediate));
        }
        let chain = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&self.provider)).build();
        let chain = chain.map_err(|source| other(Unacceptable::Verifier(source)))?;
        chain.verify_client_cert(leaf, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        // TLS 1.2 is not spoken.
        Err(CertificateError::BadSignature.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, leaf, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl Debug for Verifier {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("accepted", &self.accepted).finish_non_exhaustive()
    }
}

/// X509-SVID §4.1, §4.3, §5.2: a leaf has basic constraints with cA false, may sign data, and signs no certificates.
fn check_leaf(leaf: &[u8]) -> Result<(), &'static str> {
    let (_, leaf) = X509Certificate::from_der(leaf).map_err(|_| "it cannot be parsed")?;
    match leaf.basic_constraints() {
        Ok(Some(found)) if !found.value.ca => {}
        Ok(Some(_)) => return Err("it is a certificate authority"),
        Ok(None) => return Err("it has no basic constraints"),
        Err(_) => return Err("its basic constraints cannot be read"),
    }
    match leaf.key_usage() {
        Ok(Some(found)) if found.value.key_cert_sign() || found.value.crl_sign() => {
            Err("its key signs certificates")
        }
        Ok(Some(found)) if found.value.digital_signature() => Ok(()),
        Ok(Some(_)) => Err("its key signs no data"),
        Ok(None) => Err("it has no key usage"),
        Err(_) => Err("its key usage cannot be read"),
    }
}

/// RFC 5280 §6.1.4 (n): who has a key usage signs certificates only where it says so. rustls does not look.
fn may_sign(intermediate: &[u8]) -> bool {
    let Ok((_, intermediate)) = X509Certificate::from_der(intermediate) else { return false };
    match intermediate.key_usage() {
        Ok(found) => found.is_none_or(|found| found.value.key_cert_sign()),
        Err(_) => false,
    }
}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> rustls::Error {
    rustls::Error::Other(OtherError(Arc::new(error)))
}
