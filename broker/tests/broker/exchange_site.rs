//! A broker with a token endpoint, and clients of it that know nothing of SPIFFE: an HTTP library, PEM files, a host name.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use dayfly_client::SpiffeId;
use dayfly_devspiffe::wrong;
use dayfly_proto::v1;
use serde_json::{Value, json};

use crate::world::{ADMIN, BROKER_HOST, Setup, World};

pub const ISSUER: &str = "http://127.0.0.1:9/dayfly/access";
pub const GRANT: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
pub const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
pub const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
pub const JWT_SPIFFE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe";

pub const TRAINER: &str = "spiffe://example.org/train/a";
pub const PLANNER: &str = "spiffe://example.org/infer/planner";
pub const SEARCH: &str = "spiffe://example.org/tool/search";
pub const CORPORA: &str = "spiffe://example.org/svc/corpora";

const DOCUMENTS: &str = include_str!("exchange.yaml");

/// A world with a token endpoint and introspection.
pub struct Site {
    pub world: World,
    pub exchange: SocketAddr,
    introspection: SocketAddr,
}

/// An answer of the token endpoint.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
}

impl Site {
    pub async fn new() -> Self {
        Self::with("").await
    }

    /// With further sections of the configuration.
    pub async fn with(sections: &str) -> Self {
        Self::set_up(Setup { sections, ..Setup::default() }, None).await
    }

    /// With lines of `[limits]`.
    pub async fn limited(limits: &str) -> Self {
        Self::set_up(Setup { limits, ..Setup::default() }, None).await
    }

    /// At another URL than the one it listens at, if one is named.
    pub async fn set_up(setup: Setup<'_>, url: Option<&str>) -> Self {
        let local = || SocketAddr::from(([127, 0, 0, 1], harness::ports::free_port()));
        let (exchange, introspection) = (local(), local());
        let own = format!("https://{BROKER_HOST}:{}/token", exchange.port());
        let sections = format!(
            r#"
[introspection]
listen = "{introspection}"
[token_exchange]
listen = "{exchange}"
url = "{url}"
{more}
"#,
            url = url.unwrap_or(&own),
            more = setup.sections,
        );
        let world = World::set_up(Setup { sections: &sections, ..setup }).await;
        world.apply(DOCUMENTS).await;
        Self { world, exchange, introspection }
    }

    /// An HTTP client that trusts the bundle, with the certificate of this identity or none.
    pub fn client(&self, id: Option<&str>) -> reqwest::Client {
        let mut builder = reqwest::Client::builder()
            .tls_certs_only(self.bundle())
            .resolve(BROKER_HOST, self.exchange)
            .no_proxy()
            .timeout(Duration::from_secs(20));
        if let Some(id) = id {
            let (chain, key) = self.certificate(id);
            builder =
                builder.identity(reqwest::Identity::from_pem(format!("{key}{chain}").as_bytes()).unwrap());
        }
        builder.build().unwrap()
    }

    fn bundle(&self) -> Vec<reqwest::Certificate> {
        let roots = self.world.authority.roots_der();
        roots.iter().map(|root| reqwest::Certificate::from_der(root).unwrap()).collect()
    }

    /// Certificate and key of an identity, as `spire-agent api fetch x509 -write` writes them.
    pub fn certificate(&self, id: &str) -> (String, String) {
        let id = SpiffeId::new(id).unwrap();
        let svid = self.world.authority.x509_svid(&id, Duration::from_secs(600)).unwrap();
        (pem("CERTIFICATE", svid.certificate_der()), pem("PRIVATE KEY", svid.key_der()))
    }

    /// The trust bundle, as the same command writes it.
    pub fn bundle_pem(&self) -> String {
        self.world.authority.roots_der().iter().map(|root| pem("CERTIFICATE", root)).collect()
    }

    /// A JWT-SVID for the issuer, from just now.
    pub fn jwt(&self, id: &str) -> String {
        self.world.jwt(id, &[ISSUER.to_owned()])
    }

