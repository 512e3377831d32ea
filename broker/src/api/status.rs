//! Errors as gRPC statuses: the only place that builds one. Outward text says what to do; the chain goes to the log.

use std::time::Duration;

use dayfly_client::Refusal;
use dayfly_domain::approval::NotApprovable;
use dayfly_domain::decision::DenyReason;
use dayfly_domain::id::RequestId;
use dayfly_domain::key::KeyState;
use dayfly_domain::kill::NotConfirmable;
use tonic::{Code, Status};

use crate::caller::CallerError;
use crate::operations::OperationError;
use crate::operations::key::NotDone;
use crate::operations::node::NodeError;
use crate::providers::IssueError;
use crate::signer::{HolderError, SignError};
use crate::store::StoreError;

/// The status of a failed operation.
pub fn of(error: OperationError, request: RequestId) -> Status {
    refusal(error, request).into()
}

/// What is told of a failed operation, whatever protocol tells it; the rest goes to the log.
pub(crate) fn refusal(error: OperationError, request: RequestId) -> Refusal {
    let (code, reason, next, retry_after) = classify(&error);
    let message = match &error {
        // What a library said of our own insides is for the log.
        OperationError::Store(StoreError::Database { .. }) => "the broker's database failed".to_owned(),
        OperationError::Caller(CallerError::SubjectToken { source }) => dayfly_client::chain(source),
        other => other.to_string(),
    };
    match code {
        Code::Internal | Code::Unavailable | Code::Aborted => {
            tracing::error!(request_id = %request, reason, error = dayfly_client::chain(&error), "request failed");
        }
        _ => {
            tracing::info!(request_id = %request, reason, error = dayfly_client::chain(&error), "request refused")
        }
    }
    Refusal { code, reason, message, next, request_id: request.to_string(), retry_after }
}

/// A request that makes no sense.
pub fn invalid(
    reason: &'static str,
    message: impl Into<String>,
    next: &'static str,
    request: RequestId,
) -> Status {
    of(OperationError::Invalid { reason, message: message.into(), next }, request)
}

/// Why a node's stream is refused.
pub fn of_node(error: NodeError, request: RequestId) -> Status {
    match error {
        NodeError::NotANode(id) => of(OperationError::Caller(CallerError::NotANode { peer: id }), request),
        NodeError::Store(error) => of(error.into(), request),
        NodeError::CutOff(_) => Refusal {
            code: Code::PermissionDenied,
            reason: DenyReason::CutOff.as_str(),
            message: error.to_string(),
            next: DenyReason::CutOff.next().to_owned(),
            request_id: request.to_string(),
            retry_after: None,
        }
        .into(),
        NodeError::Superseded(_) => Refusal {
            code: Code::FailedPrecondition,
            reason: "STREAM_SUPERSEDED",
            message: error.to_string(),
            next: "attach anew".to_owned(),
            request_id: request.to_string(),
            retry_after: None,
        }
        .into(),
    }
}

