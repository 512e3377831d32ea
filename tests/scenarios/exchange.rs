//! The token exchange for workloads that have SPIRE's own command, curl and nothing of ours.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use dayfly_client::CallError;
use dayfly_proto::v1;
use harness::pages::shell_example;
use harness::world::BROKER_HOST;
use harness::{Program, Uid, World, WorldOptions};
use serde_json::{Value, json};

const ISSUER: &str = "https://issuer.example.com";

const RULES: &str = r#"
kind: Scope
metadata: {name: index-query}
spec:
  stages: [training]
  parameters: {collection: {type: segment}}
  ttl: {default: 2m, max: 5m}
  target: {token: {audience: "spiffe://example.org/service/index", scope: "query/{collection}", checked: introspect}}
---
kind: Binding
metadata: {name: train-query}
spec:
  identities: ["spiffe://example.org/train/*"]
  scope: index-query
  via: direct
  parameters: {collection: [papers-1]}
"#;

/// A JWT-SVID alone, twice.
const ASSERTED: &str = r#"
JWT=$(spire-agent api fetch jwt -audience https://issuer.example.com/access | sed -n '2p' | xargs)
for try in first again; do
    curl --cacert bundle.0.pem https://dayfly.example.org:8445/token \
        --data-urlencode grant_type=urn:ietf:params:oauth:grant-type:token-exchange \
        --data-urlencode client_assertion_type=urn:ietf:params:oauth:client-assertion-type:jwt-spiffe \
        --data-urlencode client_assertion="$JWT" \
        --data-urlencode subject_token_type=urn:ietf:params:oauth:token-type:jwt \
        --data-urlencode subject_token="$JWT" \
        --data-urlencode 'authorization_details=[{"type":"dayfly_scope","scope":"index-query","parameters":{"collection":"papers-1"}}]'
    echo
done
"#;

struct Site {
    world: World,
    home: std::path::PathBuf,
}

impl Site {
    async fn new() -> Self {
        let port = harness::ports::free_port();
        let broker = format!(
            "[token_exchange]\nlisten = \"127.0.0.1:{port}\"\nurl = \"https://{BROKER_HOST}:8445/token\"\n"
        );
        let options = WorldOptions { broker, issuer: ISSUER.to_owned(), ..WorldOptions::default() };
        let mut world = World::start(options).await.unwrap();
        world.apply(RULES).await.unwrap();
        let commands = world.scratch.folder("commands", 0o755).unwrap();
        world.spire.command_in(&commands).unwrap();
        // The name stands for another port of this machine; nothing else of what the page shows is changed.
        let there = format!("silent\nshow-error\nconnect-to = \"{BROKER_HOST}:8445:127.0.0.1:{port}\"\n");
        world.scratch.file("commands/.curlrc", 0o644, there).unwrap();
        Self { world, home: commands }
    }

    /// What a shell of this user says to these lines.
    async fn shell(&self, uid: Uid, lines: &str) -> String {
        let folder = self.world.scratch.folder_of(&format!("home{}", uid.0), uid.0).unwrap();
        let path = format!("{}:{}", self.home.display(), std::env::var("PATH").unwrap());
        let shell = Program::new("bash").args(["-euo", "pipefail", "-c", lines]);
        let shell = shell.as_user(uid.0, uid.0).in_folder(folder).env("PATH", path);
        shell.env("CURL_HOME", &self.home).env("no_proxy", "*").output().await.unwrap()
    }

    async fn lease(&mut self, id: &str) -> v1::Lease {
        let leases = self.world.leases().await.unwrap();
        leases.into_iter().find(|lease| lease.lease_id == id).expect("it is on record")
    }
}

fn claims(token: &str) -> Value {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    serde_json::from_slice(&claims).unwrap()
}

#[tokio::test]
async fn the_example_of_the_exchange_page_works_with_spires_own_command() {
    let mut site = Site::new().await;
    let (trainer, stranger) =
        (site.world.workload("/train/page").await.unwrap(), site.world.workload("/tool/page").await.unwrap());
    let example = shell_example("token-exchange.md", "## For itself").unwrap();
    // SPIRE says where it wrote the files; the answer stands at the end.
    let answer = |said: &str| -> Value {
        let start = said.find('{').unwrap_or_else(|| panic!("no answer in {said}"));
        serde_json::from_str(&said[start..]).unwrap()
    };
    let given = answer(&site.shell(trainer, &example).await);
    let said = claims(given["access_token"].as_str().unwrap_or_else(|| panic!("{given}")));
    assert_eq!(said["sub"], site.world.id("/train/page"));
    assert_eq!(
        (&said["iss"], &said["scope"]),
        (&json!(format!("{ISSUER}/access")), &json!("query/papers-1"))
    );
    let lease = said["jti"].as_str().unwrap();
    assert_eq!(site.lease(lease).await.state, "active");
    let target = Some(v1::revoke_request::Target::LeaseId(lease.to_owned()));
    let revoke = v1::RevokeRequest { target, wait_ms: 5_000, ..Default::default() };
    site.world.admin().await.unwrap().admin().revoke(revoke).await.map_err(CallError::from).unwrap();
    assert_eq!(site.lease(lease).await.outcome, "verified");

    let refused = answer(&site.shell(stranger, &example).await);
    assert_eq!(refused["error"], "invalid_scope", "{refused}");

    // The files of the first run are still there; now the certificate stays at home.
    let said = site.shell(trainer, ASSERTED).await;
    let answers: Vec<Value> = said
        .lines()
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {said}")))
        .collect();
    let [first, again] = &answers[..] else { panic!("{said}") };
    assert_eq!(
        claims(first["access_token"].as_str().unwrap_or_else(|| panic!("{said}")))["scope"],
        "query/papers-1"
    );
    assert_eq!(again["error"], "invalid_client");
    assert!(again["error_description"].as_str().unwrap().starts_with("CLIENT_ASSERTION_REPLAYED"), "{again}");
}
