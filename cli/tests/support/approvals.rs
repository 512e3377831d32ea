//! A broker's ApprovalService over one request that waits.

use dayfly_client::v1::decide_approval_request::Verdict;
use dayfly_client::v1::{self, approval_service_server as service};
use tonic::{Request, Response, Status};

use super::admin::{FakeBroker, TRAINER};

type Answer<T> = Result<Response<T>, Status>;

/// What the fake was asked.
#[derive(Default)]
pub struct Asked {
    pub requested: Vec<v1::RequestApprovalRequest>,
    pub decided: Vec<v1::DecideApprovalRequest>,
    pub listed: Vec<v1::ListApprovalsRequest>,
}

fn at(seconds: i64) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp { seconds: 1_800_000_000 + seconds, nanos: 0 })
}

fn waiting() -> v1::Approval {
    v1::Approval {
        approval_id: "01JZX0A1".into(),
        spiffe_id: TRAINER.into(),
        scope: Some(v1::ScopeRequest {
            scope: "prod-db".into(),
            parameters: [("table".to_owned(), "users".to_owned())].into(),
        }),
        until: at(7200),
        ticket: "OPS-1".into(),
        reason: "the job \u{1b}[31mbroke".into(),
        digest: "d1".into(),
        state: "requested".into(),
        requested_at: at(0),
        requested_by: "spiffe://prod.example/admin/ann".into(),
        requested_on: "10.0.0.7".into(),
        ..v1::Approval::default()
    }
}

fn decided(state: &str) -> Option<v1::Approval> {
    Some(v1::Approval {
        state: state.into(),
        decided_at: at(60),
        decided_by: "spiffe://prod.example/admin/bob".into(),
        decided_on: "broker".into(),
        ..waiting()
    })
}

#[tonic::async_trait]
impl service::ApprovalService for FakeBroker {
    async fn request_approval(
        &self,
        rpc: Request<v1::RequestApprovalRequest>,
    ) -> Answer<v1::RequestApprovalResponse> {
        self.with(|state| state.approvals.requested.push(rpc.into_inner()));
        Ok(Response::new(v1::RequestApprovalResponse { approval: Some(waiting()) }))
    }

    async fn decide_approval(
        &self,
        rpc: Request<v1::DecideApprovalRequest>,
    ) -> Answer<v1::DecideApprovalResponse> {
        let state = match rpc.get_ref().verdict() {
            Verdict::Approve => "approved",
            Verdict::Refuse | Verdict::Unspecified => "refused",
        };
        self.with(|state| state.approvals.decided.push(rpc.into_inner()));
        Ok(Response::new(v1::DecideApprovalResponse { approval: decided(state) }))
    }

    async fn withdraw_approval(
        &self,
        _: Request<v1::WithdrawApprovalRequest>,
    ) -> Answer<v1::WithdrawApprovalResponse> {
        let revoked_lease_ids = vec!["01JZX0L1".to_owned()];
        Ok(Response::new(v1::WithdrawApprovalResponse { approval: decided("withdrawn"), revoked_lease_ids }))
    }

    async fn get_approval(&self, _: Request<v1::GetApprovalRequest>) -> Answer<v1::GetApprovalResponse> {
        Ok(Response::new(v1::GetApprovalResponse {
            approval: Some(waiting()),
            scope_yaml: "kind: Scope\nmetadata:\n  name: prod-db\n".into(),
            bindings: vec!["repair-jobs".into()],
        }))
    }

    async fn list_approvals(
        &self,
        rpc: Request<v1::ListApprovalsRequest>,
    ) -> Answer<v1::ListApprovalsResponse> {
        self.with(|state| state.approvals.listed.push(rpc.into_inner()));
        Ok(Response::new(v1::ListApprovalsResponse { approvals: vec![waiting()] }))
    }
}
