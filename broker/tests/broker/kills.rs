//! The kill switch over the wire: at once for new requests and what stands, until it is lifted, whatever restarts.

use dayfly_client::{BreakGlassClient, BrokerClient};
use dayfly_proto::v1;
use dayfly_proto::v1::attach_request::Message as Say;
use dayfly_proto::v1::attach_response::Message as Heard;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};

use crate::world::{ADMIN, NODE, OTHER_NODE, TRAINER, World, anchor, reason, scope};

const OTHER: &str = "spiffe://example.org/train/b";
const BOB: &str = "spiffe://example.org/admin/bob";

const ADMINS: &str = r#"
kind: Stage
metadata: {name: admin}
spec: {patterns: ["spiffe://example.org/admin/*"]}
---
kind: Binding
metadata: {name: revokers}
spec: {identities: ["spiffe://example.org/admin/bob"], scope: admin.revoke}
"#;

async fn open(world: &World, node: &BrokerClient, who: &str) -> Result<String, Status> {
    let request = v1::OpenTaskRequest {
        subject_token: world.subject_token(who, NODE),
        ceiling: vec![scope("index-read", &[("index", "idx-1")])],
        anchor: Some(anchor()),
        ..Default::default()
    };
    node.credentials().open_task(request).await.map(|opened| opened.into_inner().task_id)
}

async fn issue(world: &World, node: &BrokerClient, who: &str, task: &str) -> Result<String, Status> {
    let request = v1::IssueCredentialRequest {
        subject_token: world.subject_token(who, NODE),
        task_id: task.to_owned(),
        scope: Some(scope("index-read", &[("index", "idx-1")])),
        ..Default::default()
    };
    node.credentials().issue_credential(request).await.map(|issued| issued.into_inner().lease_id)
}

fn request(kind: &str, name: &str) -> v1::KillRequest {
    v1::KillRequest {
        target: Some(v1::KillTarget { kind: kind.to_owned(), name: name.to_owned() }),
        reason: "the keys leaked".to_owned(),
        dry_run: false,
        wait_ms: 5_000,
    }
}

async fn kill(admin: &BrokerClient, kind: &str, name: &str) -> v1::KillOutcome {
    let answer = admin.revocations().kill(request(kind, name)).await.expect("an admin may kill");
    answer.into_inner().outcome.unwrap()
}

async fn lift(admin: &BrokerClient, kill: &v1::Kill) -> Result<v1::LiftKillResponse, Status> {
    let asked = v1::LiftKillRequest { kill_id: kill.kill_id.clone() };
    admin.revocations().lift_kill(asked).await.map(Response::into_inner)
}

async fn standing(admin: &BrokerClient) -> Vec<v1::Kill> {
    let asked = v1::ListKillsRequest { include_lifted: false };
    admin.revocations().list_kills(asked).await.unwrap().into_inner().kills
}

async fn lease_state(admin: &BrokerClient, lease: &str) -> String {
    let asked = v1::GetLeaseRequest { lease_id: lease.to_owned() };
    admin.admin().get_lease(asked).await.unwrap().into_inner().lease.unwrap().state
}

