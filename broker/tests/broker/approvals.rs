//! Temporary access: asked for by one admin, approved by another, gone at its end or when the scope changes.

use std::time::Duration;

use dayfly_client::BrokerClient;
use dayfly_proto::v1;
use dayfly_proto::v1::decide_approval_request::Verdict;
use dayfly_proto::v1::request_approval_request::End;

use crate::world::{ADMIN, NODE, TRAINER, World, reason, scope};

const BOB: &str = "spiffe://example.org/admin/bob";

const APPROVED: &str = r#"
kind: Stage
metadata: {name: admin}
spec: {patterns: ["spiffe://example.org/admin/*"]}
---
kind: Binding
metadata: {name: approvers-read}
spec: {identities: ["spiffe://example.org/admin/bob"], scope: admin.read}
---
kind: Binding
metadata: {name: approvers}
spec: {identities: ["spiffe://example.org/admin/bob"], scope: admin.approve}
---
kind: Scope
metadata: {name: prod-read}
spec:
  stages: [training]
  parameters: {table: {type: segment}}
  ttl: {default: 2m, max: 5m}
  approval: {max: 1h}
  target: {token: {audience: "https://db.example.org", checked: offline}}
---
kind: Binding
metadata: {name: train-prod}
spec: {identities: ["spiffe://example.org/train/*"], scope: prod-read, via: direct}
"#;

pub async fn world(admins: &str) -> World {
    let world = World::configured(admins, "").await;
    world.apply(crate::world::DOCUMENTS).await;
    world.apply(APPROVED).await;
    world
}

const ONE_HOST: &str = "approvals_from_one_host = true";

fn wish(lasts: Duration) -> v1::RequestApprovalRequest {
    v1::RequestApprovalRequest {
        spiffe_id: TRAINER.to_owned(),
        scope: Some(scope("prod-read", &[("table", "users")])),
        end: Some(End::Duration(prost_types::Duration::try_from(lasts).unwrap())),
        ticket: "OPS-1".to_owned(),
        reason: "the nightly job broke".to_owned(),
    }
}

async fn request(by: &BrokerClient, lasts: Duration) -> v1::Approval {
    let answer = by.approvals().request_approval(wish(lasts)).await.expect("it may be requested");
    answer.into_inner().approval.unwrap()
}

async fn decide(
    by: &BrokerClient,
    id: &str,
    verdict: Verdict,
    digest: &str,
) -> Result<v1::Approval, tonic::Status> {
    let asked = v1::DecideApprovalRequest {
        approval_id: id.to_owned(),
        verdict: verdict.into(),
        digest: digest.to_owned(),
    };
    by.approvals().decide_approval(asked).await.map(|answer| answer.into_inner().approval.unwrap())
}

async fn approve(by: &BrokerClient, asked: &v1::Approval) -> Result<v1::Approval, tonic::Status> {
    decide(by, &asked.approval_id, Verdict::Approve, &asked.digest).await
}

async fn state(by: &BrokerClient, id: &str) -> String {
    let asked = v1::GetApprovalRequest { approval_id: id.to_owned() };
    by.approvals().get_approval(asked).await.unwrap().into_inner().approval.unwrap().state
}

/// An approval of ten minutes.
pub async fn approved(world: &mut World) -> v1::Approval {
    let (ann, bob) = (world.connect(ADMIN).await, world.connect(BOB).await);
    let asked = request(&ann, Duration::from_secs(600)).await;
    approve(&bob, &asked).await.expect("a second admin")
}

/// The trainer with its own task.
struct Trainer {
    client: BrokerClient,
    task: v1::OpenTaskResponse,
}

impl Trainer {
    async fn new(world: &mut World) -> Self {
        let client = world.connect(TRAINER).await;
        let ceiling = vec![scope("prod-read", &[("table", "users")])];
        let open = v1::OpenTaskRequest { ceiling, ..Default::default() };
        let task = client.credentials().open_task(open).await.expect("a binding stands").into_inner();
        Self { client, task }
    }

