//! Signing keys by way of the wire: a new one signs when everybody had time to read it, a leaked one no more.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use dayfly_broker::signer::Use;
use dayfly_client::BrokerClient;
use dayfly_proto::v1;
use serde_json::Value;

use crate::world::{ADMIN, TRAINER, World, reason, scope};

const KEEPER: &str = "spiffe://example.org/admin/keeper";

const ADMINS: &str = r#"
kind: Stage
metadata: {name: admin}
spec: {patterns: ["spiffe://example.org/admin/*"]}
---
kind: Binding
metadata: {name: keepers}
spec: {identities: ["spiffe://example.org/admin/keeper"], scope: admin.key}
"#;

async fn list(admin: &BrokerClient) -> Vec<v1::Key> {
    admin.keys().list_keys(v1::ListKeysRequest {}).await.expect("listed").into_inner().keys
}

async fn of_access(admin: &BrokerClient) -> Vec<(String, String)> {
    let keys = list(admin).await.into_iter().filter(|key| key.r#use == "access");
    keys.map(|key| (key.state, key.kid)).collect()
}

async fn rotate(admin: &BrokerClient) -> Result<Vec<v1::Key>, tonic::Status> {
    let wish = v1::RotateKeyRequest { r#use: "access".to_owned() };
    admin.keys().rotate_key(wish).await.map(|answer| answer.into_inner().keys)
}

/// Has a key made that stands by, unless the broker was quicker.
async fn stand_by(admin: &BrokerClient) {
    if let Err(refused) = rotate(admin).await {
        assert_eq!(reason::<()>(Err(refused)), "KEY_NOT_READY");
    }
}

async fn compromise(
    admin: &BrokerClient,
    kid: &str,
    dry_run: bool,
) -> Result<v1::CompromiseKeyResponse, tonic::Status> {
    let wish = v1::CompromiseKeyRequest { kid: kid.to_owned(), dry_run, reason: "it leaked".to_owned() };
    admin.keys().compromise_key(wish).await.map(tonic::Response::into_inner)
}

/// A workload's task, and a token in it.
struct Trainer {
    client: BrokerClient,
    task: v1::OpenTaskResponse,
}

impl Trainer {
    async fn new(world: &mut World) -> Self {
        let client = world.connect(TRAINER).await;
        let open = v1::OpenTaskRequest { ceiling: vec![scope("direct-read", &[])], ..Default::default() };
        let task = client.credentials().open_task(open).await.expect("a binding stands").into_inner();
        Self { client, task }
    }

    /// The `kid` of a new token.
    async fn issue(&self) -> Result<String, tonic::Status> {
        let asked = v1::IssueCredentialRequest {
            task_id: self.task.task_id.clone(),
            task_key: self.task.task_key.clone(),
            scope: Some(scope("direct-read", &[])),
            ..Default::default()
        };
        let issued = self.client.credentials().issue_credential(asked).await?.into_inner();
        let Some(v1::issue_credential_response::Credential::Token(token)) = issued.credential else {
            panic!("a token was asked for");
        };
        let header = token.access_token.split('.').next().unwrap();
        let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).unwrap()).unwrap();
        Ok(header["kid"].as_str().unwrap().to_owned())
    }

    async fn end(&self) -> u32 {
        let end = v1::EndTaskRequest {
            task_id: self.task.task_id.clone(),
            task_key: self.task.task_key.clone(),
            ..Default::default()
        };
        self.client
            .credentials()
            .end_task(end)
            .await
            .expect("an end is never refused")
            .into_inner()
            .tasks_ended
    }
}

fn key_files(world: &World) -> Vec<PathBuf> {
    let files =
        std::fs::read_dir(world.folder.path().join("keys")).unwrap().map(|entry| entry.unwrap().path());
    let access = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("access");
    let mut files: Vec<PathBuf> = files.filter(access).collect();
    files.sort();
    files
}

/// Lets an hour pass for the keys that stand by: their names say since when they are published.
fn an_hour_passes(world: &World) {
    for path in key_files(world) {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let Some(at) = name.strip_prefix("access.").and_then(|rest| rest.strip_suffix(".pk8")) else {
            continue;
        };
        let Ok(at) = at.parse::<u64>() else { continue };
        std::fs::rename(&path, path.with_file_name(format!("access.{}.pk8", at - 3600))).unwrap();
    }
}

