//! Node agents: whom they may speak for, what their stream says, what their silence means.

use std::time::Duration;

use dayfly_client::BrokerClient;
use dayfly_proto::v1;
use dayfly_proto::v1::attach_request::Message as Say;
use dayfly_proto::v1::attach_response::Message as Heard;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::world::{NODE, OTHER_NODE, TRAINER, World, anchor, reason, scope};

async fn open(
    world: &World,
    client: &BrokerClient,
    node: &str,
) -> Result<v1::OpenTaskResponse, tonic::Status> {
    let request = v1::OpenTaskRequest {
        subject_token: world.subject_token(TRAINER, node),
        ceiling: vec![scope("index-read", &[("index", "idx-1")])],
        anchor: Some(anchor()),
        ..Default::default()
    };
    client.credentials().open_task(request).await.map(tonic::Response::into_inner)
}

fn issue(world: &World, node: &str, task: &str) -> v1::IssueCredentialRequest {
    v1::IssueCredentialRequest {
        subject_token: world.subject_token(TRAINER, node),
        task_id: task.to_owned(),
        scope: Some(scope("index-read", &[("index", "idx-1")])),
        ..Default::default()
    }
}

struct Stream {
    say: mpsc::Sender<v1::AttachRequest>,
    hear: Streaming<v1::AttachResponse>,
}

impl Stream {
    async fn open(client: &BrokerClient, boot_id: &str) -> Result<Self, tonic::Status> {
        let (say, said) = mpsc::channel(8);
        let hello = v1::Hello { boot_id: boot_id.to_owned(), agent_version: "test".to_owned() };
        say.send(v1::AttachRequest { message: Some(Say::Hello(hello)) }).await.unwrap();
        let hear = client.node().attach(ReceiverStream::new(said)).await?.into_inner();
        let mut stream = Self { say, hear };
        assert!(matches!(stream.next().await?, Heard::Welcome(_)));
        Ok(stream)
    }

    async fn say(&self, message: Say) {
        self.say.send(v1::AttachRequest { message: Some(message) }).await.unwrap();
    }

    async fn heartbeat(&self, tasks: &[&str]) {
        let task_ids = tasks.iter().map(|task| (*task).to_owned()).collect();
        self.say(Say::Heartbeat(v1::Heartbeat { task_ids })).await;
    }

    async fn next(&mut self) -> Result<Heard, tonic::Status> {
        let message = tokio::time::timeout(Duration::from_secs(5), self.hear.message()).await;
        Ok(message.expect("an answer in time")?.expect("an open stream").message.unwrap())
    }
}

