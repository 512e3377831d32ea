//! Tasks for named workloads: `DelegateTask` and `ClaimTask`.

use std::collections::HashMap;

use dayfly_proto::v1;
use tonic::{Request as Rpc, Response, Status};

use super::{Api, node_epoch, peer_of, status, wire};
use crate::operations::claim_task::{self, ClaimTask};
use crate::operations::delegate_task::{self, DelegateTask};

impl Api {
    pub(super) async fn delegate(
        &self,
        rpc: Rpc<v1::DelegateTaskRequest>,
    ) -> Result<Response<v1::DelegateTaskResponse>, Status> {
        let id = self.new_request_id();
        let (peer, epoch) = (peer_of(&rpc, id)?, node_epoch(&rpc));
        let asked = rpc.into_inner();
        let request = self.admit(&peer, epoch, asked.subject_token, id).await?;
        let next = "name the workload by its exact SPIFFE ID";
        let not_an_id = |fault| status::invalid("SPIFFE_ID_INVALID", format!("spiffe_id: {fault}"), next, id);
        let wish = DelegateTask {
            task: wire::task_id(&asked.task_id, id)?,
            key: wire::key(asked.task_key),
            to: asked.spiffe_id.parse().map_err(not_an_id)?,
            labels: wire::claimed(&asked.intent, asked.labels, id)?,
            ceiling: wire::ceiling(asked.ceiling, id)?,
            max_duration: wire::span(asked.max_duration, id)?,
            claim_within: wire::span(asked.claim_within, id)?,
            intent: asked.intent,
        };
        let offered = delegate_task::delegate_task(&self.broker, request, wish).await;
        let offered = offered.map_err(|error| status::of(error, id))?;
        Ok(Response::new(v1::DelegateTaskResponse {
            task_id: offered.task.to_string(),
            session_id: offered.session.to_string(),
            claim_until: Some(wire::time(offered.claim_until)),
            deadline: Some(wire::time(offered.deadline)),
        }))
    }

    pub(super) async fn claim(
        &self,
        rpc: Rpc<v1::ClaimTaskRequest>,
    ) -> Result<Response<v1::ClaimTaskResponse>, Status> {
        let id = self.new_request_id();
        let (peer, epoch) = (peer_of(&rpc, id)?, node_epoch(&rpc));
        let asked = rpc.into_inner();
        let request = self.admit(&peer, epoch, asked.subject_token, id).await?;
        let wish = ClaimTask {
            task: wire::task_id(&asked.task_id, id)?,
            anchor: wire::anchor(asked.anchor, id)?,
            labels: wire::claimed("", asked.labels, id)?,
        };
        let claimed = claim_task::claim_task(&self.broker, request, wish).await;
        let claimed = claimed.map_err(|error| status::of(error, id))?;
        Ok(Response::new(v1::ClaimTaskResponse {
            task_id: claimed.task.to_string(),
            session_id: claimed.session.to_string(),
            deadline: Some(wire::time(claimed.deadline)),
            task_key: claimed.key.map(|key| key.expose().to_owned()).unwrap_or_default(),
            environment: HashMap::new(),
            providers: wire::providers(claimed.providers),
            ceiling: claimed.ceiling.lines().iter().map(wire::scope_request).collect(),
        }))
    }
}