    async fn issue(&self) -> Result<v1::IssueCredentialResponse, tonic::Status> {
        let asked = v1::IssueCredentialRequest {
            task_id: self.task.task_id.clone(),
            task_key: self.task.task_key.clone(),
            scope: Some(scope("prod-read", &[("table", "users")])),
            ..Default::default()
        };
        self.client.credentials().issue_credential(asked).await.map(tonic::Response::into_inner)
    }
}

fn seconds(at: Option<prost_types::Timestamp>) -> f64 {
    let at = at.expect("a moment");
    at.seconds as f64 + f64::from(at.nanos) / 1e9
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scope_that_wants_approval_waits_for_a_second_admin_on_another_host() {
    let mut world = world("").await;
    let trainer = Trainer::new(&mut world).await;
    assert_eq!(reason(trainer.issue().await), "APPROVAL_MISSING");
    let (ann, bob) = (world.connect(ADMIN).await, world.connect(BOB).await);
    let asked = request(&ann, Duration::from_secs(600)).await;
    assert_eq!((asked.state.as_str(), asked.requested_on.as_str()), ("requested", "broker"));
    assert_eq!(reason(trainer.issue().await), "APPROVAL_MISSING", "a request allows nothing");
    assert_eq!(reason(approve(&ann, &asked).await), "APPROVER_IS_REQUESTER");
    assert_eq!(reason(approve(&bob, &asked).await), "APPROVER_ON_SAME_HOST");
    for stranger in [TRAINER, NODE] {
        let stranger = world.connect(stranger).await;
        assert_eq!(reason(approve(&stranger, &asked).await), "NOT_ADMIN");
        assert_eq!(
            reason(stranger.approvals().request_approval(wish(Duration::from_secs(5))).await),
            "NOT_ADMIN"
        );
    }
    assert_eq!(reason(trainer.issue().await), "APPROVAL_MISSING");
    let refused =
        decide(&bob, &asked.approval_id, Verdict::Refuse, "").await.expect("a no needs no other host");
    assert_eq!((refused.state.as_str(), refused.decided_by.as_str()), ("refused", BOB));
    assert_eq!(reason(approve(&bob, &asked).await), "APPROVAL_OVER");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_allows_until_its_end_to_the_second() {
    let mut world = world(ONE_HOST).await;
    let trainer = Trainer::new(&mut world).await;
    let (ann, bob) = (world.connect(ADMIN).await, world.connect(BOB).await);
    let asked = request(&ann, Duration::from_secs(4)).await;
    assert_eq!(reason(approve(&ann, &asked).await), "APPROVER_IS_REQUESTER", "one host, but two people");
    let other = decide(&bob, &asked.approval_id, Verdict::Approve, "another digest").await;
    assert_eq!(reason(other), "APPROVAL_CHANGED");
    let approved = approve(&bob, &asked).await.expect("a second admin");
    assert_eq!((approved.state.as_str(), approved.decided_by.as_str()), ("approved", BOB));
    let issued = trainer.issue().await.expect("it is approved");
    assert!(seconds(issued.expires_at) <= seconds(asked.until), "nothing outlives its approval");

    let recorded = records(&ann, "decision").await;
    let allowed = recorded.iter().find(|record| record["approval"] == asked.approval_id.as_str());
    assert_eq!(allowed.expect("the decision names its approval")["scope"], "prod-read");
    let recorded = records(&ann, "admin").await;
    let yes = recorded.iter().find(|record| record["event"] == "approval.approved").expect("a record");
    assert_eq!((yes["by"].as_str(), yes["one_host_allowed"].as_bool()), (Some(BOB), Some(true)));
    assert_eq!(yes["digest"], asked.digest.as_str());

    let until = std::time::UNIX_EPOCH + Duration::from_secs_f64(seconds(asked.until));
    if let Ok(left) = until.duration_since(std::time::SystemTime::now()) {
        tokio::time::sleep(left).await;
    }
    assert_eq!(reason(trainer.issue().await), "APPROVAL_MISSING");
    assert_eq!(state(&ann, &asked.approval_id).await, "ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_scope_voids_its_approvals_and_requests() {
    let mut world = world(ONE_HOST).await;
    let trainer = Trainer::new(&mut world).await;
    let (ann, bob) = (world.connect(ADMIN).await, world.connect(BOB).await);
    let (approved, waiting) =
        (request(&ann, Duration::from_secs(600)).await, request(&ann, Duration::from_secs(900)).await);
    approve(&bob, &approved).await.expect("a second admin");
    trainer.issue().await.expect("it is approved");
    world.apply(&APPROVED.replace("https://db.example.org", "https://db2.example.org")).await;
    assert_eq!(reason(trainer.issue().await), "APPROVAL_MISSING");
    assert_eq!(state(&ann, &approved.approval_id).await, "void");
    assert_eq!(reason(approve(&bob, &waiting).await), "APPROVAL_CHANGED");
    let listed =
        ann.approvals().list_approvals(v1::ListApprovalsRequest::default()).await.unwrap().into_inner();
    assert!(listed.approvals.is_empty(), "{listed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_withdrawn_takes_its_leases_along_and_outlives_a_restart() {
    let mut world = world(ONE_HOST).await;
    let trainer = Trainer::new(&mut world).await;
    let (ann, bob) = (world.connect(ADMIN).await, world.connect(BOB).await);
    let asked = request(&ann, Duration::from_secs(600)).await;
    approve(&bob, &asked).await.expect("a second admin");
    world.restart().await;
    let (trainer, ann) =
        (Trainer { client: world.connect(TRAINER).await, ..trainer }, world.connect(ADMIN).await);
    let issued = trainer.issue().await.expect("it is approved still");
    let withdraw = v1::WithdrawApprovalRequest { approval_id: asked.approval_id.clone() };
    let withdrawn = ann.approvals().withdraw_approval(withdraw.clone()).await.unwrap().into_inner();
    assert_eq!(withdrawn.revoked_lease_ids, [issued.lease_id]);
    assert_eq!(withdrawn.approval.unwrap().state, "withdrawn");
    assert_eq!(reason(trainer.issue().await), "APPROVAL_MISSING");
    assert_eq!(reason(ann.approvals().withdraw_approval(withdraw).await), "APPROVAL_OVER");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_an_approval_could_allow_is_requested() {
    let mut world = world("").await;
    let ann = world.connect(ADMIN).await;
    let lasts = Duration::from_secs(60);
    let asks = [
        (v1::RequestApprovalRequest { scope: Some(scope("nowhere", &[])), ..wish(lasts) }, "UNKNOWN"),
        (
            v1::RequestApprovalRequest { scope: Some(scope("direct-read", &[])), ..wish(lasts) },
            "APPROVAL_NOT_WANTED",
        ),
        (
            v1::RequestApprovalRequest { scope: Some(scope("prod-read", &[])), ..wish(lasts) },
            "PARAMETER_INVALID",
        ),
        (wish(Duration::from_secs(3601)), "APPROVAL_END_INVALID"),
        (v1::RequestApprovalRequest { end: None, ..wish(lasts) }, "APPROVAL_END_INVALID"),
        (v1::RequestApprovalRequest { reason: String::new(), ..wish(lasts) }, "APPROVAL_REASON_INVALID"),
        (v1::RequestApprovalRequest { spiffe_id: "train/*".to_owned(), ..wish(lasts) }, "FILTER_INVALID"),
    ];
    for (ask, expected) in asks {
        assert_eq!(reason(ann.approvals().request_approval(ask).await), expected);
    }
    let unknown = decide(&ann, "01JZX0Q4V9N3F7T2K8M5R6W1YB", Verdict::Approve, "").await;
    assert_eq!(reason(unknown), "UNKNOWN");
    let asked = request(&ann, lasts).await;
    assert_eq!(reason(decide(&ann, &asked.approval_id, Verdict::Unspecified, "").await), "VERDICT_MISSING");
}

async fn records(admin: &BrokerClient, stream: &str) -> Vec<serde_json::Value> {
    let asked = v1::ReadAuditRequest { stream: stream.to_owned(), from_seq: 1 };
    let mut rows = admin.admin().read_audit(asked).await.unwrap().into_inner();
    let mut records = Vec::new();
    while let Some(row) = rows.message().await.unwrap() {
        records.push(serde_json::from_slice(&row.bytes).unwrap());
    }
    records
}
