//! Recorded requests under rules that are proposed: what would newly fail or pass is what fails or passes once they are
//! applied.

use std::collections::BTreeMap;
use std::time::Duration;

use dayfly_client::{BrokerClient, CallError};
use dayfly_proto::v1;
use dayfly_proto::v1::SimulatedChange as Change;
use dayfly_proto::v1::simulate_request::Begin;
use dayfly_proto::v1::simulate_response::Event;

use crate::exchange_site::{PLANNER as ASKER, SEARCH, Site, for_itself, on_behalf};
use crate::questions::{PLANNER, TOOL, ask, busy, index, open, records, world};
use crate::world::{ADMIN, NODE, TRAINER, World, anchor, reason, scope};
use crate::{approvals, authorize};

const BACK: Begin = Begin::Back(prost_types::Duration { seconds: 3600, nanos: 0 });

fn proposal(yaml: &str) -> v1::SimulateRequest {
    v1::SimulateRequest { yaml: yaml.to_owned(), begin: Some(BACK), ..Default::default() }
}

/// All that a simulation told.
#[derive(Debug, Default)]
struct Told {
    proposal: v1::SimulatedProposal,
    records: u64,
    groups: Vec<v1::SimulatedGroup>,
    summary: v1::SimulationSummary,
}

impl Told {
    /// Change, last segment of who asked, subject, before, after, requests.
    fn rows(&self) -> Vec<(Change, &str, &str, &str, &str, u64)> {
        let rows = self.groups.iter().map(|group| {
            let who = group.spiffe_id.rsplit('/').next().unwrap();
            let (before, after) = (group.before.as_str(), group.after.as_str());
            (group.change(), who, group.subject.as_str(), before, after, group.requests)
        });
        rows.collect()
    }

    fn total(&self, change: Change) -> u64 {
        self.summary.totals.iter().find(|total| total.change() == change).expect("every change").requests
    }

    fn lost(&self) -> BTreeMap<&str, u64> {
        self.summary.not_replayed.iter().map(|lost| (lost.reason.as_str(), lost.requests)).collect()
    }
}

async fn try_simulate(admin: &BrokerClient, request: v1::SimulateRequest) -> Result<Told, tonic::Status> {
    let mut events = admin.questions().simulate(request).await?.into_inner();
    let mut told = Told::default();
    let mut whole = false;
    while let Some(message) = events.message().await? {
        assert!(!whole, "nothing comes behind the summary");
        match message.event.expect("an event") {
            Event::Proposal(proposal) => {
                whole = !proposal.faults.is_empty();
                told.proposal = proposal;
            }
            Event::Progress(progress) => {
                assert!(progress.records >= told.records, "it goes on");
                told.records = progress.records;
            }
            Event::Group(group) => told.groups.push(group),
            Event::Summary(summary) => {
                whole = true;
                told.summary = summary;
            }
        }
    }
    assert!(whole, "the answer broke off");
    Ok(told)
}

async fn simulate(admin: &BrokerClient, request: v1::SimulateRequest) -> Told {
    let told = try_simulate(admin, request).await.expect("an admin may ask");
    assert!(told.proposal.faults.is_empty(), "{:#?}", told.proposal.faults);
    let of_changes: u64 = told.summary.totals.iter().map(|total| total.requests).sum();
    assert_eq!(told.summary.unchanged + of_changes, told.summary.replayed, "each request is counted once");
    told
}

/// Every document that stands.
async fn all_documents(admin: &BrokerClient) -> String {
    let mut texts = Vec::new();
    for kind in ["Stage", "Scope", "Binding", "Policy", "Node"] {
        let list = v1::ListDocumentsRequest { kind: kind.to_owned() };
        let listed = admin.admin().list_documents(list).await.unwrap().into_inner().documents;
        texts.extend(listed.into_iter().map(|document| document.yaml));
    }
    texts.join("---\n")
}

