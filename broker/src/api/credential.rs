//! `CredentialService` for direct callers and node agents.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use dayfly_client::Peer;
use dayfly_domain::decision::Wish;
use dayfly_domain::id::{RequestId, TaskId};
use dayfly_domain::task::{AnchorKind, EndCause, Task, TaskState};
use dayfly_proto::v1;
use dayfly_proto::v1::credential_service_server::CredentialService;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request as Rpc, Response, Status};

use super::{Api, node_epoch, peer_of, status, wire};
use crate::caller::check_fresh;
use crate::operations::authorize::Authorize;
use crate::operations::end_task::EndTask;
use crate::operations::issue::IssueCredential;
use crate::operations::open_task::OpenTask;
use crate::operations::renew::RenewLease;
use crate::operations::{Broker, OperationError, authorize, end_task, issue, open_task, renew, revoke};

#[tonic::async_trait]
impl CredentialService for Api {
    async fn open_task(
        &self,
        rpc: Rpc<v1::OpenTaskRequest>,
    ) -> Result<Response<v1::OpenTaskResponse>, Status> {
        let id = self.new_request_id();
        let (peer, epoch) = (peer_of(&rpc, id)?, node_epoch(&rpc));
        let asked = rpc.into_inner();
        let request = self.admit(&peer, epoch, asked.subject_token, id).await?;
        let labels = wire::claimed(&asked.intent, asked.labels, id)?;
        let parent = match asked.parent_task_id.as_str() {
            "" => None,
            // Only an agent can know from the kernel what its caller stands in.
            _ if request.caller.via.node().is_none() => {
                let next = "leave `parent_task_id` out; child tasks are opened through a node agent";
                return Err(status::invalid(
                    "PARENT_NOT_YOURS",
                    "a direct caller may not name a parent",
                    next,
                    id,
                ));
            }
            parent => Some(wire::task_id(parent, id)?),
        };
        let wish = OpenTask {
            parent,
            ceiling: wire::ceiling(asked.ceiling, id)?,
            max_duration: wire::span(asked.max_duration, id)?,
            anchor: wire::anchor(asked.anchor, id)?,
            intent: asked.intent,
            labels,
        };
        let opened =
            open_task::open_task(&self.broker, request, wish).await.map_err(|e| status::of(e, id))?;
        Ok(Response::new(v1::OpenTaskResponse {
            task_id: opened.task.to_string(),
            session_id: opened.session.to_string(),
            deadline: Some(wire::time(opened.deadline)),
            task_key: opened.key.map(|key| key.expose().to_owned()).unwrap_or_default(),
            environment: std::collections::HashMap::new(),
            providers: wire::providers(opened.providers),
        }))
    }

    async fn delegate_task(
        &self,
        rpc: Rpc<v1::DelegateTaskRequest>,
    ) -> Result<Response<v1::DelegateTaskResponse>, Status> {
        self.delegate(rpc).await
    }

    async fn claim_task(
        &self,
        rpc: Rpc<v1::ClaimTaskRequest>,
    ) -> Result<Response<v1::ClaimTaskResponse>, Status> {
        self.claim(rpc).await
    }

    async fn end_task(&self, rpc: Rpc<v1::EndTaskRequest>) -> Result<Response<v1::EndTaskResponse>, Status> {
        let id = self.new_request_id();
        let peer = peer_of(&rpc, id)?;
        let asked = rpc.into_inner();
        let request = self.prove(&peer, asked.subject_token, id).await?;
        let end = EndTask { task: wire::task_id(&asked.task_id, id)?, key: wire::key(asked.task_key) };
        let ended = end_task::end_task(&self.broker, request, end).await.map_err(|e| status::of(e, id))?;
        Ok(Response::new(v1::EndTaskResponse {
            tasks_ended: u32::try_from(ended.tasks.len()).unwrap_or(u32::MAX),
            leases_queued: u32::try_from(ended.leases.len()).unwrap_or(u32::MAX),
        }))
    }

    async fn authorize(
        &self,
        rpc: Rpc<v1::AuthorizeRequest>,
    ) -> Result<Response<v1::AuthorizeResponse>, Status> {
        let id = self.new_request_id();
        let (peer, epoch) = (peer_of(&rpc, id)?, node_epoch(&rpc));
        let asked = rpc.into_inner();
        let request = self.admit(&peer, epoch, asked.subject_token, id).await?;
        let authorize = Authorize {
            task: wire::task_id(&asked.task_id, id)?,
            key: wire::key(asked.task_key),
            act: wire::act(asked.action, asked.artifact, id)?,
            audience: (!asked.receipt_audience.is_empty()).then_some(asked.receipt_audience),
        };
        let answer = authorize::authorize(&self.broker, request, authorize).await;
        Ok(Response::new(wire::authorized(answer.map_err(|e| status::of(e, id))?)))
    }

    async fn issue_credential(
        &self,
        rpc: Rpc<v1::IssueCredentialRequest>,
    ) -> Result<Response<v1::IssueCredentialResponse>, Status> {
        let id = self.new_request_id();
        let (peer, epoch) = (peer_of(&rpc, id)?, node_epoch(&rpc));
        let asked = rpc.into_inner();
        let request = self.admit(&peer, epoch, asked.subject_token, id).await?;
        let task = wire::task_id(&asked.task_id, id)?;
        let wish = Wish { ask: wire::ask(asked.scope, id)?, ttl: wire::span(asked.ttl, id)?, act: None };
        let issue_key = wire::issue_key(&asked.idempotency_key, &request.caller, task, &wish, id)?;
        let issue = IssueCredential {
            task,
            key: wire::key(asked.task_key),
            wish,
            renews: None,
            issue_key,
            what: "issue",
        };
        let answer = issue::issue(&self.broker, request, issue).await.map_err(|e| status::of(e, id))?;
        Ok(Response::new(wire::issued(answer)))
    }

