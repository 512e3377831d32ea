//! The provider against an STS that answers what a test tells it to.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use dayfly_domain::id::SessionId;
use dayfly_domain::spiffe::SpiffeId;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::signer::FileSigner;

const NOW: i64 = 1_800_000_000;
const ROLE: &str = "arn:aws:iam::111122223333:role/dayfly-s3-train-read";
const KEY: &str = "the-secret-access-key";

/// Making an RSA key takes most of a second.
static SIGNER: LazyLock<Arc<FileSigner>> = LazyLock::new(|| {
    let home = tempfile::tempdir().expect("a folder");
    Arc::new(FileSigner::open(&home.path().join("keys")).expect("keys"))
});

/// What the STS does with a request.
#[derive(Clone)]
enum Behave {
    Answer(u16, String),
    Hang,
    HangUp,
}

/// An STS on loopback, and the bodies it was sent.
struct FakeSts {
    url: String,
    bodies: Arc<Mutex<Vec<String>>>,
    _server: AbortOnDropHandle<()>,
}

impl FakeSts {
    async fn start(behave: Behave) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let bodies = Arc::<Mutex<Vec<String>>>::default();
        let seen = bodies.clone();
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, behave.clone(), seen.clone()));
            }
        });
        Self { url, bodies, _server: AbortOnDropHandle::new(server) }
    }

    fn provider(&self) -> AwsProvider {
        provider(&format!("endpoint_url = {:?}\ntimeout = \"1s\"", self.url))
    }

    fn bodies(&self) -> Vec<String> {
        self.bodies.lock().expect("no holder panics").clone()
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    behave: Behave,
    seen: Arc<Mutex<Vec<String>>>,
) {
    let mut request = Vec::new();
    let body = loop {
        let mut piece = [0; 4096];
        let read = stream.read(&mut piece).await.unwrap_or(0);
        if read == 0 {
            return;
        }
        request.extend_from_slice(&piece[..read]);
        let text = String::from_utf8_lossy(&request).to_lowercase();
        let Some((head, _)) = text.split_once("\r\n\r\n") else { continue };
        let length =
            head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
        if request.len() >= head.len() + 4 + length {
            break String::from_utf8_lossy(&request[head.len() + 4..]).into_owned();
        }
    };
    seen.lock().expect("no holder panics").push(body);
    match behave {
        Behave::HangUp => {}
        Behave::Hang => std::future::pending().await,
        Behave::Answer(status, body) => {
            let head = format!(
                "HTTP/1.1 {status} x\r\ncontent-type: text/xml\r\ncontent-length: {}\r\n",
                body.len()
            );
            let _gone = stream.write_all(format!("{head}connection: close\r\n\r\n{body}").as_bytes()).await;
        }
    }
}

fn provider(config: &str) -> AwsProvider {
    let config: AwsConfig =
        toml::from_str(&format!("region = \"eu-central-1\"\n{config}")).expect("a configuration");
    let issuers = Issuers::new("https://issuer.example").expect("a base");
    AwsProvider::new(&config, &issuers, SIGNER.clone()).expect("a provider")
}

/// A 200 of STS (AWS, AssumeRoleWithWebIdentity, Sample Response).
fn granted(source: &str, seconds: i64) -> Behave {
    let until = Timestamp::from_unix_seconds(NOW + seconds);
    Behave::Answer(
        200,
        format!(
            "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
         <AssumeRoleWithWebIdentityResult><SourceIdentity>{source}</SourceIdentity><AssumedRoleUser>\
         <Arn>arn:aws:sts::111122223333:assumed-role/dayfly-s3-train-read/{source}</Arn>\
         <AssumedRoleId>AROAEXAMPLE:{source}</AssumedRoleId></AssumedRoleUser><Credentials>\
         <SessionToken>the-session-token</SessionToken><SecretAccessKey>{KEY}</SecretAccessKey>\
         <Expiration>{until}</Expiration><AccessKeyId>ASIAEXAMPLE</AccessKeyId></Credentials>\
         <SessionTokenUtilization>95</SessionTokenUtilization></AssumeRoleWithWebIdentityResult>\
         <ResponseMetadata><RequestId>r</RequestId></ResponseMetadata></AssumeRoleWithWebIdentityResponse>"
        ),
    )
}

