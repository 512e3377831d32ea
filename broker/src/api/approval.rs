//! `ApprovalService`, over mTLS alone.

use dayfly_domain::approval::{ApprovalRequest, Host};
use dayfly_domain::id::{ApprovalId, RequestId};
use dayfly_proto::v1;
use dayfly_proto::v1::approval_service_server::ApprovalService;
use dayfly_proto::v1::decide_approval_request::Verdict;
use tonic::{Request as Rpc, Response, Status};

use super::{Api, peer_of, status, wire};
use crate::operations::OperationError;
use crate::operations::admin::{Admin, Verb, admit};
use crate::operations::approval::{self, Approver, End, RequestApproval};

/// Rows of a list, if the caller does not say.
const DEFAULT_LIMIT: u32 = 200;
/// Most rows of a list.
const MOST_ROWS: u32 = 10_000;

type Answer<T> = Result<Response<T>, Status>;

impl Api {
    /// Which admin it is and where it comes from. Root on the break-glass socket is nobody here.
    fn approver<T>(&self, rpc: &Rpc<T>, verb: Verb) -> Result<(RequestId, Approver), Status> {
        let request = self.new_request_id();
        let peer = peer_of(rpc, request)?;
        let id = match admit(&self.broker, &peer, verb) {
            Ok(Admin::Root(id) | Admin::Bound(id)) => id,
            Ok(Admin::BreakGlass) => {
                let refused = OperationError::NotAdmin("break-glass decides no approvals".to_owned());
                return Err(status::of(refused, request));
            }
            Err(error) => return Err(status::of(error, request)),
        };
        Ok((request, Approver { id, host: peer.host.map_or(Host::Broker, Host::At) }))
    }

    fn told(&self, asked: &ApprovalRequest) -> v1::Approval {
        let standing = asked.standing(&self.broker.rules.load(), self.broker.clock.now());
        let verdict = asked.verdict.as_ref();
        v1::Approval {
            approval_id: asked.id.to_string(),
            spiffe_id: asked.identity.to_string(),
            scope: Some(wire::scope_request(&asked.ask)),
            until: Some(wire::time(asked.until)),
            ticket: asked.ticket.clone(),
            reason: asked.reason.clone(),
            digest: asked.digest.clone(),
            state: standing.as_str().to_owned(),
            requested_at: Some(wire::time(asked.requested_at)),
            requested_by: asked.requested_by.to_string(),
            requested_on: asked.requested_on.to_string(),
            decided_at: verdict.map(|verdict| wire::time(verdict.at)),
            decided_by: verdict.map(|verdict| verdict.by.to_string()).unwrap_or_default(),
            decided_on: verdict.map(|verdict| verdict.on.to_string()).unwrap_or_default(),
        }
    }
}

#[tonic::async_trait]
impl ApprovalService for Api {
    async fn request_approval(
        &self,
        rpc: Rpc<v1::RequestApprovalRequest>,
    ) -> Answer<v1::RequestApprovalResponse> {
        let (request, by) = self.approver(&rpc, Verb::Read)?;
        let asked = rpc.into_inner();
        let next = "name one exact SPIFFE ID";
        let identity = asked
            .spiffe_id
            .parse()
            .map_err(|_| status::invalid("FILTER_INVALID", "spiffe_id is malformed", next, request))?;
        let wish = RequestApproval {
            identity,
            ask: wire::ask(asked.scope, request)?,
            end: end(asked.end, request)?,
            ticket: asked.ticket,
            reason: asked.reason,
        };
        let asked = approval::request(&self.broker, &by, request, wish).await;
        let asked = asked.map_err(|error| status::of(error, request))?;
        Ok(Response::new(v1::RequestApprovalResponse { approval: Some(self.told(&asked)) }))
    }

