//! `CredentialService` on the agent's socket: each call is of a process that the kernel names, for a task it stands in.

use std::pin::Pin;
use std::sync::Arc;

use dayfly_client::CallError;
use dayfly_proto::v1;
use dayfly_proto::v1::credential_service_server::CredentialService;
use tokio_stream::Stream;
use tonic::{Code, Request, Response, Status};
use tracing::{info, warn};

use super::ask::{Ask, Entered};
use super::io::Caller;
use super::open::{HEARD_SOON, Opener};
use super::refuse::Refuse;
use crate::attester::Subject;
use crate::member::Standing;
use crate::metrics::Metrics;
use crate::process::Process;
use crate::task::{EndSignal, Task};

/// The service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Service {
    opener: Arc<Opener>,
    metrics: Arc<Metrics>,
}

impl Service {
    /// Puts the parts together.
    pub fn new(opener: Arc<Opener>, metrics: Arc<Metrics>) -> Self {
        Self { opener, metrics }
    }

    fn caller<T>(&self, request: &Request<T>, method: &'static str) -> Result<(Caller, Refuse<'_>), Status> {
        let caller = request.extensions().get::<Caller>().expect("every connection has its caller").clone();
        caller.has_asked();
        let refuse = Refuse::new(method, caller.process.id().pid, &self.metrics);
        caller.process.must_be_alive().map_err(|error| refuse.gone(&error.to_string()))?;
        Ok((caller, refuse))
    }

    /// The open task, if it is the innermost that the process stands in.
    fn member(&self, process: &Process, task_id: &str, refuse: &Refuse<'_>) -> Result<Arc<Task>, Status> {
        match self.opener.tasks.roster().innermost(process).map_err(|refusal| refuse.standing(&refusal))? {
            Standing::In(innermost) if innermost == task_id => {}
            Standing::In(_) | Standing::Outside => return Err(refuse.unknown_task()),
        }
        let task = self.opener.tasks.get(task_id).ok_or_else(|| refuse.unknown_task())?;
        if task.is_open() {
            return Ok(task);
        }
        Err(refuse.with(Code::FailedPrecondition, "TASK_ENDED", "the task has ended", "open another"))
    }

    /// The caller's own SVID, for a call that gives something.
    async fn subject(&self, process: &Process, refuse: &Refuse<'_>) -> Result<Arc<Subject>, Status> {
        if !self.opener.fence.down_within(HEARD_SOON).await {
            let message = "the broker has been silent for too long";
            return Err(refuse.with(
                Code::Unavailable,
                "FENCED",
                message,
                "try again when the broker is back",
            ));
        }
        self.opener.attester.subject(process).await.map_err(|error| refuse.attestation(&error))
    }

    /// What was issued for somebody who is gone, or whose task is over, is given back instead.
    fn still_theirs(
        &self,
        caller: &Caller,
        task: &Task,
        lease_id: &str,
        token: &Subject,
        refuse: &Refuse<'_>,
    ) -> Result<(), Status> {
        let Err(refused) = still_there(caller, task, refuse) else { return Ok(()) };
        let request = v1::RevokeLeaseRequest {
            subject_token: token.token.to_string(),
            task_id: task.id.clone(),
            task_key: String::new(),
            lease_id: lease_id.to_owned(),
        };
        let mut broker = self.opener.broker.credentials();
        tokio::spawn(async move {
            if let Err(status) = broker.revoke_lease(request).await {
                // The task's end takes it back as well.
                warn!(error = %CallError::from(status), "could not give back a credential nobody received");
            }
        });
        Err(refused)
    }

    /// On its own: a caller that hangs up must not leave it half done.
    async fn enter(&self, caller: Caller, ask: Ask, method: &'static str) -> Result<Entered, Status> {
        let this = self.clone();
        let entering = tokio::spawn(async move {
            let refuse = Refuse::new(method, caller.process.id().pid, &this.metrics);
            this.opener.enter(&caller, &ask, &refuse).await
        });
        entering.await.map_err(broken)?
    }

