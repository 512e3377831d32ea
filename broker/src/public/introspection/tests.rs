//! Who is told what about which token, asked directly and over real mutual TLS.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use dayfly_client::{ClientTls, Identity, IdentityOptions, Pick, TrustDomain};
use dayfly_devspiffe::{Authority, Entry, Server};
use dayfly_domain::lease::{Outcome, RevokeCause};
use dayfly_domain::time::Ttl;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::providers::token::testkit::{
    NOW, SERVICE, TRAINER, World, assemble, id, introspected, offline, part, scope,
};

const BROKER: &str = "spiffe://example.org/dayfly/broker";

/// State that a test sets as it likes.
#[derive(Default)]
struct Books {
    leases: Mutex<HashMap<LeaseId, Lease>>,
    scopes: Mutex<HashMap<String, Arc<Scope>>>,
    /// Scopes a kill cuts off.
    cut_off: Vec<String>,
    broken: bool,
    /// The real clock, for what TLS has a part in.
    real_time: bool,
}

#[async_trait]
impl Ledger for Books {
    fn now(&self) -> Timestamp {
        if self.real_time { crate::clock::Clock::default().now() } else { NOW }
    }

    fn scope(&self, name: &str) -> Option<Arc<Scope>> {
        self.scopes.lock().unwrap().get(name).cloned()
    }

    fn is_cut_off(&self, lease: &Lease) -> bool {
        self.cut_off.contains(&lease.scope)
    }

    async fn lease(&self, id: LeaseId) -> Result<Option<LeaseRow>, StoreError> {
        if self.broken {
            let source = std::io::Error::other("disk").into();
            return Err(StoreError::Database { what: "reading a lease", source });
        }
        let lease = self.leases.lock().unwrap().get(&id).cloned();
        Ok(lease.map(|lease| LeaseRow { lease, attempts: 0, last_error: String::new() }))
    }
}

/// A world, books with one active lease, and its token.
struct Case {
    world: World,
    books: Arc<Books>,
    introspector: Introspector,
    lease: Lease,
    token: String,
}

impl Case {
    async fn of(scope: Scope) -> Self {
        Self::with(scope, Books::default()).await
    }

    async fn with(scope: Scope, books: Books) -> Self {
        let world = World::new();
        let (issued, token) = world.issue(&scope).await;
        let active = LeaseState::Active { expires_at: issued.expires_at, handle: issued.handle };
        let lease = world.lease(&scope, active);
        let books = Arc::new(books);
        books.scopes.lock().unwrap().insert(scope.name.clone(), Arc::new(scope));
        books.leases.lock().unwrap().insert(lease.id, lease.clone());
        let introspector = Introspector::new(
            books.clone(),
            world.signer.clone(),
            world.issuers.clone(),
            IntrospectionMetrics::default(),
        );
        Case { world, books, introspector, lease, token }
    }

    fn set(&self, state: LeaseState) {
        let lease = Lease { state, ..self.lease.clone() };
        self.books.leases.lock().unwrap().insert(lease.id, lease);
    }

    async fn active(&self, service: &str, token: &str) -> bool {
        let answer = self.introspector.answer(&id(service), token).await.unwrap();
        if answer["active"] == json!(false) {
            assert_eq!(answer, json!({"active": false}), "nothing else is told");
        }
        answer["active"].as_bool().unwrap()
    }

    fn alarms(&self) -> u64 {
        self.introspector.metrics.forged()
    }
}

#[tokio::test]
async fn the_audience_learns_all_that_the_token_says() {
    let case = Case::of(introspected()).await;
    let answer = case.introspector.answer(&id(SERVICE), &case.token).await.unwrap();
    let mut expected = part(&case.token, 1);
    expected["active"] = json!(true);
    assert_eq!(answer, expected);
    for name in ["sub", "aud", "exp", "client_id", "scope", "txn", "cnf", "jti", "task"] {
        assert!(!answer[name].is_null(), "{name}");
    }
}

#[tokio::test]
async fn nobody_else_learns_anything() {
    let case = Case::of(introspected()).await;
    for other in [TRAINER, BROKER, "spiffe://example.org/tool/search2", "spiffe://other.org/tool/search"] {
        assert!(!case.active(other, &case.token).await, "{other}");
    }
    assert_eq!(case.alarms(), 0);
}

