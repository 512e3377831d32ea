//! What a review reads in a record of the stream `decision`.

use dayfly_domain::binding::ViaRule;
use dayfly_domain::id::{SessionId, TaskId};
use dayfly_domain::parameter::Parameters;
use dayfly_domain::review::{Allowed, Recorded};
use dayfly_domain::scope::{Ceiling, ScopeAsk};
use dayfly_domain::spiffe::SpiffeId;
use dayfly_domain::time::{Timestamp, Ttl};
use serde::Deserialize;

use crate::store::AuditRow;

/// The fields that matter here.
#[derive(Deserialize)]
struct Fields {
    event: String,
    what: Option<String>,
    spiffe_id: Option<SpiffeId>,
    via: Option<String>,
    task_id: Option<TaskId>,
    session_id: Option<SessionId>,
    scope: Option<String>,
    #[serde(default)]
    parameters: Parameters,
    binding: Option<String>,
    ttl: Option<Ttl>,
    #[serde(default)]
    chain: Vec<SpiffeId>,
    ceiling: Option<Ceiling>,
    delegate_to: Option<SpiffeId>,
    reason: Option<String>,
    count: Option<u64>,
    recorded: Option<u64>,
}

/// What the record says of bindings; nothing if it says nothing of them, or was written by a version that wrote other
/// fields.
pub(super) fn read(row: &AuditRow) -> Option<Recorded> {
    let fields: Fields = serde_json::from_slice(&row.bytes).ok()?;
    match fields.event.as_str() {
        "decision.allow" if fields.binding.is_some() => allowed(fields, row.at).map(Recorded::Allowed),
        "decision.allow" => task(fields, row.at),
        "decision.deny" => denied(fields, 1),
        "decision.deny_repeated" => {
            // The first of them have records of their own.
            let further = fields.count?.saturating_sub(fields.recorded.unwrap_or(0));
            denied(fields, further)
        }
        _ => None,
    }
}

fn allowed(fields: Fields, at: Timestamp) -> Option<Allowed> {
    let opened = |id: TaskId| id.made_at().until(at);
    // A renewal in place names no session; of a root task it is the task itself.
    let root = match (fields.session_id, fields.chain.len()) {
        (Some(session), _) => Some(TaskId::from(session)),
        (None, 1) => fields.task_id,
        (None, _) => None,
    };
    Some(Allowed {
        at,
        identity: fields.spiffe_id?,
        via: via(fields.via.as_deref()?)?,
        ask: ScopeAsk { scope: fields.scope?, parameters: fields.parameters },
        binding: fields.binding?,
        ttl: fields.ttl?,
        chain: Some(fields.chain).filter(|chain| !chain.is_empty())?,
        age: fields.task_id.map(opened),
        oldest: root.map(opened),
    })
}

/// A task that was opened by its holder, or for another. Who claims one asks for no binding.
fn task(fields: Fields, at: Timestamp) -> Option<Recorded> {
    let ceiling = fields.ceiling?.lines().to_vec();
    match fields.what.as_deref()? {
        "open_task" => {
            Some(Recorded::Opened { identity: fields.spiffe_id?, via: via(fields.via.as_deref()?)?, ceiling })
        }
        "delegate_task" => Some(Recorded::Offered {
            at,
            above: fields.chain,
            to: fields.delegate_to?,
            ceiling,
            oldest: fields.session_id.map(|session| TaskId::from(session).made_at().until(at)),
        }),
        _ => None,
    }
}

fn denied(fields: Fields, times: u64) -> Option<Recorded> {
    let (identity, scope, reason) = (fields.spiffe_id?, fields.scope?, fields.reason?);
    (times > 0).then_some(Recorded::Denied { identity, scope, reason, times })
}

fn via(name: &str) -> Option<ViaRule> {
    match name {
        "agent" => Some(ViaRule::Agent),
        "direct" => Some(ViaRule::Direct),
        _ => None,
    }
}
