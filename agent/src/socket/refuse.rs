//! How the agent says no: a stable reason, what failed, and what to do next.

use dayfly_client::{CallError, Refusal};
use tonic::{Code, Status};
use tracing::info;

use crate::attest::wire::Refused;
use crate::attester::AttestError;
use crate::member;
use crate::metrics::Metrics;

/// Builds refusals for one call, under one id.
#[derive(Debug)]
pub struct Refuse<'a> {
    /// The id of the call, in our log and in the answer.
    pub request_id: String,
    /// Which call.
    pub method: &'static str,
    /// Whose it is.
    pub pid: i32,
    /// What is counted.
    pub metrics: &'a Metrics,
}

impl<'a> Refuse<'a> {
    /// Begins a call.
    pub fn new(method: &'static str, pid: i32, metrics: &'a Metrics) -> Self {
        let id: u128 = rand::random();
        Self { request_id: format!("{id:032x}"), method, pid, metrics }
    }

    /// Says no.
    pub fn with(&self, code: Code, reason: &'static str, message: impl Into<String>, next: &str) -> Status {
        let message = message.into();
        info!(request_id = %self.request_id, method = self.method, pid = self.pid, reason, %message, "call refused");
        Metrics::count(&self.metrics.refused, reason);
        let waits = matches!(code, Code::Unavailable | Code::ResourceExhausted | Code::Aborted);
        let retry_after = waits.then(|| std::time::Duration::from_secs(1));
        let request_id = self.request_id.clone();
        Refusal { code, reason, message, next: next.to_owned(), request_id, retry_after }.into()
    }

    /// A field that only the agent may fill.
    pub fn agent_only(&self, field: &str) -> Status {
        let message = format!("`{field}` is filled by the agent, from the kernel");
        self.with(Code::InvalidArgument, "AGENT_ONLY_FIELD", message, "leave the field empty")
    }

    /// Unknown and somebody else's answer alike.
    pub fn unknown_task(&self) -> Status {
        let next = "use the id in DAYFLY_TASK_ID, from a process of that task";
        self.with(Code::NotFound, "UNKNOWN_TASK", "the caller stands in no such task", next)
    }

    /// The kernel does not put the caller where it would have to stand.
    pub fn standing(&self, refusal: &member::Refusal) -> Status {
        use member::Refusal as R;
        match refusal {
            R::Process(_) => self.gone(&refusal.to_string()),
            R::Escaped => {
                let next = "let the process run in its task's cgroup";
                self.with(Code::PermissionDenied, "LEFT_ITS_TASK", refusal.to_string(), next)
            }
            R::NoSuchTask
            | R::NotAMember
            | R::MadeElsewhere
            | R::NotLoopback
            | R::NoHolder { .. }
            | R::Socket(_) => self.unknown_task(),
            R::Ambiguous => {
                let next = "let the process stand in one of them";
                self.with(Code::PermissionDenied, "TWO_TASKS", refusal.to_string(), next)
            }
            R::Cgroup(_) | R::Proc(_) => {
                let next = "see the agent's log";
                self.with(Code::Internal, "KERNEL_UNREADABLE", refusal.to_string(), next)
            }
        }
    }

    /// Nobody can be shown to the broker.
    pub fn attestation(&self, error: &AttestError) -> Status {
        let text = dayfly_client::chain(error);
        match error {
            AttestError::Refused { refused, .. } => match refused {
                Refused::Gone => self.gone(&text),
                Refused::NoEntry => {
                    let next = "create a SPIRE registration entry for this user and program on this node";
                    self.with(Code::Unauthenticated, "NO_IDENTITY", text, next)
                }
                Refused::Ambiguous { .. } => {
                    let next = "make the selectors of these SPIRE entries disjoint";
                    self.with(Code::FailedPrecondition, "AMBIGUOUS_IDENTITY", text, next)
                }
                Refused::Busy => self.with(Code::ResourceExhausted, "BUSY", text, "try again"),
                Refused::NotDelegate | Refused::Unusable { .. } | Refused::Misunderstood => {
                    let next = "the node's operator has to correct SPIRE's or the agent's configuration";
                    self.with(Code::FailedPrecondition, "ATTESTATION_MISCONFIGURED", text, next)
                }
                Refused::Unavailable { .. } => self.with(
                    Code::Unavailable,
                    "ATTESTATION_UNAVAILABLE",
                    text,
                    "try again; is the SPIRE agent up?",
                ),
            },
            AttestError::Process(_) => self.gone(&text),
            AttestError::Changed => self.with(Code::Aborted, "CALLER_CHANGED", text, "try again"),
            AttestError::Busy { .. } => self.with(Code::ResourceExhausted, "BUSY", text, "try again"),
            AttestError::Unreachable { .. } => {
                self.with(Code::Unavailable, "ATTESTATION_UNAVAILABLE", text, "try again")
            }
            AttestError::Malformed | AttestError::Stale => {
                let next = "the node's operator has to correct SPIRE's or the agent's configuration";
                self.with(Code::FailedPrecondition, "ATTESTATION_MISCONFIGURED", text, next)
            }
        }
    }

    /// The caller is not the process that connected, or is dead.
    pub fn gone(&self, text: &str) -> Status {
        let next = "call from a process that lives, on a connection of its own";
        self.with(Code::Unauthenticated, "CALLER_GONE", text, next)
    }

    /// The broker's own word goes on as it came; where there is none, that is said.
    pub fn broker(&self, status: Status) -> Status {
        let error = CallError::from(status.clone());
        if error.is_refusal() {
            info!(request_id = %self.request_id, method = self.method, pid = self.pid, %error, "the broker refused");
            Metrics::count(&self.metrics.refused, "BY_BROKER");
            return status;
        }
        let text = format!("the broker gave no answer: {}", error.message);
        self.with(Code::Unavailable, "BROKER_UNREACHABLE", text, "try again; see the agent's log if it lasts")
    }
}