#[tokio::test]
async fn the_service_behind_a_url_is_the_one_the_scope_names() {
    let web = |audience: &str, verifier: &str| {
        scope(json!({"audience": audience, "checked": "introspect", "verifiers": [verifier]}))
    };
    let case = Case::of(web("https://search.example", SERVICE)).await;
    assert!(case.active(SERVICE, &case.token).await);
    assert!(!case.active(TRAINER, &case.token).await);
    for changed in [
        Some(web("https://search.example", TRAINER)),
        // The scope turned to another audience: its verifiers are not this token's.
        Some(web("https://other.example", SERVICE)),
        None,
    ] {
        let changed = changed.into_iter().map(|scope| (scope.name.clone(), Arc::new(scope)));
        *case.books.scopes.lock().unwrap() = changed.collect();
        assert!(!case.active(SERVICE, &case.token).await);
    }
}

#[tokio::test]
async fn a_token_is_inactive_the_moment_its_lease_is_not_active() {
    let case = Case::of(introspected()).await;
    let LeaseState::Active { expires_at, handle } = case.lease.state.clone() else { panic!("active") };
    let ended = |outcome| LeaseState::Ended { at: NOW, outcome };
    for state in [
        LeaseState::Pending { since: NOW, residue_until: expires_at },
        LeaseState::Revoking {
            requested_at: NOW,
            cause: RevokeCause::Holder,
            handle: Some(handle.clone()),
            applied_at: None,
            runs_out_at: None,
            bound: expires_at,
        },
        ended(Outcome::Verified { evidence: String::new() }),
        ended(Outcome::RanOut),
        ended(Outcome::NeverIssued),
        LeaseState::Active { expires_at: NOW, handle: handle.clone() },
    ] {
        case.set(state.clone());
        assert!(!case.active(SERVICE, &case.token).await, "{state:?}");
    }
    case.set(LeaseState::Active { expires_at, handle });
    assert!(case.active(SERVICE, &case.token).await);
    assert_eq!(case.alarms(), 0, "none of these was forged");
}

#[tokio::test]
async fn a_good_signature_without_its_lease_is_an_alarm() {
    let case = Case::of(introspected()).await;
    let claims = part(&case.token, 1);
    let forge = |name: &str, value: Value| {
        let mut forged = claims.clone();
        forged[name] = value;
        forged
    };
    let unknown_lease = forge("jti", json!(LeaseId::new(NOW, 99)));
    // The thief knows a lease that lives, and widens its token.
    let wider = forge("scope", json!("query read:* admin"));
    let longer = forge("exp", json!(claims["iat"].as_i64().unwrap() + 300));
    let never_ending = forge("exp", json!(i64::MAX));
    let elsewhere = forge("iss", json!("https://issuer.example/federation"));
    for (count, forged) in [unknown_lease, wider, longer, never_ending, elsewhere].iter().enumerate() {
        let token = case.world.sign(Use::Access, forged).await;
        assert!(!case.active(SERVICE, &token).await, "{forged}");
        assert_eq!(case.alarms(), count as u64 + 1, "{forged}");
    }
    let mut other = case.lease.clone();
    other.provider = "vault".to_owned();
    case.books.leases.lock().unwrap().insert(other.id, other);
    assert!(!case.active(SERVICE, &case.token).await);
    assert_eq!(case.alarms(), 6, "a lease of another provider");
}

#[tokio::test]
async fn whatever_anybody_can_make_is_inactive_without_an_alarm() {
    let case = Case::of(introspected()).await;
    let claims = part(&case.token, 1);
    let assertion = case.world.sign(Use::Federation, &claims).await;
    let header = json!({"typ": "at+jwt", "alg": "none", "kid": part(&case.token, 0)["kid"]});
    let stranger = World::new().sign(Use::Access, &claims).await;
    let cut = &case.token[..case.token.len() - 2];
    for token in [assertion.as_str(), &assemble(&header, &claims, b""), &stranger, cut, "", "x", "a.b.c"] {
        assert!(!case.active(SERVICE, token).await, "{token}");
    }
    assert_eq!(case.alarms(), 0);
}

