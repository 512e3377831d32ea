//! Between protobuf and the domain. What comes in is bounded and parsed here; nothing behind it sees a raw message.

use std::collections::{BTreeMap, HashMap};

use dayfly_domain::artifact;
use dayfly_domain::caller::Caller;
use dayfly_domain::decision::{Act, Wish};
use dayfly_domain::id::{LeaseId, RequestId, TaskId};
use dayfly_domain::idempotency::IssueKey;
use dayfly_domain::lease::{Lease, LeaseState, Outcome};
use dayfly_domain::parameter::Parameters;
use dayfly_domain::policy::Artifact;
use dayfly_domain::scope::{Ceiling, Promise, Revocability, ScopeAsk};
use dayfly_domain::secret::Secret;
use dayfly_domain::task::{Anchor, AnchorKind, Task, TaskState};
use dayfly_domain::time::{Timestamp, Ttl};
use dayfly_proto::v1;
use tonic::Status;

use super::status::invalid;
use crate::operations::authorize::Authorized;
use crate::operations::issue::Answer;
use crate::providers::Credential;
use crate::store::LeaseRow;

/// Longest claimed text: an intent, a label, a reason.
const MAX_TEXT: usize = 512;
/// Most labels.
const MAX_LABELS: usize = 32;

/// A task's id.
pub fn task_id(text: &str, request: RequestId) -> Result<TaskId, Status> {
    text.parse().map_err(|_| {
        invalid("ID_INVALID", "task_id is not a task's id", "use the id as it was given to you", request)
    })
}

/// A lease's id.
pub fn lease_id(text: &str, request: RequestId) -> Result<LeaseId, Status> {
    let next = "use the id IssueCredential returned";
    text.parse().map_err(|_| invalid("ID_INVALID", "lease_id is not a lease's id", next, request))
}

/// A direct caller's key, if it showed one.
pub fn key(text: String) -> Option<Secret> {
    (!text.is_empty()).then(|| Secret::new(text))
}

/// The key a credential is asked for under, if there is one.
pub fn issue_key(
    text: &str,
    caller: &Caller,
    task: TaskId,
    wish: &Wish,
    request: RequestId,
) -> Result<Option<IssueKey>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    let key = IssueKey::new(text, &caller.spiffe_id, caller.via.node(), task, wish);
    let next = "send 128 random bits in hexadecimal digits, or leave it out";
    key.map(Some).map_err(|fault| invalid("IDEMPOTENCY_KEY_INVALID", fault.to_string(), next, request))
}

/// Scope and values.
pub fn ask(wire: Option<v1::ScopeRequest>, request: RequestId) -> Result<ScopeAsk, Status> {
    let next = "name a scope";
    let wire = wire.ok_or_else(|| invalid("SCOPE_MISSING", "scope is missing", next, request))?;
    let too_long =
        wire.parameters.iter().any(|(name, value)| name.len() > MAX_TEXT || value.len() > MAX_TEXT);
    if wire.scope.is_empty() || wire.scope.len() > MAX_TEXT {
        return Err(invalid("SCOPE_MISSING", "scope has no name, or one that is too long", next, request));
    }
    if too_long || wire.parameters.len() > MAX_LABELS {
        let message = format!("at most {MAX_LABELS} parameters of at most {MAX_TEXT} bytes are taken");
        return Err(invalid("PARAMETER_INVALID", message, "shorten the parameters", request));
    }
    let parameters: Parameters = wire.parameters.into_iter().collect();
    Ok(ScopeAsk { scope: wire.scope, parameters })
}

/// An action on an artifact.
pub fn act(action: String, wire: Option<v1::Artifact>, request: RequestId) -> Result<Act, Status> {
    let v1::Artifact { name, digest } = wire.unwrap_or_default();
    let artifact = Artifact { name, digest: (!digest.is_empty()).then_some(digest) };
    match artifact::check(&action, &artifact) {
        Ok(()) => Ok(Act { action, artifact }),
        Err(fault) => {
            let next = "name the action and the artifact as the scope does; `dayfly scope show` tells how";
            Err(invalid("ARTIFACT_INVALID", fault.to_string(), next, request))
        }
    }
}

/// What was allowed.
pub fn authorized(answer: Authorized) -> v1::AuthorizeResponse {
    v1::AuthorizeResponse {
        decision_id: answer.decision.to_string(),
        scope: Some(scope_request(&answer.ask)),
        digest_pinned: answer.pins_digest,
        valid_until: Some(time(answer.until)),
        receipt: answer.receipt.map(|receipt| receipt.expose().to_owned()).unwrap_or_default(),
        revision: answer.revision,
        rules_digest: answer.rules_digest,
    }
}

/// A ceiling.
pub fn ceiling(wire: Vec<v1::ScopeRequest>, request: RequestId) -> Result<Ceiling, Status> {
    if wire.len() > Ceiling::MAX_LINES {
        let message = format!("a ceiling has at most {} lines", Ceiling::MAX_LINES);
        return Err(invalid("CEILING_TOO_LONG", message, "open several tasks", request));
    }
    let lines: Result<Vec<ScopeAsk>, Status> =
        wire.into_iter().map(|line| ask(Some(line), request)).collect();
    Ok(Ceiling::new(lines?))
}