/// Asks until the task is refused.
async fn refused(world: &World, client: &BrokerClient, node: &str, task: &str) -> String {
    for _ in 0..100 {
        if let Err(status) = client.credentials().issue_credential(issue(world, node, task)).await {
            return reason::<()>(Err(status));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the task is still open");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_is_recorded_and_acknowledged() {
    let mut world = World::new().await;
    let client = world.connect(NODE).await;
    let mut stream = Stream::open(&client, "boot-1").await.unwrap();
    let task = open(&world, &client, NODE).await.unwrap();
    assert!(task.task_key.is_empty(), "through an agent the kernel says who stands in the task");
    assert_eq!(task.providers[0].provider, "token");
    client.credentials().issue_credential(issue(&world, NODE, &task.task_id)).await.unwrap();
    let ended = v1::TaskEnded { task_id: task.task_id.clone(), signal: "exit".to_owned(), observed_at: None };
    stream.say(Say::TaskEnded(ended)).await;
    loop {
        match stream.next().await.unwrap() {
            Heard::EndRecorded(recorded) => {
                assert_eq!(recorded.task_id, task.task_id);
                break;
            }
            Heard::EndTask(order) => assert_eq!(order.task_id, task.task_id),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(refused(&world, &client, NODE, &task.task_id).await, "TASK_NOT_OPEN");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_nodes_word_ends_nothing() {
    let mut world = World::new().await;
    let (mine, theirs) = (world.connect(NODE).await, world.connect(OTHER_NODE).await);
    let task = open(&world, &mine, NODE).await.unwrap();
    let mut stream = Stream::open(&theirs, "boot-2").await.unwrap();
    let ended = v1::TaskEnded { task_id: task.task_id.clone(), signal: "exit".to_owned(), observed_at: None };
    stream.say(Say::TaskEnded(ended)).await;
    assert!(matches!(stream.next().await.unwrap(), Heard::EndRecorded(_)));
    mine.credentials().issue_credential(issue(&world, NODE, &task.task_id)).await.expect("still open");
    let answer = theirs.credentials().issue_credential(issue(&world, OTHER_NODE, &task.task_id)).await;
    assert_eq!(reason(answer), "TASK_NOT_OPEN");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_one_agent_is_nothing_to_another() {
    let mut world = World::new().await;
    let client = world.connect(OTHER_NODE).await;
    let request = v1::OpenTaskRequest {
        subject_token: world.subject_token(TRAINER, NODE),
        anchor: Some(anchor()),
        ..Default::default()
    };
    assert_eq!(reason(client.credentials().open_task(request).await), "SUBJECT_TOKEN_INVALID");
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_ends_the_tasks_of_a_node() {
    let mut world = World::empty("lapse_after = \"1s\"\nheartbeat_interval = \"200ms\"").await;
    world.apply(crate::world::DOCUMENTS).await;
    let client = world.connect(NODE).await;
    let stream = Stream::open(&client, "boot-1").await.unwrap();
    let task = open(&world, &client, NODE).await.unwrap();
    for _ in 0..10 {
        stream.heartbeat(&[&task.task_id]).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    client
        .credentials()
        .issue_credential(issue(&world, NODE, &task.task_id))
        .await
        .expect("heartbeats hold it open");
    // The stream stands, but nobody speaks.
    assert_eq!(refused(&world, &client, NODE, &task.task_id).await, "TASK_NOT_OPEN");
    let admin = world.connect(crate::world::ADMIN).await;
    let shown = admin.admin().get_task(v1::GetTaskRequest { task_id: task.task_id.clone() }).await.unwrap();
    assert_eq!(shown.into_inner().task.unwrap().end_cause, "node_silent");
    drop(stream);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_boot_under_a_live_identity_is_refused() {
    let mut world = World::new().await;
    let client = world.connect(NODE).await;
    let _first = Stream::open(&client, "boot-1").await.unwrap();
    let second = world.connect(NODE).await;
    let refused = Stream::open(&second, "boot-2").await.map(|_| ());
    assert_eq!(reason(refused), "NODE_ATTACHED_ELSEWHERE");
    Stream::open(&second, "boot-1").await.expect("the same boot may come again");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_inventory_is_silence_and_not_an_end() {
    let mut world = World::new().await;
    let client = world.connect(NODE).await;
    let stream = Stream::open(&client, "boot-1").await.unwrap();
    let task = open(&world, &client, NODE).await.unwrap();
    stream.heartbeat(&[&task.task_id]).await;
    stream.heartbeat(&[]).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    client.credentials().issue_credential(issue(&world, NODE, &task.task_id)).await.expect("still open");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_hears_of_tasks_that_are_over() {
    let mut world = World::new().await;
    let client = world.connect(NODE).await;
    let mut stream = Stream::open(&client, "boot-1").await.unwrap();
    let task = open(&world, &client, NODE).await.unwrap();
    let admin = world.connect(crate::world::ADMIN).await;
    let target = Some(v1::revoke_request::Target::SpiffeId(TRAINER.to_owned()));
    admin.admin().revoke(v1::RevokeRequest { target, ..Default::default() }).await.unwrap();
    match stream.next().await.unwrap() {
        Heard::EndTask(order) => {
            assert_eq!((order.task_id, order.cause.as_str()), (task.task_id.clone(), "admin"))
        }
        other => panic!("{other:?}"),
    }
    // The order may be lost with a stream: an inventory that still names the task is answered with it again.
    stream.heartbeat(&[&task.task_id]).await;
    assert!(matches!(stream.next().await.unwrap(), Heard::EndTask(order) if order.task_id == task.task_id));
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_are_told_of_an_approval_so_that_they_ask_anew() {
    let mut world = crate::approvals::world("approvals_from_one_host = true").await;
    let client = world.connect(NODE).await;
    let mut stream = Stream::open(&client, "boot-1").await.unwrap();
    crate::approvals::approved(&mut world).await;
    loop {
        if let Heard::RulesChanged(changed) = stream.next().await.unwrap() {
            assert_eq!(changed.scopes, ["prod-read"]);
            break;
        }
    }
}
