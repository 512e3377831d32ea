//! A past decision, as its record has it: enough to take it once more.

use dayfly_domain::approval::{Approval, ApprovalRequest};
use dayfly_domain::audit::Stream;
use dayfly_domain::caller::{Caller, Via};
use dayfly_domain::decision::{Act, Decision, DenyReason, Opening, Wish};
use dayfly_domain::document::{self, Document};
use dayfly_domain::id::{RequestId, TaskId};
use dayfly_domain::parameter::Parameters;
use dayfly_domain::policy::Artifact;
use dayfly_domain::rules::Rules;
use dayfly_domain::scope::{Ceiling, ScopeAsk};
use dayfly_domain::spiffe::SpiffeId;
use dayfly_domain::stage::Stage;
use dayfly_domain::task::Task;
use dayfly_domain::time::{Timestamp, Ttl};
use serde::Deserialize;

use super::explain::{Verdict, Wanted};
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
    let since = made_at - LATEST_RECORD;
    let rows = broker.store.find_records(Stream::Decision, since, RECORDS_SEARCHED, id).await?;
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
    /// The task whose tree it was asked in; none where a root was to be opened.
    pub(super) task: Option<TaskId>,
    pub(super) asked: Wanted,
    revision: u64,
    outcome: Outcome,
    pub(super) approval: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// By a binding, unless only a task was opened or claimed.
    Allowed {
        binding: Option<String>,
    },
    Denied {
        reason: String,
    },
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
    parent_task_id: Option<TaskId>,
    ceiling: Option<Ceiling>,
    delegate_to: Option<SpiffeId>,
    on_behalf_of: Option<Giver>,
    #[serde(default)]
    meanwhile: bool,
}

/// Whose credential an exchange rested on.
#[derive(Clone, Deserialize)]
struct Giver {
    task_id: TaskId,
    spiffe_id: SpiffeId,
}

impl Recorded {
    /// Reads a record, or tells why the decision cannot be taken once more.
    pub(super) fn read(row: &AuditRow) -> Result<Self, String> {
        let fields: Fields = serde_json::from_slice(&row.bytes)
            .map_err(|error| format!("the record is not one of a decision: {error}"))?;
        let missing = |name: &str| format!("the record has no field {name}");
        if fields.meanwhile {
            return Err("another request or an end was first, which no rule decides".to_owned());
        }
        let (asked, task) = asked(&fields)?;
        let at: Timestamp = fields.at.parse().map_err(|_| missing("at"))?;
        let outcome = match (fields.event.as_str(), fields.binding, fields.reason) {
            ("decision.allow", binding, _) => Outcome::Allowed { binding },
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
    pub(super) fn differs(&self, verdict: &Verdict) -> bool {
        let denied = |reason: DenyReason| Outcome::Denied { reason: reason.as_str().to_owned() };
        let now = match verdict {
            Verdict::Request(Decision::Allow(grant)) => {
                Outcome::Allowed { binding: Some(grant.binding.clone()) }
            }
            Verdict::Task(Ok(())) => Outcome::Allowed { binding: None },
            Verdict::Request(Decision::Deny(denial)) | Verdict::Task(Err(denial)) => denied(denial.reason),
        };
        now != self.outcome
    }

    /// How many tasks could stand in a line then. That limit is the configuration's, which has no history: what was
    /// refused for it stood at the limit, and all else below it.
    pub(super) fn deepest(&self, above: &[Task]) -> u32 {
        match &self.outcome {
            Outcome::Denied { reason } if reason == DenyReason::TaskTreeTooDeep.as_str() => {
                u32::try_from(above.len()).unwrap_or(u32::MAX)
            }
            Outcome::Allowed { .. } | Outcome::Denied { .. } => u32::MAX,
        }
    }
}

/// What was asked, and the task in whose tree.
fn asked(fields: &Fields) -> Result<(Wanted, Option<TaskId>), String> {
    let missing = |name: &str| format!("the record has no field {name}");
    let ceiling = || {
        let whole = fields.ceiling.clone();
        whole.ok_or_else(|| "the record does not hold all that the task was to declare".to_owned())
    };
    let own_or_given = |ceiling| match &fields.on_behalf_of {
        Some(giver) => Opening::OnBehalf { given_by: giver.spiffe_id.clone(), ceiling },
        None => Opening::Own { ceiling },
    };
    let giver = || fields.on_behalf_of.as_ref().map(|giver| giver.task_id);
    let what = fields.what.as_deref().unwrap_or_default();
    let denied = fields.event == "decision.deny";
    match what {
        "open_task" => Ok((Wanted::Task(Opening::Own { ceiling: ceiling()? }), fields.parent_task_id)),
        "delegate_task" => {
            let to = fields.delegate_to.clone().ok_or_else(|| missing("delegate_to"))?;
            let parent = fields.parent_task_id.ok_or_else(|| missing("parent_task_id"))?;
            Ok((Wanted::Task(Opening::Delegated { to, ceiling: ceiling()? }), Some(parent)))
        }
        "claim_task" => {
            let task = fields.task_id.ok_or_else(|| missing("task_id"))?;
            Ok((Wanted::Task(Opening::Claimed), Some(task)))
        }
        // Its task is opened first. What is denied then leaves none.
        "token_exchange" if !denied && fields.binding.is_none() => {
            Ok((Wanted::Task(own_or_given(ceiling()?)), giver()))
        }
        "token_exchange" if denied && fields.task_id.is_none() => {
            let scope = fields.scope.clone().ok_or_else(|| missing("scope"))?;
            let ask = ScopeAsk { scope, parameters: fields.parameters.clone() };
            let opening = own_or_given(Ceiling::new(vec![ask.clone()]));
            Ok((Wanted::Exchange(opening, ask), giver()))
        }
        _ => {
            let task = fields.task_id.ok_or_else(|| missing("task_id"))?;
            Ok((under_a_task(fields).ok_or_else(|| missing("scope"))?, Some(task)))
        }
    }
}

/// A credential or an action.
fn under_a_task(fields: &Fields) -> Option<Wanted> {
    let act = match (fields.action.clone(), fields.artifact.clone()) {
        (Some(action), Some(artifact)) => Some(Act { action, artifact }),
        _ => None,
    };
    match (fields.scope.clone(), act) {
        (Some(scope), act) => {
            let ask = ScopeAsk { scope, parameters: fields.parameters.clone() };
            Some(Wanted::Wish(Wish { ask, ttl: fields.asked_ttl, act }))
        }
        (None, act) => act.map(Wanted::Act),
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
        was_approved_by(request, recorded.at) || named
    };
    let all = broker.store.approvals(ApprovalFilter { live_at: None, limit: 0 }).await?;
    Ok(all.iter().filter(|request| stood(request)).map(approval).collect())
}

/// Whether it was approved at that moment, and was not taken back since: of what was, the moment of the yes is not kept.
pub(super) fn was_approved_by(request: &ApprovalRequest, at: Timestamp) -> bool {
    let by_then = request.verdict.as_ref().is_some_and(|verdict| verdict.at <= at);
    by_then && request.approval().is_some()
}

/// What it allows, or allowed before it was taken back.
pub(super) fn approval(request: &ApprovalRequest) -> Approval {
    Approval {
        id: request.id.to_string(),
        identity: request.identity.clone(),
        ask: request.ask.clone(),
        until: request.until,
        digest: request.digest.clone(),
    }
}
