//! What a record says was asked, as far as it can be asked once more.

use dayfly_domain::caller::Caller;
use dayfly_domain::decision::{Act, Wish};
use dayfly_domain::id::{RequestId, TaskId};
use dayfly_domain::scope::ScopeAsk;
use dayfly_domain::simulation::{NotReplayed, Repeated};
use dayfly_domain::spiffe::SpiffeId;
use dayfly_domain::time::Timestamp;

use super::super::past::fields::Fields;
use super::Only;
use crate::store::AuditRow;

/// What one record is to a simulation.
#[derive(Debug)]
pub(super) enum Read {
    /// A request that can be decided once more.
    Asked(Box<Asked>),
    /// Equal refusals that were counted.
    Repeated(Repeated),
    /// Requests that cannot be.
    Lost(NotReplayed, u64),
    /// No request of its own, or not one of those that are wanted.
    Nothing,
}

/// A recorded request.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) request: RequestId,
    pub(super) at: Timestamp,
    /// As it was recorded; the stage is looked up anew.
    pub(super) caller: Caller,
    pub(super) question: Question,
    /// Reason and scope of its record, if it was refused.
    pub(super) refused: Option<(String, String)>,
    /// The approval that it rested on.
    pub(super) approval: Option<String>,
}

/// What was asked, by what is decided.
#[derive(Debug)]
pub(super) enum Question {
    /// A credential, or a longer life of one.
    Credential { wish: Wish, task: TaskId },
    /// Something to be done with an artifact.
    Action { act: Act, task: TaskId },
    /// A token for a task of its own, which is not there where the exchange was refused.
    Exchange { ask: ScopeAsk, task: Option<TaskId> },
    /// A task of the caller's own.
    Open { task: TaskId },
    /// A task for another workload.
    Delegate { task: TaskId },
    /// A task that was opened for the caller. Where it was taken, the record says so alone.
    Claim { task: TaskId, taken: bool },
}

impl Question {
    /// The task whose tree it is decided in.
    pub(super) fn task(&self) -> Option<TaskId> {
        match self {
            Question::Credential { task, .. }
            | Question::Action { task, .. }
            | Question::Open { task }
            | Question::Delegate { task }
            | Question::Claim { task, .. } => Some(*task),
            Question::Exchange { task, .. } => *task,
        }
    }
}

impl Read {
    /// Reads one record of the stream `decision`.
    pub(super) fn of(row: &AuditRow, only: &Only) -> Self {
        let unreadable = Read::Lost(NotReplayed::Unreadable, 1);
        let Ok(fields) = Fields::read(row) else { return unreadable };
        if !only.takes(fields.spiffe_id.as_ref(), fields.scope.as_deref()) {
            return Read::Nothing;
        }
        let allowed = match fields.event.as_str() {
            "decision.allow" => true,
            "decision.deny" => false,
            "decision.deny_repeated" => return repeated(fields),
            _ => return Read::Nothing,
        };
        if fields.meanwhile {
            return Read::Lost(NotReplayed::Meanwhile, 1);
        }
        let question = match question(&fields, allowed) {
            Ok(Some(question)) => question,
            Ok(None) => return Read::Nothing,
            Err(why) => return Read::Lost(why, 1),
        };
        let (Some(request), Ok(at), Ok(caller)) = (fields.request_id, fields.at(), fields.caller()) else {
            return unreadable;
        };
        let refused = fields.reason.map(|reason| (reason, counted_as(fields.scope.as_deref())));
        let asked = Asked { request, at, caller, question, refused, approval: fields.approval };
        Read::Asked(Box::new(asked))
    }
}

fn question(fields: &Fields, allowed: bool) -> Result<Option<Question>, NotReplayed> {
    let task = fields.task_id.ok_or(NotReplayed::Unreadable);
    let question = match fields.what.as_str() {
        "issue" | "renew" => {
            Question::Credential { wish: fields.wish().ok_or(NotReplayed::Unreadable)?, task: task? }
        }
        // The caller named no scope: which one the record names came of the decision.
        "authorize" => Question::Action { act: fields.act().ok_or(NotReplayed::Unreadable)?, task: task? },
        "token_exchange" => return exchange(fields, allowed),
        "open_task" if allowed => Question::Open { task: task? },
        "delegate_task" if allowed => Question::Delegate { task: task? },
        "open_task" | "delegate_task" => return Err(NotReplayed::OpeningRefused),
        "claim_task" => Question::Claim { task: task?, taken: allowed },
        _ => return Err(NotReplayed::Unreadable),
    };
    Ok(Some(question))
}

