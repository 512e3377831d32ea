//! Reviews over the wire: figures are what was asked, and what is proposed can be applied and still carries it all.

use dayfly_client::BrokerClient;
use dayfly_domain::document;
use dayfly_proto::v1;
use v1::reviewed_binding::Verdict;

use crate::world::{ADMIN, DOCUMENTS, NODE, TRAINER, World, anchor, reason, scope};

const TOOL: &str = "spiffe://example.org/tool/search";
const PLANNER: &str = "spiffe://example.org/infer/planner";

const MORE: &str = r#"
kind: Stage
metadata: {name: inference}
spec: {patterns: ["spiffe://example.org/infer/**"]}
---
kind: Node
metadata: {name: n1}
spec:
  agents: "spiffe://example.org/node/n1"
  workloads: ["spiffe://example.org/train/**", "spiffe://example.org/tool/**", "spiffe://example.org/infer/**"]
  trust_domains: [example.org]
  anchors: [cgroup_owned, process]
---
kind: Binding
metadata: {name: planner-hands-on, labels: {team: agents}}
spec:
  identities: ["spiffe://example.org/infer/*"]
  scope: index-read
  grants: [delegate]
  delegate: {to: ["spiffe://example.org/tool/*"], depth: 4}
---
kind: Binding
metadata: {name: embargoed}
spec:
  identities: ["spiffe://example.org/train/*"]
  scope: index-read
  parameters: {index: [idx-77]}
  until: "2020-03-01T00:00:00Z"
  ticket: OPS-7
  owner: ann
"#;

fn index(value: &str) -> v1::ScopeRequest {
    scope("index-read", &[("index", value)])
}

async fn open(world: &World, node: &BrokerClient, who: &str, parent: &str) -> String {
    let request = v1::OpenTaskRequest {
        subject_token: world.subject_token(who, NODE),
        parent_task_id: parent.to_owned(),
        ceiling: ["idx-1", "idx-2", "idx-3"].map(index).into(),
        anchor: Some(anchor()),
        ..Default::default()
    };
    node.credentials().open_task(request).await.expect("a task").into_inner().task_id
}

async fn ask(
    world: &World,
    node: &BrokerClient,
    who: &str,
    task: &str,
    value: &str,
) -> Result<String, String> {
    let request = v1::IssueCredentialRequest {
        subject_token: world.subject_token(who, NODE),
        task_id: task.to_owned(),
        scope: Some(index(value)),
        ..Default::default()
    };
    match node.credentials().issue_credential(request).await {
        Ok(issued) => Ok(issued.into_inner().lease_id),
        Err(status) => Err(reason::<()>(Err(status))),
    }
}

fn back(seconds: i64) -> v1::ReviewRequest {
    let since = Some(prost_types::Duration { seconds, nanos: 0 });
    v1::ReviewRequest { since, ..Default::default() }
}

async fn review(admin: &BrokerClient, request: v1::ReviewRequest) -> v1::ReviewResponse {
    admin.questions().review(request).await.expect("an admin may ask").into_inner()
}

