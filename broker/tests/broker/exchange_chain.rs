//! The token endpoint for clients that were given a token: on whose behalf they act, and until when.

use std::collections::BTreeSet;

use dayfly_proto::v1;
use serde_json::json;

use crate::exchange_site::{CORPORA, PLANNER, SEARCH, Site, TRAINER, claims, for_itself, on_behalf};
use crate::world::{ADMIN, NODE, anchor, scope};

const CORPUS_7: &str =
    r#"[{"type":"dayfly_scope","scope":"corpus-read","parameters":{"dataset":"corpus-7"}}]"#;

/// A task of the planner with a token for the search tool.
struct Planned {
    task: v1::OpenTaskResponse,
    lease: String,
    token: String,
}

/// The planner opens a task through its agent and is issued a token for the search tool.
async fn plan(site: &mut Site, ceiling: Vec<v1::ScopeRequest>) -> Planned {
    plan_in(site, "", ceiling).await
}

/// The same inside another task.
async fn plan_in(site: &mut Site, parent: &str, ceiling: Vec<v1::ScopeRequest>) -> Planned {
    let agent = site.world.connect(NODE).await;
    let subject_token = site.world.subject_token(PLANNER, NODE);
    let open = v1::OpenTaskRequest {
        subject_token: subject_token.clone(),
        parent_task_id: parent.to_owned(),
        ceiling,
        anchor: Some(anchor()),
        ..Default::default()
    };
    let task = agent.credentials().open_task(open).await.unwrap().into_inner();
    let issue = v1::IssueCredentialRequest {
        subject_token,
        task_id: task.task_id.clone(),
        scope: Some(scope("ask-search", &[])),
        ..Default::default()
    };
    let issued = agent.credentials().issue_credential(issue).await.unwrap().into_inner();
    match issued.credential {
        Some(v1::issue_credential_response::Credential::Token(token)) => {
            Planned { task, lease: issued.lease_id, token: token.access_token }
        }
        other => panic!("a token was asked for: {other:?}"),
    }
}

/// Who stands above the planner.
const DESK: &str = "spiffe://example.org/infer/desk";

async fn open_desk(site: &mut Site) -> v1::OpenTaskResponse {
    let agent = site.world.connect(NODE).await;
    let root = v1::OpenTaskRequest {
        subject_token: site.world.subject_token(DESK, NODE),
        ceiling: declared(),
        anchor: Some(anchor()),
        ..Default::default()
    };
    agent.credentials().open_task(root).await.unwrap().into_inner()
}

/// The desk hands on to the planner, and by way of it to this tool.
fn desk_hands_on(to: &str) -> String {
    format!(
        "kind: Binding\nmetadata: {{name: desk-hands-on}}\nspec: {{identities: ['{DESK}'], scope: corpus-read, \
         grants: [delegate], delegate: {{to: ['{PLANNER}', '{to}'], depth: 2}}}}"
    )
}

fn declared() -> Vec<v1::ScopeRequest> {
    vec![scope("ask-search", &[]), scope("corpus-read", &[("dataset", "corpus-7")])]
}