    async fn decide_approval(
        &self,
        rpc: Rpc<v1::DecideApprovalRequest>,
    ) -> Answer<v1::DecideApprovalResponse> {
        let (request, by) = self.approver(&rpc, Verb::Approve)?;
        let verdict = rpc.get_ref().verdict();
        let v1::DecideApprovalRequest { approval_id, digest, .. } = rpc.into_inner();
        let id = approval_id_of(&approval_id, request)?;
        let decided = match verdict {
            Verdict::Approve => approval::approve(&self.broker, &by, request, id, &digest).await,
            Verdict::Refuse => approval::refuse(&self.broker, &by, request, id).await,
            Verdict::Unspecified => {
                let next = "say approve or refuse";
                return Err(status::invalid("VERDICT_MISSING", "no verdict is given", next, request));
            }
        };
        let decided = decided.map_err(|error| status::of(error, request))?;
        Ok(Response::new(v1::DecideApprovalResponse { approval: Some(self.told(&decided)) }))
    }

    async fn withdraw_approval(
        &self,
        rpc: Rpc<v1::WithdrawApprovalRequest>,
    ) -> Answer<v1::WithdrawApprovalResponse> {
        let (request, by) = self.approver(&rpc, Verb::Read)?;
        let id = approval_id_of(&rpc.get_ref().approval_id, request)?;
        let asked = approval::read(&self.broker, id).await.map_err(|error| status::of(error, request))?;
        if asked.requested_by != by.id && self.approver(&rpc, Verb::Revoke).is_err() {
            self.approver(&rpc, Verb::Approve)?;
        }
        let withdrawn = approval::withdraw(&self.broker, &by, request, asked).await;
        let (asked, leases) = withdrawn.map_err(|error| status::of(error, request))?;
        Ok(Response::new(v1::WithdrawApprovalResponse {
            approval: Some(self.told(&asked)),
            revoked_lease_ids: leases.iter().map(ToString::to_string).collect(),
        }))
    }

    async fn get_approval(&self, rpc: Rpc<v1::GetApprovalRequest>) -> Answer<v1::GetApprovalResponse> {
        let (request, _) = self.approver(&rpc, Verb::Read)?;
        let id = approval_id_of(&rpc.get_ref().approval_id, request)?;
        let shown = approval::show(&self.broker, id).await.map_err(|error| status::of(error, request))?;
        Ok(Response::new(v1::GetApprovalResponse {
            approval: Some(self.told(&shown.asked)),
            scope_yaml: shown.scope.map(|document| document.to_yaml()).unwrap_or_default(),
            bindings: shown.bindings,
        }))
    }

    async fn list_approvals(&self, rpc: Rpc<v1::ListApprovalsRequest>) -> Answer<v1::ListApprovalsResponse> {
        let (request, _) = self.approver(&rpc, Verb::Read)?;
        let v1::ListApprovalsRequest { include_over, limit } = rpc.into_inner();
        let limit = if limit == 0 { DEFAULT_LIMIT } else { limit.min(MOST_ROWS) };
        let rows = approval::list(&self.broker, include_over, limit).await;
        let rows = rows.map_err(|error| status::of(error, request))?;
        let approvals = rows.iter().map(|asked| self.told(asked)).collect();
        Ok(Response::new(v1::ListApprovalsResponse { approvals }))
    }
}

fn approval_id_of(text: &str, request: RequestId) -> Result<ApprovalId, Status> {
    let next = "`dayfly approvals` lists them";
    text.parse()
        .map_err(|_| status::invalid("ID_INVALID", "approval_id is not an approval's id", next, request))
}

fn end(wire: Option<v1::request_approval_request::End>, request: RequestId) -> Result<End, Status> {
    use v1::request_approval_request::End as Wire;
    let next = "say until when, or for how long";
    let missing = || {
        status::invalid("APPROVAL_END_INVALID", "the approval's end is missing or malformed", next, request)
    };
    match wire.ok_or_else(missing)? {
        Wire::Until(at) => wire::moment(&at).map(End::At).ok_or_else(missing),
        Wire::Duration(span) => wire::span(Some(span), request)?.map(End::After).ok_or_else(missing),
    }
}