fn refused(status: u16, code: &str, message: &str) -> Behave {
    Behave::Answer(
        status,
        format!(
            "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type>\
         <Code>{code}</Code><Message>{message}</Message></Error><RequestId>r</RequestId></ErrorResponse>"
        ),
    )
}

fn scope() -> Scope {
    target::scope(BTreeMap::new(), tree(), Ttl::hours(1))
}

fn tree() -> Value {
    json!({"role_arn": ROLE, "region": "eu-west-1", "session_policy": {"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::corpora/corpus-7/*"},
    ]}})
}

fn lease() -> LeaseId {
    LeaseId::new(Timestamp::from_unix_seconds(NOW), 7)
}

async fn issue(provider: &AwsProvider, ttl: Ttl) -> Result<Issued, IssueError> {
    issue_to(provider, ttl, "spiffe://example.org/train/job-42").await
}

async fn issue_to(provider: &AwsProvider, ttl: Ttl, subject: &str) -> Result<Issued, IssueError> {
    issue_narrowed(provider, ttl, subject, &Narrowing::default()).await
}

async fn issue_narrowed(
    provider: &AwsProvider,
    ttl: Ttl,
    subject: &str,
    narrowing: &Narrowing,
) -> Result<Issued, IssueError> {
    let now = Timestamp::from_unix_seconds(NOW);
    let task = TaskId::new(now, 1);
    let subject: SpiffeId = subject.parse().expect("an id");
    let order = Order {
        lease: lease(),
        task,
        session: SessionId::from(task),
        subject: &subject,
        chain: &[],
        scope: &scope(),
        target: &tree(),
        narrowing,
        ttl,
        now,
    };
    provider.issue(&order).await
}

/// A field of a request's form.
fn field(body: &str, name: &str) -> String {
    let url = reqwest::Url::parse(&format!("http://x/?{body}")).expect("a form");
    let found = url.query_pairs().find(|(key, _)| key == name);
    found.map(|(_, value)| value.into_owned()).unwrap_or_default()
}

#[tokio::test]
async fn one_call_names_role_lease_policy_and_workload_and_yields_the_session() {
    let sts = FakeSts::start(granted(&lease().to_string(), 3600)).await;
    let issued = issue(&sts.provider(), Ttl::hours(1)).await.expect("a session");
    assert_eq!(issued.expires_at, Timestamp::from_unix_seconds(NOW + 3600));
    assert_eq!(
        issued.handle.0,
        json!({"role_arn": ROLE, "session_name": lease(), "assumed_role_id": format!("AROAEXAMPLE:{}", lease())})
    );
    let Credential::Aws { access_key_id, secret_access_key, session_token, region } = &issued.credential
    else {
        panic!("{:?}", issued.credential)
    };
    assert!(access_key_id.equals("ASIAEXAMPLE") && secret_access_key.equals(KEY));
    assert!(session_token.equals("the-session-token") && region == "eu-west-1");

    let bodies = sts.bodies();
    let [body] = &bodies[..] else { panic!("{} calls", bodies.len()) };
    for (name, expected) in [
        ("Action", "AssumeRoleWithWebIdentity"),
        ("RoleArn", ROLE),
        ("RoleSessionName", &lease().to_string()),
        ("DurationSeconds", "3600"),
        ("Policy", &tree()["session_policy"].to_string()),
    ] {
        assert_eq!(field(body, name), expected);
    }
    let token = field(body, "WebIdentityToken");
    let part = |index| -> Value {
        let part = token.split('.').nth(index).expect("three parts");
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).expect("base64url")).expect("JSON")
    };
    assert_eq!((&part(0)["typ"], &part(0)["alg"]), (&json!("JWT"), &json!("RS256")));
    assert_eq!(part(0)["kid"], SIGNER.jwks(Use::Federation)["keys"][0]["kid"]);
    assert_eq!(part(1)["iss"], "https://issuer.example/federation");
    assert_eq!(part(1)["sub"], "spiffe://example.org/train/job-42");
    assert_eq!(part(1)["jti"], json!(lease()));
}

