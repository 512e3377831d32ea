//! The fields of a decision's record, as `Asked::record` and `decision_record` write them.

use dayfly_domain::caller::{Caller, Via};
use dayfly_domain::decision::{Act, Wish};
use dayfly_domain::id::{RequestId, TaskId};
use dayfly_domain::parameter::Parameters;
use dayfly_domain::policy::Artifact;
use dayfly_domain::scope::ScopeAsk;
use dayfly_domain::spiffe::SpiffeId;
use dayfly_domain::stage::Stage;
use dayfly_domain::time::{Timestamp, Ttl};
use serde::Deserialize;

use crate::store::AuditRow;

/// What matters of a record in the stream `decision`.
#[derive(Debug, Deserialize)]
pub(in crate::operations) struct Fields {
    pub(in crate::operations) event: String,
    at: String,
    pub(in crate::operations) request_id: Option<RequestId>,
    #[serde(default)]
    pub(in crate::operations) what: String,
    pub(in crate::operations) spiffe_id: Option<SpiffeId>,
    stage: Option<Stage>,
    via: Option<String>,
    node: Option<SpiffeId>,
    pub(in crate::operations) task_id: Option<TaskId>,
    pub(in crate::operations) scope: Option<String>,
    #[serde(default)]
    parameters: Parameters,
    asked_ttl: Option<Ttl>,
    action: Option<String>,
    artifact: Option<Artifact>,
    pub(in crate::operations) reason: Option<String>,
    pub(in crate::operations) approval: Option<String>,
    pub(in crate::operations) chain: Option<Vec<SpiffeId>>,
    /// Whose credential an exchange rested on.
    pub(in crate::operations) on_behalf_of: Option<serde_json::Value>,
    /// Another request or an end was first, which no rule decides.
    #[serde(default)]
    pub(in crate::operations) meanwhile: bool,
    // Of `decision.deny_repeated`.
    pub(in crate::operations) since: Option<String>,
    #[serde(default)]
    pub(in crate::operations) count: u64,
    #[serde(default)]
    pub(in crate::operations) recorded: u64,
}

impl Fields {
    /// Reads a record, or tells why it is none of a decision.
    pub(in crate::operations) fn read(row: &AuditRow) -> Result<Self, String> {
        serde_json::from_slice(&row.bytes)
            .map_err(|error| format!("the record is not one of a decision: {error}"))
    }

    /// When the request was made.
    pub(in crate::operations) fn at(&self) -> Result<Timestamp, String> {
        self.at.parse().map_err(|_| missing("at"))
    }

    /// The action, where no credential was asked for.
    pub(in crate::operations) fn act(&self) -> Option<Act> {
        let (action, artifact) = (self.action.clone()?, self.artifact.clone()?);
        Some(Act { action, artifact })
    }

    /// Scope and values, if a scope is named.
    pub(in crate::operations) fn ask(&self) -> Option<ScopeAsk> {
        self.scope.clone().map(|scope| ScopeAsk { scope, parameters: self.parameters.clone() })
    }

    /// The wish, if a scope is named.
    pub(in crate::operations) fn wish(&self) -> Option<Wish> {
        self.ask().map(|ask| Wish { ask, ttl: self.asked_ttl, act: self.act() })
    }

    /// Who asked. How long the proof held is not in the record, but whether it was what failed.
    pub(in crate::operations) fn caller(&self) -> Result<Caller, String> {
        let via = match (self.via.as_deref(), &self.node) {
            (Some("agent"), Some(node)) => Via::Agent { node: node.clone() },
            (Some("direct"), _) => Via::Direct { serial: String::new() },
            _ => return Err(missing("via")),
        };
        let at = self.at()?;
        let expired = self.reason.as_deref() == Some("PROOF_EXPIRED");
        Ok(Caller {
            spiffe_id: self.spiffe_id.clone().ok_or_else(|| missing("spiffe_id"))?,
            stage: self.stage.ok_or_else(|| missing("stage"))?,
            via,
            proof_expires_at: if expired { at } else { at + Ttl::minutes(5) },
        })
    }
}

fn missing(name: &str) -> String {
    format!("the record has no field {name}")
}
