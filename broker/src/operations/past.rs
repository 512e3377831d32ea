//! A past decision, as its record has it: enough to take it once more.

use dayfly_domain::approval::{Approval, ApprovalRequest};
use dayfly_domain::audit::Stream;
use dayfly_domain::caller::{Caller, Via};
use dayfly_domain::decision::{Act, Decision, Wish};
use dayfly_domain::document::{self, Document};
use dayfly_domain::id::{RequestId, TaskId};
use dayfly_domain::parameter::Parameters;
use dayfly_domain::policy::Artifact;
use dayfly_domain::rules::Rules;
use dayfly_domain::scope::ScopeAsk;
use dayfly_domain::spiffe::SpiffeId;
use dayfly_domain::stage::Stage;
use dayfly_domain::time::{Timestamp, Ttl};
use serde::Deserialize;

use super::explain::Wanted;
use super::{Broker, OperationError, blocking};
use crate::policy;
use crate::store::{ApprovalFilter, AuditRow};

/// How much later than its request a decision may be recorded.
pub(super) const LATEST_RECORD: Ttl = Ttl::minutes(2);
/// Records that are looked through for one request.
const RECORDS_SEARCHED: u64 = 500_000;

/// The decisions recorded under the id of a request, or of the lease it led to. Both ids begin with the time of the
/// request.
pub(super) async fn find(broker: &Broker, id: &str) -> Result<Vec<AuditRow>, OperationError> {
    let unreadable = |_| OperationError::Invalid {
        reason: "ID_INVALID",
        message: "this is not the id of a request or a lease".to_owned(),
        next: "use the request id that a refusal names, or the id of a lease",
    };
    let made_at = id.parse::<RequestId>().map_err(unreadable)?.made_at();
    let from = broker.store.audit_since(Stream::Decision, made_at - LATEST_RECORD).await?;
    let rows = match from {
        Some(from) => broker.store.audit_holding(Stream::Decision, from, RECORDS_SEARCHED, id).await?,
        None => Vec::new(),
    };
    let names = |row: &AuditRow| {
        let record: Option<serde_json::Value> = serde_json::from_slice(&row.bytes).ok();
        record.is_some_and(|record| record["request_id"] == id || record["lease_id"] == id)
    };
    let rows: Vec<AuditRow> = rows.into_iter().filter(names).collect();
    if rows.is_empty() {
        return Err(OperationError::Invalid {
            reason: "REQUEST_NOT_RECORDED",
            message: format!("no decision is recorded under {id}"),
            next: "what was refused before a decision is only in the broker's log; of many equal denials some are \
                   counted in a record `decision.deny_repeated`",
        });
    }
    Ok(rows)
}

/// What the record says.
#[derive(Debug)]
pub(super) struct Recorded {
    pub(super) at: Timestamp,
    pub(super) caller: Caller,
    pub(super) task: TaskId,
    pub(super) asked: Wanted,
    revision: u64,
    outcome: Outcome,
    approval: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Allowed { binding: String },
    Denied { reason: String },
}

/// The fields of the record that matter here.
#[derive(Deserialize)]
struct Fields {
    event: String,
    at: String,
    what: Option<String>,
    spiffe_id: Option<SpiffeId>,
    stage: Option<Stage>,
    via: Option<String>,
    node: Option<SpiffeId>,
    task_id: Option<TaskId>,
    scope: Option<String>,
    #[serde(default)]
    parameters: Parameters,
    asked_ttl: Option<Ttl>,
    action: Option<String>,
    artifact: Option<Artifact>,
    binding: Option<String>,
    reason: Option<String>,
    revision: Option<u64>,
    approval: Option<String>,
}