#[tokio::test]
async fn what_policies_took_away_is_in_the_policy_and_the_assertion_that_are_sent() {
    let sts = FakeSts::start(granted(&lease().to_string(), 3600)).await;
    let denied =
        json!({"Effect": "Deny", "Action": "s3:*", "Resource": "arn:aws:s3:::corpora/corpus-7/raw/*"});
    let tags = BTreeMap::from([("team".to_owned(), "data".to_owned())]);
    let narrowing = Narrowing { max_ttl: None, deny_statements: vec![denied.clone()], tags };
    let subject = "spiffe://example.org/train/job-42";
    issue_narrowed(&sts.provider(), Ttl::hours(1), subject, &narrowing).await.expect("a session");
    let body = &sts.bodies()[0];
    let policy: Value = serde_json::from_str(&field(body, "Policy")).expect("JSON");
    let own = &tree()["session_policy"]["Statement"][0];
    assert_eq!(policy["Statement"], json!([own, denied]));
    let token = field(body, "WebIdentityToken");
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).expect("three parts")).expect("base64url");
    let claims: Value = serde_json::from_slice(&claims).expect("JSON");
    let told = &claims["https://aws.amazon.com/tags"];
    assert_eq!(told["principal_tags"]["team"], json!(["data"]));
    assert_eq!(told["transitive_tag_keys"], json!(["dayfly-scope", "dayfly-task"]));
}

#[tokio::test]
async fn what_cannot_be_narrowed_is_not_asked_for() {
    let sts = FakeSts::start(granted(&lease().to_string(), 3600)).await;
    let long = "x".repeat(2_000);
    for narrowing in [
        Narrowing { deny_statements: vec![json!({"Effect": "Allow"})], ..Narrowing::default() },
        Narrowing {
            deny_statements: vec![json!({"Effect": "Deny", "Action": "*", "Resource": long})],
            ..Narrowing::default()
        },
        Narrowing { tags: [("dayfly-scope".to_owned(), "x".to_owned())].into(), ..Narrowing::default() },
    ] {
        assert!(sts.provider().can_narrow(&tree(), &narrowing).is_err(), "{narrowing:?}");
        let subject = "spiffe://example.org/train/job-42";
        let refused = issue_narrowed(&sts.provider(), Ttl::hours(1), subject, &narrowing).await;
        assert!(matches!(refused, Err(IssueError::Refuse { .. })), "{narrowing:?}");
    }
    assert!(sts.bodies().is_empty());
}

#[tokio::test]
async fn a_shorter_life_than_aws_gives_is_asked_for_as_its_shortest() {
    let sts = FakeSts::start(granted(&lease().to_string(), 900)).await;
    let issued = issue(&sts.provider(), Ttl::minutes(5)).await.expect("a session");
    assert_eq!(field(&sts.bodies()[0], "DurationSeconds"), "900");
    assert_eq!(issued.expires_at, Timestamp::from_unix_seconds(NOW + 900));
    assert_eq!(sts.provider().residue(&scope(), Ttl::minutes(5)), Ttl::minutes(17));
}

