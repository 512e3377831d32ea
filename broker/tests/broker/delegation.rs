//! Tasks for named workloads: a planner that may hand a scope on and not use it, and the tools that use it for the planner.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use dayfly_client::BrokerClient;
use dayfly_proto::v1;
use serde_json::{Value, json};

use crate::world::{ADMIN, DOCUMENTS, NODE, OTHER_NODE, TRAINER, World, anchor, reason, scope};

const PLANNER: &str = "spiffe://example.org/infer/planner";
const TOOL: &str = "spiffe://example.org/tool/search";
const SERVER: &str = "spiffe://example.org/tool/server";
const STRANGER: &str = "spiffe://example.org/tool/stranger";

const RULES: &str = r#"
kind: Stage
metadata: {name: inference}
spec: {patterns: ["spiffe://example.org/infer/**"]}
---
kind: Node
metadata: {name: n1}
spec: {agents: "spiffe://example.org/node/n1", workloads: ["spiffe://example.org/infer/**", "spiffe://example.org/tool/**"], trust_domains: [example.org], anchors: [cgroup_owned, process]}
---
kind: Node
metadata: {name: n2}
spec: {agents: "spiffe://example.org/node/n2", workloads: ["spiffe://example.org/tool/**"], trust_domains: [example.org], anchors: [process]}
---
kind: Binding
metadata: {name: planner-hands-index-on}
spec:
  identities: ["spiffe://example.org/infer/planner"]
  scope: index-read
  grants: [delegate]
  delegate: {to: ["spiffe://example.org/tool/search", "spiffe://example.org/tool/server"]}
  parameters: {index: [idx-1]}
---
kind: Binding
metadata: {name: server-index}
spec: {identities: ["spiffe://example.org/tool/server"], scope: index-read, via: direct}
"#;

fn index(value: &str) -> v1::ScopeRequest {
    scope("index-read", &[("index", value)])
}

async fn world(limits: &str) -> World {
    let world = World::empty(limits).await;
    world.apply(DOCUMENTS).await;
    world.apply(RULES).await;
    world
}

/// The planner's own root task, through the agent of the first node.
async fn plan(world: &World, node: &BrokerClient) -> v1::OpenTaskResponse {
    let request = v1::OpenTaskRequest {
        subject_token: world.subject_token(PLANNER, NODE),
        ceiling: vec![index("idx-1"), index("idx-2")],
        anchor: Some(anchor()),
        ..Default::default()
    };
    node.credentials().open_task(request).await.expect("a root").into_inner()
}

fn delegation(world: &World, task: &str, to: &str) -> v1::DelegateTaskRequest {
    v1::DelegateTaskRequest {
        subject_token: world.subject_token(PLANNER, NODE),
        task_id: task.to_owned(),
        spiffe_id: to.to_owned(),
        ceiling: vec![index("idx-1")],
        ..Default::default()
    }
}

async fn offer(world: &World, node: &BrokerClient, task: &str, to: &str) -> v1::DelegateTaskResponse {
    let offered = node.credentials().delegate_task(delegation(world, task, to)).await;
    offered.expect("the planner may").into_inner()
}

fn claim(world: &World, who: &str, node: &str, task: &str) -> v1::ClaimTaskRequest {
    v1::ClaimTaskRequest {
        subject_token: world.subject_token(who, node),
        task_id: task.to_owned(),
        anchor: Some(anchor()),
        ..Default::default()
    }
}

fn directly(task: &str) -> v1::ClaimTaskRequest {
    v1::ClaimTaskRequest { task_id: task.to_owned(), ..Default::default() }
}

fn issue(world: &World, who: &str, node: &str, task: &str) -> v1::IssueCredentialRequest {
    v1::IssueCredentialRequest {
        subject_token: world.subject_token(who, node),
        task_id: task.to_owned(),
        scope: Some(index("idx-1")),
        ..Default::default()
    }
}