/// An exchange that is allowed has two records: of its task, and of the token, which says all.
fn exchange(fields: &Fields, allowed: bool) -> Result<Option<Question>, NotReplayed> {
    let Some(ask) = fields.ask() else {
        return if allowed { Ok(None) } else { Err(NotReplayed::Unreadable) };
    };
    if allowed {
        return Ok(Some(Question::Exchange { ask, task: fields.task_id }));
    }
    // Refused on behalf of nobody: before there was a task, or in one that was never written.
    if fields.on_behalf_of.is_some() {
        return Err(NotReplayed::OnBehalfRefused);
    }
    match (&fields.chain, fields.task_id) {
        (None, None) => Ok(Some(Question::Exchange { ask, task: None })),
        (Some(chain), _) if chain.len() == 1 => Ok(Some(Question::Exchange { ask, task: None })),
        _ => Err(NotReplayed::OnBehalfRefused),
    }
}

fn repeated(fields: Fields) -> Read {
    let (count, recorded) = (fields.count, fields.recorded);
    let requests = count.saturating_sub(recorded);
    let moment = fields.since.as_deref().and_then(|since| since.parse().ok());
    let at = fields.at();
    match (fields.spiffe_id, fields.reason, moment, at) {
        (Some(spiffe_id), Some(reason), Some(since), Ok(at)) => {
            let scope = counted_as(fields.scope.as_deref());
            Read::Repeated(Repeated { spiffe_id, reason, scope, since, at, requests })
        }
        _ => Read::Lost(NotReplayed::CountedOnly, requests),
    }
}

/// The scope as equal refusals are counted by it: see `Denials::admit`.
fn counted_as(scope: Option<&str>) -> String {
    scope.unwrap_or_default().chars().take(64).collect()
}

impl Only {
    fn takes(&self, spiffe_id: Option<&SpiffeId>, scope: Option<&str>) -> bool {
        self.spiffe_id.as_ref().is_none_or(|wanted| spiffe_id == Some(wanted))
            && self.scope.as_deref().is_none_or(|wanted| scope == Some(wanted))
    }
}

#[cfg(test)]
mod tests {
    use dayfly_domain::audit::{Record, Stream};
    use dayfly_domain::decision::DenyReason;
    use dayfly_domain::time::Ttl;

    use super::*;
    use crate::denials::Denials;

    fn row(record: &Record) -> AuditRow {
        AuditRow {
            writer: "broker-1".to_owned(),
            stream: Stream::Decision,
            seq: 1,
            prev_hash: Vec::new(),
            hash: Vec::new(),
            at: record.at,
            bytes: record.to_bytes(),
        }
    }

    #[test]
    fn refusals_that_were_counted_are_read_as_they_are_written() {
        let denials = Denials::new(2);
        let who: SpiffeId = "spiffe://example.org/tool/a".parse().expect("an id");
        let (now, scope) = (Timestamp::from_unix_millis(5_000), "s".repeat(100));
        for _ in 0..10 {
            denials.admit(&who, DenyReason::ScopeNotGranted, &scope, now);
        }
        let records = denials.flush(now + Ttl::minutes(1));
        let [record] = &records[..] else { panic!("{records:?}") };
        let Read::Repeated(repeated) = Read::of(&row(record), &Only::default()) else { panic!("{record:?}") };
        assert_eq!((repeated.requests, repeated.since, &repeated.spiffe_id), (8, now, &who));
        assert_eq!(
            (repeated.reason.as_str(), repeated.scope),
            ("SCOPE_NOT_GRANTED", counted_as(Some(&scope)))
        );
        let other = Only { scope: Some("other".to_owned()), ..Only::default() };
        assert!(matches!(Read::of(&row(record), &other), Read::Nothing));
    }

    #[test]
    fn what_cannot_be_read_is_counted_and_what_is_no_request_is_not() {
        let at = Timestamp::from_unix_millis(5_000);
        let read = |record: Record| Read::of(&row(&record), &Only::default());
        let record = |event, what: &str| Record::new(Stream::Decision, event, at).with("what", what);
        let garbled = AuditRow { bytes: b"{".to_vec(), ..row(&record("decision.allow", "issue")) };
        assert!(matches!(Read::of(&garbled, &Only::default()), Read::Lost(NotReplayed::Unreadable, 1)));
        assert!(matches!(read(record("decision.allow", "issue")), Read::Lost(NotReplayed::Unreadable, 1)));
        assert!(matches!(
            read(record("decision.deny", "open_task")),
            Read::Lost(NotReplayed::OpeningRefused, 1)
        ));
        let others =
            Record::new(Stream::Decision, "decision.deny_repeated", at).with("count", 7).with("recorded", 0);
        assert!(matches!(read(others), Read::Lost(NotReplayed::CountedOnly, 7)));
        assert!(matches!(read(record("decision.noted", "")), Read::Nothing));
        // The task of an exchange has a record of its own.
        assert!(matches!(read(record("decision.allow", "token_exchange")), Read::Nothing));
    }
}