#[tokio::test]
async fn a_second_signature_over_the_same_token_is_the_same_token() {
    // ECDSA: (r, n - s) is as valid as (r, s), and anybody can compute it.
    let case = Case::of(introspected()).await;
    let again = case.world.sign(Use::Access, &part(&case.token, 1)).await;
    assert_ne!(again, case.token, "ECDSA signs with a fresh nonce");
    assert!(case.active(SERVICE, &again).await);
    assert_eq!(case.alarms(), 0);
}

#[tokio::test]
async fn a_store_that_fails_is_neither_yes_nor_no() {
    let case = Case::with(introspected(), Books { broken: true, ..Books::default() }).await;
    assert!(case.introspector.answer(&id(SERVICE), &case.token).await.is_err());
}

#[tokio::test]
async fn tokens_checked_offline_can_be_asked_about_as_well() {
    let case = Case::of(offline()).await;
    assert!(case.active(SERVICE, &case.token).await);
}

/// A trust domain in which the test program is everybody, and the listener.
struct Site {
    spiffe: Server,
    address: std::net::SocketAddr,
    stop: CancellationToken,
    _home: tempfile::TempDir,
}

impl Site {
    async fn start(introspector: Introspector) -> Self {
        let home = tempfile::tempdir().unwrap();
        let authority = Authority::in_memory("example.org").unwrap();
        let mut builder = Server::builder(authority).workload_socket(home.path().join("w.sock"));
        for name in [BROKER, SERVICE, TRAINER] {
            builder = builder.entry(Entry::new(name).unwrap().process(std::process::id()).unwrap());
        }
        let spiffe = builder.start().await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let site = Site { spiffe, address, stop: stop.clone(), _home: home };
        let identity = site.identity(BROKER).await;
        let accepted = vec![TrustDomain::new("example.org").unwrap()];
        tokio::spawn(async move {
            serve(Arc::new(introspector), identity, accepted, listener, stop).await.unwrap()
        });
        site
    }

    async fn identity(&self, name: &str) -> Identity {
        let pick = Pick::Id(dayfly_client::SpiffeId::new(name).unwrap());
        let options = IdentityOptions { pick, ..IdentityOptions::default() };
        Identity::from_workload_api(Some(&self.spiffe.workload_endpoint()), options).await.unwrap()
    }

    async fn connect(&self, name: &str) -> http2::SendRequest<Full<Bytes>> {
        let broker = dayfly_client::SpiffeId::new(BROKER).unwrap();
        let tls = ClientTls::new(&self.identity(name).await, &[broker]).unwrap();
        let (io, _) = tls.connect(TcpStream::connect(self.address).await.unwrap()).await.unwrap();
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.unwrap();
        tokio::spawn(connection);
        sender
    }
}

async fn told(response: Response<Incoming>) -> (StatusCode, Value) {
    assert_eq!(response.headers()["cache-control"], "no-store");
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

fn question(body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::builder()
        .method(Method::POST)
        .uri("https://broker/introspect")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Full::new(body.into()))
        .unwrap()
}

/// A case whose token is good at this very moment.
async fn live_case() -> Case {
    let case = Case::with(introspected(), Books { real_time: true, ..Books::default() }).await;
    let now = case.books.now();
    let mut claims = part(&case.token, 1);
    claims["iat"] = json!(now.unix_seconds());
    claims["exp"] = json!((now + Ttl::minutes(2)).unix_seconds());
    let token = case.world.sign(Use::Access, &claims).await;
    case.set(LeaseState::Active {
        expires_at: now + Ttl::minutes(2),
        handle: token::handle(case.lease.id, &token),
    });
    Case { token, ..case }
}

#[tokio::test]
async fn over_mutual_tls_the_audience_is_answered_and_others_are_not() {
    let case = live_case().await;
    let (token, books, lease) = (case.token.clone(), case.books.clone(), case.lease.clone());
    let site = Site::start(case.introspector).await;
    let ask = format!("token={token}&token_type_hint=access_token");
    let mut service = site.connect(SERVICE).await;
    let (status, answer) = told(service.send_request(question(ask.clone())).await.unwrap()).await;
    assert_eq!((status, &answer["active"], &answer["sub"]), (StatusCode::OK, &json!(true), &json!(TRAINER)));

    let mut trainer = site.connect(TRAINER).await;
    let (status, answer) = told(trainer.send_request(question(ask.clone())).await.unwrap()).await;
    assert_eq!((status, answer), (StatusCode::OK, json!({"active": false})));

    books.leases.lock().unwrap().remove(&lease.id);
    let (_, answer) = told(service.send_request(question(ask)).await.unwrap()).await;
    assert_eq!(answer, json!({"active": false}));
    site.stop.cancel();
}

