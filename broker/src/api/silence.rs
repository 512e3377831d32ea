//! Nodes, how they stand, and the brake, as admins are told.

use std::collections::HashMap;

use dayfly_domain::node::NodeState;
use dayfly_domain::spiffe::SpiffeId;
use dayfly_domain::time::Timestamp;
use dayfly_proto::v1;
use tonic::{Request as Rpc, Response, Status};

use super::{Api, status, wire};
use crate::operations::admin::Verb;
use crate::operations::lapse::{self, Held};
use crate::store::StoreError;

impl Api {
    pub(super) async fn nodes(
        &self,
        rpc: Rpc<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        let (id, _) = self.admin(&rpc, Verb::Read).await?;
        let rows = self.broker.store.nodes().await.map_err(|error| status::of(error.into(), id))?;
        let held = self.broker.lapses.held();
        let nodes = rows.into_iter().map(|row| v1::NodeStatus {
            state: self.stands(&row.spiffe_id, row.state, row.last_seen_at, &held).to_owned(),
            spiffe_id: row.spiffe_id.to_string(),
            boot_id: row.boot_id,
            epoch: row.epoch,
            last_seen_at: Some(wire::time(row.last_seen_at)),
            open_tasks: row.open_tasks,
        });
        Ok(Response::new(v1::ListNodesResponse { nodes: nodes.collect() }))
    }

    /// The word for how each node stands.
    pub(super) async fn node_states(&self) -> Result<HashMap<String, &'static str>, StoreError> {
        let held = self.broker.lapses.held();
        let heard = self.broker.store.nodes_heard(None).await?;
        let state = heard.into_iter().map(|node| {
            (node.node.to_string(), self.stands(&node.node, node.state, node.last_seen_at, &held))
        });
        Ok(state.collect())
    }

    fn stands(
        &self,
        node: &SpiffeId,
        state: NodeState,
        last_seen_at: Timestamp,
        held: &Held,
    ) -> &'static str {
        let beat = self.broker.limits.heartbeat_interval;
        let silent_before = self.broker.clock.now() - beat - beat;
        match state {
            NodeState::Lapsed => "lapsed",
            NodeState::Attached if held.nodes.contains(node) => "held",
            NodeState::Attached if last_seen_at < silent_before => "silent",
            NodeState::Attached => "attached",
        }
    }

    /// What a task or lease shows besides its own row.
    pub(super) async fn with_node_states(&self, tasks: &mut [v1::Task]) -> Result<(), StoreError> {
        let states = self.node_states().await?;
        for task in tasks {
            task.node_state = states.get(&task.node).copied().unwrap_or_default().to_owned();
        }
        Ok(())
    }

    /// A lease, with what its scope says of silence.
    pub(super) fn lease(&self, row: &crate::store::LeaseRow) -> v1::Lease {
        let rules = self.broker.rules.load();
        let on_agent_loss =
            rules.scope(&row.lease.scope).map(|scope| scope.on_agent_loss).unwrap_or_default();
        v1::Lease { on_agent_loss: on_agent_loss.as_str().to_owned(), ..wire::lease(row) }
    }

    pub(super) async fn brake(
        &self,
        rpc: Rpc<v1::GetBrakeRequest>,
    ) -> Result<Response<v1::GetBrakeResponse>, Status> {
        let (id, _) = self.admin(&rpc, Verb::Read).await?;
        let failed = |error: StoreError| status::of(error.into(), id);
        let brake = self.broker.store.brake().await.map_err(failed)?;
        let held = self.broker.lapses.held();
        let rows = match held.nodes.is_empty() {
            true => Vec::new(),
            false => self.broker.store.nodes().await.map_err(failed)?,
        };
        let of_held = rows.iter().filter(|row| held.nodes.contains(&row.spiffe_id));
        let longest = self.broker.limits.brake_longest;
        let told = v1::Brake {
            nodes: names(&held),
            reason: held.why.map(|why| why.as_str().to_owned()).unwrap_or_default(),
            open_tasks: of_held.map(|row| row.open_tasks).sum(),
            silent: held.silent,
            of: held.of,
            engaged_at: brake.engaged_at.map(wire::time),
            holds_until: brake.engaged_at.map(|at| wire::time(at + longest)),
            released_at: brake.released_at.map(wire::time),
            released_by: brake.released_by,
        };
        Ok(Response::new(v1::GetBrakeResponse { brake: Some(told) }))
    }

    pub(super) async fn release(
        &self,
        rpc: Rpc<v1::ReleaseBrakeRequest>,
    ) -> Result<Response<v1::ReleaseBrakeResponse>, Status> {
        let (id, admin) = self.admin(&rpc, Verb::Revoke).await?;
        let reason: String = rpc.into_inner().reason.chars().take(512).collect();
        let held = lapse::release(&self.broker, &admin, id, &reason).await;
        let held = held.map_err(|error| status::of(error, id))?;
        Ok(Response::new(v1::ReleaseBrakeResponse { nodes: names(&held) }))
    }
}

fn names(held: &Held) -> Vec<String> {
    held.nodes.iter().map(ToString::to_string).collect()
}