    /// Ends a task in the name of one of its members, or of a member of a task above.
    async fn end(&self, caller: Caller, request: v1::EndTaskRequest) -> Result<v1::EndTaskResponse, Status> {
        let refuse = Refuse::new("EndTask", caller.process.id().pid, &self.metrics);
        let tasks = &self.opener.tasks;
        let standing =
            tasks.roster().innermost(&caller.process).map_err(|refusal| refuse.standing(&refusal))?;
        match standing {
            Standing::In(innermost) if tasks.is_at_or_below(&request.task_id, &innermost) => {}
            Standing::In(_) | Standing::Outside => return Err(refuse.unknown_task()),
        }
        // Taking away does not need a fresh identity; with one, the broker can say what it queued.
        let subject = self.opener.attester.subject(&caller.process).await;
        let Some(ending) = tasks.stop_serving(&request.task_id, &EndSignal::Explicit) else {
            return Ok(v1::EndTaskResponse { tasks_ended: 0, leases_queued: 0 });
        };
        let here = u32::try_from(ending.tasks()).unwrap_or(u32::MAX);
        let told = match subject {
            Ok(subject) => {
                let request = v1::EndTaskRequest {
                    subject_token: subject.token.to_string(),
                    task_id: request.task_id.clone(),
                    task_key: String::new(),
                };
                self.opener
                    .broker
                    .credentials()
                    .end_task(request)
                    .await
                    .map_err(|status| CallError::from(status).to_string())
            }
            Err(error) => Err(error.to_string()),
        };
        tasks.tell(&request.task_id, &EndSignal::Explicit);
        tasks.clean_up(ending, &EndSignal::Explicit);
        Ok(told.map(Response::into_inner).unwrap_or_else(|why| {
            info!(task_id = %request.task_id, %why, "the end is told to the broker by the stream");
            v1::EndTaskResponse { tasks_ended: here, leases_queued: 0 }
        }))
    }
}

/// The caller lives, and its task is open.
fn still_there(caller: &Caller, task: &Task, refuse: &Refuse<'_>) -> Result<(), Status> {
    match caller.process.must_be_alive() {
        Err(error) => Err(refuse.gone(&error.to_string())),
        Ok(()) if task.is_open() => Ok(()),
        Ok(()) => {
            Err(refuse.with(Code::FailedPrecondition, "TASK_ENDED", "the task has ended", "open another"))
        }
    }
}

/// `subject_token` and `task_key` are not a workload's to fill here.
macro_rules! must_be_empty {
    ($refuse:expr, $request:expr, $($field:ident),+) => {
        $(if !$request.$field.is_empty() {
            return Err($refuse.agent_only(stringify!($field)));
        })+
    };
}

#[tonic::async_trait]
impl CredentialService for Service {
    async fn open_task(
        &self,
        request: Request<v1::OpenTaskRequest>,
    ) -> Result<Response<v1::OpenTaskResponse>, Status> {
        let (caller, refuse) = self.caller(&request, "OpenTask")?;
        let request = request.into_inner();
        must_be_empty!(refuse, request, subject_token, parent_task_id);
        if request.anchor.is_some() {
            return Err(refuse.agent_only("anchor"));
        }
        let entered = self.enter(caller, Ask::Open(request), "OpenTask").await?;
        Ok(Response::new(entered.into()))
    }

    async fn claim_task(
        &self,
        request: Request<v1::ClaimTaskRequest>,
    ) -> Result<Response<v1::ClaimTaskResponse>, Status> {
        let (caller, refuse) = self.caller(&request, "ClaimTask")?;
        let request = request.into_inner();
        must_be_empty!(refuse, request, subject_token);
        if request.anchor.is_some() {
            return Err(refuse.agent_only("anchor"));
        }
        let entered = self.enter(caller, Ask::Claim(request), "ClaimTask").await?;
        Ok(Response::new(entered.into()))
    }

    async fn delegate_task(
        &self,
        request: Request<v1::DelegateTaskRequest>,
    ) -> Result<Response<v1::DelegateTaskResponse>, Status> {
        let (caller, refuse) = self.caller(&request, "DelegateTask")?;
        let request = request.into_inner();
        must_be_empty!(refuse, request, subject_token, task_key);
        self.member(&caller.process, &request.task_id, &refuse)?;
        let subject = self.subject(&caller.process, &refuse).await?;
        let asked = v1::DelegateTaskRequest { subject_token: subject.token.to_string(), ..request };
        self.opener.broker.credentials().delegate_task(asked).await.map_err(|status| refuse.broker(status))
    }

    async fn end_task(
        &self,
        request: Request<v1::EndTaskRequest>,
    ) -> Result<Response<v1::EndTaskResponse>, Status> {
        let (caller, refuse) = self.caller(&request, "EndTask")?;
        let request = request.into_inner();
        must_be_empty!(refuse, request, subject_token, task_key);
        let this = self.clone();
        let ending = tokio::spawn(async move { this.end(caller, request).await });
        ending.await.map_err(broken)?.map(Response::new)
    }