    async fn renew_lease(
        &self,
        rpc: Rpc<v1::RenewLeaseRequest>,
    ) -> Result<Response<v1::RenewLeaseResponse>, Status> {
        let id = self.new_request_id();
        let (peer, epoch) = (peer_of(&rpc, id)?, node_epoch(&rpc));
        let asked = rpc.into_inner();
        let request = self.admit(&peer, epoch, asked.subject_token, id).await?;
        let renew = RenewLease {
            task: wire::task_id(&asked.task_id, id)?,
            key: wire::key(asked.task_key),
            lease: wire::lease_id(&asked.lease_id, id)?,
        };
        let answer = renew::renew(&self.broker, request, renew).await.map_err(|e| status::of(e, id))?;
        Ok(Response::new(wire::renewed(answer)))
    }

    async fn revoke_lease(
        &self,
        rpc: Rpc<v1::RevokeLeaseRequest>,
    ) -> Result<Response<v1::RevokeLeaseResponse>, Status> {
        let id = self.new_request_id();
        let peer = peer_of(&rpc, id)?;
        let asked = rpc.into_inner();
        let request = self.prove(&peer, asked.subject_token, id).await?;
        let task = wire::task_id(&asked.task_id, id)?;
        let lease = wire::lease_id(&asked.lease_id, id)?;
        let key = wire::key(asked.task_key);
        let state = revoke::revoke_own(&self.broker, request, task, key, lease).await;
        let state = state.map_err(|e| status::of(e, id))?.to_owned();
        Ok(Response::new(v1::RevokeLeaseResponse { state }))
    }

    type WatchTaskStream = Pin<Box<dyn Stream<Item = Result<v1::WatchTaskResponse, Status>> + Send>>;

    async fn watch_task(
        &self,
        rpc: Rpc<v1::WatchTaskRequest>,
    ) -> Result<Response<Self::WatchTaskStream>, Status> {
        let id = self.new_request_id();
        let peer = peer_of(&rpc, id)?;
        let asked = rpc.into_inner();
        let request = self.prove(&peer, asked.subject_token, id).await?;
        let task = wire::task_id(&asked.task_id, id)?;
        // Listening begins before the state is read, so that no end falls between the two.
        let ends = self.broker.notices.for_watcher();
        let lineage = self.broker.lineage(task, wire::key(asked.task_key).as_ref(), &request.caller).await;
        let lineage = lineage.map_err(|e| status::of(e, id))?;
        let own = lineage.last().expect("a lineage holds the task itself");
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        let mut watch = Watch { broker: Arc::clone(&self.broker), task, peer, ends };
        match own.state {
            TaskState::Ended { at, cause } => {
                let _ = sender.send(Ok(over(cause, at))).await;
            }
            TaskState::Open { deadline } => {
                let event = v1::watch_task_response::Event::Watched(v1::TaskWatched {
                    deadline: Some(wire::time(deadline)),
                });
                let _ = sender.send(Ok(v1::WatchTaskResponse { event: Some(event) })).await;
                // The task may have been opened at another broker.
                if own.anchor.kind == AnchorKind::Stream {
                    watch.broker.stream_anchors.expect(task);
                }
                let anchored = watch.broker.stream_anchors.begin(task);
                self.broker.tracker.spawn(async move {
                    watch.run(&sender, id).await;
                    if anchored {
                        watch.broker.stream_anchors.gone(watch.task);
                    }
                });
            }
        }
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

/// One open WatchTask stream.
struct Watch {
    broker: Arc<Broker>,
    task: TaskId,
    peer: Arc<Peer>,
    ends: tokio::sync::broadcast::Receiver<(TaskId, EndCause)>,
}

type Sender = tokio::sync::mpsc::Sender<Result<v1::WatchTaskResponse, Status>>;

impl Watch {
    /// Tells of the end, or breaks off when the peer's SVID runs out: it comes again with a fresh one.
    async fn run(&mut self, sender: &Sender, id: RequestId) {
        // By the clock, however often tasks of others end.
        let mut looks = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                () = sender.closed() => return,
                _ = looks.tick() => {
                    if check_fresh(&self.peer, self.broker.clock.now()).is_err() {
                        let error = OperationError::Invalid {
                            reason: "PEER_EXPIRED",
                            message: "the SVID ran out while the stream stood".to_owned(),
                            next: "connect anew with a fresh SVID and watch again",
                        };
                        let _ = sender.send(Err(status::of(error, id))).await;
                        return;
                    }
                }
                heard = self.ends.recv() => {
                    // A receiver that lagged may have missed this task's end: the record tells.
                    let ours = !matches!(&heard, Ok((task, _)) if *task != self.task);
                    if ours && let Some(over) = self.read().await {
                        let _ = sender.send(Ok(over)).await;
                        return;
                    }
                }
            }
        }
    }

    /// The end as it stands on record.
    async fn read(&self) -> Option<v1::WatchTaskResponse> {
        let lineage: Vec<Task> = self.broker.store.lineage(self.task).await.ok()?;
        match lineage.last()?.state {
            TaskState::Ended { at, cause } => Some(over(cause, at)),
            TaskState::Open { .. } => None,
        }
    }
}

fn over(cause: EndCause, at: dayfly_domain::time::Timestamp) -> v1::WatchTaskResponse {
    let over = v1::TaskOver { cause: cause.to_string(), ended_at: Some(wire::time(at)) };
    v1::WatchTaskResponse { event: Some(v1::watch_task_response::Event::Over(over)) }
}