type Class = (Code, &'static str, String, Option<Duration>);

fn classify(error: &OperationError) -> Class {
    let plain = |code, reason, next: &str| (code, reason, next.to_owned(), None);
    match error {
        OperationError::Caller(error) => classify_caller(error),
        OperationError::Denied(denial) => {
            let code = match denial.reason {
                DenyReason::ParameterInvalid | DenyReason::TtlOverLimit => Code::InvalidArgument,
                DenyReason::ProofExpired => Code::Unauthenticated,
                DenyReason::TaskTooOld => Code::FailedPrecondition,
                DenyReason::TaskTreeTooDeep => Code::ResourceExhausted,
                _ => Code::PermissionDenied,
            };
            plain(code, denial.reason.as_str(), &denial.next)
        }
        OperationError::Invalid { reason, next, .. } => plain(Code::InvalidArgument, reason, next),
        OperationError::LeaseNotYours(_) => {
            plain(Code::PermissionDenied, "LEASE_NOT_YOURS", "name a live lease of your own in this task")
        }
        OperationError::TooOften { wait, .. } => (
            Code::ResourceExhausted,
            "RATE_LIMITED",
            "wait as long as is said; keep a credential until its refresh_at instead of asking for another"
                .to_owned(),
            Some(*wait),
        ),
        OperationError::TooMany { .. } => (
            Code::ResourceExhausted,
            "TOO_MANY_LEASES",
            "end tasks you no longer need, then ask again".to_owned(),
            Some(Duration::from_secs(1)),
        ),
        OperationError::Provider(IssueError::Refuse { .. }) => {
            plain(Code::FailedPrecondition, "PROVIDER_REFUSED", "show the request id to the platform team")
        }
        OperationError::Provider(IssueError::Misconfigured { .. }) => plain(
            Code::FailedPrecondition,
            "PROVIDER_MISCONFIGURED",
            "show the request id to the platform team",
        ),
        OperationError::Provider(IssueError::Full { .. }) => (
            Code::ResourceExhausted,
            "ROLES_FULL",
            "end sessions that are not needed, or have the platform team add a role to the scope".to_owned(),
            Some(Duration::from_secs(5)),
        ),
        OperationError::Provider(IssueError::Unreach { .. } | IssueError::Unresolved { .. }) => (
            Code::Unavailable,
            "PROVIDER_UNREACHABLE",
            "nothing was issued; ask again in a moment".to_owned(),
            Some(Duration::from_secs(1)),
        ),
        OperationError::Unresolved { .. } => (
            Code::Aborted,
            "PROVIDER_DID_NOT_ANSWER",
            "ask anew; what may have been issued is taken back".to_owned(),
            Some(Duration::from_secs(1)),
        ),
        OperationError::NodeFenced(_) => node_fenced(),
        OperationError::Store(error) => classify_store(error),
        OperationError::NotAdmin(_) => plain(
            Code::PermissionDenied,
            "NOT_ADMIN",
            "use an identity named in [admins] of the broker's configuration",
        ),
        OperationError::NotApprovable(fault) => match fault {
            NotApprovable::Over { .. } => {
                plain(Code::FailedPrecondition, "APPROVAL_OVER", "request it anew, if it is still needed")
            }
            NotApprovable::Changed => plain(
                Code::Aborted,
                "APPROVAL_CHANGED",
                "look at it again; if the scope's document changed, request it anew",
            ),
            NotApprovable::SamePerson(_) => {
                plain(Code::PermissionDenied, "APPROVER_IS_REQUESTER", "have another admin approve it")
            }
            NotApprovable::SameHost(_) => plain(
                Code::PermissionDenied,
                "APPROVER_ON_SAME_HOST",
                "approve it from another host, or set approvals_from_one_host in [admins] of the broker's configuration",
            ),
        },
        OperationError::Key(not_done) => classify_key(not_done),
        OperationError::Unsigned(error) | OperationError::Provider(IssueError::Unsigned(error)) => {
            classify_unsigned(error)
        }
        OperationError::Busy(_) => (
            Code::ResourceExhausted,
            "SIMULATION_RUNNING",
            "ask again once the other one is over".to_owned(),
            Some(Duration::from_secs(5)),
        ),
        OperationError::NotConfirmable(fault) => match fault {
            NotConfirmable::Over(_) => {
                plain(Code::FailedPrecondition, "KILL_OVER", "`dayfly kill list` shows where it stands")
            }
            NotConfirmable::Changed => {
                plain(Code::Aborted, "KILL_CHANGED", "look at it again with `dayfly kill list`")
            }
            NotConfirmable::SamePerson => {
                plain(Code::PermissionDenied, "APPROVER_IS_REQUESTER", "have another admin approve it")
            }
            NotConfirmable::SameHost => plain(
                Code::PermissionDenied,
                "APPROVER_ON_SAME_HOST",
                "approve it from another host, or set approvals_from_one_host in [admins] of the broker's configuration",
            ),
        },
        OperationError::Unknown { .. } => plain(Code::NotFound, "UNKNOWN", "list what there is"),
        OperationError::Bug(_) => plain(Code::Internal, "INTERNAL", "report the request id"),
    }
}

fn classify_unsigned(error: &SignError) -> Class {
    match error {
        SignError::Kind { .. } | SignError::Claims(_) => {
            (Code::Internal, "INTERNAL", "report the request id".to_owned(), None)
        }
        SignError::NoKey { .. } | SignError::Holder { .. } | SignError::TakenOut { .. } => (
            Code::Unavailable,
            "SIGNER_UNAVAILABLE",
            "nothing was issued; ask again in a moment, and tell the operator if it lasts".to_owned(),
            Some(Duration::from_secs(1)),
        ),
    }
}

fn classify_key(not_done: &NotDone) -> Class {
    let plain = |code, reason, next: &str| (code, reason, next.to_owned(), None);
    match not_done {
        NotDone::NotReady { .. } => plain(
            Code::FailedPrecondition,
            "KEY_NOT_READY",
            "wait until then: who has not read its public half yet would refuse what it signs",
        ),
        NotDone::StillNeeded { state: KeyState::Active { .. }, .. } => {
            plain(Code::FailedPrecondition, "KEY_STILL_NEEDED", "rotate the keys of this use first")
        }
        NotDone::StillNeeded { .. } => plain(
            Code::FailedPrecondition,
            "KEY_STILL_NEEDED",
            "wait until dayfly key list shows it as retired, or take it out with dayfly key compromise",
        ),
        NotDone::Holder(HolderError::Away { .. }) => (
            Code::Unavailable,
            "SIGNER_UNAVAILABLE",
            "nothing was changed; ask again when it answers".to_owned(),
            Some(Duration::from_secs(1)),
        ),
        NotDone::Holder(HolderError::Refused { next, .. }) => {
            plain(Code::FailedPrecondition, "KEY_HOLDER_REFUSED", next)
        }
        NotDone::Holder(HolderError::Unusable { .. }) => plain(
            Code::FailedPrecondition,
            "KEY_HOLDER_REFUSED",
            "look at what holds the keys; the broker's log says more",
        ),
        NotDone::NoIdentity => plain(Code::Unavailable, "SIGNER_UNAVAILABLE", "mend SPIRE first"),
    }
}

fn classify_caller(error: &CallerError) -> Class {
    let (code, next) = match error {
        CallerError::PeerExpired { .. } => (Code::Unauthenticated, "connect anew with a fresh SVID"),
        CallerError::NotANode { .. } => {
            (Code::PermissionDenied, "workloads bring no subject token; agents need a Node document")
        }
        CallerError::NoSubjectToken { .. } => {
            (Code::Unauthenticated, "an agent brings the workload's JWT-SVID")
        }
        CallerError::SubjectToken { source: dayfly_client::JwtError::NoKeys { .. } } => {
            (Code::Unavailable, "the broker has no trust bundles now; ask again")
        }
        CallerError::SubjectToken { .. } | CallerError::SubjectTokenTooLong => {
            (Code::Unauthenticated, "fetch a JWT-SVID whose sole audience is <broker>?via=<agent>")
        }
        CallerError::SubjectTokenStale { .. } => (Code::Unauthenticated, "fetch a fresh JWT-SVID"),
        CallerError::NotItsWorkload { .. } => {
            (Code::PermissionDenied, "add the workload to the Node document")
        }
        CallerError::NoStage { .. } => {
            (Code::PermissionDenied, "ask the platform team to add your SPIFFE ID to a Stage document")
        }
        CallerError::StageThroughAgent { .. } => {
            (Code::PermissionDenied, "admins and nodes use their own X.509-SVID")
        }
    };
    (code, error.reason(), next.to_owned(), None)
}

/// It passes as soon as the agent is heard again.
fn node_fenced() -> Class {
    let next = "ask again; the agent attaches anew by itself, and its log tells why it has not";
    (Code::Unavailable, "NODE_FENCED", next.to_owned(), Some(Duration::from_secs(1)))
}

fn classify_store(error: &StoreError) -> Class {
    let plain = |code, reason, next: &str| (code, reason, next.to_owned(), None);
    match error {
        StoreError::TaskNotOpen => {
            plain(Code::PermissionDenied, "TASK_NOT_OPEN", DenyReason::TaskNotOpen.next())
        }
        StoreError::Fenced { .. } => (
            Code::Unavailable,
            "BROKER_FENCED",
            "ask again in a moment, or another broker".to_owned(),
            Some(Duration::from_secs(1)),
        ),
        StoreError::KeyReused => plain(
            Code::AlreadyExists,
            "IDEMPOTENCY_KEY_REUSED",
            "take a new key for each credential; send one again only with the same request",
        ),
        StoreError::KeyInFlight => (
            Code::Aborted,
            "IDEMPOTENCY_KEY_IN_FLIGHT",
            "ask again under the same key in a moment".to_owned(),
            Some(Duration::from_secs(1)),
        ),
        StoreError::RulesChanged => (
            Code::Unavailable,
            "RULES_CHANGED",
            "nothing was given; ask again".to_owned(),
            Some(Duration::from_millis(200)),
        ),
        StoreError::Unknown(_) => plain(Code::NotFound, "UNKNOWN", "list what there is"),
        StoreError::StaleRevision { .. } => {
            plain(Code::Aborted, "STALE_REVISION", "read the documents anew and apply again")
        }
        StoreError::NodeAttachedElsewhere { .. } => plain(
            Code::FailedPrecondition,
            "NODE_ATTACHED_ELSEWHERE",
            "give each machine a SPIFFE ID of its own, or wait until the other stream lapses",
        ),
        StoreError::NodeLapsed { .. } => node_fenced(),
        StoreError::DecidedInBetween(_) => plain(Code::Aborted, "APPROVAL_CHANGED", "look at it again"),
        StoreError::TooManyRequests { .. } => {
            plain(Code::ResourceExhausted, "TOO_MANY_APPROVAL_REQUESTS", "decide or withdraw some that wait")
        }
        StoreError::KillChanged(_) => {
            plain(Code::Aborted, "KILL_CHANGED", "look at it again with `dayfly kill list`")
        }
        StoreError::TooManyKills { .. } => {
            plain(Code::ResourceExhausted, "TOO_MANY_KILLS", "lift those that are over")
        }
        StoreError::TooManyLeases { .. } => {
            plain(Code::ResourceExhausted, "TOO_MANY_LEASES", "end what is not needed")
        }
        StoreError::RolesFull { .. } => (
            Code::ResourceExhausted,
            "ROLES_FULL",
            "end sessions that are not needed, or have the platform team add a role to the scope".to_owned(),
            Some(Duration::from_secs(5)),
        ),
        StoreError::Illegal(_) => {
            plain(Code::FailedPrecondition, "ILLEGAL_TRANSITION", "read the lease's state anew")
        }
        StoreError::Database { .. } => (
            Code::Unavailable,
            "STORE_UNAVAILABLE",
            "nothing was granted; ask again, and tell the operator".to_owned(),
            Some(Duration::from_secs(1)),
        ),
    }
}
