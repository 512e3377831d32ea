//! A simulation as protobuf has it: what is asked, and what is told while it goes on.

use dayfly_domain::id::RequestId;
use dayfly_domain::parameter::MAX_PATH;
use dayfly_domain::simulation::{Change, Group, NotReplayed, Summary, Total};
use dayfly_domain::time::Timestamp;
use dayfly_proto::v1;
use futures_util::stream::{self, StreamExt};
use tokio::sync::mpsc::Receiver;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::question::{nothing_asked, spiffe_id};
use super::{admin, status, wire};
use crate::operations::OperationError;
use crate::operations::simulate::{Event, Only, Progress, Simulate};

/// What is asked, checked for form. The documents are bounded where they are read.
pub fn asked(wire: v1::SimulateRequest, now: Timestamp, id: RequestId) -> Result<Simulate, Status> {
    use v1::simulate_request::Begin;
    let begin = wire.begin.ok_or_else(|| nothing_asked("a moment, or how long back", id))?;
    let no_moment = || {
        let next = "write it like 7d, or 2026-12-01T08:00:00Z";
        status::invalid("FILTER_INVALID", "the moment to begin at is out of range", next, id)
    };
    let since = match begin {
        Begin::Back(span) => now - wire::span(Some(span), id)?.unwrap_or_default(),
        Begin::Since(moment) => wire::moment(&moment).ok_or_else(no_moment)?,
    };
    let spiffe_id = (!wire.spiffe_id.is_empty()).then(|| spiffe_id(&wire.spiffe_id, id)).transpose()?;
    if wire.scope.len() > MAX_PATH {
        let message = format!("the name of a scope has at most {MAX_PATH} bytes");
        return Err(status::invalid("FILTER_INVALID", message, "name the scope, or leave it out", id));
    }
    let scope = (!wire.scope.is_empty()).then_some(wire.scope);
    let prune = wire::prune(wire.prune, wire.selector, id)?;
    Ok(Simulate { yaml: wire.yaml, prune, since, only: Only { spiffe_id, scope } })
}

/// What is told, event by event.
pub fn told(
    events: Receiver<Result<Event, OperationError>>,
    since: Timestamp,
    id: RequestId,
) -> impl Stream<Item = Result<v1::SimulateResponse, Status>> + Send {
    let told = move |event: Result<Event, OperationError>| match event {
        Ok(event) => messages(event, since).into_iter().map(Ok).collect(),
        Err(error) => vec![Err(status::of(error, id))],
    };
    ReceiverStream::new(events).flat_map(move |event| stream::iter(told(event)))
}

fn messages(event: Event, since: Timestamp) -> Vec<v1::SimulateResponse> {
    use v1::simulate_response::Event as Wire;
    let events = match event {
        Event::Proposed { revision, changes, faults } => {
            let change = |change| v1::DocumentChange { diff: String::new(), ..admin::change(change) };
            vec![Wire::Proposal(v1::SimulatedProposal {
                revision,
                changes: changes.into_iter().map(change).collect(),
                faults: faults.into_iter().map(admin::fault).collect(),
            })]
        }
        Event::Progress(so_far) => vec![Wire::Progress(progress(so_far))],
        Event::Done {
            summary: Summary { groups, totals, replayed, unchanged, not_replayed },
            progress: read,
            more,
        } => {
            let summary = v1::SimulationSummary {
                since: Some(wire::time(since)),
                read: Some(progress(read)),
                more,
                replayed,
                unchanged,
                totals: totals.into_iter().map(total).collect(),
                not_replayed: not_replayed.into_iter().map(lost).collect(),
            };
            groups.into_iter().map(|one| Wire::Group(group(one))).chain([Wire::Summary(summary)]).collect()
        }
    };
    events.into_iter().map(|event| v1::SimulateResponse { event: Some(event) }).collect()
}

fn progress(progress: Progress) -> v1::SimulationProgress {
    v1::SimulationProgress { records: progress.records, at: progress.at.map(wire::time) }
}

fn group(group: Group) -> v1::SimulatedGroup {
    let (before, after) = group.ttl;
    v1::SimulatedGroup {
        change: change(group.change).into(),
        spiffe_id: group.spiffe_id.to_string(),
        what: group.subject.what.as_str().to_owned(),
        subject: group.subject.name,
        before: group.before.to_owned(),
        after: group.after.to_owned(),
        ttl_before: before.map(wire::duration),
        ttl_after: after.map(wire::duration),
        message: group.message,
        requests: group.requests,
        first_at: Some(wire::time(group.first)),
        last_at: Some(wire::time(group.last)),
        example_request_id: group.example,
    }
}

fn total((of, total): (Change, Total)) -> v1::SimulatedTotal {
    let Total { requests, without_group } = total;
    v1::SimulatedTotal { change: change(of).into(), requests, without_group }
}

fn lost((why, requests): (NotReplayed, u64)) -> v1::RequestsNotReplayed {
    v1::RequestsNotReplayed { reason: why.as_str().to_owned(), meaning: why.meaning().to_owned(), requests }
}

fn change(change: Change) -> v1::SimulatedChange {
    match change {
        Change::NewlyDenied => v1::SimulatedChange::NewlyDenied,
        Change::NewlyAllowed => v1::SimulatedChange::NewlyAllowed,
        Change::Widened => v1::SimulatedChange::Widened,
        Change::Altered => v1::SimulatedChange::Altered,
        Change::Narrowed => v1::SimulatedChange::Narrowed,
        Change::DeniedOtherwise => v1::SimulatedChange::DeniedOtherwise,
    }
}
