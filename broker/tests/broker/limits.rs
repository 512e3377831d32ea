//! Who asks too often, holds too much or nests too deep is held back, told how long to wait, and leaves no record of each try.

use std::time::Duration;

use dayfly_client::{BrokerClient, CallError};
use dayfly_proto::v1;
use tonic::Code;

use crate::world::{ADMIN, DOCUMENTS, NODE, TRAINER, World, anchor, reason, scope};

const TOOL: &str = "spiffe://example.org/tool/t";

async fn world(limits: &str) -> World {
    let world = World::empty(limits).await;
    world.apply(DOCUMENTS).await;
    world
}

/// Opens a task through the agent, below another or as a root.
async fn open(
    world: &World,
    agent: &BrokerClient,
    workload: &str,
    parent: &str,
) -> Result<v1::OpenTaskResponse, tonic::Status> {
    let request = v1::OpenTaskRequest {
        subject_token: world.subject_token(workload, NODE),
        parent_task_id: parent.to_owned(),
        ceiling: vec![scope("index-read", &[("index", "idx-1")])],
        anchor: Some(anchor()),
        ..Default::default()
    };
    agent.credentials().open_task(request).await.map(tonic::Response::into_inner)
}

async fn issue(
    world: &World,
    agent: &BrokerClient,
    workload: &str,
    task: &v1::OpenTaskResponse,
) -> Result<v1::IssueCredentialResponse, tonic::Status> {
    let request = v1::IssueCredentialRequest {
        subject_token: world.subject_token(workload, NODE),
        task_id: task.task_id.clone(),
        scope: Some(scope("index-read", &[("index", "idx-1")])),
        ..Default::default()
    };
    agent.credentials().issue_credential(request).await.map(tonic::Response::into_inner)
}

async fn records(world: &mut World) -> usize {
    let admin = world.connect(ADMIN).await;
    let mut count = 0;
    for stream in ["decision", "lease"] {
        let read = v1::ReadAuditRequest { stream: stream.to_owned(), from_seq: 1 };
        let mut stream = admin.admin().read_audit(read).await.unwrap().into_inner();
        while stream.message().await.unwrap().is_some() {
            count += 1;
        }
    }
    count
}

