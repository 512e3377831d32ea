//! What a record says was asked, as far as it can be asked once more.

use dayfly_domain::id::{RequestId, TaskId};
use dayfly_domain::simulation::{NotReplayed, Repeated};
use dayfly_domain::spiffe::SpiffeId;
use dayfly_domain::time::{Timestamp, Ttl};
use serde::Deserialize;

use super::super::past::Recorded;
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
    /// No request, or not one of those that are wanted.
    Nothing,
}

/// A recorded request.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) request: RequestId,
    pub(super) recorded: Recorded,
    /// Reason and scope of its record, if it was refused.
    pub(super) refused: Option<(String, String)>,
    /// The task that came of it, where one was opened or claimed.
    pub(super) own: Option<TaskId>,
}

/// What else matters of a record than what was asked.
#[derive(Deserialize)]
struct Fields {
    event: String,
    request_id: Option<RequestId>,
    #[serde(default)]
    what: String,
    spiffe_id: Option<SpiffeId>,
    task_id: Option<TaskId>,
    scope: Option<String>,
    reason: Option<String>,
    /// Another request or an end was first.
    #[serde(default)]
    meanwhile: bool,
    // Of `decision.deny_repeated`.
    at: String,
    since: Option<String>,
    #[serde(default)]
    count: u64,
    #[serde(default)]
    recorded: u64,
}

impl Asked {
    /// The trees it is decided with, each at its moment: the one it was asked in, and the one of its own task.
    pub(super) fn trees(&self) -> impl Iterator<Item = (TaskId, Timestamp)> {
        let at = self.recorded.at;
        let asked_in = self.recorded.task.map(|task| (task, at));
        asked_in.into_iter().chain(self.own.map(|own| (own, just_after(at))))
    }
}

/// What a request brought about is there as soon as it is over.
pub(super) fn just_after(at: Timestamp) -> Timestamp {
    at + Ttl::millis(1)
}

impl Read {
    /// Reads one record of the stream `decision`.
    pub(super) fn of(row: &AuditRow, only: &Only) -> Self {
        let unreadable = Read::Lost(NotReplayed::Unreadable, 1);
        let Ok(fields) = serde_json::from_slice::<Fields>(&row.bytes) else { return unreadable };
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
        let (Some(request), Ok(recorded)) = (fields.request_id, Recorded::read(row)) else {
            return unreadable;
        };
        let refused = fields.reason.map(|reason| (reason, counted_as(fields.scope.as_deref())));
        let has_own = allowed && ["open_task", "claim_task"].contains(&fields.what.as_str());
        let own = fields.task_id.filter(|_| has_own);
        Read::Asked(Box::new(Asked { request, recorded, refused, own }))
    }
}

fn repeated(fields: Fields) -> Read {
    let requests = fields.count.saturating_sub(fields.recorded);
    let moment = |text: &str| text.parse::<Timestamp>().ok();
    let (since, at) = (fields.since.as_deref().and_then(moment), moment(&fields.at));
    match (fields.spiffe_id, fields.reason, since, at) {
        (Some(spiffe_id), Some(reason), Some(since), Some(at)) => {
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
        let others =
            Record::new(Stream::Decision, "decision.deny_repeated", at).with("count", 7).with("recorded", 0);
        assert!(matches!(read(others), Read::Lost(NotReplayed::CountedOnly, 7)));
        assert!(matches!(read(record("decision.noted", "")), Read::Nothing));
        let late = record("decision.deny", "claim_task").with("meanwhile", true);
        assert!(matches!(read(late), Read::Lost(NotReplayed::Meanwhile, 1)));
    }
}
