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
    epoch: u64,
}

impl Stream {
    async fn open(client: &BrokerClient, boot_id: &str) -> Result<Self, tonic::Status> {
        let (say, said) = mpsc::channel(8);
        let hello = v1::Hello { boot_id: boot_id.to_owned(), agent_version: "test".to_owned() };
        say.send(v1::AttachRequest { message: Some(Say::Hello(hello)) }).await.unwrap();
        let hear = client.node().attach(ReceiverStream::new(said)).await?.into_inner();
        let mut stream = Self { say, hear, epoch: 0 };
        let Heard::Welcome(welcome) = stream.next().await? else { panic!("no welcome") };
        client.set_node_epoch(welcome.epoch);
        stream.epoch = welcome.epoch;
        Ok(stream)
    }

    async fn say(&self, message: Say) {
        self.say.send(v1::AttachRequest { message: Some(message) }).await.unwrap();
    }

    async fn heartbeat(&self, tasks: &[&str]) {
        let task_ids = tasks.iter().map(|task| (*task).to_owned()).collect();
        self.say(Say::Heartbeat(v1::Heartbeat { task_ids, sequence: 0 })).await;
    }

    async fn next(&mut self) -> Result<Heard, tonic::Status> {
        let message = tokio::time::timeout(Duration::from_secs(5), self.hear.message()).await;
        Ok(message.expect("an answer in time")?.expect("an open stream").message.unwrap())
    }

    /// The next thing that is not the answer to a heartbeat.
    async fn news(&mut self) -> Result<Heard, tonic::Status> {
        loop {
            match self.next().await? {
                Heard::HeartbeatHeard(_) => {}
                news => return Ok(news),
            }
        }
    }
}

/// Asks until the answer is a refusal.
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
    let mut stream = Stream::open(&theirs, "boot-1").await.unwrap();
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
    assert_eq!(refused(&world, &client, NODE, &task.task_id).await, "NODE_FENCED");
    let admin = world.connect(crate::world::ADMIN).await;
    until_state(&admin, NODE, "lapsed").await;
    let _again = Stream::open(&client, "boot-1").await.unwrap();
    assert_eq!(refused(&world, &client, NODE, &task.task_id).await, "TASK_NOT_OPEN");
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
    match stream.news().await.unwrap() {
        Heard::EndTask(order) => {
            assert_eq!((order.task_id, order.cause.as_str()), (task.task_id.clone(), "admin"))
        }
        other => panic!("{other:?}"),
    }
    // The order may be lost with a stream: an inventory that still names the task is answered with it again.
    stream.heartbeat(&[&task.task_id]).await;
    assert!(matches!(stream.news().await.unwrap(), Heard::EndTask(order) if order.task_id == task.task_id));
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

async fn state(admin: &BrokerClient, node: &str) -> String {
    let nodes = admin.admin().list_nodes(v1::ListNodesRequest {}).await.unwrap().into_inner().nodes;
    nodes.into_iter().find(|found| found.spiffe_id == node).map(|found| found.state).unwrap_or_default()
}

