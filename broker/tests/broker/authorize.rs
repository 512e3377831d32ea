//! Asked before something is loaded: who is told yes, with what in hand, and what is on record.

use std::time::{Duration, SystemTime};

use dayfly_broker::public::Issuers;
use dayfly_broker::signer::{FileSigner, Signer, Use};
use dayfly_client::receipt::{ReceiptFault, ReceiptVerifier, Wanted};
use dayfly_client::{BrokerClient, SpiffeId};
use dayfly_proto::v1;
use serde_json::{Value, json};
use tokio_stream::StreamExt;

use crate::world::{ADMIN, NODE, TRAINER, World, anchor, reason, scope};

pub const GUARD: &str = "spiffe://example.org/tool/models";
pub const LLAMA: &str = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae";

/// Loading models, pinned by digest through an agent, any version for a direct caller.
pub const ARTIFACTS: &str = r#"
kind: Scope
metadata: {name: model-load}
spec:
  stages: [training]
  parameters:
    model: {type: segment}
    digest: {type: segment, pattern: "[0-9a-f]{64}"}
  target:
    artifact: {actions: [load-model], name: "models/{model}", digest: "sha256:{digest}"}
---
kind: Scope
metadata: {name: model-peek}
spec:
  stages: [training]
  ttl: {default: 20s, max: 20s}
  target:
    artifact: {actions: [read-card], name: models/llama}
---
kind: Binding
metadata: {name: train-loads}
spec: {identities: ["spiffe://example.org/train/*"], scope: model-load, parameters: {model: [llama, phi]}}
---
kind: Binding
metadata: {name: train-peeks}
spec: {identities: ["spiffe://example.org/train/*"], scope: model-peek, via: direct}
"#;

/// A request about a model, through the agent on `n1`.
pub fn load(world: &World, task: &str, name: &str, digest: &str) -> v1::AuthorizeRequest {
    v1::AuthorizeRequest {
        subject_token: world.subject_token(TRAINER, NODE),
        task_id: task.to_owned(),
        action: "load-model".to_owned(),
        artifact: Some(v1::Artifact { name: name.to_owned(), digest: format!("sha256:{digest}") }),
        receipt_audience: GUARD.to_owned(),
        ..Default::default()
    }
}

/// Opens a task of the trainer on `n1`, whose ceiling holds these models with their digests.
pub async fn open_with(world: &World, node: &BrokerClient, models: &[(&str, &str)]) -> String {
    let line = |(model, digest): &(&str, &str)| scope("model-load", &[("model", model), ("digest", digest)]);
    let request = v1::OpenTaskRequest {
        subject_token: world.subject_token(TRAINER, NODE),
        ceiling: models.iter().map(line).collect(),
        anchor: Some(anchor()),
        ..Default::default()
    };
    node.credentials().open_task(request).await.expect("the node may open it").into_inner().task_id
}

/// The receipt issuer's keys, as the world reads them.
pub fn jwks(world: &World) -> String {
    let signer = FileSigner::open(&world.folder.path().join("keys")).expect("the broker's keys");
    signer.jwks(Use::Receipt).to_string()
}

pub fn issuer() -> String {
    Issuers::new("http://127.0.0.1:9/dayfly").expect("a base").url(Use::Receipt).to_owned()
}

async fn records(world: &mut World, event: &str) -> Vec<Value> {
    let admin = world.connect(ADMIN).await;
    let read = v1::ReadAuditRequest { stream: "decision".to_owned(), from_seq: 1 };
    let mut rows = admin.admin().read_audit(read).await.unwrap().into_inner();
    let mut found = Vec::new();
    while let Some(row) = rows.next().await {
        let record: Value = serde_json::from_slice(&row.unwrap().bytes).unwrap();
        if record["event"] == event && record["what"] == "authorize" {
            found.push(record);
        }
    }
    found
}