/// The planner offers a task to the tool, which claims it.
async fn hand_on(world: &World, node: &BrokerClient, plan: &str) -> String {
    let delegation = v1::DelegateTaskRequest {
        subject_token: world.subject_token(PLANNER, NODE),
        task_id: plan.to_owned(),
        spiffe_id: TOOL.to_owned(),
        ceiling: vec![index("idx-1")],
        ..Default::default()
    };
    let offer = node.credentials().delegate_task(delegation).await.expect("it may").into_inner().task_id;
    let claim = v1::ClaimTaskRequest {
        subject_token: world.subject_token(TOOL, NODE),
        task_id: offer.clone(),
        anchor: Some(anchor()),
        ..Default::default()
    };
    node.credentials().claim_task(claim).await.expect("it is theirs");
    offer
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_changes_nothing_against_itself_whatever_was_recorded() {
    let mut world = world().await;
    let node = world.connect(NODE).await;
    let plan = open(&world, &node, PLANNER, "").await;
    hand_on(&world, &node, &plan).await;
    busy(&mut world).await;
    // The tasks of then are over, what was applied since is not what stood then, and nothing of it is in memory.
    world.restart().await;
    let admin = world.connect(ADMIN).await;
    let told = simulate(&admin, proposal(&all_documents(&admin).await)).await;
    assert_eq!(told.rows(), []);
    assert_eq!(told.summary.unchanged, told.summary.replayed);
    assert!(told.summary.replayed > 80, "{told:#?}");
    assert_eq!(told.lost(), BTreeMap::new());
    assert_eq!((told.records, told.summary.more), (records(&admin).await.len() as u64, false));
    let verbs: Vec<_> = told.proposal.changes.iter().map(v1::DocumentChange::verb).collect();
    assert!(verbs.iter().all(|verb| *verb == v1::document_change::Verb::Unchanged) && verbs.len() > 10);
}

/// What each recorded request would be told today, by the seq of its record.
async fn today(admin: &BrokerClient) -> BTreeMap<u64, v1::Verdict> {
    let mut verdicts = BTreeMap::new();
    for (seq, record) in records(admin).await {
        let id = record["request_id"].as_str().unwrap().to_owned();
        let question = Some(v1::explain_request::Question::Id(id));
        let past =
            admin.questions().explain(v1::ExplainRequest { question }).await.unwrap().into_inner().past;
        let verdict = past.into_iter().find(|past| past.seq == seq).and_then(|past| past.today?.verdict);
        verdicts.extend(verdict.map(|verdict| (seq, verdict)));
    }
    verdicts
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_simulated_is_what_each_request_is_told_once_it_is_applied() {
    const CHANGES: &str = r#"
kind: Binding
metadata: {name: train-index}
spec: {identities: ["spiffe://example.org/train/*"], scope: index-read, parameters: {index: [idx-1, idx-9]}}
---
kind: Binding
metadata: {name: train-direct}
spec: {identities: ["spiffe://example.org/train/*"], scope: direct-read, via: agent}
---
kind: Binding
metadata: {name: planner-hands-on}
spec:
  identities: ["spiffe://example.org/infer/planner"]
  scope: index-read
  grants: [delegate]
  delegate: {to: ["spiffe://example.org/tool/*"]}
---
kind: Stage
metadata: {name: tool}
spec: {patterns: ["spiffe://example.org/tool/**"]}
---
kind: Policy
metadata: {name: careful}
spec:
  scopes: [index-read]
  modules:
    careful.rego: |
      package dayfly.careful
      decision := {"allow": count(reasons) == 0, "reasons": reasons, "narrow": {"max_ttl": 30}}
      reasons contains "nine is closed to training" if {
      	input.proven.stage == "training"
      	input.claimed.parameters.index == "idx-9"
      }
    careful_test.rego: |
      package dayfly.careful_test
      test_others if data.dayfly.careful.decision.allow with input as {"proven": {"stage": "tool"}}
"#;
    let mut world = world().await;
    busy(&mut world).await;
    let admin = world.connect(ADMIN).await;
    let told = simulate(&admin, proposal(CHANGES)).await;
    let before = today(&admin).await;
    world.apply(CHANGES).await;
    let after = today(&admin).await;
    let mut expected: BTreeMap<(String, String), u64> = BTreeMap::new();
    let code = |verdict: &v1::Verdict| match verdict.allowed {
        true => "allow".to_owned(),
        false => verdict.reason.clone(),
    };
    for (seq, verdict) in &before {
        let (before, after) = (code(verdict), code(&after[seq]));
        *expected.entry((before, after)).or_default() += 1;
    }
    expected.retain(|(before, after), _| before != after);
    let mut simulated: BTreeMap<(String, String), u64> = BTreeMap::new();
    for group in told.groups.iter().filter(|group| group.before != group.after) {
        *simulated.entry((group.before.clone(), group.after.clone())).or_default() += group.requests;
    }
    assert_eq!(simulated, expected);
    for change in [Change::NewlyDenied, Change::NewlyAllowed, Change::DeniedOtherwise] {
        assert!(told.total(change) > 0, "{change:?} never came: {:#?}", told.rows());
    }
    let rego = told.groups.iter().find(|group| group.after == "POLICY_DENIED").expect("the rule denies");
    assert_eq!(rego.message, "nine is closed to training");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_change_is_told_with_who_what_when_and_an_example_and_nothing_is_changed() {
    let mut world = world().await;
    let (node, admin) = (world.connect(NODE).await, world.connect(ADMIN).await);
    let task = open(&world, &node, TRAINER, "").await;
    let narrower = "kind: Binding\nmetadata: {name: train-index}\nspec: {identities: [\"spiffe://example.org/train/*\"], scope: index-read, parameters: {index: [idx-1]}}";
    ask(&world, &node, (TRAINER, &task), index("idx-1"), None).await.unwrap();
    for _ in 0..3 {
        ask(&world, &node, (TRAINER, &task), index("idx-2"), None).await.unwrap();
    }
    let whole_state = async || {
        let leases = v1::ListLeasesRequest { include_ended: true, ..Default::default() };
        let leases = admin.admin().list_leases(leases).await.unwrap().into_inner().leases;
        (all_documents(&admin).await, leases, records(&admin).await)
    };
    let state = whole_state().await;
    let told = simulate(&admin, proposal(narrower)).await;
    assert_eq!(
        told.rows(),
        [(Change::NewlyDenied, "a", "index-read", "allow", "SCOPE_NOT_GRANTED", 3)],
        "opening the task goes on as before"
    );
    let group = &told.groups[0];
    let example = &group.example_request_id;
    let recorded: Vec<_> =
        state.2.iter().filter(|(_, record)| record["parameters"]["index"] == "idx-2").collect();
    assert_eq!(recorded[0].1["request_id"], example.as_str());
    assert!(group.message.contains("index-read") && group.first_at.unwrap().seconds > 0);
    assert_eq!(
        (group.what.as_str(), group.ttl_before.unwrap().seconds, group.ttl_after),
        ("credential", 90, None)
    );
    assert_eq!(told.summary.unchanged, 2);

    // A task that ended since was open then.
    let target = Some(v1::revoke_request::Target::TaskId(task.clone()));
    admin.admin().revoke(v1::RevokeRequest { target, ..Default::default() }).await.unwrap();
    assert_eq!(simulate(&admin, proposal(narrower)).await.rows(), told.rows());

    // A policy that narrows, a scope that lasts longer, a scope that gives something else.
    let policy = "kind: Policy\nmetadata: {name: careful}\nspec: {scopes: [index-read], modules: {a.rego: \"package dayfly.careful\\ndecision := {\\\"allow\\\": true, \\\"narrow\\\": {\\\"max_ttl\\\": 30}}\", a_test.rego: \"package dayfly.careful_test\\ntest_it if data.dayfly.careful.decision.allow\"}}";
    let told_narrower = simulate(&admin, proposal(policy)).await;
    assert_eq!(told_narrower.rows(), [(Change::Narrowed, "a", "index-read", "allow", "allow", 4)]);
    let (from, to) = (&told_narrower.groups[0].ttl_before, &told_narrower.groups[0].ttl_after);
    assert_eq!((from.unwrap().seconds, to.unwrap().seconds), (90, 30));
    let widens = simulate(&admin, proposal(&policy.replace("30}}", "100}}"))).await;
    assert_eq!(widens.rows(), [(Change::Widened, "a", "index-read", "allow", "allow", 4)]);
    let elsewhere = crate::world::DOCUMENTS
        .replace("audience: \"https://index.example.org\"", "audience: \"https://index2.example.org\"");
    let altered = simulate(
        &admin,
        proposal(elsewhere.split("---\n").find(|one| one.contains("{name: index-read}")).unwrap()),
    )
    .await;
    assert_eq!(altered.rows(), [(Change::Altered, "a", "index-read", "allow", "allow", 4)]);

    // Only what was asked for.
    let only = |spiffe_id: &str, scope: &str| {
        let (spiffe_id, scope) = (spiffe_id.to_owned(), scope.to_owned());
        simulate_only(&admin, v1::SimulateRequest { spiffe_id, scope, ..proposal(narrower) })
    };
    assert_eq!(only(TRAINER, "").await, (5, 3));
    assert_eq!(only("", "index-read").await, (4, 3));
    assert_eq!(only(TOOL, "").await, (0, 0));
    assert_eq!(only("", "direct-read").await, (0, 0));
    let later = prost_types::Timestamp { seconds: 4_000_000_000, nanos: 0 };
    let later = v1::SimulateRequest { begin: Some(Begin::Since(later)), ..proposal(narrower) };
    assert_eq!(simulate_only(&admin, later).await, (0, 0));

    let (documents, leases, decisions) = whole_state().await;
    assert_eq!(
        (documents, decisions.len()),
        (state.0, state.2.len()),
        "nothing is put in force or decided anew"
    );
    assert_eq!(leases.len(), state.1.len());
}

/// Requests that were replayed, and those newly denied.
async fn simulate_only(admin: &BrokerClient, request: v1::SimulateRequest) -> (u64, u64) {
    let told = simulate(admin, request).await;
    (told.summary.replayed, told.total(Change::NewlyDenied))
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_that_are_opened_handed_on_and_claimed_are_replayed_too() {
    let mut world = world().await;
    let (node, admin) = (world.connect(NODE).await, world.connect(ADMIN).await);
    let plan = open(&world, &node, PLANNER, "").await;
    let tool = hand_on(&world, &node, &plan).await;
    ask(&world, &node, (TOOL, &tool), index("idx-1"), None).await.expect("it was handed on");
    let too_much = v1::OpenTaskRequest {
        subject_token: world.subject_token(TOOL, NODE),
        ceiling: vec![scope("nowhere", &[])],
        anchor: Some(anchor()),
        ..Default::default()
    };
    assert_eq!(reason(node.credentials().open_task(too_much).await), "SCOPE_NOT_GRANTED");

    let handed = "kind: Binding\nmetadata: {name: planner-hands-on}\nspec: {identities: [\"spiffe://example.org/infer/planner\"], scope: index-read, grants: [delegate], delegate: {to: [\"spiffe://example.org/tool/other\"]}}";
    let told = simulate(&admin, proposal(handed)).await;
    assert_eq!(
        told.rows(),
        [
            (Change::NewlyDenied, "planner", TOOL, "allow", "DELEGATION_NOT_ALLOWED", 1),
            (Change::NewlyDenied, "search", "index-read", "allow", "ANCESTOR_LACKS_GRANT", 1),
        ]
    );
    assert_eq!(told.lost(), BTreeMap::new());

    let speaks = |workloads: &str, anchors: &str| {
        format!(
            "kind: Node\nmetadata: {{name: n1}}\nspec: {{agents: \"spiffe://example.org/node/n1\", workloads: [{workloads}], trust_domains: [example.org], anchors: [{anchors}]}}"
        )
    };
    let told = simulate(&admin, proposal(&speaks("\"spiffe://example.org/infer/**\"", "process"))).await;
    assert_eq!(
        told.rows(),
        [
            (Change::NewlyDenied, "search", "index-read", "allow", "NODE_MAY_NOT_SPEAK_FOR", 1),
            (Change::NewlyDenied, "search", "", "allow", "NODE_MAY_NOT_SPEAK_FOR", 1),
            (Change::DeniedOtherwise, "search", "", "SCOPE_NOT_GRANTED", "NODE_MAY_NOT_SPEAK_FOR", 1),
        ]
    );
    let told = simulate(&admin, proposal(&speaks("\"spiffe://example.org/**\"", "cgroup_owned"))).await;
    let what: Vec<_> = told.groups.iter().map(|group| (group.what.as_str(), group.after.as_str())).collect();
    assert_eq!(what, [("open_task", "ANCHOR_NOT_ALLOWED"), ("claim_task", "ANCHOR_NOT_ALLOWED")]);

    // As `apply --prune` would take it away.
    let labelled = "kind: Binding\nmetadata: {name: tool-index, labels: {team: tools}}\nspec: {identities: [\"spiffe://example.org/tool/*\"], scope: index-read}";
    world.apply(labelled).await;
    let selector = [("team".to_owned(), "tools".to_owned())].into();
    let pruned = simulate(&admin, v1::SimulateRequest { prune: true, selector, ..proposal(handed) }).await;
    let gone = pruned.proposal.changes.iter().find(|change| change.name == "tool-index").unwrap();
    assert_eq!(gone.verb(), v1::document_change::Verb::Delete);
    let denied = pruned.groups.iter().find(|group| group.spiffe_id == TOOL).unwrap();
    assert_eq!(denied.after, "SCOPE_NOT_GRANTED");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_may_be_carried_by_another_line_than_before() {
    let mut world = World::new().await;
    world.apply(authorize::ARTIFACTS).await;
    let (node, admin) = (world.connect(NODE).await, world.connect(ADMIN).await);
    let task = authorize::open_with(&world, &node, &[("llama", authorize::LLAMA)]).await;
    let asked = |name: &str| authorize::load(&world, &task, name, authorize::LLAMA);
    node.credentials().authorize(asked("models/llama")).await.expect("it is declared");
    node.credentials().authorize(asked("models/phi")).await.expect_err("it is not");
    let narrower = authorize::ARTIFACTS.replace("{model: [llama, phi]}", "{model: [phi]}");
    let told = simulate(&admin, proposal(&narrower)).await;
    let act = format!("load-model of models/llama@sha256:{}", authorize::LLAMA);
    assert_eq!(told.rows(), [(Change::NewlyDenied, "a", act.as_str(), "allow", "SCOPE_NOT_GRANTED", 1)]);
    assert_eq!(told.groups[0].ttl_before.unwrap().seconds, 60, "an answer holds for a minute at most");
    // More actions on the same artifact change nothing for the one that was asked about.
    let more = authorize::ARTIFACTS.replace("[load-model]", "[load-model, verify-model]");
    assert_eq!(simulate(&admin, proposal(&more)).await.rows(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_that_stood_then_counts_though_it_was_taken_back_and_a_changed_scope_voids_it() {
    let mut world = approvals::world("approvals_from_one_host = true").await;
    let (client, admin) = (world.connect(TRAINER).await, world.connect(ADMIN).await);
    let users = || scope("prod-read", &[("table", "users")]);
    let request = v1::OpenTaskRequest { ceiling: vec![users()], ..Default::default() };
    let task = client.credentials().open_task(request).await.expect("a binding stands").into_inner();
    let issue = async || {
        let (task_id, task_key) = (task.task_id.clone(), task.task_key.clone());
        let request =
            v1::IssueCredentialRequest { task_id, task_key, scope: Some(users()), ..Default::default() };
        client.credentials().issue_credential(request).await
    };
    assert_eq!(reason(issue().await), "APPROVAL_MISSING");
    let approved = approvals::approved(&mut world).await;
    issue().await.expect("it is approved");
    let longer = "kind: Binding\nmetadata: {name: train-prod}\nspec: {identities: [\"spiffe://example.org/train/*\"], scope: prod-read, via: agent}";
    let expected = [(Change::NewlyDenied, "a", "prod-read", "allow", "VIA_NOT_ALLOWED", 1)];
    let newly_denied = async |yaml: &str| {
        let mut told = simulate(&admin, proposal(yaml)).await;
        told.groups.retain(|group| group.change() == Change::NewlyDenied && group.what == "credential");
        told
    };
    assert_eq!(newly_denied(longer).await.rows(), expected);
    let withdraw = v1::WithdrawApprovalRequest { approval_id: approved.approval_id };
    admin.approvals().withdraw_approval(withdraw).await.unwrap();
    assert_eq!(newly_denied(longer).await.rows(), expected, "then it stood");
    let changed = "kind: Scope\nmetadata: {name: prod-read}\nspec: {stages: [training], parameters: {table: {type: segment}}, ttl: {default: 2m, max: 4m}, approval: {max: 1h}, target: {token: {audience: \"https://db.example.org\", checked: offline}}}";
    let voids = [(Change::NewlyDenied, "a", "prod-read", "allow", "APPROVAL_MISSING", 1)];
    assert_eq!(newly_denied(changed).await.rows(), voids);
    let unwanted = changed.replace("approval: {max: 1h}, ", "");
    let told = simulate(&admin, proposal(&unwanted)).await;
    assert_eq!(told.rows(), [(Change::NewlyAllowed, "a", "prod-read", "APPROVAL_MISSING", "allow", 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_exchange_is_replayed_with_the_task_it_opened_or_would_have() {
    let mut site = Site::new().await;
    let admin = site.world.connect(ADMIN).await;
    let own = site.jwt(crate::exchange_site::TRAINER);
    let trainer = site.client(Some(crate::exchange_site::TRAINER));
    site.post(&trainer, &for_itself("corpus-list", &own)).await.token();
    let own = site.jwt(ASKER);
    let asker = site.client(Some(ASKER));
    assert_eq!(site.post(&asker, &for_itself("corpus-list", &own)).await.refused().2, "SCOPE_NOT_GRANTED");
    let agent = site.world.connect(NODE).await;
    let subject_token = site.world.subject_token(ASKER, NODE);
    let request = v1::OpenTaskRequest {
        subject_token: subject_token.clone(),
        ceiling: vec![scope("ask-search", &[]), scope("corpus-read", &[("dataset", "corpus-7")])],
        anchor: Some(anchor()),
        ..Default::default()
    };
    let task_id = agent.credentials().open_task(request).await.unwrap().into_inner().task_id;
    let request = v1::IssueCredentialRequest {
        subject_token,
        task_id,
        scope: Some(scope("ask-search", &[])),
        ..Default::default()
    };
    let issued = agent.credentials().issue_credential(request).await.unwrap().into_inner().credential;
    let Some(v1::issue_credential_response::Credential::Token(given)) = issued else { panic!("{issued:?}") };
    let details = |dataset: &str| {
        format!(
            "[{{\"type\":\"dayfly_scope\",\"scope\":\"corpus-read\",\"parameters\":{{\"dataset\":\"{dataset}\"}}}}]"
        )
    };
    let search = site.client(Some(SEARCH));
    site.post(&search, &on_behalf(&details("corpus-7"), &given.access_token)).await.token();
    let beyond = site.post(&search, &on_behalf(&details("corpus-8"), &given.access_token)).await;
    assert_eq!(beyond.refused().2, "OUTSIDE_CEILING");

    let changes = r#"
kind: Scope
metadata: {name: corpus-list}
spec:
  stages: [training, inference]
  ttl: {default: 2m, max: 5m}
  target: {token: {audience: "spiffe://example.org/svc/corpora", scope: list, checked: introspect}}
---
kind: Binding
metadata: {name: train-list}
spec: {identities: ["spiffe://example.org/infer/*"], scope: corpus-list, via: direct}
---
kind: Binding
metadata: {name: planner-hands-on}
spec: {identities: ["spiffe://example.org/infer/planner"], scope: corpus-read, grants: [delegate], delegate: {to: ["spiffe://example.org/tool/other"]}}
"#;
    let told = simulate(&admin, proposal(changes)).await;
    assert_eq!(
        told.rows(),
        [
            (Change::NewlyDenied, "search", "corpus-read", "allow", "ANCESTOR_LACKS_GRANT", 1),
            (Change::NewlyDenied, "search", "", "allow", "DELEGATION_NOT_ALLOWED", 1),
            (Change::NewlyDenied, "a", "corpus-list", "allow", "SCOPE_NOT_GRANTED", 1),
            (Change::NewlyDenied, "a", "", "allow", "SCOPE_NOT_GRANTED", 1),
            (Change::NewlyAllowed, "planner", "corpus-list", "SCOPE_NOT_GRANTED", "allow", 1),
        ]
    );
    assert_eq!(told.lost(), BTreeMap::new());
}

/// A policy whose own test takes as long as it may.
fn slow(tests: usize) -> String {
    let some: String = (0..12).map(|n| format!("        some d{n} in digits\n")).collect();
    let test =
        |n: usize| format!("      test_{n} if {{\n{some}        d0 + d11 == 19\n        d1 > 10\n      }}\n");
    let tests: String = (0..tests).map(test).collect();
    format!(
        "kind: Policy\nmetadata: {{name: slow}}\nspec:\n  scopes: [index-read]\n  modules:\n    slow.rego: |\n      package dayfly.slow\n      decision := {{\"allow\": true}}\n    slow_test.rego: |\n      package dayfly.slow_test\n      digits := [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]\n{tests}"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_are_told_as_apply_tells_them_and_nothing_is_replayed() {
    let mut world = world().await;
    let admin = world.connect(ADMIN).await;
    let yaml = [
        "kind: Binding\nmetadata: {name: lost}\nspec: {identities: [\"spiffe://example.org/train/*\"], scope: nowhere}\n",
        "kind: Stage\nmetadata: {name: retrieval}\nspec: {patterns: [\"spiffe://example.org/train/a\"]}\n",
        "kind: Policy\nmetadata: {name: wrong}\nspec: {modules: {a.rego: \"package dayfly.wrong\\ndecision := {\\\"allow\\\": http.send({})}\"}}\n",
        "kind: Scope\nmetadata: {name: away}\nspec: {stages: [training], target: {gcp: {role: r}}}\n",
    ]
    .join("---\n");
    let applied = v1::ApplyRequest { yaml: yaml.clone(), dry_run: true, ..Default::default() };
    let applied = world.try_apply(applied).await.unwrap();
    assert!(applied.faults.len() >= 4, "{:#?}", applied.faults);
    let told = try_simulate(&admin, proposal(&yaml)).await.unwrap();
    assert_eq!(told.proposal.faults, applied.faults);
    assert_eq!((told.records, told.summary), (0, v1::SimulationSummary::default()));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_simulation_goes_on_at_a_time() {
    let mut world = world().await;
    let (ann, again) = (world.connect(ADMIN).await, world.connect(ADMIN).await);
    let first = tokio::spawn(async move { try_simulate(&ann, proposal(&slow(4))).await });
    let mut refused = None;
    while refused.is_none() && !first.is_finished() {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let question = v1::SimulateRequest { spiffe_id: TOOL.to_owned(), ..proposal("") };
        refused = try_simulate(&again, question).await.err();
    }
    let refused = CallError::from(refused.expect("the first takes its time"));
    assert_eq!(refused.reason.as_deref(), Some("SIMULATION_RUNNING"));
    assert!(refused.retry_after.is_some());
    let first = first.await.unwrap().unwrap();
    assert!(first.proposal.faults.iter().any(|fault| fault.problem.contains("own test")), "{first:#?}");
    simulate(&again, proposal("")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_read_may_simulate_and_policies_of_ones_own_only_who_may_apply() {
    let mut world = world().await;
    let narrower = "kind: Binding\nmetadata: {name: tool-index}\nspec: {identities: [\"spiffe://example.org/tool/x\"], scope: index-read}";
    let reader = world.connect("spiffe://example.org/admin/reader").await;
    simulate(&reader, proposal(narrower)).await;
    assert_eq!(reason(try_simulate(&reader, proposal(&slow(1))).await), "NOT_ADMIN");
    let standing = all_documents(&world.connect(ADMIN).await).await;
    simulate(&reader, proposal(&standing)).await;
    for stranger in ["spiffe://example.org/admin/other", TRAINER, NODE] {
        let client = world.connect(stranger).await;
        assert_eq!(reason(try_simulate(&client, proposal(narrower)).await), "NOT_ADMIN", "{stranger}");
    }
    let refused = async |change: fn(&mut v1::SimulateRequest)| {
        let mut request = proposal(narrower);
        change(&mut request);
        reason(try_simulate(&reader, request).await)
    };
    assert_eq!(refused(|it| it.begin = None).await, "NOTHING_ASKED");
    assert_eq!(refused(|it| it.prune = true).await, "SELECTOR_MISSING");
    assert_eq!(refused(|it| it.spiffe_id = "train/*".into()).await, "SPIFFE_ID_INVALID");
    assert_eq!(refused(|it| it.scope = "x".repeat(600)).await, "FILTER_INVALID");
    let past = prost_types::Duration { seconds: -1, nanos: 0 };
    assert_eq!(
        reason(
            try_simulate(
                &reader,
                v1::SimulateRequest { begin: Some(Begin::Back(past)), ..proposal(narrower) }
            )
            .await
        ),
        "DURATION_INVALID"
    );
}
