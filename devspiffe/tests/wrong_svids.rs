//! Every wrong SVID is refused by the `spiffe` crates, or listed here as what they do not look at.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use dayfly_devspiffe::wrong::{self, WrongJwt, WrongX509};
use dayfly_devspiffe::{IssuedX509, Server};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};
use spiffe::{JwtBundle, JwtBundleSet, JwtSvid, WorkloadApiClient, X509Source, X509Svid};
use support::{SELF_ID, id, serve};
use tempfile::tempdir;
use tokio_rustls::{TlsAcceptor, TlsConnector};

const WORKLOAD: &str = "spiffe://dev.test/training/trainer";

#[test]
fn a_wrong_x509_svid_is_refused_when_it_is_read() {
    let authority = dayfly_devspiffe::Authority::in_memory("dev.test").unwrap();
    let right = authority.x509_svid(&id(WORKLOAD), Duration::from_secs(60)).unwrap();
    X509Svid::parse_from_der(right.certificate_der(), right.key_der()).unwrap();

    for how in WrongX509::ALL {
        let svid = wrong::x509(&authority, &id(WORKLOAD), how).unwrap();
        let read = X509Svid::parse_from_der(svid.certificate_der(), svid.key_der());
        // Reading looks at the form alone; time and signature are the handshake's business.
        let only_in_a_handshake =
            matches!(how, WrongX509::Expired | WrongX509::NotYetValid | WrongX509::StrangeRoot);
        assert_eq!(read.is_ok(), only_in_a_handshake, "{how:?}: {read:?}");
    }
}

#[tokio::test]
async fn a_wrong_x509_svid_is_refused_in_a_handshake() {
    let home = tempdir().unwrap();
    let server = serve(&home).await;
    let acceptor = TlsAcceptor::from(Arc::new(server_config(&server).await));
    let right = server.authority().x509_svid(&id(WORKLOAD), Duration::from_secs(60)).unwrap();
    assert!(is_accepted(&acceptor, &right).await, "a right one is accepted");

    for how in WrongX509::ALL {
        let svid = wrong::x509(server.authority(), &id(WORKLOAD), how).unwrap();
        assert!(!is_accepted(&acceptor, &svid).await, "{how:?} was accepted");
    }
}

#[tokio::test]
async fn a_wrong_jwt_svid_is_refused_offline_and_by_the_server() {
    let home = tempdir().unwrap();
    let server = serve(&home).await;
    let client = WorkloadApiClient::connect_to(server.workload_endpoint()).await.unwrap();
    let authority = server.authority();
    let jwks = authority.jwks().to_string();
    let bundle = JwtBundle::from_jwt_authorities(authority.trust_domain().clone(), jwks.as_bytes()).unwrap();
    let bundles = JwtBundleSet::from_iter([bundle]);

    let right = authority.jwt_svid(&id(WORKLOAD), &["broker"], Duration::from_secs(60)).unwrap();
    JwtSvid::parse_and_validate(right.token(), &bundles, &["broker"]).unwrap();

    for how in WrongJwt::ALL {
        let token = wrong::jwt(authority, &id(WORKLOAD), "broker", how).unwrap();
        let offline = JwtSvid::parse_and_validate(&token, &bundles, &["broker"]);
        // A verifier that wants a sole audience and a past `iat` has to look itself.
        let is_overlooked = matches!(how, WrongJwt::TwoAudiences | WrongJwt::FutureIssuedAt);
        assert_eq!(offline.is_ok(), is_overlooked, "{how:?}: {offline:?}");
        let by_server = client.validate_jwt_token("broker", &token).await;
        assert_eq!(by_server.is_ok(), how == WrongJwt::TwoAudiences, "{how:?}: {by_server:?}");
    }
}

#[test]
fn an_svid_of_another_trust_domain_is_not_made() {
    let authority = dayfly_devspiffe::Authority::in_memory("dev.test").unwrap();
    let foreign = id("spiffe://elsewhere.example/x");
    assert!(authority.x509_svid(&foreign, Duration::from_secs(60)).is_err());
    assert!(authority.jwt_svid(&foreign, &["a"], Duration::from_secs(60)).is_err());
}

#[test]
fn nothing_secret_is_shown_by_debug() {
    let authority = dayfly_devspiffe::Authority::in_memory("dev.test").unwrap();
    let x509 = authority.x509_svid(&id(WORKLOAD), Duration::from_secs(60)).unwrap();
    let jwt = authority.jwt_svid(&id(WORKLOAD), &["a"], Duration::from_secs(60)).unwrap();
    let shown = format!("{authority:?} {x509:?} {jwt:?}");
    let signature = jwt.token().rsplit('.').next().unwrap();
    // Debug would write a key as a list of numbers.
    let key = format!("{:?}", &x509.key_der()[40..48]);
    assert!(shown.contains("IssuedX509") && shown.contains("IssuedJwt"), "{shown}");
    assert!(!shown.contains(signature) && !shown.contains(key.trim_matches(['[', ']'])), "{shown}");
}

async fn server_config(server: &Server) -> ServerConfig {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let source = X509Source::builder().endpoint(server.workload_endpoint()).build().await.unwrap();
    assert_eq!(source.svid().unwrap().spiffe_id(), &id(SELF_ID));
    spiffe_rustls::mtls_server(source).authorize(spiffe_rustls::any()).build().unwrap()
}

/// Whether the server accepts a client that shows this SVID.
async fn is_accepted(acceptor: &TlsAcceptor, svid: &IssuedX509) -> bool {
    let chain = vec![CertificateDer::from(svid.certificate_der().to_vec())];
    let key = PrivatePkcs8KeyDer::from(svid.key_der().to_vec());
    let config = ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustsAnyServer))
        .with_client_auth_cert(chain, key.into())
        .unwrap();
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let name = ServerName::try_from("any.invalid").unwrap();
    let connect = TlsConnector::from(Arc::new(config)).connect(name, ours);
    // With TLS 1.3 the client is done before the server has judged it: only the server's word counts.
    let (accepted, _connected) = tokio::join!(acceptor.accept(theirs), connect);
    accepted.is_ok()
}

/// These tests are about what the server makes of the client.
#[derive(Debug)]
struct TrustsAnyServer;

impl ServerCertVerifier for TrustsAnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