/// A span of time; absent stays absent.
pub fn span(wire: Option<prost_types::Duration>, request: RequestId) -> Result<Option<Ttl>, Status> {
    let Some(wire) = wire else { return Ok(None) };
    let span = std::time::Duration::try_from(wire);
    let next = "give a positive duration";
    span.map(|span| Some(Ttl::from(span)))
        .map_err(|_| invalid("DURATION_INVALID", "a duration is negative", next, request))
}

/// What the agent observed of an anchor.
pub fn anchor(wire: Option<v1::Anchor>, request: RequestId) -> Result<Option<Anchor>, Status> {
    let Some(wire) = wire else { return Ok(None) };
    let kind = match wire.kind() {
        v1::anchor::Kind::CgroupOwned => AnchorKind::CgroupOwned,
        v1::anchor::Kind::Process => AnchorKind::Process,
        v1::anchor::Kind::Stream | v1::anchor::Kind::Unspecified => {
            return Err(invalid(
                "ANCHOR_INVALID",
                "an agent names a cgroup or a process",
                "update the node agent",
                request,
            ));
        }
    };
    if wire.boot_id.len() > 64 || wire.attested_by.len() > 64 {
        return Err(invalid(
            "ANCHOR_INVALID",
            "the anchor's text is too long",
            "update the node agent",
            request,
        ));
    }
    Ok(Some(Anchor {
        kind,
        boot_id: wire.boot_id,
        cgroup_id: wire.cgroup_id,
        pidfd_inode: wire.pidfd_inode,
        start_time: wire.start_time,
        attested_by: wire.attested_by,
    }))
}

/// Claimed text, bounded.
pub fn claimed(
    intent: &str,
    labels: HashMap<String, String>,
    request: RequestId,
) -> Result<BTreeMap<String, String>, Status> {
    let long = |text: &str| text.len() > MAX_TEXT;
    if long(intent)
        || labels.len() > MAX_LABELS
        || labels.iter().any(|(name, value)| long(name) || long(value))
    {
        let message =
            format!("at most {MAX_LABELS} labels; intent and labels have at most {MAX_TEXT} bytes each");
        return Err(invalid("CLAIM_TOO_LONG", message, "shorten it", request));
    }
    Ok(labels.into_iter().collect())
}

/// The labels of documents that go if they were not written; none if nothing goes.
pub fn prune(
    wanted: bool,
    selector: HashMap<String, String>,
    request: RequestId,
) -> Result<Option<BTreeMap<String, String>>, Status> {
    if wanted && selector.is_empty() {
        let next = "say which labels the pruned documents have";
        return Err(invalid("SELECTOR_MISSING", "prune needs a selector", next, request));
    }
    Ok(wanted.then(|| selector.into_iter().collect()))
}

/// An instant from the wire; none if it is out of range.
pub fn moment(wire: &prost_types::Timestamp) -> Option<Timestamp> {
    let ms = wire.seconds.checked_mul(1000)?.checked_add(i64::from(wire.nanos) / 1_000_000)?;
    Some(Timestamp::from_unix_millis(ms))
}

/// An instant.
pub fn time(at: Timestamp) -> prost_types::Timestamp {
    let ms = at.unix_millis();
    let nanos = i32::try_from(ms.rem_euclid(1000) * 1_000_000).expect("below a second");
    prost_types::Timestamp { seconds: ms.div_euclid(1000), nanos }
}

/// A span.
pub fn duration(span: Ttl) -> prost_types::Duration {
    let seconds = i64::try_from(span.as_seconds()).unwrap_or(i64::MAX);
    let nanos = i32::try_from(span.as_millis() % 1000 * 1_000_000).expect("below a second");
    prost_types::Duration { seconds, nanos }
}

/// What can be promised about taking a credential back.
pub fn promise(promise: &Promise) -> v1::RevocationPromise {
    let revocability = match promise.revocability {
        Revocability::Exact => v1::Revocability::Exact,
        Revocability::Deny => v1::Revocability::Deny,
        Revocability::Proxied => v1::Revocability::Proxied,
        Revocability::ExpiryOnly => v1::Revocability::ExpiryOnly,
    };
    v1::RevocationPromise {
        revocability: revocability.into(),
        worst_case_after_end: Some(duration(promise.worst_case_after_end)),
        leaves_behind: promise.leaves_behind.clone(),
    }
}