#[tokio::test]
async fn each_answer_is_told_by_what_may_exist_and_asked_for_once() {
    let secret = format!("<Credentials><SecretAccessKey>{KEY}</SecretAccessKey>");
    for (behave, expected) in [
        (refused(403, "AccessDenied", "Not authorized to perform sts:AssumeRoleWithWebIdentity"), "refused"),
        (refused(400, "InvalidIdentityToken", "Couldn't retrieve verification key"), "refused"),
        (refused(400, "MalformedPolicyDocument", "Syntax errors in policy."), "refused"),
        (refused(400, "PackedPolicyTooLarge", "110%"), "refused"),
        (refused(400, "IDPCommunicationError", "try again"), "is out of reach"),
        (refused(400, "Throttling", "Rate exceeded"), "is out of reach"),
        (refused(500, "InternalFailure", "oops"), "did not answer"),
        (Behave::Answer(502, "<html>bad gateway</html>".to_owned()), "did not answer"),
        (Behave::Answer(403, "<html>a proxy's no</html>".to_owned()), "refused"),
        (Behave::Answer(200, "<html>".to_owned()), "did not answer"),
        (Behave::Answer(200, secret), "did not answer"),
        (Behave::Hang, "did not answer"),
        (Behave::HangUp, "did not answer"),
    ] {
        let sts = FakeSts::start(behave).await;
        let error = issue(&sts.provider(), Ttl::hours(1)).await.expect_err(expected);
        assert!(error.to_string().starts_with(&format!("aws {expected}")), "{error} is not: {expected}");
        assert!(!format!("{error:?}").contains(KEY) && !format!("{error:?}").contains("eyJ"), "{error:?}");
        assert_eq!(sts.bodies().len(), 1, "{error}");
    }
}

#[tokio::test]
async fn an_address_where_nobody_listens_is_out_of_reach() {
    let port = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("bound").port();
    for endpoint in [
        format!("http://127.0.0.1:{port}"),
        format!("https://127.0.0.1:{port}"),
        "https://sts.invalid".into(),
    ] {
        let error =
            issue(&provider_at(&endpoint, &certificate()), Ttl::hours(1)).await.expect_err("nobody is there");
        assert!(matches!(error, IssueError::Unreach { .. }), "{endpoint}: {error}");
    }
}

#[tokio::test]
async fn only_the_named_ca_vouches_for_sts() {
    let own = certificate();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let crypto = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivateKeyDer::try_from(own.key.clone()).expect("a key");
    let config = rustls::ServerConfig::builder_with_provider(crypto)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![own.der.clone().into()], key)
        .expect("a certificate");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let seen = Arc::<Mutex<Vec<String>>>::default();
    let bodies = seen.clone();
    let _server = AbortOnDropHandle::new(tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            tokio::spawn(serve(stream, granted(&lease().to_string(), 3600), bodies.clone()));
        }
    }));
    let at = |ca: &Certificate| provider_at(&format!("https://localhost:{port}"), ca);
    let error = issue(&at(&certificate()), Ttl::hours(1)).await.expect_err("another CA");
    assert!(matches!(error, IssueError::Unreach { .. }), "{error}");
    assert!(seen.lock().expect("no holder panics").is_empty());
    issue(&at(&own), Ttl::hours(1)).await.expect("a session");
}

#[tokio::test]
async fn a_session_other_than_the_one_asked_for_is_not_passed_on() {
    for behave in
        [granted("somebody", 3600), granted(&lease().to_string(), 7200), granted(&lease().to_string(), -1)]
    {
        let sts = FakeSts::start(behave).await;
        let error = issue(&sts.provider(), Ttl::hours(1)).await.expect_err("another session");
        let IssueError::Misconfigured { handle, .. } = &error else { panic!("{error}") };
        assert_eq!(handle.0["session_name"], json!(lease()));
    }
}

#[tokio::test]
async fn a_workload_whose_name_aws_cannot_take_is_refused_before_anything_is_asked() {
    let sts = FakeSts::start(granted(&lease().to_string(), 3600)).await;
    let long = format!("spiffe://example.org/{}", "a".repeat(240));
    let error = issue_to(&sts.provider(), Ttl::hours(1), &long).await.expect_err("too long");
    assert!(matches!(error, IssueError::Refuse { .. }), "{error}");
    assert!(sts.bodies().is_empty());
}

