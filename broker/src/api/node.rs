//! `NodeService`: one stream for each node agent.

use std::collections::HashSet;
use std::pin::Pin;

use dayfly_client::Peer;
use dayfly_domain::id::{RequestId, TaskId};
use dayfly_domain::task::Anchor;
use dayfly_proto::v1;
use dayfly_proto::v1::attach_request::Message as FromAgent;
use dayfly_proto::v1::attach_response::Message as ToAgent;
use dayfly_proto::v1::node_service_server::NodeService;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request as Rpc, Response, Status, Streaming};

use super::{Api, caller_status, peer_of, status, wire};
use crate::caller::{check_fresh, spiffe_id};
use crate::operations::node::{Attached, NodeError, Spoke};
use crate::operations::notice::Notice;

/// Most tasks in one inventory.
const MAX_INVENTORY: usize = 5_000;

#[tonic::async_trait]
impl NodeService for Api {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<v1::AttachResponse, Status>> + Send>>;

    async fn attach(
        &self,
        rpc: Rpc<Streaming<v1::AttachRequest>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let id = self.new_request_id();
        let peer = peer_of(&rpc, id)?;
        // A new stream needs a fresh identity; an established one goes on taking ends without it.
        check_fresh(&peer, self.broker.clock.now()).map_err(|error| caller_status(error, id))?;
        let mut incoming = rpc.into_inner();
        let hello = match incoming.message().await?.and_then(|first| first.message) {
            Some(FromAgent::Hello(hello)) if hello.boot_id.len() <= 64 => hello,
            _ => {
                return Err(status::invalid(
                    "HELLO_MISSING",
                    "the first message is `hello`",
                    "update the agent",
                    id,
                ));
            }
        };
        let node = spiffe_id(&peer.spiffe_id);
        let attached =
            Attached::new(&self.broker, node, &hello.boot_id).await.map_err(|e| status::of_node(e, id))?;
        let (sender, receiver) = mpsc::channel(64);
        let welcome = v1::Welcome {
            epoch: attached.epoch,
            heartbeat_interval: Some(wire::duration(self.broker.limits.heartbeat_interval)),
            lapse_after: Some(wire::duration(self.broker.limits.lapse_after)),
            rules_digest: self.broker.rules.load().digest.clone(),
        };
        let _ = sender.send(Ok(message(ToAgent::Welcome(welcome)))).await;
        let stream = NodeStream { api: self.clone(), attached, sender, peer: Peer::clone(&peer) };
        self.broker.tracker.spawn(async move {
            if let Err(error) = stream.run(incoming).await {
                tracing::warn!(request_id = %id, error = %error.1, "a node's stream ended");
                let _ = error.0.send(Err(status::of_node(error.1, id))).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

struct NodeStream {
    api: Api,
    attached: Attached,
    sender: mpsc::Sender<Result<v1::AttachResponse, Status>>,
    peer: Peer,
}

impl NodeStream {
    async fn run(
        mut self,
        mut incoming: Streaming<v1::AttachRequest>,
    ) -> Result<(), (mpsc::Sender<Result<v1::AttachResponse, Status>>, NodeError)> {
        loop {
            tokio::select! {
                () = self.sender.closed() => return Ok(()),
                notice = self.attached.notices.recv() => {
                    // None: a newer stream of this node took the notices over.
                    let Some(notice) = notice else { return Ok(()) };
                    let _ = self.sender.send(Ok(message(told(notice)))).await;
                }
                said = incoming.message() => {
                    let Ok(Some(v1::AttachRequest { message: Some(said) })) = said else { return Ok(()) };
                    if self.peer_expired_long_ago() {
                        return Ok(());
                    }
                    if let Err(error) = self.hear(said).await {
                        return Err((self.sender, error));
                    }
                }
            }
        }
    }

    fn peer_expired_long_ago(&self) -> bool {
        let taken_until = self.api.broker.limits.stream_after_expiry;
        check_fresh(&self.peer, self.api.broker.clock.now() - taken_until).is_err()
    }

    async fn hear(&mut self, said: FromAgent) -> Result<(), NodeError> {
        match said {
            FromAgent::Hello(_) => {}
            FromAgent::Heartbeat(heartbeat) => {
                if heartbeat.task_ids.len() > MAX_INVENTORY {
                    // A part of an inventory would end the rest.
                    tracing::warn!(tasks = heartbeat.task_ids.len(), "an inventory is too long to be judged");
                    self.attached.alive().await?;
                    let heard = v1::HeartbeatHeard { sequence: heartbeat.sequence };
                    let _ = self.sender.send(Ok(message(ToAgent::HeartbeatHeard(heard)))).await;
                    return Ok(());
                }
                let inventory: Vec<TaskId> =
                    heartbeat.task_ids.iter().filter_map(|text| text.parse().ok()).collect();
                let held: HashSet<TaskId> = inventory.iter().copied().collect();
                let sequence = heartbeat.sequence;
                if self.attached.heartbeat(inventory).await? == Spoke::Yes {
                    let heard = v1::HeartbeatHeard { sequence };
                    let _ = self.sender.send(Ok(message(ToAgent::HeartbeatHeard(heard)))).await;
                }
                // An order may have been lost with an earlier stream.
                for (task, cause) in self.attached.not_held(&held).await.unwrap_or_default() {
                    let _ = self.sender.send(Ok(message(told(Notice::TaskOver { task, cause })))).await;
                }
            }
            FromAgent::TaskEnded(ended) => {
                let Ok(task) = ended.task_id.parse() else { return Ok(()) };
                self.attached.task_ended(task, &ended.signal).await?;
                let recorded = v1::EndRecorded { task_id: ended.task_id };
                let _ = self.sender.send(Ok(message(ToAgent::EndRecorded(recorded)))).await;
            }
            FromAgent::LeaseSeen(seen) => {
                if let (Ok(task), Ok(lease)) = (seen.task_id.parse(), seen.lease_id.parse()) {
                    self.attached.target_lease_seen(task, lease, &seen.target_lease_id).await?;
                }
            }
            FromAgent::KillAcknowledged(acknowledged) => {
                if let Ok(kill) = acknowledged.kill_id.parse() {
                    self.attached.dropped(kill);
                }
            }
            FromAgent::Adopt(adopt) => {
                // What cannot be read is not named in the answer, and so not taken up again.
                let id = self.api.new_request_id();
                let found = adopt.tasks.into_iter().take(MAX_INVENTORY);
                let found = found.filter_map(|task| adopted(task, id)).collect();
                let (adopted, over) = self.attached.adopt(found).await?;
                for (task, cause) in over {
                    let _ = self.sender.send(Ok(message(told(Notice::TaskOver { task, cause })))).await;
                }
                let task_ids = adopted.iter().map(ToString::to_string).collect();
                let _ = self.sender.send(Ok(message(ToAgent::Adopted(v1::Adopted { task_ids })))).await;
            }
            FromAgent::EndAcknowledged(acknowledged) => {
                tracing::debug!(task_id = acknowledged.task_id, "the agent stopped serving the task");
            }
        }
        Ok(())
    }
}

fn adopted(task: v1::AdoptedTask, id: RequestId) -> Option<(TaskId, Anchor)> {
    let anchor = wire::anchor(task.anchor, id).ok()??;
    Some((task.task_id.parse().ok()?, anchor))
}

fn told(notice: Notice) -> ToAgent {
    match notice {
        Notice::TaskOver { task, cause } => {
            ToAgent::EndTask(v1::EndTaskOrder { task_id: task.to_string(), cause: cause.to_string() })
        }
        Notice::RulesChanged { digest, scopes } => {
            ToAgent::RulesChanged(v1::RulesChanged { rules_digest: digest, scopes })
        }
        Notice::CutOff { kill } => ToAgent::CutOff(v1::CutOffNotice { kill_id: kill.to_string() }),
        Notice::LeaseRevoked { lease } => ToAgent::LeaseRevoked(v1::LeaseRevokedNotice {
            task_id: String::new(),
            lease_id: lease.to_string(),
        }),
    }
}

fn message(message: ToAgent) -> v1::AttachResponse {
    v1::AttachResponse { message: Some(message) }
}