async fn revoke(site: &mut Site, target: v1::revoke_request::Target) {
    let admin = site.world.connect(ADMIN).await;
    let request = v1::RevokeRequest { target: Some(target), wait_ms: 2_000, ..Default::default() };
    admin.admin().revoke(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_given_a_token_acts_below_the_task_of_its_giver_and_no_longer_than_it() {
    let mut site = Site::new().await;
    let planned = plan(&mut site, declared()).await;
    let client = site.client(Some(SEARCH));
    let answer = site.post(&client, &on_behalf(CORPUS_7, &planned.token)).await;
    let token = answer.token();
    let said = claims(&token);
    assert_eq!((said["sub"].as_str(), said["aud"].as_str()), (Some(SEARCH), Some(CORPORA)));
    assert_eq!(said["act"], json!({"sub": PLANNER}));
    assert_eq!(said["txn"], planned.task.session_id, "it is of the same session");
    assert_eq!(said["scope"], "read/corpus-7");
    assert_eq!(site.introspect(CORPORA, &token).await["active"], true);
    let tasks = site.tasks().await;
    let child = tasks.iter().find(|task| task.task_id == said["task"]).unwrap();
    assert_eq!(child.parent_task_id, planned.task.task_id);
    assert_eq!((child.spiffe_id.as_str(), child.node.as_str()), (SEARCH, ""));
    let decisions = site.records("decision").await;
    let opened = decisions.iter().find(|record| record["task_id"] == said["task"]).unwrap();
    assert_eq!(
        opened["on_behalf_of"],
        json!({"lease_id": planned.lease, "task_id": planned.task.task_id, "spiffe_id": PLANNER})
    );
    let issued = decisions.iter().find(|record| record["lease_id"] == said["jti"]).unwrap();
    assert_eq!(issued["chain"], json!([PLANNER, SEARCH]));

    // The end of the task above takes it along.
    let agent = site.world.connect(NODE).await;
    let end = v1::EndTaskRequest {
        subject_token: site.world.subject_token(PLANNER, NODE),
        task_id: planned.task.task_id.clone(),
        ..Default::default()
    };
    let ended = agent.credentials().end_task(end).await.unwrap().into_inner();
    assert_eq!((ended.tasks_ended, ended.leases_queued), (2, 2));
    assert_eq!(site.introspect(CORPORA, &token).await, json!({"active": false}));
    let late = site.post(&client, &on_behalf(CORPUS_7, &planned.token)).await;
    assert_eq!(late.refused(), (400, "invalid_request", "SUBJECT_TOKEN_INVALID"));
}

#[tokio::test(flavor = "multi_thread")]
async fn actors_nest_from_the_nearest_to_the_root() {
    let mut site = Site::new().await;
    let root = open_desk(&mut site).await;
    let planned = plan_in(&mut site, &root.task_id, declared()).await;
    let search = site.client(Some(SEARCH));
    // Everybody above must be allowed to hand it on, and to both that stand below.
    let refused = site.post(&search, &on_behalf(CORPUS_7, &planned.token)).await;
    assert_eq!(refused.refused(), (400, "invalid_scope", "DELEGATION_NOT_ALLOWED"));
    site.world.apply(&desk_hands_on("spiffe://example.org/tool/other")).await;
    let refused = site.post(&search, &on_behalf(CORPUS_7, &planned.token)).await;
    assert_eq!(refused.refused(), (400, "invalid_scope", "DELEGATION_NOT_ALLOWED"));
    site.world.apply(&desk_hands_on(SEARCH)).await;
    let said = claims(&site.post(&search, &on_behalf(CORPUS_7, &planned.token)).await.token());
    assert_eq!(said["act"], json!({"sub": PLANNER, "act": {"sub": DESK}}));
    assert_eq!(said["txn"], root.session_id);

    // The task of an exchange declares one scope: whoever is given its token goes on with that one or with nothing.
    let asked = r#"[{"type":"dayfly_scope","scope":"ask-search"}]"#;
    let beyond = site.post(&search, &on_behalf(asked, &planned.token)).await;
    assert_eq!(beyond.refused(), (400, "invalid_scope", "SCOPE_NOT_GRANTED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_the_giver_declared_and_may_hand_on_is_given() {
    let mut site = Site::new().await;
    let planned = plan(&mut site, declared()).await;
    let client = site.client(Some(SEARCH));
    let corpus_8 = CORPUS_7.replace("corpus-7", "corpus-8");
    let answer = site.post(&client, &on_behalf(&corpus_8, &planned.token)).await;
    assert_eq!(answer.refused(), (400, "invalid_scope", "OUTSIDE_CEILING"));
    let malformed = CORPUS_7.replace("corpus-7", "7");
    let answer = site.post(&client, &on_behalf(&malformed, &planned.token)).await;
    assert_eq!(answer.refused(), (400, "invalid_authorization_details", "PARAMETER_INVALID"));

    // The rule is evaluated now: what the planner may no longer hand on is not given, in the same task.
    let other = "kind: Binding\nmetadata: {name: planner-hands-on}\nspec: {identities: \
                 ['spiffe://example.org/infer/planner'], scope: corpus-read, grants: [delegate], delegate: {to: \
                 ['spiffe://example.org/tool/other']}}";
    site.world.apply(other).await;
    let answer = site.post(&client, &on_behalf(CORPUS_7, &planned.token)).await;
    assert_eq!(answer.refused(), (400, "invalid_scope", "DELEGATION_NOT_ALLOWED"));
    assert_eq!(site.tasks().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_not_good_now_and_for_the_client_alone_is_worth_nothing() {
    let mut site = Site::new().await;
    let planned = plan(&mut site, declared()).await;
    let client = site.client(Some(SEARCH));
    let invalid = (400, "invalid_request", "SUBJECT_TOKEN_INVALID");
    // For another audience: the corpora service cannot trade what was sent to it, nor can the tool trade what was not.
    let own = site.jwt(TRAINER);
    let of_trainer = site.post(&site.client(Some(TRAINER)), &for_itself("corpus-list", &own)).await.token();
    assert_eq!(site.post(&client, &on_behalf(CORPUS_7, &of_trainer)).await.refused(), invalid);
    let other = "spiffe://example.org/tool/other";
    let answer = site.post(&site.client(Some(other)), &on_behalf(CORPUS_7, &planned.token)).await;
    assert_eq!(answer.refused(), invalid);
    for forged in ["", "a.b.c", &planned.token[..planned.token.len() - 4], &site.jwt(SEARCH)] {
        let answer = site.post(&client, &on_behalf(CORPUS_7, forged)).await;
        assert_eq!(answer.status, 400, "{forged}: {answer:?}");
    }
    // It proves no client: who only holds it is nobody.
    let nobody = site.post(&site.client(None), &on_behalf(CORPUS_7, &planned.token)).await;
    assert_eq!(nobody.refused(), (401, "invalid_client", "CLIENT_UNPROVEN"));

    site.post(&client, &on_behalf(CORPUS_7, &planned.token)).await.token();
    revoke(&mut site, v1::revoke_request::Target::LeaseId(planned.lease.clone())).await;
    assert_eq!(site.post(&client, &on_behalf(CORPUS_7, &planned.token)).await.refused(), invalid);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_whose_holder_does_not_hold_its_task_hands_on_nothing() {
    let mut site = Site::new().await;
    let planned = plan(&mut site, declared()).await;
    // Another identity that stands in the planner's task, as its agent says.
    let guest = "spiffe://example.org/infer/guest";
    let agent = site.world.connect(NODE).await;
    let issue = v1::IssueCredentialRequest {
        subject_token: site.world.subject_token(guest, NODE),
        task_id: planned.task.task_id,
        scope: Some(scope("ask-search", &[])),
        ..Default::default()
    };
    let issued = agent.credentials().issue_credential(issue).await.unwrap().into_inner();
    let Some(v1::issue_credential_response::Credential::Token(token)) = issued.credential else {
        panic!("a token was asked for");
    };
    let answer = site.post(&site.client(Some(SEARCH)), &on_behalf(CORPUS_7, &token.access_token)).await;
    assert_eq!(answer.refused(), (400, "invalid_scope", "DELEGATION_NOT_ALLOWED"));
}

/// A planner's task with a token, inside a task of the desk's that may hand on to all below; two in a line are the most.
async fn shallow() -> (Site, Planned) {
    let mut site = Site::limited("task_depth = 2").await;
    site.world.apply(&desk_hands_on(SEARCH)).await;
    let root = open_desk(&mut site).await;
    let planned = plan_in(&mut site, &root.task_id, declared()).await;
    (site, planned)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_stands_no_deeper_than_any_other_task() {
    let (mut site, planned) = shallow().await;
    let root = plan(&mut site, declared()).await;
    let client = site.client(Some(SEARCH));
    site.post(&client, &on_behalf(CORPUS_7, &root.token)).await.token();
    let answer = site.post(&client, &on_behalf(CORPUS_7, &planned.token)).await;
    assert_eq!(answer.refused(), (400, "invalid_scope", "TASK_TREE_TOO_DEEP"));
    assert_eq!(site.tasks().await.len(), 4, "what is refused leaves no task behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_is_explained_by_deciding_it_once_more() {
    let (mut site, deep) = shallow().await;
    let root = plan(&mut site, declared()).await;
    let search = site.client(Some(SEARCH));
    site.post(&search, &on_behalf(CORPUS_7, &root.token)).await.token();
    for (details, token) in
        [(CORPUS_7.replace("corpus-7", "corpus-8"), &root.token), (CORPUS_7.to_owned(), &deep.token)]
    {
        site.post(&search, &on_behalf(&details, token)).await.refused();
    }
    let others = CORPUS_7.replace("corpus-7", "corpus-9");
    for (id, details) in [(SEARCH, CORPUS_7), (TRAINER, CORPUS_7), (TRAINER, &others)] {
        let own = site.jwt(id);
        let mut form = for_itself("", &own);
        form.push(("authorization_details", details));
        site.post(&site.client(Some(id)), &form).await;
    }
    // What may not be handed on any more.
    let other = "kind: Binding\nmetadata: {name: planner-hands-on}\nspec: {identities: \
                 ['spiffe://example.org/infer/planner'], scope: corpus-read, grants: [delegate], delegate: {to: \
                 ['spiffe://example.org/tool/other']}}";
    site.world.apply(other).await;
    site.post(&search, &on_behalf(CORPUS_7, &root.token)).await.refused();
    revoke(&mut site, v1::revoke_request::Target::TaskId(root.task.task_id.clone())).await;

    let admin = site.world.connect(ADMIN).await;
    let mut outcomes = BTreeSet::new();
    for record in site.records("decision").await {
        if record["what"] != "token_exchange" {
            continue;
        }
        let id = record["request_id"].as_str().unwrap().to_owned();
        let question = Some(v1::explain_request::Question::Id(id));
        let told = admin.questions().explain(v1::ExplainRequest { question }).await.unwrap().into_inner();
        let same = |past: &&v1::PastDecision| {
            serde_json::from_slice::<serde_json::Value>(&past.record).unwrap() == record
        };
        let past = told.past.iter().find(same).expect("the record is found by its request");
        let then = past.then.as_ref().unwrap_or_else(|| panic!("{}: {record:#}", past.not_decided));
        assert!(!past.differs, "{record:#} against {then:#?}");
        assert_eq!(then.chain.last(), record["spiffe_id"].as_str().map(str::to_owned).as_ref());
        let verdict = then.verdict.as_ref().unwrap();
        assert!(verdict.allowed || then.steps.iter().any(|step| !step.matched), "{then:#?}");
        outcomes.insert(match (verdict.allowed, verdict.binding.is_empty()) {
            (true, true) => "opened".to_owned(),
            (true, false) => format!("by {}", verdict.binding),
            (false, _) => verdict.reason.clone(),
        });
    }
    let expected = [
        "DELEGATION_NOT_ALLOWED",
        "OUTSIDE_CEILING",
        "ROOT_NOT_ALLOWED",
        "SCOPE_NOT_GRANTED",
        "TASK_TREE_TOO_DEEP",
        "by search-reads",
        "by train-read",
        "opened",
    ];
    let missing: Vec<&&str> = expected.iter().filter(|one| !outcomes.contains(**one)).collect();
    assert!(missing.is_empty(), "{missing:?} never came: {outcomes:?}");
}
