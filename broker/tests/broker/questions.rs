//! Questions about access over the wire: what they answer is what is decided, recorded and given.

use std::collections::BTreeSet;

use dayfly_client::{BreakGlassClient, BrokerClient, CallError};
use dayfly_proto::v1;
use serde_json::Value;
use tokio_stream::StreamExt;

use crate::world::{ADMIN, DOCUMENTS, NODE, TRAINER, World, anchor, reason, scope};

pub const TOOL: &str = "spiffe://example.org/tool/search";
pub const PLANNER: &str = "spiffe://example.org/infer/planner";

pub const MORE: &str = r#"
kind: Stage
metadata: {name: inference}
spec: {patterns: ["spiffe://example.org/infer/**"]}
---
kind: Stage
metadata: {name: admin}
spec: {patterns: ["spiffe://example.org/admin/*"]}
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
metadata: {name: planner-hands-on}
spec:
  identities: ["spiffe://example.org/infer/planner"]
  scope: index-read
  grants: [delegate]
  delegate: {to: ["spiffe://example.org/tool/*"]}
  parameters: {index: [idx-1, idx-9]}
---
kind: Binding
metadata: {name: readers}
spec: {identities: ["spiffe://example.org/admin/reader"], scope: admin.read}
---
kind: Policy
metadata: {name: careful}
spec:
  scopes: [index-read]
  modules:
    careful.rego: |
      package dayfly.careful
      decision := {"allow": count(reasons) == 0, "reasons": reasons, "narrow": {"max_ttl": 90}}
      reasons contains "nine is closed" if input.claimed.parameters.index == "idx-9"
    careful_test.rego: |
      package dayfly.careful_test
      test_nine if not data.dayfly.careful.decision.allow with input as {"claimed": {"parameters": {"index": "idx-9"}}}
"#;

pub fn index(value: &str) -> v1::ScopeRequest {
    scope("index-read", &[("index", value)])
}

pub async fn world() -> World {
    let world = World::empty("task_depth = 2").await;
    world.apply(DOCUMENTS).await;
    world.apply(MORE).await;
    world
}

/// A task through the first node's agent, with a wide ceiling.
pub async fn open(world: &World, node: &BrokerClient, who: &str, parent: &str) -> String {
    let request = v1::OpenTaskRequest {
        subject_token: world.subject_token(who, NODE),
        parent_task_id: parent.to_owned(),
        ceiling: ["idx-1", "idx-2", "idx-9"]
            .map(index)
            .into_iter()
            .chain([scope("direct-read", &[])])
            .collect(),
        anchor: Some(anchor()),
        ..Default::default()
    };
    node.credentials().open_task(request).await.expect("a task").into_inner().task_id
}

/// What the task's holder is told: a lease's id, or a reason.
pub async fn ask(
    world: &World,
    node: &BrokerClient,
    (who, task): (&str, &str),
    wanted: v1::ScopeRequest,
    seconds: Option<i64>,
) -> Result<String, String> {
    let request = v1::IssueCredentialRequest {
        subject_token: world.subject_token(who, NODE),
        task_id: task.to_owned(),
        scope: Some(wanted),
        ttl: seconds.map(|seconds| prost_types::Duration { seconds, nanos: 0 }),
        ..Default::default()
    };
    match node.credentials().issue_credential(request).await {
        Ok(issued) => Ok(issued.into_inner().lease_id),
        Err(status) => Err(reason::<()>(Err(status))),
    }
}

async fn explain(admin: &BrokerClient, question: v1::explain_request::Question) -> v1::ExplainResponse {
    let request = v1::ExplainRequest { question: Some(question) };
    admin.questions().explain(request).await.expect("an admin may ask").into_inner()
}

pub async fn records(admin: &BrokerClient) -> Vec<(u64, Value)> {
    let request = v1::ReadAuditRequest { stream: "decision".to_owned(), from_seq: 1 };
    let rows = admin.admin().read_audit(request).await.unwrap().into_inner();
    let rows: Vec<_> = rows.map(|row| row.unwrap()).collect().await;
    rows.into_iter().map(|row| (row.seq, serde_json::from_slice(&row.bytes).unwrap())).collect()
}