async fn until_state(admin: &BrokerClient, node: &str, wanted: &str) {
    for _ in 0..200 {
        if state(admin, node).await == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{node} is {}, not {wanted}", state(admin, node).await);
}

async fn task(admin: &BrokerClient, task_id: &str) -> v1::GetTaskResponse {
    let asked = v1::GetTaskRequest { task_id: task_id.to_owned() };
    admin.admin().get_task(asked).await.unwrap().into_inner()
}

async fn events(admin: &BrokerClient) -> Vec<serde_json::Value> {
    let asked = v1::ReadAuditRequest { stream: "admin".to_owned(), from_seq: 1 };
    let mut rows = admin.admin().read_audit(asked).await.unwrap().into_inner();
    let mut events = Vec::new();
    while let Some(row) = rows.message().await.unwrap() {
        events.push(serde_json::from_slice(&row.bytes).unwrap());
    }
    events
}

/// Documents that admit so many more nodes, and their names.
fn fleet(size: usize) -> (String, Vec<String>) {
    let nodes: Vec<String> =
        (1..=size).map(|number| format!("spiffe://example.org/node/m{number}")).collect();
    let document = |(number, node): (usize, &String)| {
        format!(
            "\n---\nkind: Node\nmetadata: {{name: m{number}}}\nspec: {{agents: \"{node}\", \
             workloads: [\"spiffe://example.org/train/**\"], trust_domains: [example.org], anchors: [process]}}"
        )
    };
    let more: String = nodes.iter().enumerate().map(document).collect();
    (format!("{}{more}\n", crate::world::DOCUMENTS.trim_end()), nodes)
}

const QUICK: &str = "lapse_after = \"1s\"\nheartbeat_interval = \"200ms\"";

#[tokio::test(flavor = "multi_thread")]
async fn a_lapsed_node_is_fenced_until_it_attaches_anew_and_what_a_scope_holds_stays() {
    let mut world = World::empty(QUICK).await;
    let held = crate::world::DOCUMENTS.replacen(
        "metadata: {name: index-read}\nspec:",
        "metadata: {name: index-read}\nspec:\n  on_agent_loss: hold_until_deadline",
        1,
    );
    assert_ne!(held, crate::world::DOCUMENTS);
    world.apply(&held).await;
    let admin = world.connect(crate::world::ADMIN).await;
    let client = world.connect(NODE).await;
    let mut stream = Stream::open(&client, "boot-1").await.unwrap();
    let kept = open(&world, &client, NODE).await.unwrap();
    client.credentials().issue_credential(issue(&world, NODE, &kept.task_id)).await.unwrap();
    let idle = open(&world, &client, NODE).await.unwrap();
    until_state(&admin, NODE, "lapsed").await;

    let shown = task(&admin, &idle.task_id).await.task.unwrap();
    assert_eq!((shown.state.as_str(), shown.end_cause.as_str()), ("ended", "node_silent"), "it held nothing");
    let shown = task(&admin, &kept.task_id).await;
    let (told, lease) = (shown.task.unwrap(), &shown.leases[0]);
    assert_eq!((told.state.as_str(), told.node_state.as_str()), ("open", "lapsed"));
    assert_eq!((lease.state.as_str(), lease.on_agent_loss.as_str()), ("active", "hold_until_deadline"));

    let refused = client.credentials().issue_credential(issue(&world, NODE, &kept.task_id)).await;
    assert_eq!(reason(refused), "NODE_FENCED");
    assert_eq!(reason(open(&world, &client, NODE).await), "NODE_FENCED");
    // The word of a stream that lapsed ends nothing: not an inventory, not an exit.
    stream.heartbeat(&[]).await;
    let over = loop {
        match stream.news().await {
            Ok(Heard::EndTask(order)) => assert_eq!(order.task_id, idle.task_id),
            Ok(other) => panic!("{other:?}"),
            Err(status) => break reason::<()>(Err(status)),
        }
    };
    assert_eq!(over, "STREAM_SUPERSEDED");
    assert_eq!(task(&admin, &kept.task_id).await.task.unwrap().state, "open");

    let stream = Stream::open(&client, "boot-1").await.unwrap();
    client
        .credentials()
        .issue_credential(issue(&world, NODE, &kept.task_id))
        .await
        .expect("it is heard again");
    client.set_node_epoch(stream.epoch - 1);
    let refused = client.credentials().issue_credential(issue(&world, NODE, &kept.task_id)).await;
    assert_eq!(reason(refused), "NODE_FENCED", "another life of the agent speaks");
    client.set_node_epoch(0);
    let refused = client.credentials().issue_credential(issue(&world, NODE, &kept.task_id)).await;
    assert_eq!(reason(refused), "NODE_FENCED", "no epoch is none");
    let lapsed = events(&admin).await.into_iter().find(|record| record["event"] == "node.lapsed").unwrap();
    assert_eq!((&lapsed["node"], &lapsed["tasks_ended"]), (&NODE.into(), &1.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_stream_of_a_node_ends_nothing() {
    let mut world = World::new().await;
    let client = world.connect(NODE).await;
    let mut old = Stream::open(&client, "boot-1").await.unwrap();
    let task = open(&world, &client, NODE).await.unwrap();
    let mut new = Stream::open(&client, "boot-1").await.unwrap();
    assert!(new.epoch > old.epoch);
    let ended = v1::TaskEnded { task_id: task.task_id.clone(), signal: "exit".to_owned(), observed_at: None };
    // The old stream may be closed already: its notices went to the new one.
    let _ = old.say.send(v1::AttachRequest { message: Some(Say::TaskEnded(ended)) }).await;
    while let Ok(Ok(Some(heard))) = tokio::time::timeout(Duration::from_secs(1), old.hear.message()).await {
        assert!(!matches!(heard.message, Some(Heard::EndRecorded(_))), "{heard:?}");
    }
    new.heartbeat(&[&task.task_id]).await;
    assert!(matches!(new.next().await.unwrap(), Heard::HeartbeatHeard(_)), "nothing is over");
    client.credentials().issue_credential(issue(&world, NODE, &task.task_id)).await.expect("still open");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attach_from_another_boot_is_counted_and_recorded_once_a_minute() {
    let mut world = World::new().await;
    let client = world.connect(NODE).await;
    let admin = world.connect(crate::world::ADMIN).await;
    for _ in 0..3 {
        let refused = Stream::open(&client, "boot-2").await.map(|_| ());
        assert_eq!(reason(refused), "NODE_ATTACHED_ELSEWHERE");
    }
    let events = events(&admin).await;
    let refused: Vec<_> = events.iter().filter(|record| record["event"] == "node.attach_refused").collect();
    assert_eq!(refused.len(), 1);
    assert_eq!((&refused[0]["node"], &refused[0]["boot_id"]), (&NODE.into(), &"boot-2".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_fall_silent_together_are_held_until_an_admin_says_so_and_get_nothing_meanwhile() {
    let mut world = World::empty(QUICK).await;
    let (documents, nodes) = fleet(4);
    world.apply(&documents).await;
    let admin = world.connect(crate::world::ADMIN).await;
    let mut clients = Vec::new();
    for node in &nodes {
        clients.push(world.connect(node).await);
    }
    // All of them at once, after the connections were made.
    let mut streams = Vec::new();
    let mut tasks = Vec::new();
    for (node, client) in nodes.iter().zip(&clients) {
        streams.push(Stream::open(client, "boot-1").await.unwrap());
        tasks.push(open(&world, client, node).await.unwrap());
        client.credentials().issue_credential(issue(&world, node, &tasks[0].task_id)).await.ok();
    }
    for _ in 0..10 {
        for (stream, task) in streams.iter().zip(&tasks) {
            stream.heartbeat(&[&task.task_id]).await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    until_state(&admin, &nodes[0], "held").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let brake = admin.admin().get_brake(v1::GetBrakeRequest {}).await.unwrap().into_inner().brake.unwrap();
    assert_eq!((brake.nodes.len(), brake.reason.as_str(), brake.open_tasks), (4, "many_silent", 4));
    assert!(brake.engaged_at.is_some() && brake.holds_until.is_some());
    for (node, task_) in nodes.iter().zip(&tasks) {
        assert_eq!(state(&admin, node).await, "held");
        assert_eq!(task(&admin, &task_.task_id).await.task.unwrap().state, "open");
    }
    let refused =
        clients[0].credentials().issue_credential(issue(&world, &nodes[0], &tasks[0].task_id)).await;
    assert_eq!(reason(refused), "NODE_FENCED", "held back is not served");
    // An end with a cause passes.
    let target = Some(v1::revoke_request::Target::TaskId(tasks[3].task_id.clone()));
    admin.admin().revoke(v1::RevokeRequest { target, ..Default::default() }).await.unwrap();
    assert_eq!(task(&admin, &tasks[3].task_id).await.task.unwrap().end_cause, "admin");
    // One that comes back is served again, and its task was never over.
    let _back = Stream::open(&clients[1], "boot-1").await.unwrap();
    clients[1]
        .credentials()
        .issue_credential(issue(&world, &nodes[1], &tasks[1].task_id))
        .await
        .expect("served");

    let request = v1::ReleaseBrakeRequest { reason: "they are gone".to_owned() };
    let released = admin.admin().release_brake(request).await.unwrap().into_inner();
    assert!(released.nodes.len() >= 3, "{released:?}");
    until_state(&admin, &nodes[0], "lapsed").await;
    assert_eq!(task(&admin, &tasks[0].task_id).await.task.unwrap().end_cause, "node_silent");
    let events = events(&admin).await;
    let told: Vec<&str> = events
        .iter()
        .filter_map(|record| record["event"].as_str())
        .filter(|e| e.starts_with("brake."))
        .collect();
    assert_eq!(told, ["brake.engaged", "brake.released"]);
    let released = events.iter().find(|record| record["event"] == "brake.released").unwrap();
    assert_eq!(
        (&released["by"], &released["reason"]),
        (&crate::world::ADMIN.into(), &"they are gone".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_brake_that_holds_survives_a_restart_of_the_broker() {
    let mut world = World::empty(QUICK).await;
    let (documents, nodes) = fleet(3);
    world.apply(&documents).await;
    let admin = world.connect(crate::world::ADMIN).await;
    for node in &nodes {
        world.connect(node).await;
    }
    until_state(&admin, &nodes[2], "held").await;
    let brake = |admin: BrokerClient| async move {
        admin.admin().get_brake(v1::GetBrakeRequest {}).await.unwrap().into_inner().brake.unwrap()
    };
    let before = brake(admin).await.engaged_at;
    world.restart().await;
    let admin = world.connect(crate::world::ADMIN).await;
    until_state(&admin, &nodes[2], "held").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let after = brake(admin.clone()).await;
    assert_eq!((after.engaged_at, after.nodes.len()), (before, 3));
    admin.admin().release_brake(v1::ReleaseBrakeRequest::default()).await.unwrap();
    until_state(&admin, &nodes[2], "lapsed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_agent_goes_on_only_with_what_is_on_record_like_that() {
    let mut world = World::new().await;
    let client = world.connect(NODE).await;
    let other = world.connect(OTHER_NODE).await;
    let admin = world.connect(crate::world::ADMIN).await;
    let (same, changed) =
        (open(&world, &client, NODE).await.unwrap(), open(&world, &client, NODE).await.unwrap());
    let (over, foreign) =
        (open(&world, &client, NODE).await.unwrap(), open(&world, &other, OTHER_NODE).await.unwrap());
    let target = Some(v1::revoke_request::Target::TaskId(over.task_id.clone()));
    admin.admin().revoke(v1::RevokeRequest { target, ..Default::default() }).await.unwrap();

    let mut stream = Stream::open(&client, "boot-1").await.unwrap();
    let adopted = |task: &v1::OpenTaskResponse, anchor| v1::AdoptedTask {
        task_id: task.task_id.clone(),
        anchor: Some(anchor),
    };
    let another = v1::Anchor { pidfd_inode: 8, ..anchor() };
    let tasks = vec![
        adopted(&same, anchor()),
        adopted(&changed, another),
        adopted(&over, anchor()),
        adopted(&foreign, anchor()),
    ];
    stream.say(Say::Adopt(v1::Adopt { tasks })).await;
    let mut orders = std::collections::BTreeMap::new();
    let named = loop {
        match stream.news().await.unwrap() {
            Heard::EndTask(order) => {
                orders.insert(order.task_id, order.cause);
            }
            Heard::Adopted(adopted) => break adopted.task_ids,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(named, std::slice::from_ref(&same.task_id));
    assert_eq!(orders.get(&changed.task_id).map(String::as_str), Some("anchor_changed"));
    assert_eq!(orders.get(&over.task_id).map(String::as_str), Some("admin"));
    assert_eq!(orders.get(&foreign.task_id).map(String::as_str), Some("missing_from_inventory"));
    let cause = async |id: &str| task(&admin, id).await.task.unwrap().end_cause;
    assert_eq!(cause(&changed.task_id).await, "anchor_changed");
    assert_eq!(cause(&foreign.task_id).await, "", "another node's word ends nothing");
    client.credentials().issue_credential(issue(&world, NODE, &same.task_id)).await.expect("it goes on");
    let refused = client.credentials().issue_credential(issue(&world, NODE, &changed.task_id)).await;
    assert_eq!(reason(refused), "TASK_NOT_OPEN");
}