#[tokio::test]
async fn the_probe_asks_with_an_assertion_that_nobody_may_take() {
    for (behave, expected) in [
        (refused(400, "ExpiredTokenException", "Token expired"), None),
        (refused(400, "InvalidIdentityToken", "anything"), None),
        (
            refused(400, "InvalidIdentityToken", "No OpenIDConnect provider found in your account"),
            Some("role_arn"),
        ),
        (refused(500, "InternalFailure", "oops"), Some("")),
        // On loopback a fake that checks nothing is a test's own affair; elsewhere it is a fault.
        (granted("x", 900), None),
        (Behave::HangUp, Some("")),
    ] {
        let sts = FakeSts::start(behave).await;
        let faults = sts.provider().probe_scope(&scope()).await;
        assert_eq!(faults.first().map(|fault| fault.path.as_str()), expected, "{faults:?}");
        let body = &sts.bodies()[0];
        let token = field(body, "WebIdentityToken");
        let claims =
            URL_SAFE_NO_PAD.decode(token.split('.').nth(1).expect("three parts")).expect("base64url");
        let claims: Value = serde_json::from_slice(&claims).expect("JSON");
        assert!(claims["exp"].as_i64().expect("a number") < Clock::default().now().unix_seconds() - 3000);
        assert!(field(body, "Policy").contains("Deny") && !field(body, "Policy").contains("Allow"));
    }
}

#[tokio::test]
async fn a_session_cannot_be_ended_or_lengthened_and_the_promise_says_so() {
    let provider = provider("");
    let promise = provider.promise(&scope());
    assert_eq!(
        (promise.revocability, promise.worst_case_after_end),
        (Revocability::ExpiryOnly, Ttl::hours(1))
    );
    assert_eq!(provider.renewal(&scope()), Renewal::Reissue);
    assert!(!provider.is_local());
}

/// The SDK can be told by a variable to log answers whole. The test runs itself once more with it: a process's own
/// environment is not safe to change.
#[tokio::test]
async fn no_level_of_logging_shows_assertion_or_session() {
    const VARIABLE: &str = "LOG_SENSITIVE_BODIES";
    if std::env::var_os(VARIABLE).is_none() {
        let itself = std::env::current_exe().expect("a test has a binary");
        let name = "providers::aws::tests::no_level_of_logging_shows_assertion_or_session";
        let run =
            tokio::process::Command::new(itself).args([name, "--exact"]).env(VARIABLE, "true").output().await;
        let output = run.expect("it runs");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("no holder panics").extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let sts = FakeSts::start(granted(&lease().to_string(), 3600)).await;
    let provider = sts.provider();
    {
        let _logging = tracing::subscriber::set_default(subscriber);
        issue(&provider, Ttl::hours(1)).await.expect("a session");
        tracing::trace!("the log works");
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    let log = String::from_utf8_lossy(&log.0.lock().expect("no holder panics")).into_owned();
    assert!(log.contains("the log works"));
    for secret in ["eyJ", KEY, "the-session-token", "ASIAEXAMPLE"] {
        assert!(!log.contains(secret), "{secret} in:\n{log}");
    }
}

struct Certificate {
    pem: String,
    der: Vec<u8>,
    key: Vec<u8>,
}

/// A self-signed certificate for `localhost`.
fn certificate() -> Certificate {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    Certificate { pem: made.cert.pem(), der: made.cert.der().to_vec(), key: made.signing_key.serialize_der() }
}

/// A provider that takes what this certificate vouches for.
fn provider_at(endpoint: &str, ca: &Certificate) -> AwsProvider {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), &ca.pem).expect("our own file");
    provider(&format!("endpoint_url = {endpoint:?}\nca_file = {:?}\ntimeout = \"2s\"", file.path()))
}