fn of<'a>(review: &'a v1::ReviewResponse, name: &str) -> &'a v1::ReviewedBinding {
    let found = review.bindings.iter().find(|one| one.bound.as_ref().unwrap().binding == name);
    found.unwrap_or_else(|| panic!("{name} is not reviewed"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_proposed_can_be_applied_and_carries_all_that_was_used() {
    let mut world = World::empty("").await;
    world.apply(DOCUMENTS).await;
    world.apply(MORE).await;
    let node = world.connect(NODE).await;
    let admin = world.connect(ADMIN).await;
    let train = open(&world, &node, TRAINER, "").await;
    let plan = open(&world, &node, PLANNER, "").await;
    let tool = open(&world, &node, TOOL, &plan).await;
    let uses = [(TRAINER, &train, "idx-1"), (TRAINER, &train, "idx-2"), (TOOL, &tool, "idx-1")];
    for (who, task, value) in uses {
        ask(&world, &node, who, task, value).await.expect("it is bound");
    }
    let lease = ask(&world, &node, TRAINER, &train, "idx-1").await.unwrap();
    let renewal = v1::RenewLeaseRequest {
        subject_token: world.subject_token(TRAINER, NODE),
        task_id: train.clone(),
        lease_id: lease,
        ..Default::default()
    };
    node.credentials().renew_lease(renewal).await.expect("it is theirs");
    // One record each up to a limit, then counts: every denial is counted once.
    for _ in 0..3 {
        let denied = ask(&world, &node, TRAINER, &train, "idx-9").await;
        assert_eq!(denied, Err("OUTSIDE_CEILING".to_owned()));
    }

    let told = review(&admin, back(3600)).await;
    assert!(told.read_to.is_none() && !told.more);
    let names: Vec<&str> =
        told.bindings.iter().map(|one| one.bound.as_ref().unwrap().binding.as_str()).collect();
    let by_scope = ["train-direct", "embargoed", "planner-hands-on", "tool-index", "train-index"];
    assert_eq!(names, by_scope);

    let trainers = of(&told, "train-index");
    assert_eq!((trainers.used, trainers.handed_on, trainers.in_root_tasks), (4, 0, 4));
    assert_eq!((trainers.requested, trainers.denied["OUTSIDE_CEILING"]), (7, 3));
    assert_eq!(trainers.identities[0].spiffe_id, TRAINER);
    let values: Vec<(&str, u64)> =
        trainers.values.iter().map(|one| (one.value.as_str(), one.times)).collect();
    assert_eq!(values, [("idx-1", 3), ("idx-2", 1)]);
    assert_eq!(trainers.verdict(), Verdict::Narrow);
    assert!(trainers.applied_at.is_some() && trainers.last_used_at.is_some());

    let planner = of(&told, "planner-hands-on");
    assert_eq!((planner.used, planner.handed_on), (0, 1));
    assert_eq!(planner.handed_to[0].spiffe_id, TOOL);
    assert!(planner.proposal.contains("team: agents"), "labels stay: {}", planner.proposal);
    assert_eq!(of(&told, "train-direct").verdict(), Verdict::RemoveUnused);
    assert_eq!(of(&told, "embargoed").verdict(), Verdict::RemoveEnded);
    assert_eq!(of(&told, "embargoed").bound.as_ref().unwrap().ticket, "OPS-7");

    let yaml: Vec<String> =
        told.bindings.iter().map(|one| one.proposal.clone()).filter(|one| !one.is_empty()).collect();
    assert_eq!(yaml.len(), 3);
    let yaml = yaml.join("\n---\n");
    assert!(document::parse(&yaml).1.is_empty(), "{yaml}");
    assert!(!yaml.contains('*'), "no wildcard was needed: {yaml}");
    world.apply(&yaml).await;
    for (who, task, value) in uses {
        ask(&world, &node, who, task, value).await.expect("it was used before");
    }
    assert_eq!(ask(&world, &node, TRAINER, &train, "idx-3").await, Err("SCOPE_NOT_GRANTED".to_owned()));
    assert_eq!(ask(&world, &node, TOOL, &tool, "idx-2").await, Err("SCOPE_NOT_GRANTED".to_owned()));
    let alone = open(&world, &node, TOOL, "").await;
    assert_eq!(ask(&world, &node, TOOL, &alone, "idx-1").await, Err("ROOT_NOT_ALLOWED".to_owned()));
    let again = review(&admin, back(3600)).await;
    for name in ["train-index", "planner-hands-on", "tool-index"] {
        assert_eq!(of(&again, name).verdict(), Verdict::Keep, "{:?}", of(&again, name).taken);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_opened_for_others_or_declared_counts_as_use() {
    let mut world = World::empty("").await;
    world.apply(DOCUMENTS).await;
    world.apply(MORE).await;
    let node = world.connect(NODE).await;
    let admin = world.connect(ADMIN).await;
    let trainer = world.connect(TRAINER).await;
    let plan = open(&world, &node, PLANNER, "").await;
    let offer = || v1::DelegateTaskRequest {
        subject_token: world.subject_token(PLANNER, NODE),
        task_id: plan.clone(),
        spiffe_id: TOOL.to_owned(),
        ceiling: vec![index("idx-2")],
        ..Default::default()
    };
    node.credentials().delegate_task(offer()).await.expect("it may hand it on");
    let declared = v1::OpenTaskRequest { ceiling: vec![scope("direct-read", &[])], ..Default::default() };
    trainer.credentials().open_task(declared.clone()).await.expect("it is bound");

    let told = review(&admin, back(3600)).await;
    let planner = of(&told, "planner-hands-on");
    assert_eq!((planner.handed_on, planner.verdict()), (1, Verdict::Narrow));
    let direct = of(&told, "train-direct");
    assert_eq!((direct.used, direct.declared, direct.verdict()), (0, 1, Verdict::Undeclare));
    world.apply(&planner.proposal).await;
    node.credentials().delegate_task(offer()).await.expect("as before");
    trainer.credentials().open_task(declared).await.expect("as before");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_review_is_of_what_is_named_since_a_moment_for_admins_who_may_read() {
    let mut world = World::new().await;
    let node = world.connect(NODE).await;
    let admin = world.connect(ADMIN).await;
    let train = open(&world, &node, TRAINER, "").await;
    ask(&world, &node, TRAINER, &train, "idx-1").await.unwrap();
    let nothing = review(&admin, back(0)).await;
    assert_eq!(of(&nothing, "train-index").used, 0, "it was before");
    let names = async |change: fn(&mut v1::ReviewRequest)| {
        let mut request = back(60);
        change(&mut request);
        let answer = admin.questions().review(request).await;
        answer.map(|answer| {
            let bindings = answer.into_inner().bindings.into_iter();
            bindings.map(|one| one.bound.unwrap().binding).collect::<Vec<_>>().join(" ")
        })
    };
    assert_eq!(names(|it| it.binding = "tool-index".into()).await.unwrap(), "tool-index");
    assert_eq!(names(|it| it.scope = "direct-read".into()).await.unwrap(), "train-direct");
    assert_eq!(names(|it| it.spiffe_id = TOOL.into()).await.unwrap(), "tool-index");
    assert_eq!(reason(names(|it| it.binding = "nothing".into()).await), "UNKNOWN");
    assert_eq!(reason(names(|it| it.scope = "nothing".into()).await), "UNKNOWN");
    assert_eq!(reason(names(|it| it.spiffe_id = "tool".into()).await), "SPIFFE_ID_INVALID");
    assert_eq!(reason(names(|it| it.since = None).await), "REVIEW_INVALID");
    assert_eq!(reason(names(|it| it.since.as_mut().unwrap().seconds = 1 << 40).await), "REVIEW_INVALID");
    assert_eq!(reason(names(|it| it.scope = "x".repeat(1000)).await), "REVIEW_INVALID");
    for stranger in ["spiffe://example.org/admin/other", TRAINER, NODE] {
        let client = world.connect(stranger).await;
        assert_eq!(reason(client.questions().review(back(60)).await), "NOT_ADMIN", "{stranger}");
    }
}