fn claims_of(issued: &v1::IssueCredentialResponse) -> Value {
    let Some(v1::issue_credential_response::Credential::Token(token)) = &issued.credential else {
        panic!("a token was asked for: {issued:?}");
    };
    let payload = token.access_token.split('.').nth(1).expect("a JWT");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

/// The records of decisions, as an admin reads them.
async fn decisions(world: &mut World) -> Vec<Value> {
    let admin = world.connect(ADMIN).await;
    let request = v1::ReadAuditRequest { stream: "decision".to_owned(), from_seq: 1 };
    let mut rows = admin.admin().read_audit(request).await.unwrap().into_inner();
    let mut records = Vec::new();
    while let Some(row) = rows.message().await.unwrap() {
        records.push(serde_json::from_slice(&row.bytes).unwrap());
    }
    records
}

async fn shown(world: &mut World, task: &str) -> v1::Task {
    let admin = world.connect(ADMIN).await;
    let request = v1::GetTaskRequest { task_id: task.to_owned() };
    admin.admin().get_task(request).await.unwrap().into_inner().task.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_gets_what_its_planner_may_only_hand_on_and_the_chain_is_everywhere() {
    let mut world = world("").await;
    let (node, other) = (world.connect(NODE).await, world.connect(OTHER_NODE).await);
    let root = plan(&world, &node).await;
    let refused = node.credentials().issue_credential(issue(&world, PLANNER, NODE, &root.task_id)).await;
    assert_eq!(reason(refused), "SCOPE_NOT_GRANTED", "to hand on yields nothing to the planner");
    let offered = offer(&world, &node, &root.task_id, TOOL).await;
    assert_eq!(offered.session_id, root.session_id);
    let waiting = shown(&mut world, &offered.task_id).await;
    assert_eq!((&*waiting.state, &*waiting.anchor, &*waiting.spiffe_id), ("open", "offer", TOOL));
    assert_eq!((waiting.deadline, &*waiting.node), (offered.claim_until, ""));

    // The tool runs on another node.
    let request = claim(&world, TOOL, OTHER_NODE, &offered.task_id);
    let claimed = other.credentials().claim_task(request).await.unwrap().into_inner();
    assert_eq!((&claimed.ceiling, claimed.deadline), (&vec![index("idx-1")], offered.deadline));
    assert_eq!(claimed.providers[0].provider, "token");
    assert!(claimed.task_key.is_empty());
    let request = issue(&world, TOOL, OTHER_NODE, &offered.task_id);
    let issued = other.credentials().issue_credential(request.clone()).await.unwrap().into_inner();
    let claims = claims_of(&issued);
    assert_eq!(claims["sub"], TOOL);
    assert_eq!(claims["act"], json!({"sub": PLANNER}), "RFC 8693 section 4.1");
    assert_eq!(claims["txn"], root.session_id.as_str());
    let beyond = v1::IssueCredentialRequest { scope: Some(index("idx-2")), ..request.clone() };
    assert_eq!(reason(other.credentials().issue_credential(beyond).await), "OUTSIDE_CEILING");

    let records = decisions(&mut world).await;
    let of = |what: &str, event: &str| {
        let found = records.iter().find(|record| record["what"] == what && record["event"] == event);
        found.unwrap_or_else(|| panic!("no {event} of {what}")).clone()
    };
    assert_eq!(of("open_task", "decision.allow")["chain"], json!([PLANNER]));
    assert_eq!(of("delegate_task", "decision.allow")["delegate_to"], TOOL);
    assert_eq!(of("delegate_task", "decision.allow")["chain"], json!([PLANNER]));
    let denied: Vec<&Value> = records.iter().filter(|record| record["event"] == "decision.deny").collect();
    assert_eq!(
        denied.iter().map(|record| &record["chain"]).collect::<Vec<_>>(),
        [&json!([PLANNER]), &json!([PLANNER, TOOL])]
    );
    for what in ["claim_task", "issue"] {
        assert_eq!(of(what, "decision.allow")["chain"], json!([PLANNER, TOOL]), "{what}");
    }

    let end = v1::EndTaskRequest {
        subject_token: world.subject_token(PLANNER, NODE),
        task_id: root.task_id.clone(),
        ..Default::default()
    };
    let ended = node.credentials().end_task(end).await.unwrap().into_inner();
    assert_eq!((ended.tasks_ended, ended.leases_queued), (2, 1), "the planner's end takes the tool's along");
    assert_eq!(shown(&mut world, &offered.task_id).await.end_cause, "parent_ended");
    assert_eq!(reason(other.credentials().issue_credential(request).await), "TASK_NOT_OPEN");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_was_not_named_learns_nothing_and_the_named_claims_once() {
    let mut world = world("").await;
    let (node, other) = (world.connect(NODE).await, world.connect(OTHER_NODE).await);
    let root = plan(&world, &node).await;
    let offered = offer(&world, &node, &root.task_id, TOOL).await;
    let told = |answer: Result<tonic::Response<v1::ClaimTaskResponse>, tonic::Status>, task: &str| {
        let status = answer.expect_err("a refusal");
        let text = status.message().replace(task, "TASK");
        (reason::<()>(Err(status)), text)
    };
    let unknown = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
    let request = claim(&world, TOOL, OTHER_NODE, unknown);
    let expected = told(other.credentials().claim_task(request).await, unknown);
    assert_eq!(expected.0, "TASK_NOT_OPEN");
    for (task, who) in [(&offered.task_id, STRANGER), (&root.task_id, TOOL), (&offered.task_id, SERVER)] {
        let request = claim(&world, who, OTHER_NODE, task);
        assert_eq!(told(other.credentials().claim_task(request).await, task), expected, "{who}");
    }
    let planner = claim(&world, PLANNER, NODE, &offered.task_id);
    assert_eq!(told(node.credentials().claim_task(planner).await, &offered.task_id), expected);
    // The named one acts in it no sooner than it has claimed it.
    let early = issue(&world, TOOL, OTHER_NODE, &offered.task_id);
    assert_eq!(reason(other.credentials().issue_credential(early).await), "TASK_NOT_OPEN");
    let tool = world.connect(TOOL).await;
    let early = v1::EndTaskRequest { task_id: offered.task_id.clone(), ..Default::default() };
    assert_eq!(reason(tool.credentials().end_task(early).await), "TASK_NOT_OPEN");
    let early = v1::WatchTaskRequest { task_id: offered.task_id.clone(), ..Default::default() };
    assert_eq!(reason(tool.credentials().watch_task(early).await.map(|_| ())), "TASK_NOT_OPEN");

    let request = claim(&world, TOOL, OTHER_NODE, &offered.task_id);
    other.credentials().claim_task(request.clone()).await.expect("it was opened for the tool");
    assert_eq!(told(other.credentials().claim_task(request).await, &offered.task_id), expected, "once");
    // The task is the second node's now: neither the first nor the tool without an agent acts in it.
    let elsewhere = issue(&world, TOOL, NODE, &offered.task_id);
    assert_eq!(reason(node.credentials().issue_credential(elsewhere).await), "TASK_NOT_OPEN");
    let denials = decisions(&mut world).await;
    let claims =
        denials.iter().filter(|record| record["what"] == "claim_task" && record["event"] == "decision.deny");
    assert_eq!(claims.count(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_claims_in_time_is_over() {
    let mut world = world("claim_within = \"400ms\"\nlongest_claim_within = \"600ms\"").await;
    let (node, other) = (world.connect(NODE).await, world.connect(OTHER_NODE).await);
    let root = plan(&world, &node).await;
    let offered = offer(&world, &node, &root.task_id, TOOL).await;
    let hour = Some(prost_types::Duration { seconds: 3600, nanos: 0 });
    let longer = v1::DelegateTaskRequest { claim_within: hour, ..delegation(&world, &root.task_id, TOOL) };
    let longer = node.credentials().delegate_task(longer).await.unwrap().into_inner();
    let millis =
        |at: Option<prost_types::Timestamp>| at.map(|at| at.seconds * 1000 + i64::from(at.nanos) / 1_000_000);
    let ahead = millis(longer.claim_until).unwrap() - millis(offered.claim_until).unwrap();
    assert!((150..10_000).contains(&ahead), "the broker's limit cuts what is longer: {ahead} ms");
    tokio::time::sleep(Duration::from_millis(700)).await;
    for task in [&offered.task_id, &longer.task_id] {
        let late = claim(&world, TOOL, OTHER_NODE, task);
        assert_eq!(reason(other.credentials().claim_task(late).await), "TASK_NOT_OPEN");
    }
    for _ in 0..100 {
        if shown(&mut world, &longer.task_id).await.state == "ended" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(shown(&mut world, &longer.task_id).await.end_cause, "deadline");
    assert_eq!(shown(&mut world, &root.task_id).await.state, "open");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_handed_on_that_may_not_be() {
    let mut world = world("").await;
    let node = world.connect(NODE).await;
    let root = plan(&world, &node).await;
    let base = delegation(&world, &root.task_id, TOOL);
    for (request, expected) in [
        (
            v1::DelegateTaskRequest { spiffe_id: STRANGER.to_owned(), ..base.clone() },
            "DELEGATION_NOT_ALLOWED",
        ),
        (v1::DelegateTaskRequest { spiffe_id: ADMIN.to_owned(), ..base.clone() }, "DELEGATION_NOT_ALLOWED"),
        (v1::DelegateTaskRequest { ceiling: vec![index("idx-2")], ..base.clone() }, "DELEGATION_NOT_ALLOWED"),
        (v1::DelegateTaskRequest { ceiling: vec![index("idx-3")], ..base.clone() }, "OUTSIDE_CEILING"),
        (v1::DelegateTaskRequest { ceiling: vec![index("other")], ..base.clone() }, "PARAMETER_INVALID"),
        (
            v1::DelegateTaskRequest { ceiling: vec![scope("nowhere", &[])], ..base.clone() },
            "SCOPE_NOT_GRANTED",
        ),
        (
            v1::DelegateTaskRequest { spiffe_id: "spiffe://example.org".to_owned(), ..base.clone() },
            "SPIFFE_ID_INVALID",
        ),
        (v1::DelegateTaskRequest { spiffe_id: "x".repeat(3000), ..base.clone() }, "SPIFFE_ID_INVALID"),
        (
            v1::DelegateTaskRequest { task_id: "01ARZ3NDEKTSV4RRFFQ69G5FAV".to_owned(), ..base.clone() },
            "TASK_NOT_OPEN",
        ),
        // Another identity that stands in the planner's task is not its holder.
        (
            v1::DelegateTaskRequest { subject_token: world.subject_token(SERVER, NODE), ..base },
            "DELEGATION_NOT_ALLOWED",
        ),
    ] {
        let said = format!("{request:?}");
        assert_eq!(reason(node.credentials().delegate_task(request).await), expected, "{said}");
    }
    // Through another agent, or with no key, it is nobody's task.
    let other = world.connect(OTHER_NODE).await;
    let token = world.subject_token(TOOL, OTHER_NODE);
    let request = v1::DelegateTaskRequest { subject_token: token, ..delegation(&world, &root.task_id, TOOL) };
    assert_eq!(reason(other.credentials().delegate_task(request).await), "TASK_NOT_OPEN");
    let planner = world.connect(PLANNER).await;
    let request =
        v1::DelegateTaskRequest { subject_token: String::new(), ..delegation(&world, &root.task_id, TOOL) };
    assert_eq!(reason(planner.credentials().delegate_task(request).await), "TASK_NOT_OPEN");
    let trainer = world.connect(TRAINER).await;
    let request = v1::ClaimTaskRequest { anchor: Some(anchor()), ..directly(&root.task_id) };
    assert_eq!(reason(trainer.credentials().claim_task(request).await), "ANCHOR_NOT_YOURS");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_handed_on_is_decided_anew_at_each_use() {
    let mut world = world("").await;
    let (node, other) = (world.connect(NODE).await, world.connect(OTHER_NODE).await);
    let root = plan(&world, &node).await;
    let offered = offer(&world, &node, &root.task_id, TOOL).await;
    let request = claim(&world, TOOL, OTHER_NODE, &offered.task_id);
    other.credentials().claim_task(request).await.unwrap();
    let request = issue(&world, TOOL, OTHER_NODE, &offered.task_id);
    other.credentials().issue_credential(request.clone()).await.expect("the planner may hand it on");
    world.apply(&RULES.replace("example.org/tool/search\", \"", "example.org/tool/nobody\", \"")).await;
    assert_eq!(reason(other.credentials().issue_credential(request).await), "ANCESTOR_LACKS_GRANT");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_an_agent_claims_with_its_own_svid_and_holds_on_by_its_stream() {
    let mut world = world("stream_grace = \"300ms\"").await;
    let node = world.connect(NODE).await;
    let root = plan(&world, &node).await;
    let offered = offer(&world, &node, &root.task_id, SERVER).await;
    let mut tries = Vec::new();
    for _ in 0..4 {
        let server = world.connect(SERVER).await;
        let task = offered.task_id.clone();
        tries.push(tokio::spawn(async move { server.credentials().claim_task(directly(&task)).await }));
    }
    let mut won = Vec::new();
    for tried in tries {
        match tried.await.unwrap() {
            Ok(claimed) => won.push(claimed.into_inner()),
            refused => assert_eq!(reason(refused), "TASK_NOT_OPEN"),
        }
    }
    let [claimed] = won.as_slice() else { panic!("{} of four claims won", won.len()) };
    assert!(!claimed.task_key.is_empty());
    let (limit, offered_for) = (claimed.deadline.unwrap().seconds, offered.deadline.unwrap().seconds);
    assert!(limit < offered_for, "a direct caller's own limit holds for it too");

    let server = world.connect(SERVER).await;
    let watch = v1::WatchTaskRequest {
        task_id: claimed.task_id.clone(),
        task_key: claimed.task_key.clone(),
        ..Default::default()
    };
    let stream = server.credentials().watch_task(watch).await.unwrap();
    let request = v1::IssueCredentialRequest {
        task_id: claimed.task_id.clone(),
        task_key: claimed.task_key.clone(),
        scope: Some(index("idx-1")),
        ..Default::default()
    };
    tokio::time::sleep(Duration::from_millis(1000)).await;
    let issued = server.credentials().issue_credential(request.clone()).await.unwrap().into_inner();
    assert_eq!(claims_of(&issued)["act"], json!({"sub": PLANNER}));
    let keyless = v1::IssueCredentialRequest { task_key: String::new(), ..request };
    assert_eq!(reason(server.credentials().issue_credential(keyless).await), "TASK_NOT_OPEN");
    drop(stream);
    for _ in 0..100 {
        if shown(&mut world, &claimed.task_id).await.state == "ended" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(shown(&mut world, &claimed.task_id).await.end_cause, "anchor_gone");
    assert_eq!(shown(&mut world, &root.task_id).await.state, "open");
}
