//! Signing keys in the transit engine of a real Vault, set up from the files in `deploy/vault`.
//!
//! Needs the peers: `scripts/test` builds them and runs this with the feature `peers`.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the answer")]

mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use dayfly_broker::providers::BoxError;
use dayfly_broker::providers::vault::{JwtSource, TransitConfig, TransitKeys};
use dayfly_broker::signer::{HolderError, KeyHolder, Keyring, SignError, Signer, Use};
use dayfly_broker::store::sqlite::{Options, SqliteStore};
use dayfly_client::CallError;
use dayfly_devspiffe::Authority;
use dayfly_domain::key::KeyState;
use dayfly_domain::secret::Secret;
use dayfly_domain::time::Timestamp;
use dayfly_proto::v1;
use harness::{Answers, StaticSite, TcpProxy, Vault, eventually};
use serde_json::{Value, json};
use tempfile::TempDir;
use world::{ADMIN, DOCUMENTS, Setup, TRAINER, World as Site, reason, scope};

const BROKER: &str = "spiffe://example.org/dayfly/broker";
const KEYS: [(&str, &str); 4] = [
    ("dayfly-access", "ecdsa-p256"),
    ("dayfly-federation", "rsa-2048"),
    ("dayfly-receipt", "ecdsa-p256"),
    ("dayfly-revocation", "ecdsa-p256"),
];