impl Recorded {
    /// Reads a record, or tells why the decision cannot be taken once more.
    pub(super) fn read(row: &AuditRow) -> Result<Self, String> {
        let fields: Fields = serde_json::from_slice(&row.bytes)
            .map_err(|error| format!("the record is not one of a decision: {error}"))?;
        let missing = |name: &str| format!("the record has no field {name}");
        let act = match (fields.action, fields.artifact) {
            (Some(action), Some(artifact)) => Some(Act { action, artifact }),
            _ => None,
        };
        let wish = |scope, act| Wish {
            ask: ScopeAsk { scope, parameters: fields.parameters.clone() },
            ttl: fields.asked_ttl,
            act,
        };
        let what = fields.what.unwrap_or_default();
        // The others open, offer or claim tasks: a ceiling is checked, and what may be used of it is decided at each request.
        let is_under_a_task =
            fields.binding.is_some() || ["issue", "renew", "authorize"].contains(&what.as_str());
        let (asked, task) = match (fields.scope, act, fields.task_id) {
            (Some(scope), act, Some(task)) if is_under_a_task => (Wanted::Wish(wish(scope, act)), task),
            (None, Some(act), Some(task)) if is_under_a_task => (Wanted::Act(act), task),
            _ => {
                return Err(format!(
                    "{what:?} is not asked under a task; what a task may use is decided at each request under it"
                ));
            }
        };
        let at: Timestamp = fields.at.parse().map_err(|_| missing("at"))?;
        let outcome = match (fields.event.as_str(), fields.binding, fields.reason) {
            ("decision.allow", Some(binding), _) => Outcome::Allowed { binding },
            ("decision.deny", _, Some(reason)) => Outcome::Denied { reason },
            (event, ..) => return Err(format!("{event} is not a decision on one request")),
        };
        let via = match (fields.via.as_deref(), fields.node) {
            (Some("agent"), Some(node)) => Via::Agent { node },
            (Some("direct"), _) => Via::Direct { serial: String::new() },
            _ => return Err(missing("via")),
        };
        // How long the proof held is not in the record, but whether it was what failed.
        let expired = matches!(&outcome, Outcome::Denied { reason } if reason == "PROOF_EXPIRED");
        let caller = Caller {
            spiffe_id: fields.spiffe_id.ok_or_else(|| missing("spiffe_id"))?,
            stage: fields.stage.ok_or_else(|| missing("stage"))?,
            via,
            proof_expires_at: if expired { at } else { at + Ttl::minutes(5) },
        };
        let revision = fields.revision.ok_or_else(|| missing("revision"))?;
        Ok(Self { at, caller, task, asked, revision, outcome, approval: fields.approval })
    }

    /// Whether the decision says other than the record: the other answer, for another reason, or by another binding.
    pub(super) fn differs(&self, decision: &Decision) -> bool {
        let now = match decision {
            Decision::Allow(grant) => Outcome::Allowed { binding: grant.binding.clone() },
            Decision::Deny(denial) => Outcome::Denied { reason: denial.reason.as_str().to_owned() },
        };
        now != self.outcome
    }
}

/// The rules as they stood, or why there are none: a later version may no longer understand what an earlier one took.
pub(super) async fn rules_at(
    broker: &Broker,
    recorded: &Recorded,
) -> Result<Result<Rules, String>, OperationError> {
    let stored = broker.store.documents_at(recorded.revision).await?;
    let documents: Vec<(u32, Document)> = stored.into_iter().map(|row| (0, row.document)).collect();
    let loaded = policy::load(&documents, broker.rules.load_full()).await;
    let (revision, domains) = (recorded.revision, broker.trust_domains.clone());
    let compiled = blocking(move || document::compile(revision, &domains, &documents)).await?;
    Ok(match (compiled, loaded) {
        (Ok(rules), Ok(policies)) => {
            let approvals = approvals_at(broker, recorded).await?;
            Ok(policy::judged_by(rules, policies).with_approvals(approvals))
        }
        (compiled, loaded) => {
            let faults = [compiled.err(), loaded.err()].into_iter().flatten().flatten().next();
            Err(format!(
                "the documents of revision {} are not valid any more: {}",
                recorded.revision,
                faults.map(|fault| fault.to_string()).unwrap_or_default()
            ))
        }
    })
}

/// The approvals that stood then, and the one that the record names though it was taken back since.
async fn approvals_at(broker: &Broker, recorded: &Recorded) -> Result<Vec<Approval>, OperationError> {
    let stood = |request: &ApprovalRequest| {
        let named = recorded.approval.as_deref() == Some(request.id.to_string().as_str());
        let by_then = request.verdict.as_ref().is_some_and(|verdict| verdict.at <= recorded.at);
        (by_then && request.approval().is_some()) || named
    };
    let approval = |request: ApprovalRequest| Approval {
        id: request.id.to_string(),
        identity: request.identity,
        ask: request.ask,
        until: request.until,
        digest: request.digest,
    };
    let all = broker.store.approvals(ApprovalFilter { live_at: None, limit: 0 }).await?;
    Ok(all.into_iter().filter(stood).map(approval).collect())
}