/// Opens, offers and claims tasks, and tries what is not allowed.
async fn hand_on(world: &World, node: &BrokerClient) {
    let opening = |who: &str, parent: &str, ceiling: Vec<v1::ScopeRequest>| v1::OpenTaskRequest {
        subject_token: world.subject_token(who, NODE),
        parent_task_id: parent.to_owned(),
        ceiling,
        anchor: Some(anchor()),
        ..Default::default()
    };
    let opened = node.credentials().open_task(opening(PLANNER, "", vec![index("idx-1")])).await;
    let plan = opened.expect("a root").into_inner().task_id;
    let offer = async |to: &str, wanted: v1::ScopeRequest| {
        let request = v1::DelegateTaskRequest {
            subject_token: world.subject_token(PLANNER, NODE),
            task_id: plan.clone(),
            spiffe_id: to.to_owned(),
            ceiling: vec![wanted],
            ..Default::default()
        };
        node.credentials().delegate_task(request).await.map(|offered| offered.into_inner().task_id)
    };
    let claim = async |who: &str, task: &str| {
        let request = v1::ClaimTaskRequest {
            subject_token: world.subject_token(who, NODE),
            task_id: task.to_owned(),
            anchor: Some(anchor()),
            ..Default::default()
        };
        node.credentials().claim_task(request).await
    };
    let offered = offer(TOOL, index("idx-1")).await.expect("it hands on");
    assert_eq!(reason(claim(TRAINER, &offered).await), "TASK_NOT_OPEN");
    assert_eq!(reason(claim(TOOL, "01ARZ3NDEKTSV4RRFFQ69G5FAV").await), "TASK_NOT_OPEN");
    claim(TOOL, &offered).await.expect("it is theirs");
    assert_eq!(reason(claim(TOOL, &offered).await), "TASK_NOT_OPEN");
    assert_eq!(reason(offer(TRAINER, index("idx-1")).await), "DELEGATION_NOT_ALLOWED");
    assert_eq!(reason(offer(TOOL, index("idx-2")).await), "OUTSIDE_CEILING");
    for (parent, wanted, expected) in [
        (&plan, scope("nowhere", &[]), "SCOPE_NOT_GRANTED"),
        (&plan, index("idx-2"), "OUTSIDE_CEILING"),
        (&offered, index("idx-1"), "TASK_TREE_TOO_DEEP"),
    ] {
        let opened = node.credentials().open_task(opening(TOOL, parent, vec![wanted])).await;
        assert_eq!(reason(opened), expected);
    }
}