#[tokio::test]
async fn what_transit_signs_a_stranger_verifies_with_the_published_jwks() {
    let world = World::new().await;
    let ring = world.keyring().await;
    for purpose in Use::ALL {
        let token = ring.sign(purpose, purpose.typ(), &json!({"sub": "somebody"})).await.unwrap();
        for of in Use::ALL {
            assert_eq!(verified(&ring.jwks(of), &token), of == purpose, "{purpose:?} {of:?}");
        }
    }
    // Vault sees digests alone.
    let log = std::fs::read_to_string(world.vault.audit_log()).unwrap();
    assert!(log.contains("transit/sign/dayfly-access") && !log.contains("somebody"));

    let began = Instant::now();
    for _ in 0..200 {
        ring.sign(Use::Access, "at+jwt", &json!({"sub": "somebody"})).await.unwrap();
    }
    // Over one connection: a handshake for each would take longer.
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[tokio::test]
async fn the_brokers_login_can_sign_with_and_read_these_keys_and_nothing_else() {
    let world = World::new().await;
    world.vault.api("POST", "transit/keys/other", json!({"type": "ecdsa-p256"})).await.unwrap();
    let token = world.log_in().await;
    let digest = json!({"input": "AAAA"});
    let call = |method: &'static str, path: &'static str, body: Option<Value>| {
        let (vault, token) = (&world.vault, token.clone());
        async move { vault.call(&token, method, path, body).await.unwrap().0 }
    };
    assert_eq!(call("POST", "transit/sign/dayfly-access", Some(digest.clone())).await, 200);
    assert_eq!(call("GET", "transit/keys/dayfly-access", None).await, 200);
    for (method, path, body) in [
        ("GET", "transit/export/signing-key/dayfly-access", None),
        ("GET", "transit/export/public-key/dayfly-access", None),
        ("GET", "transit/backup/dayfly-access", None),
        ("DELETE", "transit/keys/dayfly-access", None),
        ("POST", "transit/keys/dayfly-access/rotate", Some(json!({}))),
        ("POST", "transit/keys/dayfly-access/config", Some(json!({"exportable": true}))),
        ("POST", "transit/keys/dayfly-access/config", Some(json!({"deletion_allowed": true}))),
        ("POST", "transit/keys/dayfly-access/trim", Some(json!({"min_available_version": 1}))),
        ("POST", "transit/keys/mine", Some(json!({"type": "ecdsa-p256"}))),
        ("POST", "transit/sign/other", Some(digest)),
        ("GET", "transit/keys/other", None),
        ("LIST", "transit/keys", None),
        ("GET", "secret/data/kb/a", None),
        ("POST", "auth/token/create", Some(json!({}))),
    ] {
        assert_eq!(call(method, path, body).await, 403, "{method} {path}");
    }
    // Nor does transit itself give them away, to whomever.
    let (status, _) = world
        .vault
        .call(world.vault.root_token(), "GET", "transit/export/signing-key/dayfly-access", None)
        .await
        .unwrap();
    assert_eq!(status, 400, "the key is not exportable");

    let keys = world.keys(&world.vault.url()).await;
    let refused = keys.make(Use::Access, now()).await;
    let Err(HolderError::Refused { next, .. }) = refused else { panic!("{refused:?}") };
    assert!(next.contains("vault write -f transit/keys/dayfly-access/rotate"), "{next}");
    world
        .vault
        .write_policy("dayfly-sign", &(file("policy-dayfly-sign.hcl") + &file("policy-dayfly-rotate.hcl")))
        .await
        .unwrap();
    keys.make(Use::Access, now()).await.expect("the policy lets it");
    let refused = call("GET", "transit/export/signing-key/dayfly-access", None).await;
    assert_eq!(refused, 403, "rotating gives no right to have it");
}

#[tokio::test]
async fn a_version_is_a_key_and_the_newest_stands_by() {
    let world = World::new().await;
    let ring = world.keyring().await;
    let first = ring.jwks(Use::Access)["keys"][0]["kid"].clone();
    world.vault.api("POST", "transit/keys/dayfly-access/rotate", json!({})).await.unwrap();
    ring.refresh(&world.store).await.unwrap();
    let rows = ring.rows_of(Use::Access);
    assert!(rows[0].state.is_active() && matches!(rows[1].state, KeyState::Announced { .. }), "{rows:?}");
    assert_eq!(ring.jwks(Use::Access)["keys"].as_array().unwrap().len(), 2, "it is told at once");
    // Transit would sign with the newest.
    let token = ring.sign(Use::Access, "at+jwt", &json!({})).await.unwrap();
    assert_eq!(header(&token)["kid"], first);
    assert!(verified(&ring.jwks(Use::Access), &token));

    // What Vault's administrator takes out is out.
    let config = json!({"min_decryption_version": 2, "min_encryption_version": 2});
    world.vault.api("POST", "transit/keys/dayfly-access/config", config).await.unwrap();
    ring.refresh(&world.store).await.unwrap();
    let kids: Vec<Value> = ring.jwks(Use::Access)["keys"].as_array().unwrap().clone();
    assert!(kids.len() == 1 && kids[0]["kid"] != first);
    let refused = ring.sign(Use::Access, "at+jwt", &json!({})).await;
    assert!(matches!(refused, Err(SignError::NoKey { usable_from: Some(_), .. })), "{refused:?}");
}

#[tokio::test]
async fn a_key_that_could_leave_vault_or_is_another_than_it_was_is_not_used() {
    let world = World::new().await;
    let keys = world.keys(&world.vault.url()).await;
    keys.keys().await.expect("as they were made");
    let unusable = async |keys: &TransitKeys, word: &str| {
        let refused = keys.keys().await;
        let Err(HolderError::Unusable { what, .. }) = &refused else { panic!("{word}: {refused:?}") };
        assert!(what.contains(word), "{word}: {what}");
    };
    // Once set, `exportable` cannot be unset.
    world.vault.api("POST", "transit/keys/dayfly-receipt/config", json!({"exportable": true})).await.unwrap();
    unusable(&keys, "exportable").await;
    world.make_anew("dayfly-receipt", "ecdsa-p256").await;
    unusable(&keys, "another key than it was").await;
    let anew = world.keys(&world.vault.url()).await;
    anew.keys().await.expect("whoever starts now knows no other");
    world.make_anew("dayfly-receipt", "ecdsa-p384").await;
    unusable(&anew, "ecdsa-p384").await;

    // A signature by a key that is not the published one goes to nobody.
    let ring = world.keyring_of(world.keys(&world.vault.url()).await).await;
    assert!(ring.jwks(Use::Receipt)["keys"].as_array().unwrap().is_empty());
    world.make_anew("dayfly-receipt", "ecdsa-p256").await;
    ring.refresh(&world.store).await.unwrap();
    ring.sign(Use::Receipt, Use::Receipt.typ(), &json!({})).await.expect("published and signed with");
    world.make_anew("dayfly-receipt", "ecdsa-p256").await;
    let signed = ring.sign(Use::Receipt, Use::Receipt.typ(), &json!({})).await;
    let Err(SignError::Holder { source: HolderError::Unusable { what, .. }, .. }) = &signed else {
        panic!("{signed:?}")
    };
    assert!(what.contains("does not verify"), "{what}");
}

#[tokio::test]
async fn while_vault_is_away_nothing_is_signed_and_the_keys_are_told_on() {
    let world = World::new().await;
    let proxy = TcpProxy::before(world.vault.address()).await.unwrap();
    let ring = world.keyring_of(world.keys(&proxy.url()).await).await;
    let told = ring.jwks(Use::Access);
    assert_eq!(told["keys"].as_array().unwrap().len(), 1);
    proxy.set(Answers::Swallowed);
    let began = Instant::now();
    let refused = ring.sign(Use::Access, "at+jwt", &json!({})).await;
    assert!(
        matches!(&refused, Err(SignError::Holder { source: HolderError::Away { .. }, .. })),
        "{refused:?}"
    );
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert!(ring.refresh(&world.store).await.is_err());
    assert_eq!(ring.jwks(Use::Access), told, "what it signed is verified on");
    proxy.set(Answers::Pass);
    ring.sign(Use::Access, "at+jwt", &json!({})).await.expect("it goes on by itself");

    // Who starts while it is away has nothing to tell, and says so.
    proxy.set(Answers::Refused);
    let ring = world.keyring_of(world.keys(&proxy.url()).await).await;
    assert!(matches!(
        ring.sign(Use::Access, "at+jwt", &json!({})).await,
        Err(SignError::NoKey { usable_from: None, .. })
    ));
    proxy.set(Answers::Pass);
    eventually("the keys", Duration::from_secs(20), || ring.refresh(&world.store)).await.unwrap();
    ring.sign(Use::Access, "at+jwt", &json!({})).await.expect("it learns them when Vault is back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_without_its_vault_gives_nothing_and_goes_on_taking_back() {
    let mut world = World::new().await;
    let keys = format!("[keys.vault_transit]\naddress = {:?}\naudience = \"vault\"", world.vault.url());
    let setup = Setup { sections: &keys, authority: Some(world.authority.clone()), ..Setup::default() };
    let mut site = Site::set_up(setup).await;
    site.apply(DOCUMENTS).await;
    let (admin, trainer) = (site.connect(ADMIN).await, site.connect(TRAINER).await);
    let told = admin.keys().list_keys(v1::ListKeysRequest {}).await.unwrap().into_inner().keys;
    let of_access = told.iter().find(|key| key.r#use == "access").expect("read from Vault");
    assert_eq!(
        (of_access.state.as_str(), of_access.place.as_str()),
        ("active", "transit/keys/dayfly-access version 1")
    );
    assert!(!site.folder.path().join("keys").exists(), "none is made in files");

    let open = v1::OpenTaskRequest { ceiling: vec![scope("direct-read", &[])], ..Default::default() };
    let task = trainer.credentials().open_task(open).await.unwrap().into_inner();
    let issue = || {
        let asked = v1::IssueCredentialRequest {
            task_id: task.task_id.clone(),
            task_key: task.task_key.clone(),
            scope: Some(scope("direct-read", &[])),
            ..Default::default()
        };
        let trainer = trainer.clone();
        async move { trainer.credentials().issue_credential(asked).await.map(tonic::Response::into_inner) }
    };
    let issued = issue().await.expect("Vault signs");
    let Some(v1::issue_credential_response::Credential::Token(token)) = issued.credential else {
        panic!("a token was asked for");
    };
    assert_eq!(header(&token.access_token)["kid"], of_access.kid);
    let rotate = v1::RotateKeyRequest { r#use: "access".to_owned() };
    let refused = CallError::from(admin.keys().rotate_key(rotate).await.unwrap_err());
    assert_eq!(refused.reason.as_deref(), Some("KEY_HOLDER_REFUSED"));
    let next = refused.next.unwrap_or_default();
    assert!(next.contains("vault write -f transit/keys/dayfly-access/rotate"), "{next}");

    world.vault.kill().unwrap();
    assert_eq!(reason(issue().await), "SIGNER_UNAVAILABLE");
    let leases = || async {
        let all = v1::ListLeasesRequest { include_ended: true, ..Default::default() };
        let leases = admin.admin().list_leases(all).await.unwrap().into_inner().leases;
        leases.into_iter().map(|lease| (lease.lease_id, lease.state)).collect::<BTreeMap<_, _>>()
    };
    let before = leases().await;
    assert_eq!(before[&issued.lease_id], "active");
    assert!(before.values().filter(|state| *state != "active").all(|state| state == "ended"), "{before:?}");
    let end = v1::EndTaskRequest {
        task_id: task.task_id.clone(),
        task_key: task.task_key.clone(),
        ..Default::default()
    };
    let ended = trainer.credentials().end_task(end).await.unwrap().into_inner();
    assert_eq!((ended.tasks_ended, ended.leases_queued), (1, 1));
    assert_eq!(leases().await[&issued.lease_id], "revoking", "it runs out: the scope is checked offline");
    // A leaked key is out though nobody who holds it can be asked.
    let out = v1::CompromiseKeyRequest { kid: of_access.kid.clone(), ..Default::default() };
    let out = admin.keys().compromise_key(out).await.unwrap().into_inner();
    assert_eq!(out.key.unwrap().state, "compromised");
    assert!(out.by_hand.contains("min_decryption_version=2"), "{}", out.by_hand);
}

/// A Vault set up from `deploy/vault`, and a store.
struct World {
    vault: Vault,
    authority: Authority,
    store: SqliteStore,
    _folder: TempDir,
    _site: StaticSite,
}

struct Svids(Authority);

#[async_trait]
impl JwtSource for Svids {
    async fn fetch(&self, audience: &str) -> Result<Secret, BoxError> {
        Ok(Secret::new(svid(&self.0, audience)))
    }
}

impl World {
    async fn new() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let vault = Vault::start().await.unwrap();
        let authority = Authority::in_memory("example.org").unwrap();
        let site = StaticSite::start().await.unwrap();
        site.put("/keys", authority.jwks());
        vault.api("POST", "sys/mounts/transit", json!({"type": "transit"})).await.unwrap();
        for (name, kind) in KEYS {
            vault.api("POST", &format!("transit/keys/{name}"), json!({"type": kind})).await.unwrap();
        }
        vault.write_policy("dayfly-sign", &file("policy-dayfly-sign.hcl")).await.unwrap();
        vault.api("POST", "sys/auth/jwt", json!({"type": "jwt"})).await.unwrap();
        let config = json!({"jwks_url": format!("{}/keys", site.url()), "jwt_supported_algs": ["ES256"]});
        vault.api("POST", "auth/jwt/config", config).await.unwrap();
        let role: Value = serde_json::from_str(&file("auth-jwt-role-dayfly-sign.json")).unwrap();
        vault.api("POST", "auth/jwt/role/dayfly-sign", role).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("state"), "one", Options::default()).await.unwrap();
        Self { vault, authority, store, _folder: folder, _site: site }
    }

    /// With the section of `deploy/vault/broker-keys.toml`.
    async fn keys(&self, address: &str) -> TransitKeys {
        let mut config: toml::Value = toml::from_str(&file("broker-keys.toml")).unwrap();
        let section = config["keys"]["vault_transit"].as_table_mut().unwrap();
        section.remove("ca_file").unwrap();
        section.insert("address".to_owned(), address.into());
        let config: TransitConfig = section.clone().try_into().unwrap();
        TransitKeys::start(config, Svids(self.authority.clone())).await.unwrap()
    }

    async fn keyring(&self) -> Keyring {
        self.keyring_of(self.keys(&self.vault.url()).await).await
    }

    async fn keyring_of(&self, keys: TransitKeys) -> Keyring {
        Keyring::start(Arc::new(keys), &self.store).await.unwrap()
    }

    async fn make_anew(&self, name: &str, kind: &str) {
        let path = format!("transit/keys/{name}");
        let config = json!({"deletion_allowed": true});
        self.vault.api("POST", &format!("{path}/config"), config).await.unwrap();
        self.vault.api("DELETE", &path, Value::Null).await.unwrap();
        self.vault.api("POST", &path, json!({"type": kind})).await.unwrap();
    }

    async fn log_in(&self) -> String {
        let body = json!({"role": "dayfly-sign", "jwt": svid(&self.authority, "vault")});
        let (status, answer) = self.vault.call("", "POST", "auth/jwt/login", Some(body)).await.unwrap();
        assert_eq!(status, 200, "{answer}");
        let policies: BTreeSet<String> = serde_json::from_value(answer["auth"]["policies"].clone()).unwrap();
        assert_eq!(policies, BTreeSet::from(["dayfly-sign".to_owned()]));
        answer["auth"]["client_token"].as_str().unwrap().to_owned()
    }
}

fn svid(authority: &Authority, audience: &str) -> String {
    let id = dayfly_devspiffe::SpiffeId::new(BROKER).unwrap();
    authority.jwt_svid(&id, &[audience], Duration::from_secs(60)).unwrap().token().to_owned()
}

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/vault").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Timestamp::from_unix_millis(i64::try_from(since.as_millis()).unwrap())
}

fn header(token: &str) -> Value {
    let header = URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
    serde_json::from_slice(&header).unwrap()
}

/// Verifies with nothing but what the JWK Set says.
fn verified(jwks: &Value, token: &str) -> bool {
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let header = header(token);
    let keys = jwks["keys"].as_array().unwrap();
    let Some(jwk) = keys.iter().find(|jwk| jwk["kid"] == header["kid"] && jwk["alg"] == header["alg"]) else {
        return false;
    };
    let member = |name: &str| URL_SAFE_NO_PAD.decode(jwk[name].as_str().unwrap()).unwrap();
    match jwk["kty"].as_str() {
        Some("EC") => {
            let point = [vec![4], member("x"), member("y")].concat();
            let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
            key.verify(signed.as_bytes(), &signature).is_ok()
        }
        Some("RSA") => RsaPublicKeyComponents { n: member("n"), e: member("e") }
            .verify(&RSA_PKCS1_2048_8192_SHA256, signed.as_bytes(), &signature)
            .is_ok(),
        other => panic!("a key of type {other:?}"),
    }
}
