//! Approvals: one admin asks for temporary access, another says yes or no, either takes it back.

use dayfly_domain::approval::{
    self, ApprovalRequest, Host, NotApprovable, NotRequestable, Said, Standing, Verdict,
};
use dayfly_domain::audit::{Record, Stream};
use dayfly_domain::document::{Document, Kind};
use dayfly_domain::id::{ApprovalId, LeaseId, RequestId};
use dayfly_domain::lease::RevokeCause;
use dayfly_domain::scope::ScopeAsk;
use dayfly_domain::spiffe::SpiffeId;
use dayfly_domain::time::{Timestamp, Ttl};

use super::apply::reload;
use super::{Broker, OperationError};
use crate::store::{ApprovalFilter, LeaseFilter};

/// Requests that may wait at once.
const MOST_WAITING: u32 = 1_000;

/// An admin with the host its connection came from.
#[derive(Clone, Debug)]
pub struct Approver {
    /// Who.
    pub id: SpiffeId,
    /// From where.
    pub host: Host,
}

/// What was asked, checked for form.
#[derive(Debug)]
pub struct RequestApproval {
    /// Who is to be allowed to ask.
    pub identity: SpiffeId,
    /// For what.
    pub ask: ScopeAsk,
    /// Until when.
    pub end: End,
    /// Where the reason is found.
    pub ticket: String,
    /// Why.
    pub reason: String,
}

/// When an approval is to end.
#[derive(Clone, Copy, Debug)]
pub enum End {
    /// At this moment.
    At(Timestamp),
    /// So long after it was requested.
    After(Ttl),
}

/// One, with what it would stand beside.
#[derive(Debug)]
pub struct Shown {
    /// The request.
    pub asked: ApprovalRequest,
    /// The scope's document as it stands.
    pub scope: Option<Document>,
    /// Bindings that let the identity ask for it now.
    pub bindings: Vec<String>,
}

/// Writes down what is asked for whom until when.
pub async fn request(
    broker: &Broker,
    by: &Approver,
    request: RequestId,
    asked: RequestApproval,
) -> Result<ApprovalRequest, OperationError> {
    let now = broker.clock.now();
    let RequestApproval { identity, ask, end, ticket, reason } = asked;
    let until = match end {
        End::At(until) => until,
        End::After(span) => now + span,
    };
    let rules = broker.rules.load();
    let digest = approval::check_request(&rules, &identity, &ask, until, (&ticket, &reason), now)
        .map_err(not_requestable)?;
    let asked = ApprovalRequest {
        id: ApprovalId::new(now, rand::random()),
        identity,
        ask,
        until,
        ticket,
        reason,
        digest,
        requested_at: now,
        requested_by: by.id.clone(),
        requested_on: by.host,
        verdict: None,
    };
    let record = record("approval.requested", &asked, by, request, now).with("reason", &asked.reason);
    broker.store.request_approval(asked.clone(), MOST_WAITING, record).await?;
    Ok(asked)
}

/// A second admin says yes to what it looked at: one transaction, then the rules are swapped.
pub async fn approve(
    broker: &Broker,
    by: &Approver,
    request: RequestId,
    id: ApprovalId,
    looked_at: &str,
) -> Result<ApprovalRequest, OperationError> {
    let now = broker.clock.now();
    let asked = read(broker, id).await?;
    let one_host = broker.approvals_from_one_host;
    asked.check_approve(&broker.rules.load(), &by.id, by.host, looked_at, one_host, now)?;
    let mut record = record("approval.approved", &asked, by, request, now);
    if by.host == asked.requested_on {
        record = record.with("one_host_allowed", true);
    }
    let asked = say(broker, asked, Said::Approved, by, record, now).await?;
    reload(broker).await?;
    Ok(asked)
}

/// An admin says no. It needs no second pair of eyes.
pub async fn refuse(
    broker: &Broker,
    by: &Approver,
    request: RequestId,
    id: ApprovalId,
) -> Result<ApprovalRequest, OperationError> {
    let now = broker.clock.now();
    let asked = read(broker, id).await?;
    match asked.standing(&broker.rules.load(), now) {
        Standing::Requested | Standing::Void => {}
        standing => return Err(NotApprovable::Over { id, standing }.into()),
    }
    if asked.verdict.is_some() {
        return Err(NotApprovable::Over { id, standing: Standing::Approved }.into());
    }
    let record = record("approval.refused", &asked, by, request, now);
    say(broker, asked, Said::Refused, by, record, now).await
}

/// Takes back a request, or an approval with every lease that rests on it.
pub async fn withdraw(
    broker: &Broker,
    by: &Approver,
    request: RequestId,
    asked: ApprovalRequest,
) -> Result<(ApprovalRequest, Vec<LeaseId>), OperationError> {
    let now = broker.clock.now();
    match asked.standing(&broker.rules.load(), now) {
        Standing::Requested | Standing::Approved | Standing::Void => {}
        standing => return Err(NotApprovable::Over { id: asked.id, standing }.into()),
    }
    let record = record("approval.withdrawn", &asked, by, request, now);
    let was_approved = asked.approval().is_some();
    let asked = say(broker, asked, Said::Withdrawn, by, record, now).await?;
    if !was_approved {
        return Ok((asked, Vec::new()));
    }
    reload(broker).await?;
    let leases = take_back(broker, &asked, request, now).await?;
    Ok((asked, leases))
}

