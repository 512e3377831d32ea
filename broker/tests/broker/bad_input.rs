//! Each gets a clear refusal with a stable reason and the next step, and nothing is issued.

use dayfly_client::{BrokerClient, BrokerEndpoint, CallError};
use dayfly_devspiffe::wrong::{self, WrongJwt};
use dayfly_proto::v1;

use crate::world::{ADMIN, BROKER, NODE, TRAINER, World, anchor, reason, scope};

fn open_with(token: String) -> v1::OpenTaskRequest {
    let ceiling = vec![scope("index-read", &[("index", "idx-1")])];
    v1::OpenTaskRequest { subject_token: token, ceiling, anchor: Some(anchor()), ..Default::default() }
}

async fn open(
    client: &BrokerClient,
    request: v1::OpenTaskRequest,
) -> Result<v1::OpenTaskResponse, tonic::Status> {
    client.credentials().open_task(request).await.map(tonic::Response::into_inner)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_cannot_pose_as_an_agent() {
    let mut world = World::new().await;
    let client = world.connect(TRAINER).await;
    let token = world.subject_token("spiffe://example.org/train/b", TRAINER);
    assert_eq!(reason(open(&client, open_with(token)).await), "NOT_A_NODE");
    let mut own = open_with(String::new());
    own.ceiling = vec![scope("direct-read", &[])];
    assert_eq!(reason(open(&client, own.clone()).await), "ANCHOR_NOT_YOURS");
    own.anchor = None;
    own.parent_task_id = "01ARZ3NDEKTSV4RRFFQ69G5FAV".to_owned();
    assert_eq!(reason(open(&client, own).await), "PARENT_NOT_YOURS");
}

#[tokio::test(flavor = "multi_thread")]
async fn code_inside_a_task_cannot_open_a_root_directly() {
    // Its binding says `via: agent`: whatever SVID it fetches, the broker does not hear it without the agent.
    let mut world = World::new().await;
    let client = world.connect("spiffe://example.org/tool/t").await;
    let mut request = open_with(String::new());
    request.anchor = None;
    assert_eq!(reason(open(&client, request).await), "VIA_NOT_ALLOWED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subject_token_is_for_this_broker_through_this_agent_alone() {
    let mut world = World::new().await;
    let client = world.connect(NODE).await;
    let right = format!("{BROKER}?via={NODE}");
    for audiences in [
        vec![BROKER.to_owned()],
        vec![format!("{BROKER}?via=spiffe://example.org/node/n2")],
        vec!["sts.amazonaws.com".to_owned()],
        vec![right.clone(), "https://elsewhere".to_owned()],
    ] {
        let token = world.jwt(TRAINER, &audiences);
        assert_eq!(reason(open(&client, open_with(token)).await), "SUBJECT_TOKEN_INVALID", "{audiences:?}");
    }
    assert_eq!(reason(open(&client, open_with(String::new())).await), "SUBJECT_TOKEN_MISSING");
    assert_eq!(reason(open(&client, open_with("a".repeat(17_000))).await), "SUBJECT_TOKEN_INVALID");
    open(&client, open_with(world.jwt(TRAINER, &[right]))).await.expect("the right one");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_jwt_svids_prove_nothing() {
    let mut world = World::new().await;
    let client = world.connect(NODE).await;
    let trainer = dayfly_client::SpiffeId::new(TRAINER).unwrap();
    for way in WrongJwt::ALL {
        let token = wrong::jwt(&world.authority, &trainer, &format!("{BROKER}?via={NODE}"), way).unwrap();
        let answer = open(&client, open_with(token)).await;
        let reason = reason(answer);
        assert!(
            matches!(reason.as_str(), "SUBJECT_TOKEN_INVALID" | "SUBJECT_TOKEN_STALE"),
            "{way:?}: {reason}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_speaks_only_for_its_workloads() {
    let mut world = World::new().await;
    let client = world.connect("spiffe://example.org/node/n2").await;
    for (workload, expected) in [
        ("spiffe://example.org/tool/t", "NODE_MAY_NOT_SPEAK_FOR"),
        ("spiffe://example.org/nobody/x", "IDENTITY_UNKNOWN"),
        (NODE, "STAGE_THROUGH_AGENT"),
    ] {
        let token = world.subject_token(workload, "spiffe://example.org/node/n2");
        assert_eq!(reason(open(&client, open_with(token)).await), expected, "{workload}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_must_be_granted_declared_and_well_formed() {
    let mut world = World::new().await;
    let client = world.connect(NODE).await;
    let token = || world.subject_token(TRAINER, NODE);
    let with = |ceiling| v1::OpenTaskRequest { ceiling, ..open_with(token()) };
    assert_eq!(reason(open(&client, with(vec![scope("nowhere", &[])])).await), "SCOPE_NOT_GRANTED");
    for value in ["idx-x", "idx-1/../idx-2", "idx-1*", "idx-1\n", "${aws:username}", "\"", ""] {
        let ceiling = vec![scope("index-read", &[("index", value)])];
        assert_eq!(reason(open(&client, with(ceiling)).await), "PARAMETER_INVALID", "{value:?}");
    }
    let many = vec![scope("index-read", &[("index", "idx-1")]); 65];
    assert_eq!(reason(open(&client, with(many)).await), "CEILING_TOO_LONG");
    let task = open(&client, open_with(token())).await.unwrap();
    let issue = |scope, ttl| v1::IssueCredentialRequest {
        subject_token: token(),
        task_id: task.task_id.clone(),
        scope: Some(scope),
        ttl,
        ..Default::default()
    };
    let ask = async |request| reason(client.credentials().issue_credential(request).await);
    let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    assert_eq!(ask(issue(scope("index-read", &[("index", "idx-2")]), None)).await, "OUTSIDE_CEILING");
    assert_eq!(ask(issue(scope("index-read", &[("index", "idx-1")]), seconds(301))).await, "TTL_OVER_LIMIT");
    assert_eq!(ask(issue(scope("index-read", &[("index", "idx-1")]), seconds(-1))).await, "DURATION_INVALID");
    assert_eq!(ask(issue(scope("direct-read", &[]), None)).await, "VIA_NOT_ALLOWED");
    let mut unknown = issue(scope("index-read", &[("index", "idx-1")]), None);
    unknown.task_id = "01ARZ3NDEKTSV4RRFFQ69G5FAV".to_owned();
    assert_eq!(ask(unknown.clone()).await, "TASK_NOT_OPEN");
    unknown.task_id = "not an id".to_owned();
    assert_eq!(ask(unknown).await, "ID_INVALID");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parameter_of_a_mebibyte_is_refused_before_it_is_parsed() {
    let mut world = World::new().await;
    let client = world.connect(NODE).await;
    // A client that knows no limit of its own.
    let mut raw = v1::credential_service_client::CredentialServiceClient::new(client.channel());
    let huge = vec![scope("index-read", &[("index", &"a".repeat(1 << 20))])];
    // Its token is worth nothing: were the message read, that would be said.
    let open = v1::OpenTaskRequest { ceiling: huge.clone(), ..open_with("no token".to_owned()) };
    let too_big = raw.open_task(open).await.expect_err("over 256 KiB");
    assert_eq!(too_big.code(), tonic::Code::OutOfRange, "{too_big}");
    let issue = v1::IssueCredentialRequest { scope: huge.into_iter().next(), ..Default::default() };
    let too_big = raw.issue_credential(issue).await.expect_err("over 256 KiB");
    assert_eq!(too_big.code(), tonic::Code::OutOfRange, "{too_big}");
    // One that fits is read, and refused for what it is.
    let long = vec![scope("index-read", &[("index", &"a".repeat(100 << 10))])];
    let open = v1::OpenTaskRequest { ceiling: long, ..open_with(world.subject_token(TRAINER, NODE)) };
    assert_eq!(reason(client.credentials().open_task(open).await), "PARAMETER_INVALID");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_all_that_issued_anything() {
    let mut world = World::new().await;
    let client = world.connect(NODE).await;
    let task = open(&client, open_with(world.subject_token(TRAINER, NODE))).await.unwrap();
    let request = v1::IssueCredentialRequest {
        subject_token: world.subject_token(TRAINER, NODE),
        task_id: task.task_id,
        scope: Some(scope("index-read", &[("index", "idx-2")])),
        ..Default::default()
    };
    for _ in 0..30 {
        reason(client.credentials().issue_credential(request.clone()).await);
    }
    let admin = world.connect(ADMIN).await;
    let leases = v1::ListLeasesRequest { include_ended: true, ..Default::default() };
    assert!(admin.admin().list_leases(leases).await.unwrap().into_inner().leases.is_empty());
    // A loop of equal denials does not fill the audit.
    let read = v1::ReadAuditRequest { stream: "decision".to_owned(), from_seq: 1 };
    let mut stream = admin.admin().read_audit(read).await.unwrap().into_inner();
    let mut denials = 0;
    while let Some(record) = stream.message().await.unwrap() {
        denials += usize::from(String::from_utf8_lossy(&record.bytes).contains("OUTSIDE_CEILING"));
    }
    assert_eq!(denials, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn admins_are_named_in_the_configuration_and_nowhere_else() {
    let mut world = World::new().await;
    for id in [TRAINER, NODE, "spiffe://example.org/admin/bob"] {
        let client = world.connect(id).await;
        let answer = client.admin().list_tasks(v1::ListTasksRequest::default()).await;
        assert_eq!(reason(answer), "NOT_ADMIN", "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_admin_has_its_verbs_and_cannot_raise_itself() {
    let mut world = World::new().await;
    world
        .apply(
            r#"
kind: Stage
metadata: {name: admin}
spec: {patterns: ["spiffe://example.org/admin/*"]}
---
kind: Binding
metadata: {name: bob-reads}
spec: {identities: ["spiffe://example.org/admin/bob"], scope: admin.read}
---
kind: Binding
metadata: {name: bob-applies}
spec: {identities: ["spiffe://example.org/admin/bob"], scope: admin.apply}
"#,
        )
        .await;
    let bob = world.connect("spiffe://example.org/admin/bob").await;
    bob.admin().list_tasks(v1::ListTasksRequest::default()).await.expect("bob reads");
    let target = Some(v1::revoke_request::Target::SpiffeId(TRAINER.to_owned()));
    assert_eq!(
        reason(bob.admin().revoke(v1::RevokeRequest { target, ..Default::default() }).await),
        "NOT_ADMIN"
    );
    let apply = async |yaml: &str| {
        bob.admin().apply(v1::ApplyRequest { yaml: yaml.to_owned(), ..Default::default() }).await
    };
    let harmless =
        "kind: Stage\nmetadata: {name: inference}\nspec: {patterns: ['spiffe://example.org/infer/*']}";
    assert_eq!(apply(harmless).await.unwrap().into_inner().revision, 3);
    for yaml in [
        "kind: Binding\nmetadata: {name: more}\nspec: {identities: ['spiffe://example.org/admin/bob'], scope: admin.revoke}",
        "kind: Stage\nmetadata: {name: admin}\nspec: {patterns: ['spiffe://example.org/admin/**']}",
        "kind: Node\nmetadata: {name: n1}\nspec: {agents: 'spiffe://example.org/node/n9', workloads: ['spiffe://example.org/train/*'], trust_domains: [example.org], anchors: [process]}",
    ] {
        assert_eq!(reason(apply(yaml).await), "NOT_ADMIN", "{yaml}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_pins_another_broker_is_not_served() {
    let mut world = World::new().await;
    let identity = world.identity(TRAINER).await;
    let endpoint = BrokerEndpoint::new(world.address(), ["spiffe://example.org/dayfly/other"]).unwrap();
    let refused = match BrokerClient::connect(endpoint, &identity).await {
        Err(error) => dayfly_client::chain(&error),
        Ok(client) => {
            let answer = client.credentials().open_task(v1::OpenTaskRequest::default()).await;
            CallError::from(answer.expect_err("a broker of another name")).to_string()
        }
    };
    assert!(refused.contains("broker"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn faulty_documents_change_nothing() {
    let world = World::new().await;
    let apply = |yaml: &str| v1::ApplyRequest { yaml: yaml.to_owned(), ..Default::default() };
    for (yaml, expected) in [
        ("kind: [", "malformed YAML"),
        ("kind: Scope\nmetadata: {name: x}\nspec: {stages: [training], target: {gold: {}}}", "no provider"),
        (
            "kind: Scope\nmetadata: {name: x}\nspec: {stages: [training], target: {token: {audience: 'https://a', colour: 1, checked: offline}}}",
            "colour",
        ),
        (
            "kind: Binding\nmetadata: {name: x}\nspec: {identities: ['spiffe://example.org/train/*'], scope: nowhere}",
            "nowhere",
        ),
    ] {
        let answer = world.try_apply(apply(yaml)).await.unwrap();
        let told: Vec<String> =
            answer.faults.iter().map(|f| format!("{} {}: {}", f.subject, f.path, f.problem)).collect();
        assert!(told.iter().any(|fault| fault.contains(expected)), "{yaml}: {told:?}");
        assert_eq!(answer.revision, 1);
    }
    let stale = v1::ApplyRequest { expected_revision: 7, ..apply("") };
    assert_eq!(world.try_apply(stale).await.unwrap_err().reason.as_deref(), Some("STALE_REVISION"));
    let dry = v1::ApplyRequest {
        dry_run: true,
        ..apply(
            "kind: Stage\nmetadata: {name: inference}\nspec: {patterns: ['spiffe://example.org/infer/*']}",
        )
    };
    let answer = world.try_apply(dry).await.unwrap();
    assert_eq!((answer.revision, answer.changes.len()), (1, 1));
    assert!(answer.changes[0].diff.contains("+kind: Stage"), "{}", answer.changes[0].diff);
}