fn limited(answer: Result<impl std::fmt::Debug, tonic::Status>) -> CallError {
    let status = answer.expect_err("a limit is reached");
    let header = status.metadata().get("retry-after").expect("proxies read it").to_str().unwrap().to_owned();
    let error = CallError::from(status);
    assert_eq!((error.code, error.reason.as_deref()), (Code::ResourceExhausted, Some("RATE_LIMITED")));
    let wait = error.retry_after.expect("a caller is told how long to wait");
    assert!(wait > Duration::ZERO && wait <= Duration::from_secs(60), "{wait:?}");
    assert_eq!(header, wait.as_secs_f64().ceil().to_string());
    assert!(error.next.is_some() && error.request_id.is_some(), "{error:?}");
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_that_asks_too_often_waits_and_others_do_not() {
    let mut world = world("requests_per_minute_per_identity = 3").await;
    let agent = world.connect(NODE).await;
    let task = open(&world, &agent, TRAINER, "").await.unwrap();
    let lease = issue(&world, &agent, TRAINER, &task).await.unwrap().lease_id;
    issue(&world, &agent, TRAINER, &task).await.unwrap();
    let before = records(&mut world).await;
    for _ in 0..20 {
        let error = limited(issue(&world, &agent, TRAINER, &task).await);
        assert!(error.message.contains(TRAINER) && error.message.contains("3 times"), "{}", error.message);
        limited(open(&world, &agent, TRAINER, "").await);
        let renew = v1::RenewLeaseRequest {
            subject_token: world.subject_token(TRAINER, NODE),
            task_id: task.task_id.clone(),
            lease_id: lease.clone(),
            ..Default::default()
        };
        limited(agent.credentials().renew_lease(renew).await);
    }
    assert_eq!(records(&mut world).await, before, "60 refusals left no record");
    open(&world, &agent, TOOL, "").await.expect("another identity has its own");
    // Taking away is never held back.
    let end = v1::EndTaskRequest {
        subject_token: world.subject_token(TRAINER, NODE),
        task_id: task.task_id.clone(),
        ..Default::default()
    };
    assert_eq!(agent.credentials().end_task(end).await.unwrap().into_inner().leases_queued, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scope_has_limits_of_its_own_that_strangers_cannot_use_up() {
    let mut world = world("").await;
    let lower = |limits: &str| {
        DOCUMENTS.replacen(
            "  stages: [training, tool]\n",
            &format!("  stages: [training, tool]\n  limits: {limits}\n"),
            1,
        )
    };
    let unbound = lower("{requests_per_minute: 2}")
        .replace("spiffe://example.org/tool/*\"]", "spiffe://example.org/tool/other\"]");
    world.apply(&unbound).await;
    let agent = world.connect(NODE).await;
    let stranger = open(&world, &agent, TOOL, "").await.unwrap();
    for _ in 0..5 {
        assert_eq!(reason(issue(&world, &agent, TOOL, &stranger).await), "SCOPE_NOT_GRANTED");
    }
    let task = open(&world, &agent, TRAINER, "").await.unwrap();
    issue(&world, &agent, TRAINER, &task).await.unwrap();
    issue(&world, &agent, TRAINER, &task).await.unwrap();
    let error = limited(issue(&world, &agent, TRAINER, &task).await);
    assert!(error.message.contains("scope index-read"), "{}", error.message);

    world.apply(&lower("{live_leases: 2}")).await;
    let status = issue(&world, &agent, TRAINER, &task).await.unwrap_err();
    let error = CallError::from(status);
    assert_eq!((error.code, error.reason.as_deref()), (Code::ResourceExhausted, Some("TOO_MANY_LEASES")));
    assert!(error.retry_after.is_some() && error.message.contains("scope \"index-read\""), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_one_payer_in_all_its_tasks() {
    let mut world = world("requests_per_minute_per_session = 2\nlive_leases_per_session = 1").await;
    let agent = world.connect(NODE).await;
    let root = open(&world, &agent, TRAINER, "").await.unwrap();
    let child = open(&world, &agent, TRAINER, &root.task_id).await.unwrap();
    issue(&world, &agent, TRAINER, &root).await.unwrap();
    let error = limited(issue(&world, &agent, TRAINER, &child).await);
    assert!(error.message.contains(&root.session_id), "{}", error.message);
    limited(open(&world, &agent, TRAINER, &child.task_id).await);
    let other = open(&world, &agent, TRAINER, "").await.expect("another session has its own");
    issue(&world, &agent, TRAINER, &other).await.unwrap();
    assert_eq!(reason(issue(&world, &agent, TRAINER, &other).await), "TOO_MANY_LEASES");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_of_tasks_grows_no_deeper_than_it_may() {
    let mut world = world("task_depth = 3").await;
    let agent = world.connect(NODE).await;
    let mut parent = String::new();
    for _ in 0..3 {
        parent = open(&world, &agent, TRAINER, &parent).await.unwrap().task_id;
    }
    let status = open(&world, &agent, TRAINER, &parent).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(reason::<()>(Err(status)), "TASK_TREE_TOO_DEEP");
    // It is a decision, and loops of it become a count as those of any other.
    let before = records(&mut world).await;
    for _ in 0..30 {
        open(&world, &agent, TRAINER, &parent).await.unwrap_err();
    }
    assert_eq!(records(&mut world).await, before + 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_scope_leaves_behind_is_in_its_promise_its_lease_and_its_records() {
    let mut world = world("").await;
    let declared = "  stages: [training, tool]\n  leaves_behind: [sessions]\n";
    world.apply(&DOCUMENTS.replacen("  stages: [training, tool]\n", declared, 1)).await;
    let agent = world.connect(NODE).await;
    let task = open(&world, &agent, TRAINER, "").await.unwrap();
    let issued = issue(&world, &agent, TRAINER, &task).await.unwrap();
    let promise = issued.promise.unwrap();
    assert_eq!(
        (promise.revocability(), &promise.leaves_behind[..]),
        (v1::Revocability::ExpiryOnly, &["sessions".to_owned()][..])
    );
    let admin = world.connect(ADMIN).await;
    let listed = admin.admin().list_leases(v1::ListLeasesRequest::default()).await.unwrap().into_inner();
    assert_eq!(listed.leases[0].promise.as_ref().unwrap().leaves_behind, ["sessions"]);
    let read = v1::ReadAuditRequest { stream: "lease".to_owned(), from_seq: 1 };
    let mut stream = admin.admin().read_audit(read).await.unwrap().into_inner();
    let mut told = 0;
    while let Some(record) = stream.message().await.unwrap() {
        let record: serde_json::Value = serde_json::from_slice(&record.bytes).unwrap();
        told +=
            usize::from(record["lease_id"] == issued.lease_id && record["leaves_behind"][0] == "sessions");
    }
    assert_eq!(told, 1);
}
