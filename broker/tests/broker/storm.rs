//! Thousands of tasks at once: each is given what it asked for, ends, and leaves nothing.

use std::time::{Duration, Instant};

use dayfly_client::{BrokerClient, CallError};
use dayfly_proto::v1;
use futures_util::StreamExt;

use crate::world::{ADMIN, DOCUMENTS, NODE, Setup, TRAINER, World, anchor, scope};

const TASKS: usize = 2_000;
/// Far beyond what it takes; a test that hangs fails.
const PATIENCE: Duration = Duration::from_secs(120);

/// Calls until it is heard: who is told to wait does, and nothing else goes wrong.
async fn until_heard<T>(mut call: impl AsyncFnMut() -> Result<T, tonic::Status>) -> T {
    let begin = Instant::now();
    loop {
        let error = match call().await {
            Ok(answer) => return answer,
            Err(status) => CallError::from(status),
        };
        let held_back = matches!(error.reason.as_deref(), Some("RATE_LIMITED" | "TOO_MANY_LEASES"));
        assert!(held_back && begin.elapsed() < PATIENCE, "{error:?}");
        tokio::time::sleep(error.retry_after.expect("who is held back is told for how long")).await;
    }
}

async fn live_and_die(world: &World, agent: &BrokerClient) {
    let token = || world.subject_token(TRAINER, NODE);
    let line = || scope("index-read", &[("index", "idx-1")]);
    let task = until_heard(async || {
        let open = v1::OpenTaskRequest {
            subject_token: token(),
            ceiling: vec![line()],
            anchor: Some(anchor()),
            ..Default::default()
        };
        agent.credentials().open_task(open).await
    });
    let task_id = task.await.into_inner().task_id;
    until_heard(async || {
        let issue = v1::IssueCredentialRequest {
            subject_token: token(),
            task_id: task_id.clone(),
            scope: Some(line()),
            ..Default::default()
        };
        agent.credentials().issue_credential(issue).await
    })
    .await;
    let ended = until_heard(async || {
        let end =
            v1::EndTaskRequest { subject_token: token(), task_id: task_id.clone(), ..Default::default() };
        agent.credentials().end_task(end).await
    });
    let ended = ended.await.into_inner();
    assert_eq!((ended.tasks_ended, ended.leases_queued), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_tasks_at_once_all_end_and_every_lease_is_verified() {
    let limits = "requests_per_minute_per_identity = 60000\nlapse_after = \"10m\"";
    let sections = format!(
        "[introspection]
listen = \"127.0.0.1:{}\"
",
        harness::ports::free_port()
    );
    let mut world = World::set_up(Setup { limits, sections: &sections, ..Setup::default() }).await;
    // What services ask about ends at once; what they check by themselves would only run out.
    let documents = DOCUMENTS
        .replace("https://index.example.org", "spiffe://example.org/svc/index")
        .replace("checked: offline", "checked: introspect");
    world.apply(&documents).await;
    let agent = world.connect(NODE).await;
    let admin = world.connect(ADMIN).await;
    let lives = futures_util::stream::iter(0..TASKS).map(|_| live_and_die(&world, &agent));
    lives.buffer_unordered(TASKS).collect::<Vec<()>>().await;

    let begin = Instant::now();
    loop {
        let list = v1::ListLeasesRequest { include_ended: true, limit: 10_000, ..Default::default() };
        let leases = admin.admin().list_leases(list).await.unwrap().into_inner().leases;
        let verified = leases.iter().filter(|lease| lease.outcome == "verified").count();
        if verified == TASKS && leases.len() == TASKS {
            break;
        }
        assert!(begin.elapsed() < PATIENCE, "{verified} of {} leases are verified", leases.len());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let open = v1::ListTasksRequest::default();
    assert_eq!(admin.admin().list_tasks(open).await.unwrap().into_inner().tasks, []);
}