/// An agent that says it has dropped what it is told to.
async fn obedient_agent(node: &BrokerClient) {
    let (say, said) = mpsc::channel(8);
    let hello = v1::Hello { boot_id: "boot-1".to_owned(), agent_version: "test".to_owned() };
    say.send(v1::AttachRequest { message: Some(Say::Hello(hello)) }).await.unwrap();
    let mut hear = node.node().attach(ReceiverStream::new(said)).await.unwrap().into_inner();
    assert!(matches!(hear.message().await.unwrap().unwrap().message, Some(Heard::Welcome(_))));
    tokio::spawn(async move {
        while let Ok(Some(message)) = hear.message().await {
            if let Some(Heard::CutOff(notice)) = message.message {
                let dropped = v1::KillAcknowledged { kill_id: notice.kill_id };
                say.send(v1::AttachRequest { message: Some(Say::KillAcknowledged(dropped)) }).await.ok();
            }
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_cut_off_loses_what_it_has_and_gets_nothing_until_that_is_lifted() {
    let mut world = World::new().await;
    let (admin, node) = (world.connect(ADMIN).await, world.connect(NODE).await);
    let task = open(&world, &node, TRAINER).await.unwrap();
    let lease = issue(&world, &node, TRAINER, &task).await.unwrap();
    let theirs = open(&world, &node, OTHER).await.unwrap();
    let kept = issue(&world, &node, OTHER, &theirs).await.unwrap();

    let done = kill(&admin, "identity", TRAINER).await;
    assert_eq!((done.tasks_ended, done.leases.unwrap().running_out), (1, 1), "{done:?}");
    // Its service checks it offline, so it runs out; the broker says so.
    assert_eq!(lease_state(&admin, &lease).await, "revoking");
    assert_eq!(reason(issue(&world, &node, TRAINER, &task).await), "CUT_OFF");
    assert_eq!(reason(open(&world, &node, TRAINER).await), "CUT_OFF");
    assert_eq!(lease_state(&admin, &kept).await, "active");
    issue(&world, &node, OTHER, &theirs).await.expect("others go on");

    world.restart().await;
    let (admin, node) = (world.connect(ADMIN).await, world.connect(NODE).await);
    assert_eq!(reason(open(&world, &node, TRAINER).await), "CUT_OFF", "a restart lifts nothing");
    let stands = standing(&admin).await;
    assert_eq!((stands.len(), stands[0].reason.as_str()), (1, "the keys leaked"));
    lift(&admin, &stands[0]).await.unwrap();
    assert!(standing(&admin).await.is_empty());
    let again = open(&world, &node, TRAINER).await.expect("it may ask again");
    issue(&world, &node, TRAINER, &again).await.unwrap();
    assert_eq!(reason(lift(&admin, &stands[0]).await), "KILL_OVER");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scope_is_cut_off_and_tasks_go_on() {
    let mut world = World::new().await;
    let (admin, node) = (world.connect(ADMIN).await, world.connect(NODE).await);
    let task = open(&world, &node, TRAINER).await.unwrap();
    let lease = issue(&world, &node, TRAINER, &task).await.unwrap();
    let done = kill(&admin, "scope", "index-read").await;
    assert_eq!((done.tasks_ended, done.leases.unwrap().running_out), (0, 1), "{done:?}");
    assert_eq!(lease_state(&admin, &lease).await, "revoking");
    assert_eq!(reason(issue(&world, &node, TRAINER, &task).await), "CUT_OFF");
    lift(&admin, &done.kill.unwrap()).await.unwrap();
    issue(&world, &node, TRAINER, &task).await.expect("the task is still open");
    assert_eq!(kill(&admin, "provider", "token").await.leases.unwrap().running_out, 1);
    assert_eq!(reason(issue(&world, &node, TRAINER, &task).await), "CUT_OFF");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_tells_whose_it_is_and_ends_nothing() {
    let mut world = World::new().await;
    let (admin, node) = (world.connect(ADMIN).await, world.connect(NODE).await);
    let task = open(&world, &node, TRAINER).await.unwrap();
    let lease = issue(&world, &node, TRAINER, &task).await.unwrap();
    let asked = v1::KillRequest { dry_run: true, ..request("pattern", "spiffe://example.org/train/*") };
    let answer = admin.revocations().kill(asked).await.unwrap().into_inner().outcome.unwrap();
    let width = answer.width.unwrap();
    assert!(answer.kill.is_none());
    assert_eq!((width.tasks, width.leases, width.wide), (1, 1, false));
    assert_eq!(
        (width.holders[0].spiffe_id.as_str(), width.scopes[0].scope.as_str()),
        (TRAINER, "index-read")
    );
    assert_eq!(lease_state(&admin, &lease).await, "active");
    issue(&world, &node, TRAINER, &task).await.expect("nothing was cut off");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wide_kill_waits_for_a_second_admin_and_break_glass_does_not() {
    let mut world =
        World::configured("approvals_from_one_host = true", "wide_kill_tasks = 1\nwide_kill_few = 1").await;
    world.apply(crate::world::DOCUMENTS).await;
    world.apply(ADMINS).await;
    let (ann, bob, node) = (world.connect(ADMIN).await, world.connect(BOB).await, world.connect(NODE).await);
    let tasks = [open(&world, &node, TRAINER).await.unwrap(), open(&world, &node, OTHER).await.unwrap()];
    let proposed = kill(&ann, "everything", "").await;
    let waiting = proposed.kill.unwrap();
    assert_eq!((waiting.state.as_str(), proposed.tasks_ended), ("proposed", 0));
    issue(&world, &node, TRAINER, &tasks[0]).await.expect("nothing is cut off yet");
    let yes = |digest: &str| v1::ApproveKillRequest {
        kill_id: waiting.kill_id.clone(),
        digest: digest.to_owned(),
        wait_ms: 5_000,
    };
    assert_eq!(reason(ann.revocations().approve_kill(yes(&waiting.digest)).await), "APPROVER_IS_REQUESTER");
    assert_eq!(reason(bob.revocations().approve_kill(yes("another")).await), "KILL_CHANGED");
    let done = bob.revocations().approve_kill(yes(&waiting.digest)).await.unwrap().into_inner();
    let done = done.outcome.unwrap();
    assert_eq!(done.tasks_ended, 2, "{done:?}");
    assert_eq!(reason(open(&world, &node, TRAINER).await), "CUT_OFF");
    assert_eq!(standing(&ann).await.len(), 1, "admins are spared, and can lift it");
    assert_eq!(reason(lift(&bob, &waiting).await), "NOT_ADMIN", "to lift it is to give");
    lift(&ann, &waiting).await.unwrap();

    open(&world, &node, TRAINER).await.unwrap();
    open(&world, &node, OTHER).await.unwrap();
    let glass = BreakGlassClient::connect(world.folder.path().join("glass.sock")).await.unwrap();
    let done = glass.revocations().kill(request("everything", "")).await.unwrap().into_inner();
    let done = done.outcome.unwrap();
    let stands = done.kill.unwrap();
    assert_eq!((stands.state.as_str(), done.tasks_ended), ("standing", 2));
    let asked = v1::LiftKillRequest { kill_id: stands.kill_id.clone() };
    assert_eq!(reason(glass.revocations().lift_kill(asked).await), "NOT_ADMIN");
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_are_told_and_their_word_is_counted_and_a_node_is_cut_off_whole() {
    let mut world = World::new().await;
    let (admin, node) = (world.connect(ADMIN).await, world.connect(NODE).await);
    obedient_agent(&world.connect(OTHER_NODE).await).await;
    let task = open(&world, &node, TRAINER).await.unwrap();
    issue(&world, &node, TRAINER, &task).await.unwrap();
    let done = kill(&admin, "scope", "index-read").await;
    assert_eq!((done.nodes_told, done.nodes_acknowledged), (1, 1));
    let done = kill(&admin, "node", NODE).await;
    assert_eq!(done.tasks_ended, 1, "{done:?}");
    assert_eq!(reason(open(&world, &node, TRAINER).await), "CUT_OFF");
    let (say, said) = mpsc::channel(1);
    let hello = v1::Hello { boot_id: "boot-1".to_owned(), agent_version: "test".to_owned() };
    say.send(v1::AttachRequest { message: Some(Say::Hello(hello)) }).await.unwrap();
    assert_eq!(reason(node.node().attach(ReceiverStream::new(said)).await), "CUT_OFF");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_target_is_refused_and_so_is_a_kill_without_a_reason() {
    let mut world = World::new().await;
    let (admin, node) = (world.connect(ADMIN).await, world.connect(NODE).await);
    for (kind, name, code) in [
        ("scope", "no-such", "UNKNOWN"),
        ("provider", "no-such", "UNKNOWN"),
        ("trust_domain", "other.org", "UNKNOWN"),
        ("pattern", "spiffe://*/a", "TARGET_INVALID"),
        ("all", "", "TARGET_INVALID"),
    ] {
        assert_eq!(reason(admin.revocations().kill(request(kind, name)).await), code, "{kind} {name}");
    }
    let silent = v1::KillRequest { reason: " ".into(), ..request("identity", TRAINER) };
    assert_eq!(reason(admin.revocations().kill(silent).await), "KILL_REASON_INVALID");
    assert_eq!(reason(node.revocations().kill(request("identity", TRAINER)).await), "NOT_ADMIN");
    assert!(standing(&admin).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_that_is_named_exactly_is_cut_off_too() {
    let mut world = World::new().await;
    world.apply(ADMINS).await;
    let (admin, bob) = (world.connect(ADMIN).await, world.connect(BOB).await);
    kill(&admin, "pattern", "spiffe://example.org/admin/**").await;
    bob.revocations().kill(request("identity", OTHER)).await.expect("a pattern spares admins");
    kill(&admin, "identity", BOB).await;
    assert_eq!(reason(bob.revocations().kill(request("identity", OTHER)).await), "NOT_ADMIN");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_to_be_taken_back_is_listed() {
    let mut world = World::new().await;
    let admin = world.connect(ADMIN).await;
    let asked = v1::ListRevocationsRequest::default();
    let answer = admin.revocations().list_revocations(asked).await.unwrap().into_inner();
    assert!(answer.queues.is_empty() && answer.revocations.is_empty());
    let asked = v1::RetryRevocationsRequest::default();
    assert_eq!(admin.revocations().retry_revocations(asked).await.unwrap().into_inner().revocations, 0);
}