/// One, as it stands.
pub async fn read(broker: &Broker, id: ApprovalId) -> Result<ApprovalRequest, OperationError> {
    let found = broker.store.approval(id).await?;
    found.ok_or_else(|| OperationError::Unknown { kind: "approval", name: id.to_string() })
}

/// One, with all that whoever decides it should look at.
pub async fn show(broker: &Broker, id: ApprovalId) -> Result<Shown, OperationError> {
    let asked = read(broker, id).await?;
    let (_, stored) = broker.store.load_documents().await?;
    let named =
        |document: &Document| document.key.kind == Kind::Scope && document.key.name == asked.ask.scope;
    let scope = stored.into_iter().map(|row| row.document).find(named);
    let (rules, now) = (broker.rules.load(), broker.clock.now());
    let fitting = rules.bindings_fitting(&asked.ask.scope, &asked.identity, &asked.ask.parameters);
    let carrying = fitting
        .iter()
        .filter(|one| one.may_use && one.stands(now) && one.allows(&asked.ask.parameters))
        .map(|one| one.name.clone());
    Ok(Shown { bindings: carrying.collect(), asked, scope })
}

/// Requests, newest first.
pub async fn list(
    broker: &Broker,
    include_over: bool,
    limit: u32,
) -> Result<Vec<ApprovalRequest>, OperationError> {
    let now = broker.clock.now();
    let live_at = (!include_over).then_some(now);
    let mut rows = broker.store.approvals(ApprovalFilter { live_at, limit }).await?;
    let rules = broker.rules.load();
    rows.retain(|asked| include_over || asked.standing(&rules, now).is_live());
    Ok(rows)
}

async fn say(
    broker: &Broker,
    asked: ApprovalRequest,
    said: Said,
    by: &Approver,
    record: Record,
    now: Timestamp,
) -> Result<ApprovalRequest, OperationError> {
    let after = asked.verdict.as_ref().map(|verdict| verdict.said);
    let verdict = Verdict { said, at: now, by: by.id.clone(), on: by.host };
    broker.store.decide_approval(asked.id, after, verdict.clone(), record).await?;
    Ok(ApprovalRequest { verdict: Some(verdict), ..asked })
}

/// Live leases of what was approved, unless another approval allows the same.
async fn take_back(
    broker: &Broker,
    asked: &ApprovalRequest,
    request: RequestId,
    now: Timestamp,
) -> Result<Vec<LeaseId>, OperationError> {
    let rules = broker.rules.load();
    let scope = rules.scope(&asked.ask.scope).filter(|scope| scope.approval.is_some());
    let Some(scope) = scope else { return Ok(Vec::new()) };
    if rules.approval(&asked.identity, &asked.ask, scope, now).is_some() {
        return Ok(Vec::new());
    }
    let filter = LeaseFilter {
        spiffe_id: Some(asked.identity.clone()),
        scope: Some(asked.ask.scope.clone()),
        ..LeaseFilter::default()
    };
    let held = broker.store.leases(filter).await?.into_iter().map(|row| row.lease);
    let resting = held.filter(|lease| lease.parameters == asked.ask.parameters).map(|lease| lease.id);
    let queued =
        broker.store.queue_revocations(resting.collect(), RevokeCause::Uncovered, now, Some(request)).await?;
    broker.wake.all();
    queued.iter().for_each(|lease| broker.notices.lease_revoked(*lease));
    Ok(queued)
}

fn record(
    event: &'static str,
    asked: &ApprovalRequest,
    by: &Approver,
    request: RequestId,
    now: Timestamp,
) -> Record {
    Record::new(Stream::Admin, event, now)
        .request(request)
        .with("by", &by.id)
        .with("on", by.host)
        .with("approval_id", asked.id)
        .with("spiffe_id", &asked.identity)
        .with("scope", &asked.ask.scope)
        .with("parameters", &asked.ask.parameters)
        .with("until", asked.until.to_string())
        .with("ticket", &asked.ticket)
        .with("digest", &asked.digest)
}

fn not_requestable(fault: NotRequestable) -> OperationError {
    let (reason, next) = match &fault {
        NotRequestable::UnknownScope(name) => {
            return OperationError::Unknown { kind: "scope", name: name.clone() };
        }
        NotRequestable::NoneWanted(_) => ("APPROVAL_NOT_WANTED", "apply a binding instead"),
        NotRequestable::Parameters(_) => {
            ("PARAMETER_INVALID", "correct the parameters; `dayfly scope show` lists them")
        }
        NotRequestable::Past { .. } | NotRequestable::TooLong { .. } => {
            ("APPROVAL_END_INVALID", "ask for an end within `approval.max` of the scope")
        }
        NotRequestable::Words => ("APPROVAL_REASON_INVALID", "give a reason, and keep both on one line"),
    };
    OperationError::Invalid { reason, message: fault.to_string(), next }
}