    /// Asked anew each time: a decision is for the moment of the request.
    async fn authorize(
        &self,
        request: Request<v1::AuthorizeRequest>,
    ) -> Result<Response<v1::AuthorizeResponse>, Status> {
        let (caller, refuse) = self.caller(&request, "Authorize")?;
        let request = request.into_inner();
        must_be_empty!(refuse, request, subject_token, task_key);
        let task = self.member(&caller.process, &request.task_id, &refuse)?;
        let subject = self.subject(&caller.process, &refuse).await?;
        let asked = v1::AuthorizeRequest { subject_token: subject.token.to_string(), ..request };
        let answer = self
            .opener
            .broker
            .credentials()
            .authorize(asked)
            .await
            .map_err(|status| refuse.broker(status))?;
        still_there(&caller, &task, &refuse)?;
        Ok(answer)
    }

    async fn issue_credential(
        &self,
        request: Request<v1::IssueCredentialRequest>,
    ) -> Result<Response<v1::IssueCredentialResponse>, Status> {
        let (caller, refuse) = self.caller(&request, "IssueCredential")?;
        let request = request.into_inner();
        must_be_empty!(refuse, request, subject_token, task_key);
        let task = self.member(&caller.process, &request.task_id, &refuse)?;
        let subject = self.subject(&caller.process, &refuse).await?;
        let asked = v1::IssueCredentialRequest { subject_token: subject.token.to_string(), ..request };
        let answer = self
            .opener
            .broker
            .credentials()
            .issue_credential(asked)
            .await
            .map_err(|status| refuse.broker(status))?;
        self.still_theirs(&caller, &task, &answer.get_ref().lease_id, &subject, &refuse)?;
        Ok(answer)
    }

    async fn renew_lease(
        &self,
        request: Request<v1::RenewLeaseRequest>,
    ) -> Result<Response<v1::RenewLeaseResponse>, Status> {
        let (caller, refuse) = self.caller(&request, "RenewLease")?;
        let request = request.into_inner();
        must_be_empty!(refuse, request, subject_token, task_key);
        let task = self.member(&caller.process, &request.task_id, &refuse)?;
        let subject = self.subject(&caller.process, &refuse).await?;
        let asked = v1::RenewLeaseRequest { subject_token: subject.token.to_string(), ..request };
        let answer = self
            .opener
            .broker
            .credentials()
            .renew_lease(asked)
            .await
            .map_err(|status| refuse.broker(status))?;
        self.still_theirs(&caller, &task, &answer.get_ref().lease_id, &subject, &refuse)?;
        Ok(answer)
    }

    async fn revoke_lease(
        &self,
        request: Request<v1::RevokeLeaseRequest>,
    ) -> Result<Response<v1::RevokeLeaseResponse>, Status> {
        let (caller, refuse) = self.caller(&request, "RevokeLease")?;
        let request = request.into_inner();
        must_be_empty!(refuse, request, subject_token, task_key);
        let task = self.member(&caller.process, &request.task_id, &refuse)?;
        task.credentials.drop_lease(&request.lease_id);
        let subject = self
            .opener
            .attester
            .subject(&caller.process)
            .await
            .map_err(|error| refuse.attestation(&error))?;
        let asked = v1::RevokeLeaseRequest { subject_token: subject.token.to_string(), ..request };
        self.opener.broker.credentials().revoke_lease(asked).await.map_err(|status| refuse.broker(status))
    }

    type WatchTaskStream = Pin<Box<dyn Stream<Item = Result<v1::WatchTaskResponse, Status>> + Send>>;

    /// Answered here: the agent is the one who sees the end, or is told it.
    async fn watch_task(
        &self,
        request: Request<v1::WatchTaskRequest>,
    ) -> Result<Response<Self::WatchTaskStream>, Status> {
        let (caller, refuse) = self.caller(&request, "WatchTask")?;
        let request = request.into_inner();
        must_be_empty!(refuse, request, subject_token, task_key);
        let task = self.member(&caller.process, &request.task_id, &refuse)?;
        use v1::watch_task_response::Event;
        let watched = Event::Watched(v1::TaskWatched { deadline: task.deadline.map(Into::into) });
        let over = async move {
            task.ended().await;
            let over = task.over().expect("it has ended").clone();
            Event::Over(v1::TaskOver { cause: over.cause, ended_at: Some(over.at.into()) })
        };
        let events = futures_util::stream::once(async { watched });
        let events = futures_util::StreamExt::chain(events, futures_util::stream::once(over));
        let events =
            futures_util::StreamExt::map(events, |event| Ok(v1::WatchTaskResponse { event: Some(event) }));
        Ok(Response::new(Box::pin(events)))
    }
}

/// A call that panicked, or was cut by the end of the agent.
fn broken(error: tokio::task::JoinError) -> Status {
    warn!(%error, "a call broke off");
    Status::internal("the agent could not finish the call; see its log")
}
