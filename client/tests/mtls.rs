//! Mutual TLS between a client and a server of this crate: who gets through, who does not, and what rotation does.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use std::{sync::Arc, time::Duration};

use dayfly_client::{
    BrokerClient, BrokerEndpoint, CallError, ClientTls, ConnectError, HandshakeError, Identity,
    IncomingLimits, OptionalTls, ServerTls, Speaks, TlsError, chain, v1,
};
use dayfly_devspiffe::{
    Authority, IssuedX509,
    wrong::{self, WrongX509},
};
use rustls::{
    ClientConfig, SupportedProtocolVersion,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
    version::{TLS12, TLS13},
};
use support::{BROKER, Domain, FakeBroker, TRAINER, domain, over, path, until, watched};
use tokio::{
    io::{AsyncReadExt, DuplexStream, duplex},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_stream::StreamExt;
use tonic::Code;

/// Opens a task and says how the broker saw the caller: (SPIFFE ID, serial).
async fn seen_as(client: &BrokerClient) -> Result<(String, String), CallError> {
    let answer = client.credentials().open_task(v1::OpenTaskRequest::default()).await?.into_inner();
    Ok((answer.session_id, answer.task_id))
}

/// The identity may rotate at any moment; soon after, the broker sees the new certificate.
async fn shows_its_present_leaf(client: &BrokerClient, identity: &Identity) {
    let mut seen = String::new();
    for _ in 0..100 {
        seen = seen_as(client).await.unwrap().1;
        if seen == identity.leaf().unwrap().serial {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the broker still sees {seen}");
}

#[tokio::test]
async fn the_broker_knows_its_caller_over_tcp_and_over_unix() {
    let prod = Domain::new(&[BROKER, TRAINER]).await;
    let (broker, trainer) = (prod.identity(BROKER).await, prod.identity(TRAINER).await);
    let socket = path(&prod.home, "broker.sock");
    let accepted = [domain("prod.test")];
    for server in
        [FakeBroker::on_tcp(&broker, &accepted).await, FakeBroker::on_unix(&socket, &broker, &accepted).await]
    {
        let client = BrokerClient::connect(server.endpoint(), &trainer).await.unwrap();
        assert_eq!(seen_as(&client).await.unwrap().0, TRAINER);
        shows_its_present_leaf(&client, &trainer).await;
    }
}

#[tokio::test]
async fn after_a_rotation_new_calls_carry_the_new_certificate_and_open_streams_go_on() {
    let prod = Domain::new(&[BROKER, TRAINER]).await;
    let (broker, trainer) = (prod.identity(BROKER).await, prod.identity(TRAINER).await);
    let server = FakeBroker::on_tcp(&broker, &[domain("prod.test")]).await;
    let client = BrokerClient::connect(server.endpoint(), &trainer).await.unwrap();

    let mut stream =
        client.credentials().watch_task(v1::WatchTaskRequest::default()).await.unwrap().into_inner();
    assert_eq!(stream.next().await.unwrap().unwrap(), watched());
    let (_, before) = seen_as(&client).await.unwrap();

    // New roots and new leaves on both sides; then the old roots go.
    prod.server.rotate_ca().unwrap();
    until("the client's new leaf", || trainer.leaf().unwrap().serial != before).await;
    shows_its_present_leaf(&client, &trainer).await;
    prod.server.authority().retire_old().unwrap();

    let sender = server.streams.lock().unwrap()[0].clone();
    sender.send(Ok(over())).await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap(), over());
}

#[tokio::test]
async fn without_its_identity_a_client_makes_no_new_call() {
    let prod = Domain::new(&[BROKER, TRAINER]).await;
    let (broker, trainer) = (prod.identity(BROKER).await, prod.identity(TRAINER).await);
    let server = FakeBroker::on_tcp(&broker, &[domain("prod.test")]).await;
    let client = BrokerClient::connect(server.endpoint(), &trainer).await.unwrap();
    seen_as(&client).await.unwrap();

    // Only the caller's entry goes; the broker keeps its own.
    prod.server.withdraw(trainer.spiffe_id());
    until("the loss", || trainer.leaf().is_err()).await;
    let mut refused = None;
    for _ in 0..100 {
        match seen_as(&client).await {
            Err(error) => {
                refused = Some(error);
                break;
            }
            Ok(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    let error = refused.expect("calls still pass without an identity");
    assert!(!error.is_refusal(), "{error}");
    assert!(matches!(ClientTls::new(&trainer, broker_ids().as_slice()), Err(TlsError::Identity(_))));
}

fn broker_ids() -> Vec<dayfly_client::SpiffeId> {
    BrokerEndpoint::new("b:1", [BROKER]).unwrap().spiffe_ids().to_vec()
}

#[tokio::test]
async fn somebody_else_in_the_brokers_place_is_not_spoken_to() {
    const IMPOSTOR: &str = "spiffe://prod.test/training/impostor";
    let prod = Domain::new(&[IMPOSTOR, TRAINER]).await;
    let (impostor, trainer) = (prod.identity(IMPOSTOR).await, prod.identity(TRAINER).await);
    let server = FakeBroker::on_tcp(&impostor, &[domain("prod.test")]).await;

    let error = BrokerClient::connect(server.endpoint(), &trainer).await.unwrap_err();
    assert!(matches!(error, ConnectError::Dial { .. }));
    let said = chain(&error);
    assert!(said.contains(IMPOSTOR) && said.contains(BROKER), "{said}");

    // A call that needed the connection says the same.
    let lazy = BrokerClient::connect_lazily(server.endpoint(), &trainer).unwrap();
    let error = seen_as(&lazy).await.unwrap_err();
    assert_eq!((error.code, error.is_refusal()), (Code::Unavailable, false));
    assert!(error.message.contains(IMPOSTOR) && error.message.contains(BROKER), "{error}");
}

#[tokio::test]
async fn a_broker_of_the_right_name_from_another_authority_is_not_spoken_to() {
    let prod = Domain::new(&[TRAINER]).await;
    let shadow = Domain::new(&[BROKER]).await;
    let (trainer, broker) = (prod.identity(TRAINER).await, shadow.identity(BROKER).await);
    let server = FakeBroker::on_tcp(&broker, &[domain("prod.test")]).await;
    let error = BrokerClient::connect(server.endpoint(), &trainer).await.unwrap_err();
    assert!(chain(&error).contains("TLS handshake failed"), "{}", chain(&error));
}

#[tokio::test]
async fn a_federated_caller_gets_in_only_where_its_trust_domain_is_accepted() {
    const PARTNER: &str = "spiffe://partner.test/training/trainer";
    let (here, there) =
        (Authority::in_memory("prod.test").unwrap(), Authority::in_memory("partner.test").unwrap());
    let prod = Domain::of(here.clone(), &[BROKER]).await;
    let partner = Domain::of(there.clone(), &[PARTNER]).await;
    prod.server.federate_with([there]);
    partner.server.federate_with([here]);
    let (broker, caller) = (prod.identity(BROKER).await, partner.identity(PARTNER).await);

    let open = FakeBroker::on_tcp(&broker, &[domain("prod.test"), domain("partner.test")]).await;
    let client = BrokerClient::connect(open.endpoint(), &caller).await.unwrap();
    assert_eq!(seen_as(&client).await.unwrap().0, PARTNER);

    // TLS 1.3: the refusal shows at the first call.
    let closed = FakeBroker::on_tcp(&broker, &[domain("prod.test")]).await;
    let client = BrokerClient::connect_lazily(closed.endpoint(), &caller).unwrap();
    let error = seen_as(&client).await.unwrap_err();
    assert!(!error.is_refusal(), "{error}");
}

#[tokio::test]
async fn a_server_that_accepts_nobody_is_not_made() {
    let prod = Domain::new(&[BROKER]).await;
    let broker = prod.identity(BROKER).await;
    assert!(matches!(ServerTls::new(&broker, &[], Speaks::Http2), Err(TlsError::NobodyAccepted)));
    assert!(matches!(OptionalTls::new(&broker, &[], Speaks::Http2), Err(TlsError::NobodyAccepted)));
    assert!(matches!(ClientTls::new(&broker, &[]), Err(TlsError::NobodyAccepted)));
}

/// A server that demands a certificate, or one that only looks at it.
enum Door {
    Strict(ServerTls),
    Open(OptionalTls),
}

impl Door {
    async fn accept(&self, io: DuplexStream) -> Result<Option<dayfly_client::Peer>, HandshakeError> {
        match self {
            Door::Strict(tls) => tls.accept(io).await.map(|(_, peer)| Some(peer)),
            Door::Open(tls) => tls.accept(io).await.map(|(_, peer)| peer),
        }
    }
}

/// A careless client with this certificate, or none, shaking hands with a server of ours; the server's verdict.
async fn knock(
    server: &Door,
    svid: Option<&IssuedX509>,
    version: &'static SupportedProtocolVersion,
    alpn: &[&[u8]],
) -> Result<Option<dayfly_client::Peer>, HandshakeError> {
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Careless(aws_lc_rs::default_provider())));
    let mut config = match svid {
        None => config.with_no_client_auth(),
        Some(svid) => {
            let chain = vec![CertificateDer::from(svid.certificate_der().to_vec())];
            let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(svid.key_der().to_vec()));
            config.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let (ours, theirs) = duplex(64 * 1024);
    let connector = TlsConnector::from(Arc::new(config));
    let (accepted, _connected) =
        tokio::join!(server.accept(ours), connector.connect(ServerName::try_from("x.test").unwrap(), theirs));
    accepted
}

#[tokio::test]
async fn wrong_certificates_versions_and_protocols_are_turned_away() {
    let prod = Domain::new(&[BROKER]).await;
    let broker = prod.identity(BROKER).await;
    let strict = |speaks| Door::Strict(ServerTls::new(&broker, &[domain("prod.test")], speaks).unwrap());
    let open = |speaks| Door::Open(OptionalTls::new(&broker, &[domain("prod.test")], speaks).unwrap());
    let authority = prod.server.authority();
    let id = dayfly_client::SpiffeId::new(TRAINER).unwrap();
    let right = authority.x509_svid(&id, Duration::from_secs(60)).unwrap();
    let right = Some(&right);

    for (name, server) in [("strict", strict(Speaks::Http2)), ("open", open(Speaks::Http2))] {
        let peer = knock(&server, right, &TLS13, &[b"h2"]).await.unwrap();
        assert_eq!(peer.unwrap().spiffe_id, id, "{name}");
        for how in WrongX509::ALL {
            let svid = wrong::x509(authority, &id, how).unwrap();
            let refused = knock(&server, Some(&svid), &TLS13, &[b"h2"]).await;
            assert!(matches!(refused, Err(HandshakeError::Tls { .. })), "{name}, {how:?}: {refused:?}");
        }
        let old = knock(&server, right, &TLS12, &[b"h2"]).await;
        assert!(old.is_err(), "{name}: {old:?}");
        let silent = knock(&server, right, &TLS13, &[]).await;
        assert!(matches!(silent, Err(HandshakeError::Protocol)), "{name}: {silent:?}");
        assert!(knock(&server, right, &TLS13, &[b"http/1.1"]).await.is_err(), "{name}");
    }
    for either in [strict(Speaks::Http1Or2), open(Speaks::Http1Or2)] {
        for alpn in [&[][..], &[&b"http/1.1"[..]], &[&b"h2"[..]]] {
            assert_eq!(knock(&either, right, &TLS13, alpn).await.unwrap().unwrap().spiffe_id, id);
        }
    }
}

#[tokio::test]
async fn a_client_without_a_certificate_is_nobody_and_only_heard_where_that_is_said() {
    let prod = Domain::new(&[BROKER, TRAINER]).await;
    let broker = prod.identity(BROKER).await;
    let strict = Door::Strict(ServerTls::new(&broker, &[domain("prod.test")], Speaks::Http2).unwrap());
    let open = Door::Open(OptionalTls::new(&broker, &[domain("prod.test")], Speaks::Http2).unwrap());
    assert!(matches!(knock(&strict, None, &TLS13, &[b"h2"]).await, Err(HandshakeError::Tls { .. })));
    assert_eq!(knock(&open, None, &TLS13, &[b"h2"]).await.unwrap(), None);

    // What is accepted is the present bundle of the accepted trust domains.
    let id = dayfly_client::SpiffeId::new(TRAINER).unwrap();
    let minute = Duration::from_secs(60);
    let stranger = Authority::in_memory("partner.test").unwrap();
    let foreign = dayfly_client::SpiffeId::new("spiffe://partner.test/training/trainer").unwrap();
    let foreign = stranger.x509_svid(&foreign, minute).unwrap();
    assert!(knock(&open, Some(&foreign), &TLS13, &[b"h2"]).await.is_err());
    let old = prod.server.authority().x509_svid(&id, minute).unwrap();
    let before = broker.leaf().unwrap().serial;
    prod.server.rotate_ca().unwrap();
    prod.server.authority().retire_old().unwrap();
    until("the broker's new leaf", || broker.leaf().is_ok_and(|leaf| leaf.serial != before)).await;
    let new = prod.server.authority().x509_svid(&id, minute).unwrap();
    let mut knocked = knock(&open, Some(&new), &TLS13, &[b"h2"]).await;
    for _ in 0..100 {
        if knocked.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        knocked = knock(&open, Some(&new), &TLS13, &[b"h2"]).await;
    }
    assert_eq!(knocked.unwrap().unwrap().spiffe_id, id);
    until("the loss of the old root", || {
        let bundle = broker.x509_source().try_bundle_for_trust_domain(&domain("prod.test"));
        bundle.is_some_and(|bundle| bundle.authorities().len() == 1)
    })
    .await;
    assert!(knock(&open, Some(&old), &TLS13, &[b"h2"]).await.is_err());
}

#[derive(Debug)]
struct Careless(CryptoProvider);

impl rustls::client::danger::ServerCertVerifier for Careless {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[tokio::test]
async fn a_client_that_says_nothing_holds_nobody_up_and_is_hung_up_on() {
    let prod = Domain::new(&[BROKER, TRAINER]).await;
    let (broker, trainer) = (prod.identity(BROKER).await, prod.identity(TRAINER).await);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let limits = IncomingLimits { handshakes: 2, handshake_timeout: Duration::from_secs(3) };
    let server = FakeBroker::on(listener.into(), address, &broker, &[domain("prod.test")], limits);

    let mut silent = TcpStream::connect(&server.address).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let client = timeout(Duration::from_secs(2), BrokerClient::connect(server.endpoint(), &trainer))
        .await
        .expect("the silent one holds the other up")
        .unwrap();
    seen_as(&client).await.unwrap();

    let read = timeout(Duration::from_secs(8), silent.read(&mut [0; 16])).await.expect("never hung up");
    assert_eq!(read.unwrap_or(0), 0);

    // Both places taken: the next one waits in the backlog, and gets its turn when they are free again.
    let _first = TcpStream::connect(&server.address).await.unwrap();
    let _second = TcpStream::connect(&server.address).await.unwrap();
    let later = BrokerClient::connect(server.endpoint(), &trainer).await.unwrap();
    seen_as(&later).await.unwrap();
}

#[tokio::test]
async fn a_broker_that_comes_later_is_reached_without_a_new_client() {
    let prod = Domain::new(&[BROKER, TRAINER]).await;
    let (broker, trainer) = (prod.identity(BROKER).await, prod.identity(TRAINER).await);
    let socket = path(&prod.home, "broker.sock");
    let endpoint = BrokerEndpoint::new(&format!("unix:{}", socket.display()), [BROKER]).unwrap();

    let error = BrokerClient::connect(endpoint.clone(), &trainer).await.unwrap_err();
    assert!(chain(&error).contains("nothing answers at unix:"), "{}", chain(&error));
    let client = BrokerClient::connect_lazily(endpoint, &trainer).unwrap();
    let error = seen_as(&client).await.unwrap_err();
    assert!(error.is_transient() && error.message.contains("nothing answers at unix:"), "{error}");

    let server = FakeBroker::on_unix(&socket, &broker, &[domain("prod.test")]).await;
    assert_eq!(seen_as(&client).await.unwrap().0, TRAINER);

    // And after a restart on the same address.
    drop(server);
    tokio::fs::remove_file(&socket).await.unwrap();
    let _server = FakeBroker::on_unix(&socket, &broker, &[domain("prod.test")]).await;
    let mut reached = seen_as(&client).await;
    for _ in 0..50 {
        if reached.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        reached = seen_as(&client).await;
    }
    assert_eq!(reached.unwrap().0, TRAINER);
}

#[tokio::test]
async fn a_refusal_and_an_oversized_answer_reach_the_caller_as_such() {
    let prod = Domain::new(&[BROKER, TRAINER]).await;
    let (broker, trainer) = (prod.identity(BROKER).await, prod.identity(TRAINER).await);
    let server = FakeBroker::on_tcp(&broker, &[domain("prod.test")]).await;
    let client = BrokerClient::connect(server.endpoint(), &trainer).await.unwrap();

    let refused =
        client.credentials().issue_credential(v1::IssueCredentialRequest::default()).await.unwrap_err();
    let refused = CallError::from(refused);
    assert_eq!(refused.reason.as_deref(), Some("NOT_COVERED"));
    assert_eq!(refused.next.as_deref(), Some("ask for a binding"));
    assert_eq!(refused.request_id.as_deref(), Some("01JZX0"));
    assert_eq!(refused.retry_after, Some(Duration::from_secs(3)));

    let open = async |bytes: usize| {
        let labels = [("answer_bytes".to_owned(), bytes.to_string())].into();
        client.credentials().open_task(v1::OpenTaskRequest { labels, ..Default::default() }).await
    };
    assert!(open(200 * 1024).await.is_ok());
    assert_eq!(open(300 * 1024).await.unwrap_err().code(), Code::OutOfRange);
}

#[tokio::test]
async fn nothing_prints_a_key() {
    let prod = Domain::new(&[BROKER, TRAINER]).await;
    let (broker, trainer) = (prod.identity(BROKER).await, prod.identity(TRAINER).await);
    let server = FakeBroker::on_tcp(&broker, &[domain("prod.test")]).await;
    let client = BrokerClient::connect(server.endpoint(), &trainer).await.unwrap();
    let shown = format!(
        "{:?} {:?} {:?} {:?} {:?} {:#?}",
        trainer,
        trainer.updates(),
        ClientTls::new(&trainer, client.endpoint().spiffe_ids()).unwrap(),
        ServerTls::new(&broker, &[domain("prod.test")], Speaks::Http2).unwrap(),
        client,
        trainer.x509_source(),
    );
    assert!(shown.contains(TRAINER) && shown.contains(BROKER));
    for identity in [&trainer, &broker] {
        assert_no_key(&shown, identity);
    }
}

fn assert_no_key(shown: &str, identity: &Identity) {
    let svid = identity.x509_source().svid().unwrap();
    // The last bytes: the first are the same in every PKCS#8 key.
    let key = svid.private_key().as_bytes();
    let tail = &key[key.len() - 12..];
    let decimal = tail.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
    let hex: String = tail.iter().map(|byte| format!("{byte:02x}")).collect();
    let flat = shown.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
    assert!(!flat.contains(&decimal) && !flat.contains(&hex));
}