/// Asks for all kinds of things, while the rules change under them.
pub async fn busy(world: &mut World) {
    let node = world.connect(NODE).await;
    hand_on(world, &node).await;
    let train = open(world, &node, TRAINER, "").await;
    let plan = open(world, &node, PLANNER, "").await;
    let tool = open(world, &node, TOOL, &plan).await;
    let alone = open(world, &node, TOOL, "").await;
    let everyone = [(TRAINER, &train), (TOOL, &tool), (TOOL, &alone), (PLANNER, &plan), (TRAINER, &tool)];
    let changes = [
        "",
        "kind: Binding\nmetadata: {name: train-index}\nspec: {identities: [\"spiffe://example.org/train/*\"], scope: index-read, parameters: {index: [idx-2]}}",
        "kind: Policy\nmetadata: {name: careful}\nspec: {scopes: [direct-read], modules: {a.rego: \"package dayfly.careful\\ndecision := {\\\"allow\\\": true}\", a_test.rego: \"package dayfly.careful_test\\ntest_it if data.dayfly.careful.decision.allow\"}}",
        "kind: Stage\nmetadata: {name: tool}\nspec: {patterns: [\"spiffe://example.org/tools/**\"]}",
    ];
    for change in changes {
        if !change.is_empty() {
            world.apply(change).await;
        }
        for (who, task) in everyone {
            for wanted in
                [index("idx-1"), index("idx-2"), index("idx-3"), index("idx-9"), scope("direct-read", &[])]
            {
                let _ = ask(world, &node, (who, task), wanted, None).await;
            }
            let _ = ask(world, &node, (who, task), index("idx-1"), Some(3600)).await;
        }
    }
    let target = Some(v1::revoke_request::Target::TaskId(plan.clone()));
    let admin = world.connect(ADMIN).await;
    admin.admin().revoke(v1::RevokeRequest { target, ..Default::default() }).await.unwrap();
    assert_eq!(
        ask(world, &node, (PLANNER, &plan), index("idx-1"), None).await,
        Err("TASK_NOT_OPEN".to_owned())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_past_request_is_decided_once_more_as_its_record_says() {
    let mut world = world().await;
    busy(&mut world).await;
    // What policies were loaded is forgotten over a restart; the documents are not.
    world.restart().await;
    let admin = world.connect(ADMIN).await;
    let mut reasons = BTreeSet::new();
    let mut whats = BTreeSet::new();
    let mut allowed = 0;
    for (seq, record) in records(&admin).await {
        let Some(id) = record["request_id"].as_str() else { continue };
        let told = explain(&admin, v1::explain_request::Question::Id(id.to_owned())).await.past;
        let past = told.iter().find(|past| past.seq == seq).expect("the record is found by its request");
        assert_eq!(serde_json::from_slice::<Value>(&past.record).unwrap(), record);
        assert!(!past.differs, "{record:#} against {:#?}", past.then);
        let then = past.then.as_ref().unwrap_or_else(|| panic!("{}: {record:#}", past.not_decided));
        let verdict = then.verdict.as_ref().unwrap();
        assert_eq!(then.revision, record["revision"].as_u64().unwrap());
        let what = record["what"].as_str().unwrap();
        whats.insert(format!("{what} {}", if verdict.allowed { "allowed" } else { &verdict.reason }));
        if verdict.allowed && record["binding"].is_null() {
            assert!(["open_task", "delegate_task", "claim_task"].contains(&what), "{record:#}");
            assert!(then.steps.len() > 1 && then.steps.iter().all(|step| step.matched), "{:#?}", then.steps);
        } else if verdict.allowed {
            allowed += 1;
            assert_eq!(record["binding"], *verdict.binding, "{record:#}");
            assert!(
                then.steps
                    .iter()
                    .any(|step| step.matched && step.rule == format!("binding {}", verdict.binding))
            );
            let ttl = u64::try_from(verdict.ttl.as_ref().unwrap().seconds).unwrap();
            assert_eq!(
                record["ttl"]
                    .as_str()
                    .map(|ttl| ttl.parse::<dayfly_domain::time::Ttl>().unwrap().as_seconds()),
                Some(ttl)
            );
            let lease = record["lease_id"].as_str().unwrap().to_owned();
            let by_lease = explain(&admin, v1::explain_request::Question::Id(lease)).await.past;
            assert_eq!(by_lease[0].seq, seq);
        } else {
            reasons.insert(verdict.reason.clone());
            assert_eq!(record["message"], *verdict.message);
            // All that the record holds is among the steps, in the same order.
            let steps: Vec<String> = then
                .steps
                .iter()
                .map(|step| format!("{} {}: {}", if step.matched { "+" } else { "-" }, step.rule, step.what))
                .collect();
            let mut rest = steps.iter();
            let trace = record["trace"].as_array().unwrap().iter().map(|line| line.as_str().unwrap());
            // A record names the caller's own bindings alone, an explanation all; so only a record says that it has none.
            for line in trace.filter(|line| !line.starts_with("- bindings: no binding")) {
                assert!(rest.any(|step| step == line), "{line} is not in {steps:#?}");
            }
        }
    }
    assert!(allowed >= 8, "{allowed} were allowed");
    let expected = [
        "ANCESTOR_LACKS_GRANT",
        "OUTSIDE_CEILING",
        "POLICY_DENIED",
        "ROOT_NOT_ALLOWED",
        "SCOPE_NOT_GRANTED",
        "TTL_OVER_LIMIT",
        "VIA_NOT_ALLOWED",
    ];
    let missing: Vec<&&str> = expected.iter().filter(|reason| !reasons.contains(**reason)).collect();
    assert!(missing.is_empty(), "{missing:?} never came: {reasons:?}");
    for what in [
        "open_task allowed",
        "open_task OUTSIDE_CEILING",
        "open_task SCOPE_NOT_GRANTED",
        "open_task TASK_TREE_TOO_DEEP",
        "delegate_task allowed",
        "delegate_task DELEGATION_NOT_ALLOWED",
        "claim_task allowed",
        "claim_task TASK_NOT_OPEN",
    ] {
        assert!(whats.contains(what), "{what} never came: {whats:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn today_is_told_beside_then() {
    let mut world = world().await;
    let node = world.connect(NODE).await;
    let admin = world.connect(ADMIN).await;
    let task = open(&world, &node, TRAINER, "").await;
    assert_eq!(
        ask(&world, &node, (TRAINER, &task), index("idx-9"), None).await,
        Err("POLICY_DENIED".to_owned())
    );
    let id = records(&admin).await.last().unwrap().1["request_id"].as_str().unwrap().to_owned();
    let target = Some(v1::revoke_request::Target::TaskId(task.clone()));
    admin.admin().revoke(v1::RevokeRequest { target, ..Default::default() }).await.unwrap();
    world
        .apply(
            &MORE
                .replace("\"idx-9\" if", "\"idx-8\" if")
                .replace("== \"idx-9\"", "== \"idx-8\"")
                .replace("\"index\": \"idx-9\"", "\"index\": \"idx-8\""),
        )
        .await;
    let past = explain(&admin, v1::explain_request::Question::Id(id)).await.past.remove(0);
    let then = past.then.unwrap();
    assert_eq!(
        then.verdict.unwrap().reason,
        "POLICY_DENIED",
        "the policy of then, in the task that was open then"
    );
    let rule = then
        .steps
        .iter()
        .find(|step| step.rule.starts_with("policy careful") && step.what.contains("nine is closed"));
    assert!(rule.is_some(), "{:#?}", then.steps);
    let today = past.today.unwrap();
    assert!(today.revision > then.revision);
    let today = today.verdict.unwrap();
    assert_eq!((today.allowed, today.binding.as_str()), (true, "train-index"), "{today:?}");
    assert!(today.narrowing.contains("max_ttl"), "{today:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supposed_request_is_told_what_a_real_one_is_told() {
    let mut world = world().await;
    let node = world.connect(NODE).await;
    let admin = world.connect(ADMIN).await;
    let train = open(&world, &node, TRAINER, "").await;
    let plan = open(&world, &node, PLANNER, "").await;
    let tool = open(&world, &node, TOOL, &plan).await;
    let alone = open(&world, &node, TOOL, "").await;
    let places: [(&str, &String, &[&str]); 4] =
        [(TRAINER, &train, &[]), (TOOL, &tool, &[PLANNER]), (TOOL, &alone, &[]), (PLANNER, &plan, &[])];
    let mut allowed = 0;
    for (who, task, under) in places {
        for wanted in [index("idx-1"), index("idx-2"), index("idx-9"), scope("direct-read", &[])] {
            let real = ask(&world, &node, (who, task), wanted.clone(), None).await;
            let made_up = v1::Hypothesis {
                spiffe_id: who.to_owned(),
                scope: Some(wanted.clone()),
                under: under.iter().map(|id| (*id).to_owned()).collect(),
                ..Default::default()
            };
            let in_the_task =
                v1::Hypothesis { task_id: task.clone(), scope: Some(wanted.clone()), ..Default::default() };
            for supposed in [made_up, in_the_task] {
                let told = explain(&admin, v1::explain_request::Question::Hypothesis(supposed)).await;
                let verdict = told.now.unwrap().verdict.unwrap();
                match &real {
                    Ok(_) => assert!(verdict.allowed, "{who} {wanted:?}: {verdict:?}"),
                    Err(reason) => assert_eq!(&verdict.reason, reason, "{who} {wanted:?}"),
                }
            }
            allowed += u32::from(real.is_ok());
        }
    }
    assert!((3..16).contains(&allowed), "{allowed} of 16 were allowed");
    let leases =
        admin.admin().list_leases(v1::ListLeasesRequest::default()).await.unwrap().into_inner().leases;
    assert_eq!(leases.len(), allowed as usize, "suppositions leave nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_reaches_exactly_what_it_is_given() {
    let mut world = world().await;
    let node = world.connect(NODE).await;
    let admin = world.connect(ADMIN).await;
    let plan = open(&world, &node, PLANNER, "").await;
    let tool = open(&world, &node, TOOL, &plan).await;
    let reach = async |subject| {
        let request = v1::ReachRequest { subject: Some(subject) };
        admin.questions().reach(request).await.expect("an admin may ask").into_inner()
    };
    let lease = ask(&world, &node, (TOOL, &tool), index("idx-1"), None).await.unwrap();
    let session = reach(v1::reach_request::Subject::SessionId(plan.clone())).await;
    let ids: Vec<&str> =
        session.tasks.iter().map(|one| one.task.as_ref().unwrap().task_id.as_str()).collect();
    assert_eq!(ids, [plan.as_str(), tool.as_str()]);
    for (who, reached) in [(PLANNER, &session.tasks[0]), (TOOL, &session.tasks[1])] {
        let task = &reached.task.as_ref().unwrap().task_id;
        assert_eq!(reached.lines.len(), 4);
        for line in &reached.lines {
            let verdict = line.verdict.as_ref().unwrap();
            let real = ask(&world, &node, (who, task), line.scope.clone().unwrap(), None).await;
            assert_eq!(verdict.allowed, real.is_ok(), "{line:?}");
            assert_eq!(line.promise.is_some(), verdict.allowed);
        }
    }
    assert_eq!(session.tasks[1].leases[0].lease.as_ref().unwrap().lease_id, lease);
    let below = reach(v1::reach_request::Subject::TaskId(tool.clone())).await;
    assert_eq!(below.tasks.len(), 1, "the parent is not below");
    let horizon = below.horizon.unwrap();
    let deadline = below.tasks[0].task.as_ref().unwrap().deadline;
    assert_eq!(horizon.at_the_latest, deadline, "while it may ask, what it gets is cut to its deadline");

    // Of the identity: the same leases, and where it gets the scope.
    let identity = reach(v1::reach_request::Subject::SpiffeId(TOOL.to_owned())).await;
    assert_eq!((identity.stage.as_str(), identity.agents.len()), ("tool", 1));
    let bound = identity.bound.iter().find(|one| one.binding == "tool-index").unwrap();
    let parents: Vec<&str> = bound.decided[0].parents.iter().map(|parent| parent.binding.as_str()).collect();
    assert_eq!(parents[0], "planner-hands-on", "{parents:?}");
    assert_eq!((bound.policies.as_slice(), bound.may_use), (["careful".to_owned()].as_slice(), true));
    assert_eq!(identity.tasks.len(), 1);

    let target = Some(v1::revoke_request::Target::SessionId(plan.clone()));
    admin.admin().revoke(v1::RevokeRequest { target, ..Default::default() }).await.unwrap();
    let over = reach(v1::reach_request::Subject::SessionId(plan)).await;
    assert!(over.tasks.iter().all(|one| one.lines.is_empty()), "what is over gets nothing");
    let horizon = over.horizon.unwrap();
    assert!(horizon.at_the_latest.is_some(), "tokens that nobody asks us about go on working");
    let seconds = |at: Option<prost_types::Timestamp>| at.unwrap().seconds;
    assert!(seconds(horizon.at_the_latest) < seconds(deadline), "and no longer than they were given for");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_is_shown_with_what_it_will_get_once_it_is_claimed() {
    let mut world = world().await;
    let node = world.connect(NODE).await;
    let admin = world.connect(ADMIN).await;
    let plan = open(&world, &node, PLANNER, "").await;
    let delegation = v1::DelegateTaskRequest {
        subject_token: world.subject_token(PLANNER, NODE),
        task_id: plan.clone(),
        spiffe_id: TOOL.to_owned(),
        ceiling: vec![index("idx-1")],
        ..Default::default()
    };
    let offer = node.credentials().delegate_task(delegation).await.expect("it may").into_inner().task_id;
    let lines = async || {
        let subject = Some(v1::reach_request::Subject::TaskId(offer.clone()));
        let reached = admin.questions().reach(v1::ReachRequest { subject }).await.unwrap().into_inner();
        let [task] = &reached.tasks[..] else { panic!("{reached:#?}") };
        let lines: Vec<bool> = task.lines.iter().map(|line| line.verdict.as_ref().unwrap().allowed).collect();
        (task.offered_until.is_some(), lines)
    };
    assert_eq!(lines().await, (true, vec![true]));
    assert_eq!(
        ask(&world, &node, (TOOL, &offer), index("idx-1"), None).await,
        Err("TASK_NOT_OPEN".to_owned())
    );
    let claim = v1::ClaimTaskRequest {
        subject_token: world.subject_token(TOOL, NODE),
        task_id: offer.clone(),
        anchor: Some(anchor()),
        ..Default::default()
    };
    node.credentials().claim_task(claim).await.expect("it is theirs");
    assert_eq!(lines().await, (false, vec![true]));
    ask(&world, &node, (TOOL, &offer), index("idx-1"), None).await.expect("as was said");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_can_counts_what_is_out() {
    let mut world = world().await;
    let node = world.connect(NODE).await;
    let admin = world.connect(ADMIN).await;
    let task = open(&world, &node, TRAINER, "").await;
    for wanted in ["idx-1", "idx-1", "idx-2"] {
        ask(&world, &node, (TRAINER, &task), index(wanted), None).await.unwrap();
    }
    let who = async |what: &str, parameters: &[(&str, &str)]| {
        let parameters = parameters.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let request = v1::WhoCanRequest { what: what.to_owned(), parameters };
        admin.questions().who_can(request).await.map(tonic::Response::into_inner)
    };
    let told = who("index-read", &[]).await.unwrap();
    let bindings: Vec<&str> =
        told.scopes[0].holders.iter().map(|one| one.bound.as_ref().unwrap().binding.as_str()).collect();
    assert_eq!(bindings, ["planner-hands-on", "tool-index", "train-index"]);
    assert_eq!((told.scopes[0].live[0].spiffe_id.as_str(), told.scopes[0].live[0].leases), (TRAINER, 3));
    // By what the token will say, with the value that makes it so.
    let told = who("read/idx-2", &[]).await.unwrap();
    assert_eq!(told.scopes.len(), 1);
    assert_eq!(told.scopes[0].live[0].leases, 1);
    assert_eq!(told.scopes[0].places[0].parameters["index"], "idx-2");
    assert_eq!(told.scopes[0].holders.len(), 2, "the planner does not hand this one on");
    let told = who("https://index.example.org", &[]).await.unwrap();
    assert_eq!(told.scopes.len(), 2);
    assert_eq!(reason(who("https://index.example.net", &[]).await), "NOTHING_HOLDS_IT");
    assert_eq!(reason(who("index-read", &[("index", "../x")]).await), "PARAMETER_INVALID");
    assert_eq!(reason(who("index-read", &[("nothing", "1")]).await), "PARAMETER_INVALID");
    let told = who("admin.read", &[]).await.unwrap();
    assert_eq!(told.root_admins, [ADMIN]);
    assert_eq!(told.scopes[0].holders.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_admins_who_may_read_are_answered() {
    let mut world = world().await;
    let question =
        || v1::ReachRequest { subject: Some(v1::reach_request::Subject::SpiffeId(TRAINER.to_owned())) };
    let reader = world.connect("spiffe://example.org/admin/reader").await;
    assert_eq!(reader.questions().reach(question()).await.unwrap().into_inner().stage, "training");
    for stranger in ["spiffe://example.org/admin/other", TRAINER, NODE] {
        let client = world.connect(stranger).await;
        assert_eq!(reason(client.questions().reach(question()).await), "NOT_ADMIN", "{stranger}");
        let who = v1::WhoCanRequest { what: "index-read".to_owned(), ..Default::default() };
        assert_eq!(reason(client.questions().who_can(who).await), "NOT_ADMIN", "{stranger}");
        let why = v1::ExplainRequest::default();
        assert_eq!(reason(client.questions().explain(why).await), "NOT_ADMIN", "{stranger}");
    }
    // Reading works on the break-glass socket too, for root alone.
    let glass = BreakGlassClient::connect(world.folder.path().join("glass.sock")).await.unwrap();
    let uid = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap());
    match (uid, glass.questions().reach(question()).await) {
        (0, answer) => assert_eq!(answer.unwrap().into_inner().stage, "training"),
        (_, answer) => assert_eq!(reason(answer), "NOT_ADMIN"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_makes_no_sense_is_refused_with_what_to_do() {
    use v1::explain_request::Question;
    let mut world = world().await;
    let admin = world.connect(ADMIN).await;
    let refused = async |question: Option<Question>| {
        let answer = admin.questions().explain(v1::ExplainRequest { question }).await;
        CallError::from(answer.expect_err("it makes no sense")).reason.unwrap()
    };
    let supposed = |change: fn(&mut v1::Hypothesis)| {
        let mut whole = v1::Hypothesis {
            spiffe_id: TRAINER.to_owned(),
            scope: Some(index("idx-1")),
            ..Default::default()
        };
        change(&mut whole);
        Some(Question::Hypothesis(whole))
    };
    assert_eq!(refused(None).await, "NOTHING_ASKED");
    assert_eq!(refused(Some(Question::Id("no id".into()))).await, "ID_INVALID");
    assert_eq!(
        refused(Some(Question::Id("01ARZ3NDEKTSV4RRFFQ69G5FAV".into()))).await,
        "REQUEST_NOT_RECORDED"
    );
    assert_eq!(refused(supposed(|it| it.spiffe_id.clear())).await, "HYPOTHESIS_INVALID");
    assert_eq!(refused(supposed(|it| it.spiffe_id = "spiffe://Example/x".into())).await, "SPIFFE_ID_INVALID");
    assert_eq!(refused(supposed(|it| it.scope = None)).await, "HYPOTHESIS_INVALID");
    assert_eq!(refused(supposed(|it| it.via = "pigeon".into())).await, "HYPOTHESIS_INVALID");
    assert_eq!(refused(supposed(|it| it.action = "load-model".into())).await, "HYPOTHESIS_INVALID");
    assert_eq!(refused(supposed(|it| it.under = vec![TRAINER.into(); 17])).await, "HYPOTHESIS_INVALID");
    assert_eq!(refused(supposed(|it| it.task_id = "01ARZ3NDEKTSV4RRFFQ69G5FAV".into())).await, "UNKNOWN");
    let long = supposed(|it| it.scope = Some(scope("index-read", &[("index", &"x".repeat(600))])));
    assert_eq!(refused(long).await, "PARAMETER_INVALID");
    let nobody = v1::reach_request::Subject::TaskId("01ARZ3NDEKTSV4RRFFQ69G5FAV".into());
    let answer = admin.questions().reach(v1::ReachRequest { subject: Some(nobody) }).await;
    assert_eq!(reason(answer), "UNKNOWN");
    assert_eq!(reason(admin.questions().reach(v1::ReachRequest::default()).await), "NOTHING_ASKED");
    let empty = v1::WhoCanRequest::default();
    assert_eq!(reason(admin.questions().who_can(empty).await), "NOTHING_ASKED");
}