#[tokio::test]
async fn a_connection_does_not_outlive_the_certificate_it_was_opened_with() {
    let case = live_case().await;
    let ask = format!("token={}", case.token);
    let site = Site::start(case.introspector).await;
    let short = "spiffe://example.org/tool/short";
    let entry = Entry::new(short).unwrap().process(std::process::id()).unwrap();
    site.spiffe.add_entry(entry.ttl(Duration::from_secs(1))).unwrap();
    let mut service = site.connect(short).await;
    let mut statuses = Vec::new();
    for _ in 0..100 {
        statuses.push(told(service.send_request(question(ask.clone())).await.unwrap()).await.0);
        if statuses.last() == Some(&StatusCode::UNAUTHORIZED) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!((statuses.first(), statuses.last()), (Some(&StatusCode::OK), Some(&StatusCode::UNAUTHORIZED)));
    site.stop.cancel();
}

#[tokio::test]
async fn a_jwt_svid_for_the_issuer_alone_names_the_service() {
    let case = live_case().await;
    let token = case.token.clone();
    let issuer = case.world.issuers.url(Use::Access).to_owned();
    let site = Site::start(case.introspector).await;
    let mut mesh = site.connect(TRAINER).await;
    let mut with = async |bearer: &str| {
        let mut request = question(format!("token={token}"));
        request.headers_mut().insert("authorization", format!("Bearer {bearer}").parse().unwrap());
        told(mesh.send_request(request).await.unwrap()).await
    };
    let service = site.identity(SERVICE).await;
    let own = service.jwt_svid(&issuer).await.unwrap();
    let (status, answer) = with(&own.token).await;
    assert_eq!((status, &answer["active"]), (StatusCode::OK, &json!(true)));

    // For somebody else, for two, forged, and our own access token in the place of an SVID.
    let elsewhere = service.jwt_svid("https://other.example").await.unwrap();
    let authority = site.spiffe.authority();
    let subject = dayfly_client::SpiffeId::new(SERVICE).unwrap();
    let minute = Duration::from_secs(60);
    let two = authority.jwt_svid(&subject, &[issuer.as_str(), "https://other.example"], minute).unwrap();
    let stranger = Authority::in_memory("example.org").unwrap();
    let forged = stranger.jwt_svid(&subject, &[issuer.as_str()], minute).unwrap();
    for bearer in [elsewhere.token.as_str(), two.token(), forged.token(), &token, "", "x"] {
        let (status, answer) = with(bearer).await;
        assert_eq!(
            (status, &answer["error"]),
            (StatusCode::UNAUTHORIZED, &json!("invalid_client")),
            "{bearer}"
        );
    }
    site.stop.cancel();
}

#[tokio::test]
async fn a_question_that_is_none_gets_a_reason_and_no_answer() {
    let case = live_case().await;
    let token = case.token.clone();
    let site = Site::start(case.introspector).await;
    let mut service = site.connect(SERVICE).await;
    let mut ask = async |request| told(service.send_request(request).await.unwrap()).await;
    for (body, expected) in [
        (String::new(), StatusCode::BAD_REQUEST),
        ("tok=x".to_owned(), StatusCode::BAD_REQUEST),
        (format!("token={token}&token={token}"), StatusCode::BAD_REQUEST),
        (format!("token={}", "a".repeat(16 * 1024)), StatusCode::PAYLOAD_TOO_LARGE),
    ] {
        let (status, answer) = ask(question(body)).await;
        assert_eq!((status, &answer["error"]), (expected, &json!("invalid_request")));
    }
    let mut json_body = question(format!("{{\"token\":\"{token}\"}}"));
    json_body.headers_mut().insert("content-type", "application/json".parse().unwrap());
    assert_eq!(ask(json_body).await.0, StatusCode::UNSUPPORTED_MEDIA_TYPE);

    // A token in a URL would stand in logs.
    let mut get = question("");
    *get.method_mut() = Method::GET;
    *get.uri_mut() = format!("https://broker/introspect?token={token}").parse().unwrap();
    assert_eq!(ask(get).await.0, StatusCode::METHOD_NOT_ALLOWED);
    site.stop.cancel();
}