fn at(wire: Option<prost_types::Timestamp>) -> SystemTime {
    SystemTime::try_from(wire.expect("a time")).expect("after 1970")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_is_decided_on_record_and_receipted_for_its_guard_alone() {
    let mut world = World::new().await;
    world.apply(ARTIFACTS).await;
    let node = world.connect(NODE).await;
    let task = open_with(&world, &node, &[("llama", LLAMA)]).await;
    let answer =
        node.credentials().authorize(load(&world, &task, "models/llama", LLAMA)).await.unwrap().into_inner();
    let line = answer.scope.clone().unwrap();
    assert_eq!((line.scope.as_str(), line.parameters["model"].as_str()), ("model-load", "llama"));
    assert!(answer.digest_pinned && !answer.rules_digest.is_empty());
    let left = at(answer.valid_until).duration_since(SystemTime::now()).unwrap();
    assert!(left <= Duration::from_secs(60) && left > Duration::from_secs(50), "{left:?}");

    let own = SpiffeId::new(GUARD).unwrap();
    let guard = ReceiptVerifier::new(issuer(), &jwks(&world), own).unwrap();
    let digest = format!("sha256:{LLAMA}");
    let wanted = Wanted { action: "load-model", name: "models/llama", digest: Some(&digest) };
    let trainer = SpiffeId::new(TRAINER).unwrap();
    let receipt = guard.verify(&answer.receipt, &trainer, &wanted, SystemTime::now()).unwrap();
    assert_eq!((&receipt.decision_id, &receipt.task_id), (&answer.decision_id, &task));
    assert_eq!((receipt.scope.as_str(), receipt.dev), ("model-load", false));
    assert!(receipt.expires_at <= at(answer.valid_until));
    let thief = SpiffeId::new("spiffe://example.org/train/b").unwrap();
    assert_eq!(guard.verify(&answer.receipt, &thief, &wanted, SystemTime::now()), Err(ReceiptFault::Peer));

    let record = records(&mut world, "decision.allow").await.pop().expect("no answer without a record");
    assert_eq!(
        (&record["request_id"], &record["task_id"], &record["session_id"], &record["spiffe_id"]),
        (&json!(answer.decision_id), &json!(task), &json!(task), &json!(TRAINER))
    );
    assert_eq!(record["artifact"], json!({"name": "models/llama", "digest": digest}));
    assert_eq!(
        (&record["action"], &record["scope"], &record["binding"], &record["chain"]),
        (&json!("load-model"), &json!("model-load"), &json!("train-loads"), &json!([TRAINER]))
    );
    assert_eq!((&record["receipt_audience"], &record["digest_pinned"]), (&json!(GUARD), &json!(true)));
    assert_eq!(record["digests"]["rules"], json!(answer.rules_digest));
    assert!(!record.to_string().contains(&answer.receipt));

    let quiet = v1::AuthorizeRequest {
        receipt_audience: String::new(),
        ..load(&world, &task, "models/llama", LLAMA)
    };
    let answer = node.credentials().authorize(quiet).await.unwrap().into_inner();
    assert!(answer.receipt.is_empty(), "nobody asked for one");
    assert!(
        !format!("{:?}", node.credentials().authorize(load(&world, &task, "models/llama", LLAMA)).await)
            .contains("eyJ")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_declared_or_not_granted_is_an_error_and_on_record() {
    let mut world = World::new().await;
    world.apply(ARTIFACTS).await;
    let node = world.connect(NODE).await;
    let other = LLAMA.replace("2c", "2d");
    let task = open_with(&world, &node, &[("llama", LLAMA), ("secret", LLAMA)]).await;
    let ask = |request| {
        let mut client = node.credentials();
        async move { client.authorize(request).await }
    };
    let with = |change: fn(&mut v1::AuthorizeRequest)| {
        let mut request = load(&world, &task, "models/llama", LLAMA);
        change(&mut request);
        request
    };
    for (request, expected) in [
        (load(&world, &task, "models/phi", LLAMA), "OUTSIDE_CEILING"),
        (load(&world, &task, "models/llama", &other), "OUTSIDE_CEILING"),
        (load(&world, &task, "models/secret", LLAMA), "SCOPE_NOT_GRANTED"),
        (with(|r| r.action = "delete-model".into()), "OUTSIDE_CEILING"),
        (with(|r| r.artifact.as_mut().unwrap().digest.clear()), "OUTSIDE_CEILING"),
        (with(|r| r.action = "Load Model".into()), "ARTIFACT_INVALID"),
        (with(|r| r.artifact = None), "ARTIFACT_INVALID"),
        (with(|r| r.artifact.as_mut().unwrap().name = "../etc/passwd".into()), "ARTIFACT_INVALID"),
        (with(|r| r.artifact.as_mut().unwrap().name = "a".repeat(600)), "ARTIFACT_INVALID"),
        (with(|r| r.artifact.as_mut().unwrap().digest = "sha256:00".into()), "ARTIFACT_INVALID"),
        (with(|r| r.receipt_audience = "https://models.example.org".into()), "RECEIPT_AUDIENCE_INVALID"),
        (
            with(|r| r.receipt_audience = "spiffe://other.example/tool/models".into()),
            "RECEIPT_AUDIENCE_INVALID",
        ),
        (with(|r| r.receipt_audience = crate::world::BROKER.into()), "RECEIPT_AUDIENCE_INVALID"),
        (with(|r| r.task_id = "01JZX0000000000000000000ZZ".into()), "TASK_NOT_OPEN"),
        (with(|r| r.subject_token.clear()), "SUBJECT_TOKEN_MISSING"),
    ] {
        let shown = format!("{request:?}");
        assert_eq!(reason(ask(request).await), expected, "{shown}");
    }
    let denied = records(&mut world, "decision.deny").await;
    let reasons: Vec<&str> = denied.iter().map(|record| record["reason"].as_str().unwrap()).collect();
    assert_eq!(
        reasons,
        ["OUTSIDE_CEILING", "OUTSIDE_CEILING", "SCOPE_NOT_GRANTED", "OUTSIDE_CEILING", "OUTSIDE_CEILING"]
    );
    assert_eq!(denied[1]["artifact"], json!({"name": "models/llama", "digest": format!("sha256:{other}")}));
    assert_eq!(denied[1]["trace"][0], "- scope model-load: it is for another digest of the artifact");
    assert!(records(&mut world, "decision.allow").await.is_empty());

    // It is asked about, never issued.
    let issue = v1::IssueCredentialRequest {
        subject_token: world.subject_token(TRAINER, NODE),
        task_id: task.clone(),
        scope: Some(scope("model-load", &[("model", "llama"), ("digest", LLAMA)])),
        ..Default::default()
    };
    assert_eq!(reason(node.credentials().issue_credential(issue).await), "SCOPE_HAS_NO_CREDENTIAL");

    let end = v1::EndTaskRequest {
        subject_token: world.subject_token(TRAINER, NODE),
        task_id: task.clone(),
        ..Default::default()
    };
    node.credentials().end_task(end).await.unwrap();
    assert_eq!(reason(ask(load(&world, &task, "models/llama", LLAMA)).await), "TASK_NOT_OPEN");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_direct_caller_asks_with_its_tasks_key_and_a_scope_may_shorten_the_minute() {
    let mut world = World::new().await;
    world.apply(ARTIFACTS).await;
    let client = world.connect(TRAINER).await;
    let open = v1::OpenTaskRequest { ceiling: vec![scope("model-peek", &[])], ..Default::default() };
    let task = client.credentials().open_task(open).await.unwrap().into_inner();
    let peek = v1::AuthorizeRequest {
        task_id: task.task_id.clone(),
        task_key: task.task_key.clone(),
        action: "read-card".to_owned(),
        artifact: Some(v1::Artifact { name: "models/llama".to_owned(), digest: String::new() }),
        receipt_audience: GUARD.to_owned(),
        ..Default::default()
    };
    let answer = client.credentials().authorize(peek.clone()).await.unwrap().into_inner();
    assert!(!answer.digest_pinned && !answer.receipt.is_empty());
    let left = at(answer.valid_until).duration_since(SystemTime::now()).unwrap();
    assert!(left <= Duration::from_secs(20), "{left:?}");
    for key in ["", "wrong"] {
        let request = v1::AuthorizeRequest { task_key: key.to_owned(), ..peek.clone() };
        assert_eq!(reason(client.credentials().authorize(request).await), "TASK_NOT_OPEN");
    }
    let through_agent = v1::AuthorizeRequest { subject_token: "eyJ".to_owned(), ..peek };
    assert_eq!(reason(client.credentials().authorize(through_agent).await), "NOT_A_NODE");
}

/// A policy about models: one is withdrawn, answers on another are short, and on a third more is wanted than an answer
/// could carry.
const MODEL_CARE: &str = r#"
kind: Binding
metadata: {name: train-loads}
spec: {identities: ["spiffe://example.org/train/*"], scope: model-load, parameters: {model: [llama, phi, mini, tagged]}}
---
kind: Policy
metadata: {name: model-care}
spec:
  scopes: [model-load]
  modules:
    care.rego: |
      package dayfly.model_care
      decision := {"allow": count(reasons) == 0, "reasons": reasons, "narrow": narrow}
      reasons contains "phi was withdrawn; load mini" if input.claimed.artifact.name == "models/phi"
      default narrow := {}
      narrow := {"max_ttl": 12} if input.claimed.artifact.name == "models/mini"
      else := {"tags": {"team": "data"}} if input.claimed.artifact.name == "models/tagged"
    care_test.rego: |
      package dayfly.model_care_test
      test_phi if not data.dayfly.model_care.decision.allow with input as {"claimed": {"artifact": {"name": "models/phi"}}}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_in_rego_is_asked_about_each_action_and_its_answer_is_in_the_receipt() {
    let mut world = World::new().await;
    world.apply(ARTIFACTS).await;
    let node = world.connect(NODE).await;
    let models = [("llama", LLAMA), ("phi", LLAMA), ("mini", LLAMA), ("tagged", LLAMA)];
    world.apply(MODEL_CARE).await;
    let task = open_with(&world, &node, &models).await;
    let ask = async |model: &str| {
        let request = load(&world, &task, &format!("models/{model}"), LLAMA);
        node.credentials().authorize(request).await.map(tonic::Response::into_inner)
    };
    let refused = ask("phi").await.unwrap_err();
    assert!(refused.message().contains("phi was withdrawn; load mini"), "{refused:?}");
    assert_eq!(reason::<()>(Err(refused)), "POLICY_DENIED");
    assert_eq!(reason(ask("tagged").await), "POLICY_CANNOT_NARROW");

    let own = SpiffeId::new(GUARD).unwrap();
    let guard = ReceiptVerifier::new(issuer(), &jwks(&world), own).unwrap();
    let (trainer, digest) = (SpiffeId::new(TRAINER).unwrap(), format!("sha256:{LLAMA}"));
    let (whole, short) = (ask("llama").await.unwrap(), ask("mini").await.unwrap());
    for (answer, name, life) in [(&whole, "models/llama", 50..=60), (&short, "models/mini", 1..=12)] {
        let left = at(answer.valid_until).duration_since(SystemTime::now()).unwrap().as_secs_f64().ceil();
        assert!(life.contains(&(left as u64)), "{name}: {left}");
        let wanted = Wanted { action: "load-model", name, digest: Some(&digest) };
        let receipt = guard.verify(&answer.receipt, &trainer, &wanted, SystemTime::now()).unwrap();
        assert!(receipt.expires_at <= at(answer.valid_until));
        let later = at(answer.valid_until) + Duration::from_secs(1);
        assert_eq!(guard.verify(&answer.receipt, &trainer, &wanted, later), Err(ReceiptFault::Expired));
    }

    let allowed = records(&mut world, "decision.allow").await;
    let of = |answer: &v1::AuthorizeResponse| {
        allowed.iter().find(|record| record["request_id"] == *answer.decision_id).expect("on record").clone()
    };
    assert_eq!(of(&short)["narrowing"]["max_ttl"], json!("12s"));
    assert!(of(&whole)["narrowing"].is_null() && of(&whole)["digests"]["policies"]["model-care"].is_string());
    let denied = records(&mut world, "decision.deny").await;
    let reasons: Vec<&str> = denied.iter().map(|record| record["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons, ["POLICY_DENIED", "POLICY_CANNOT_NARROW"]);
}