    /// A JWT-SVID that was issued so many seconds ago, for these audiences.
    pub fn jwt_of_age(&self, id: &str, age: u64, audiences: &[&str]) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let claims = json!({"sub": id, "aud": audiences, "iat": now - age, "exp": now + 3600});
        wrong::jwt_of(&self.world.authority, &claims).unwrap()
    }

    /// Posts a form to the token endpoint.
    pub async fn post(&self, client: &reqwest::Client, fields: &[(&str, &str)]) -> Answer {
        let form: Vec<String> =
            fields.iter().map(|(name, value)| format!("{name}={}", escaped(value))).collect();
        self.send(client, form.join("&")).await
    }

    /// Posts a body that says it is a form.
    pub async fn send(&self, client: &reqwest::Client, body: String) -> Answer {
        let url = format!("https://{BROKER_HOST}:{}/token", self.exchange.port());
        let answer = client.post(url).header("content-type", "application/x-www-form-urlencoded").body(body);
        let answer = answer.send().await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let body = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or_default();
        Answer { status, headers, body }
    }

    /// What the corpora service is told about a token.
    pub async fn introspect(&self, service: &str, token: &str) -> Value {
        let url = format!("https://{BROKER_HOST}:{}/introspect", self.introspection.port());
        let client = self.client(Some(service));
        let answer = client.post(url).header("content-type", "application/x-www-form-urlencoded");
        let answer = answer.body(format!("token={token}")).send().await.unwrap();
        serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
    }

    /// Every record of a chain.
    pub async fn records(&mut self, stream: &str) -> Vec<Value> {
        let admin = self.world.connect(ADMIN).await;
        let read = v1::ReadAuditRequest { stream: stream.to_owned(), from_seq: 1 };
        let mut stream = admin.admin().read_audit(read).await.unwrap().into_inner();
        let mut records = Vec::new();
        while let Some(record) = stream.message().await.unwrap() {
            records.push(serde_json::from_slice(&record.bytes).unwrap());
        }
        records
    }

    /// Every task there was.
    pub async fn tasks(&mut self) -> Vec<v1::Task> {
        let admin = self.world.connect(ADMIN).await;
        let request = v1::ListTasksRequest { include_ended: true, ..Default::default() };
        admin.admin().list_tasks(request).await.unwrap().into_inner().tasks
    }
}

impl Answer {
    /// The token, where one was given.
    pub fn token(&self) -> String {
        assert_eq!(self.status, 200, "{self:?}");
        self.body["access_token"].as_str().unwrap().to_owned()
    }

    /// The word of OAuth and our reason, where none was given. Every refusal names its request and is not kept.
    pub fn refused(&self) -> (u16, &str, &str) {
        assert!(self.body.get("access_token").is_none(), "{self:?}");
        assert!(self.body["request_id"].is_string(), "{self:?}");
        assert_eq!(self.headers["cache-control"], "no-store");
        let description = self.body["error_description"].as_str().unwrap();
        let (reason, said) = description.split_once(": ").unwrap();
        assert!(said.contains("; "), "what to do next is told: {said}");
        (self.status, self.body["error"].as_str().unwrap(), reason)
    }
}

/// The claims of a token.
pub fn claims(token: &str) -> Value {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    serde_json::from_slice(&claims).unwrap()
}

/// The form of a client that acts for itself.
pub fn for_itself<'a>(scope: &'a str, own: &'a str) -> Vec<(&'static str, &'a str)> {
    vec![("grant_type", GRANT), ("scope", scope), ("subject_token_type", JWT), ("subject_token", own)]
}

/// The form of a client that was given a token.
pub fn on_behalf<'a>(details: &'a str, given: &'a str) -> Vec<(&'static str, &'a str)> {
    vec![
        ("grant_type", GRANT),
        ("authorization_details", details),
        ("subject_token_type", ACCESS_TOKEN),
        ("subject_token", given),
    ]
}

/// The same form with a JWT-SVID that proves the client.
pub fn asserted<'a>(
    mut form: Vec<(&'static str, &'a str)>,
    assertion: &'a str,
) -> Vec<(&'static str, &'a str)> {
    form.extend([("client_assertion_type", JWT_SPIFFE), ("client_assertion", assertion)]);
    form
}

fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { (byte as char).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

fn pem(kind: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", lines.join("\n"))
}