fn names(states: &[(String, String)]) -> Vec<&str> {
    states.iter().map(|(state, _)| state.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_signs_only_after_everybody_had_time_to_read_it() {
    let mut world = World::new().await;
    let admin = world.connect(ADMIN).await;
    let first = of_access(&admin).await;
    assert_eq!(first[0].0, "active", "the first of a use");
    stand_by(&admin).await;
    assert_eq!(names(&of_access(&admin).await), ["active", "announced"]);
    assert_eq!(reason(rotate(&admin).await), "KEY_NOT_READY");
    let trainer = Trainer::new(&mut world).await;
    assert_eq!(trainer.issue().await.unwrap(), first[0].1, "it stands by and signs nothing");

    an_hour_passes(&world);
    world.restart().await;
    let admin = world.connect(ADMIN).await;
    let second = of_access(&admin).await;
    assert_eq!(names(&second), ["active", "announced"], "time alone moves nothing");
    let rotated = rotate(&admin).await.expect("it stood by for an hour");
    let states: Vec<&str> = rotated.iter().map(|key| key.state.as_str()).collect();
    assert_eq!(states, ["retiring", "active", "announced"]);
    let (retiring, active) = (&rotated[0], &rotated[1]);
    let until = retiring.until.unwrap().seconds;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().cast_signed();
    assert!(
        (355..=360).contains(&(until - now)),
        "as long as its tokens live, and a margin: {}",
        until - now
    );
    let trainer = Trainer::new(&mut world).await;
    assert_eq!(trainer.issue().await.unwrap(), active.kid);

    let retire = |kid: &str| {
        let wish = v1::RetireKeyRequest { kid: kid.to_owned() };
        let admin = admin.clone();
        async move { admin.keys().retire_key(wish).await.map(tonic::Response::into_inner) }
    };
    assert_eq!(reason(retire(&active.kid).await), "KEY_STILL_NEEDED");
    assert_eq!(reason(retire(&retiring.kid).await), "KEY_STILL_NEEDED");
    assert_eq!(reason(retire("nobody").await), "UNKNOWN");
    let withdrawn = retire(&rotated[2].kid).await.expect("it never signed").key.unwrap();
    assert_eq!((withdrawn.state.as_str(), withdrawn.place.as_str()), ("retired", ""));
    assert_eq!(names(&of_access(&admin).await), ["retiring", "active", "retired", "announced"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaked_key_is_out_at_once_and_for_good_and_who_relied_on_it_is_told() {
    let mut world = World::new().await;
    let admin = world.connect(ADMIN).await;
    stand_by(&admin).await;
    an_hour_passes(&world);
    world.restart().await;
    let admin = world.connect(ADMIN).await;
    let before = of_access(&admin).await;
    let trainer = Trainer::new(&mut world).await;
    assert_eq!(trainer.issue().await.unwrap(), before[0].1);

    let would = compromise(&admin, &before[0].1, true).await.unwrap();
    let party = &would.consequences[0];
    assert_eq!(party.party, "service https://index.example.org");
    assert_eq!(party.scopes, ["direct-read", "index-read"]);
    assert!(party.todo.contains("http://127.0.0.1:9/dayfly/access/jwks.json"), "{}", party.todo);
    assert_eq!(of_access(&admin).await, before, "a dry run changes nothing");
    assert_eq!(key_files(&world).len(), 2);

    let done = compromise(&admin, &before[0].1, false).await.unwrap();
    assert_eq!((done.key.unwrap().state.as_str(), done.by_hand.as_str()), ("compromised", ""));
    assert_eq!(done.successor.unwrap().kid, before[1].1, "the one that stood by");
    assert_eq!(done.consequences, would.consequences);
    assert!(!world.folder.path().join("keys/access.pk8").exists(), "its private half is gone");
    assert_eq!(trainer.issue().await.unwrap(), before[1].1);
    let records = records(&admin).await;
    let record = records.iter().find(|record| record["event"] == "key.compromised").expect("it is on record");
    assert_eq!((&record["kid"], &record["by"]), (&Value::from(before[0].1.as_str()), &Value::from(ADMIN)));
    assert_eq!(record["consequences"][0]["party"], "service https://index.example.org");

    // The other two fall as well: nothing signs, and nothing of what takes back is in the way.
    let standing = of_access(&admin).await;
    for (_, kid) in standing.iter().filter(|(state, _)| state != "compromised") {
        compromise(&admin, kid, false).await.unwrap();
    }
    assert_eq!(names(&of_access(&admin).await), ["compromised", "compromised", "compromised", "announced"]);
    assert_eq!(reason(trainer.issue().await), "SIGNER_UNAVAILABLE");
    assert_eq!(trainer.end().await, 1);

    world.restart().await;
    let admin = world.connect(ADMIN).await;
    assert_eq!(names(&of_access(&admin).await), ["compromised", "compromised", "compromised", "announced"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_for_those_that_have_the_verb() {
    let mut world = World::new().await;
    world.apply(ADMINS).await;
    let (keeper, trainer) = (world.connect(KEEPER).await, world.connect(TRAINER).await);
    assert_eq!(reason(rotate(&trainer).await), "NOT_ADMIN");
    assert_eq!(reason(trainer.keys().list_keys(v1::ListKeysRequest {}).await), "NOT_ADMIN");
    assert_eq!(reason(compromise(&trainer, "x", true).await), "NOT_ADMIN");
    // There is one that stands by, or it was made in this moment.
    if let Err(refused) = rotate(&keeper).await {
        assert_eq!(reason::<()>(Err(refused)), "KEY_NOT_READY");
    }
    assert_eq!(reason(keeper.keys().list_keys(v1::ListKeysRequest {}).await), "NOT_ADMIN", "another verb");
    let wish = v1::RotateKeyRequest { r#use: "audit".to_owned() };
    assert_eq!(reason(keeper.keys().rotate_key(wish).await), "KEY_USE_UNKNOWN");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_stands_by_is_made_unasked() {
    let mut world = World::new().await;
    let admin = world.connect(ADMIN).await;
    for _ in 0..150 {
        if list(&admin).await.len() == 2 * Use::ALL.len() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let states: Vec<String> = list(&admin).await.into_iter().map(|key| key.state).collect();
    assert_eq!(states, ["active", "announced"].repeat(Use::ALL.len()));
}

async fn records(admin: &BrokerClient) -> Vec<Value> {
    let wish = v1::ReadAuditRequest { stream: "admin".to_owned(), from_seq: 1 };
    let mut stream = admin.admin().read_audit(wish).await.unwrap().into_inner();
    let mut records = Vec::new();
    while let Some(row) = stream.message().await.unwrap() {
        records.push(serde_json::from_slice(&row.bytes).unwrap());
    }
    records
}
