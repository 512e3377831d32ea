//! A workload with its own X.509-SVID, straight to the broker.

use std::time::Duration;

use dayfly_proto::v1;
use tokio_stream::StreamExt;

use crate::world::{TRAINER, World, reason, scope};

async fn open(client: &dayfly_client::BrokerClient) -> v1::OpenTaskResponse {
    let ceiling = vec![scope("direct-read", &[])];
    let opened = client.credentials().open_task(v1::OpenTaskRequest { ceiling, ..Default::default() }).await;
    opened.expect("a direct binding stands").into_inner()
}

fn issue(task: &v1::OpenTaskResponse) -> v1::IssueCredentialRequest {
    v1::IssueCredentialRequest {
        task_id: task.task_id.clone(),
        task_key: task.task_key.clone(),
        scope: Some(scope("direct-read", &[])),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_lives_from_issue_to_the_end_of_its_task() {
    let mut world = World::new().await;
    let client = world.connect(TRAINER).await;
    let task = open(&client).await;
    let issued = client.credentials().issue_credential(issue(&task)).await.unwrap().into_inner();
    let Some(v1::issue_credential_response::Credential::Token(token)) = &issued.credential else {
        panic!("a token was asked for: {issued:?}");
    };
    assert_eq!(token.access_token.split('.').count(), 3);
    let admin = world.connect(crate::world::ADMIN).await;
    let lease = || async {
        let request = v1::GetLeaseRequest { lease_id: issued.lease_id.clone() };
        admin.admin().get_lease(request).await.unwrap().into_inner().lease.unwrap()
    };
    assert_eq!(lease().await.state, "active");
    let end = v1::EndTaskRequest {
        task_id: task.task_id.clone(),
        task_key: task.task_key.clone(),
        ..Default::default()
    };
    let ended = client.credentials().end_task(end.clone()).await.unwrap().into_inner();
    assert_eq!((ended.tasks_ended, ended.leases_queued), (1, 1));
    // The scope says `offline`: nobody asks us, so it cannot be taken back, and must not be called revoked.
    for _ in 0..100 {
        if lease().await.runs_out_at.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let shown = lease().await;
    assert_eq!((shown.state.as_str(), shown.outcome.as_str()), ("revoking", ""));
    assert!(shown.runs_out_at.is_some());
    assert_eq!(reason(client.credentials().issue_credential(issue(&task)).await), "TASK_NOT_OPEN");
    let again = client.credentials().end_task(end).await.unwrap().into_inner();
    assert_eq!(again.tasks_ended, 0, "a second end changes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_ends_when_its_stream_is_gone() {
    let mut world = World::empty("stream_grace = \"300ms\"").await;
    world.apply(crate::world::DOCUMENTS).await;
    let client = world.connect(TRAINER).await;
    let task = open(&client).await;
    let watch = v1::WatchTaskRequest {
        task_id: task.task_id.clone(),
        task_key: task.task_key.clone(),
        ..Default::default()
    };
    let mut stream = client.credentials().watch_task(watch).await.unwrap().into_inner();
    assert!(matches!(
        stream.next().await.unwrap().unwrap().event,
        Some(v1::watch_task_response::Event::Watched(_))
    ));
    tokio::time::sleep(Duration::from_millis(1200)).await;
    client.credentials().issue_credential(issue(&task)).await.expect("the stream holds the task open");
    drop(stream);
    let mut refused = None;
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        if let Err(status) = client.credentials().issue_credential(issue(&task)).await {
            refused = Some(status);
            break;
        }
    }
    assert_eq!(reason::<()>(Err(refused.expect("the task ends without its stream"))), "TASK_NOT_OPEN");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_hears_of_an_admins_end() {
    let mut world = World::new().await;
    let client = world.connect(TRAINER).await;
    let task = open(&client).await;
    client.credentials().issue_credential(issue(&task)).await.unwrap();
    let watch = v1::WatchTaskRequest {
        task_id: task.task_id.clone(),
        task_key: task.task_key.clone(),
        ..Default::default()
    };
    let mut stream = client.credentials().watch_task(watch).await.unwrap().into_inner();
    stream.next().await.unwrap().unwrap();
    let admin = world.connect(crate::world::ADMIN).await;
    let target = Some(v1::revoke_request::Target::TaskId(task.task_id.clone()));
    let request = v1::RevokeRequest { target, wait_ms: 2_000, ..Default::default() };
    let revoked = admin.admin().revoke(request).await.unwrap().into_inner();
    assert_eq!((revoked.tasks_ended, revoked.leases.len()), (1, 1));
    match stream.next().await.unwrap().unwrap().event {
        Some(v1::watch_task_response::Event::Over(over)) => assert_eq!(over.cause, "admin"),
        other => panic!("expected the end, got {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_belongs_to_its_key_and_its_identity() {
    let mut world = World::new().await;
    let owner = world.connect(TRAINER).await;
    let task = open(&owner).await;
    let other = world.connect("spiffe://example.org/train/b").await;
    let mut request = issue(&task);
    assert_eq!(reason(other.credentials().issue_credential(request.clone()).await), "TASK_NOT_OPEN");
    request.task_key = "guess".to_owned();
    assert_eq!(reason(owner.credentials().issue_credential(request.clone()).await), "TASK_NOT_OPEN");
    request.task_key = String::new();
    assert_eq!(reason(owner.credentials().issue_credential(request).await), "TASK_NOT_OPEN");
    owner.credentials().issue_credential(issue(&task)).await.expect("the owner with its key");
}

#[tokio::test(flavor = "multi_thread")]
async fn renewal_decides_anew_and_yields_a_new_lease() {
    let mut world = World::new().await;
    let client = world.connect(TRAINER).await;
    let task = open(&client).await;
    let issued = client.credentials().issue_credential(issue(&task)).await.unwrap().into_inner();
    let renew = v1::RenewLeaseRequest {
        task_id: task.task_id.clone(),
        task_key: task.task_key.clone(),
        lease_id: issued.lease_id.clone(),
        ..Default::default()
    };
    let renewed = client.credentials().renew_lease(renew.clone()).await.unwrap().into_inner();
    assert_ne!(renewed.lease_id, issued.lease_id);
    assert_eq!(reason(client.credentials().renew_lease(renew.clone()).await), "LEASE_NOT_YOURS");
    // The binding goes: the next renewal is denied, and the denial ends the lease.
    let without =
        crate::world::DOCUMENTS.split("---\nkind: Binding\nmetadata: {name: train-direct}").next().unwrap();
    let labelled = without.replace("metadata: {name: ", "metadata: {labels: {set: a}, name: ");
    world.apply(&labelled).await;
    let gone = crate::world::DOCUMENTS
        .replace("metadata: {name: train-direct}", "metadata: {labels: {set: a}, name: train-direct}");
    world.apply(&gone).await;
    let prune = v1::ApplyRequest {
        yaml: labelled,
        prune: true,
        selector: [("set".to_owned(), "a".to_owned())].into(),
        ..Default::default()
    };
    let applied = world.try_apply(prune).await.unwrap();
    assert_eq!(applied.uncovered_lease_ids, std::slice::from_ref(&renewed.lease_id));
    let next = v1::RenewLeaseRequest { lease_id: renewed.lease_id.clone(), ..renew };
    assert_eq!(reason(client.credentials().renew_lease(next.clone()).await), "SCOPE_NOT_GRANTED");
    assert_eq!(reason(client.credentials().renew_lease(next).await), "LEASE_NOT_YOURS");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_again_under_a_key_holds_one_credential() {
    let mut world = World::new().await;
    let client = world.connect(TRAINER).await;
    let task = open(&client).await;
    let keyed = v1::IssueCredentialRequest { idempotency_key: "k-1".to_owned(), ..issue(&task) };
    let ask = async |request: &v1::IssueCredentialRequest| {
        client.credentials().issue_credential(request.clone()).await.map(tonic::Response::into_inner)
    };
    let first = ask(&keyed).await.unwrap();
    let second = ask(&keyed).await.unwrap();
    assert_ne!((&first.lease_id, &first.credential), (&second.lease_id, &second.credential));
    let admin = world.connect(crate::world::ADMIN).await;
    let lease = async |id: &str| {
        let request = v1::GetLeaseRequest { lease_id: id.to_owned() };
        admin.admin().get_lease(request).await.unwrap().into_inner().lease.unwrap()
    };
    assert_eq!(lease(&first.lease_id).await.state, "revoking");
    assert_eq!(lease(&second.lease_id).await.state, "active");

    let ttl = Some(prost_types::Duration { seconds: 60, nanos: 0 });
    let other = v1::IssueCredentialRequest { ttl, ..keyed.clone() };
    assert_eq!(reason(ask(&other).await), "IDEMPOTENCY_KEY_REUSED");
    let bad = v1::IssueCredentialRequest { idempotency_key: "a key".to_owned(), ..keyed.clone() };
    assert_eq!(reason(ask(&bad).await), "IDEMPOTENCY_KEY_INVALID");
    assert_eq!(lease(&second.lease_id).await.state, "active", "a refusal takes nothing back");

    // In another task, or for another caller, it is another key.
    let beside = open(&client).await;
    let elsewhere = v1::IssueCredentialRequest { idempotency_key: "k-1".to_owned(), ..issue(&beside) };
    ask(&elsewhere).await.unwrap();
    let other = world.connect("spiffe://example.org/train/other").await;
    assert_eq!(reason(other.credentials().issue_credential(keyed.clone()).await), "TASK_NOT_OPEN");
    assert_eq!(lease(&second.lease_id).await.state, "active");
}

#[tokio::test(flavor = "multi_thread")]
async fn state_outlives_a_restart() {
    let mut world = World::new().await;
    let client = world.connect(TRAINER).await;
    let task = open(&client).await;
    client.credentials().issue_credential(issue(&task)).await.unwrap();
    world.restart().await;
    let client = world.connect(TRAINER).await;
    client.credentials().issue_credential(issue(&task)).await.expect("task, key and rules are still there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_narrowed_binding_takes_live_leases_along_if_told_so() {
    let mut world = World::new().await;
    let client = world.connect(TRAINER).await;
    let task = open(&client).await;
    let issued = client.credentials().issue_credential(issue(&task)).await.unwrap().into_inner();
    let moved = "kind: Binding\nmetadata: {name: train-direct}\nspec: {identities: ['spiffe://example.org/train/other'], scope: direct-read, via: direct}";
    let apply = |live: v1::LivePolicy, dry_run| v1::ApplyRequest {
        yaml: moved.to_owned(),
        live: live.into(),
        dry_run,
        ..Default::default()
    };
    let admin = world.connect(crate::world::ADMIN).await;
    let state = async || {
        let request = v1::GetLeaseRequest { lease_id: issued.lease_id.clone() };
        admin.admin().get_lease(request).await.unwrap().into_inner().lease.unwrap().state
    };
    let told = world.try_apply(apply(v1::LivePolicy::Revoke, true)).await.unwrap();
    assert_eq!(told.uncovered_lease_ids, std::slice::from_ref(&issued.lease_id));
    assert_eq!(state().await, "active", "a dry run touches nothing");
    world.try_apply(apply(v1::LivePolicy::Revoke, false)).await.unwrap();
    assert_eq!(state().await, "revoking");
}