/// An issued credential.
pub fn issued(answer: Answer) -> v1::IssueCredentialResponse {
    use v1::issue_credential_response::Credential as Wire;
    let credential = answer.credential.map(|credential| match credential {
        Credential::Aws { access_key_id, secret_access_key, session_token, region } => {
            Wire::Aws(aws(&access_key_id, &secret_access_key, &session_token, region))
        }
        Credential::Vault { token, address } => {
            Wire::Vault(v1::VaultCredential { token: token.expose().to_owned(), address })
        }
        Credential::Token { access_token, audience } => Wire::Token(access(&access_token, audience)),
    });
    v1::IssueCredentialResponse {
        lease_id: answer.lease.to_string(),
        expires_at: Some(time(answer.expires_at)),
        refresh_at: Some(time(answer.refresh_at)),
        promise: Some(promise(&answer.promise)),
        credential,
        rules_digest: answer.rules_digest,
    }
}

/// A renewed lease.
pub fn renewed(answer: Answer) -> v1::RenewLeaseResponse {
    use v1::issue_credential_response::Credential as Issued;
    use v1::renew_lease_response::Credential as Wire;
    let v1::IssueCredentialResponse { lease_id, expires_at, refresh_at, promise, credential, rules_digest } =
        issued(answer);
    let credential = credential.map(|credential| match credential {
        Issued::Aws(aws) => Wire::Aws(aws),
        Issued::Vault(vault) => Wire::Vault(vault),
        Issued::Token(token) => Wire::Token(token),
    });
    v1::RenewLeaseResponse { lease_id, expires_at, refresh_at, promise, credential, rules_digest }
}

fn aws(id: &Secret, key: &Secret, session: &Secret, region: String) -> v1::AwsCredential {
    v1::AwsCredential {
        access_key_id: id.expose().to_owned(),
        secret_access_key: key.expose().to_owned(),
        session_token: session.expose().to_owned(),
        region,
    }
}

fn access(token: &Secret, audience: String) -> v1::TokenCredential {
    v1::TokenCredential { access_token: token.expose().to_owned(), token_type: "Bearer".to_owned(), audience }
}

/// A task, for an admin.
pub fn task(task: &Task, live_leases: u32) -> v1::Task {
    let mut wire = v1::Task {
        task_id: task.id.to_string(),
        session_id: task.session.to_string(),
        parent_task_id: task.parent.map(|parent| parent.to_string()).unwrap_or_default(),
        spiffe_id: task.opened_by.to_string(),
        stage: task.stage.to_string(),
        node: task.node.as_ref().map(ToString::to_string).unwrap_or_default(),
        anchor: task.anchor.kind.as_str().to_owned(),
        opened_at: Some(time(task.opened_at)),
        ceiling: task.ceiling.lines().iter().map(scope_request).collect(),
        intent: task.intent.clone(),
        live_leases,
        node_state: String::new(),
        ..v1::Task::default()
    };
    match task.state {
        TaskState::Open { deadline } => {
            wire.state = "open".to_owned();
            wire.deadline = Some(time(deadline));
        }
        TaskState::Ended { at, cause } => {
            wire.state = "ended".to_owned();
            wire.end_cause = cause.to_string();
            wire.ended_at = Some(time(at));
        }
    }
    wire
}

/// A lease, for an admin.
pub fn lease(row: &LeaseRow) -> v1::Lease {
    let lease: &Lease = &row.lease;
    let mut wire = v1::Lease {
        lease_id: lease.id.to_string(),
        task_id: lease.task.to_string(),
        session_id: lease.session.to_string(),
        spiffe_id: lease.spiffe_id.to_string(),
        scope: lease.scope.clone(),
        parameters: lease.parameters.clone().into_iter().collect(),
        provider: lease.provider.clone(),
        state: lease.state.name().to_owned(),
        promise: Some(promise(&lease.promise)),
        opened_at: Some(time(lease.opened_at)),
        attempts: row.attempts,
        last_error: row.last_error.clone(),
        renews: lease.renews.map(|renewed| renewed.to_string()).unwrap_or_default(),
        on_agent_loss: String::new(),
        ..v1::Lease::default()
    };
    match &lease.state {
        LeaseState::Pending { residue_until, .. } => wire.expires_at = Some(time(*residue_until)),
        LeaseState::Active { expires_at, .. } => wire.expires_at = Some(time(*expires_at)),
        LeaseState::Revoking { requested_at, runs_out_at, bound, .. } => {
            wire.expires_at = Some(time(*bound));
            wire.revoke_requested_at = Some(time(*requested_at));
            wire.runs_out_at = runs_out_at.map(time);
        }
        LeaseState::Ended { at, outcome } => {
            wire.ended_at = Some(time(*at));
            wire.outcome = outcome.as_str().to_owned();
            if let Outcome::Verified { evidence } = outcome {
                wire.evidence = evidence.clone();
            }
        }
    }
    wire
}

/// Each scope with its provider.
pub fn providers(told: Vec<(String, String)>) -> Vec<v1::ScopeProvider> {
    told.into_iter().map(|(scope, provider)| v1::ScopeProvider { scope, provider }).collect()
}

/// One line of a ceiling.
pub fn scope_request(ask: &ScopeAsk) -> v1::ScopeRequest {
    v1::ScopeRequest { scope: ask.scope.clone(), parameters: ask.parameters.clone().into_iter().collect() }
}
