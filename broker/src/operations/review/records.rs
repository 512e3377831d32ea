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

#[cfg(test)]
mod tests {
    use dayfly_domain::audit::Stream;
    use serde_json::json;

    use super::*;

    const AT: Timestamp = Timestamp::from_unix_millis(1_800_000_000_000);

    fn read_json(record: serde_json::Value) -> Option<Recorded> {
        let bytes = serde_json::to_vec(&record).expect("plain data");
        let (prev_hash, hash) = (Vec::new(), Vec::new());
        read(&AuditRow {
            writer: "w".into(),
            stream: Stream::Decision,
            seq: 1,
            prev_hash,
            hash,
            at: AT,
            bytes,
        })
    }

    fn opened(minutes_ago: u64) -> String {
        TaskId::new(AT - Ttl::minutes(minutes_ago), 7).to_string()
    }

    #[test]
    fn ages_are_those_of_the_task_and_of_its_tree() {
        let allow = |session: Option<String>, chain: &[&str]| {
            let record = json!({
                "event": "decision.allow", "what": "renew", "spiffe_id": "spiffe://d/a", "via": "agent",
                "task_id": opened(5), "session_id": session, "scope": "s", "parameters": {"p": "v"},
                "binding": "b", "ttl": "5m", "chain": chain,
            });
            match read_json(record) {
                Some(Recorded::Allowed(allowed)) => (allowed.age, allowed.oldest),
                other => panic!("{other:?}"),
            }
        };
        let minutes = |count| Some(Ttl::minutes(count));
        let both = ["spiffe://d/r", "spiffe://d/a"];
        assert_eq!(allow(Some(opened(9)), &both), (minutes(5), minutes(9)));
        // A renewal in place names no session.
        assert_eq!(allow(None, &both[1..]), (minutes(5), minutes(5)));
        assert_eq!(allow(None, &both), (minutes(5), None));
    }

    #[test]
    fn equal_denials_count_as_many_as_they_were() {
        let repeated = |count: u64| {
            let record = json!({
                "event": "decision.deny_repeated", "spiffe_id": "spiffe://d/a", "reason": "SCOPE_NOT_GRANTED",
                "scope": "s", "count": count, "recorded": 10,
            });
            read_json(record).map(|told| match told {
                Recorded::Denied { times, .. } => times,
                other => panic!("{other:?}"),
            })
        };
        assert_eq!((repeated(112), repeated(10)), (Some(102), None), "ten have records of their own");
        let of_others = json!({"event": "decision.deny_repeated", "count": 5, "recorded": 0});
        assert!(read_json(of_others).is_none(), "whose they were is not known");
    }

    #[test]
    fn a_record_that_says_nothing_of_bindings_is_passed_over() {
        for record in [
            json!({"event": "decision.allow", "what": "claim_task", "spiffe_id": "spiffe://d/a", "via": "agent"}),
            json!({"event": "decision.allow", "what": "open_task", "spiffe_id": "spiffe://d/a", "via": "agent"}),
            json!({"event": "something.else"}),
            json!([]),
        ] {
            assert!(read_json(record.clone()).is_none(), "{record}");
        }
    }
}
