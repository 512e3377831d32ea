//! Requests for approval, and what was said of them.

use dayfly_domain::approval::{ApprovalRequest, Host, Said, Verdict};
use dayfly_domain::audit::{Record, Stream};
use dayfly_domain::id::ApprovalId;
use dayfly_domain::scope::ScopeAsk;
use dayfly_domain::time::Timestamp;

use super::World;
use super::world::{T0, at, identity};
use crate::store::{ApprovalFilter, StoreError};

const ALL: ApprovalFilter = ApprovalFilter { live_at: None, limit: 0 };

/// Asked for by ann at that second, for an hour from the beginning.
fn asked(w: &mut World, second: u64) -> ApprovalRequest {
    ApprovalRequest {
        id: ApprovalId::new(at(second), w.entropy()),
        identity: identity("tool/t"),
        ask: ScopeAsk {
            scope: "prod-db".to_owned(),
            parameters: [("table".to_owned(), "a \"b\" ä".to_owned())].into(),
        },
        until: at(3600),
        ticket: "OPS-1".to_owned(),
        reason: "it's 'broken'".to_owned(),
        digest: "d1".to_owned(),
        requested_at: at(second),
        requested_by: identity("admin/ann"),
        requested_on: Host::At("fd00::1".parse().unwrap()),
        verdict: None,
    }
}

fn record(event: &'static str, at: Timestamp) -> Record {
    Record::new(Stream::Admin, event, at)
}

async fn request(w: &mut World, second: u64) -> ApprovalRequest {
    let asked = asked(w, second);
    let noted = record("approval.requested", at(second));
    w.store().request_approval(asked.clone(), u32::MAX, noted).await.unwrap();
    asked
}

fn verdict(said: Said, second: u64) -> Verdict {
    Verdict { said, at: at(second), by: identity("admin/bob"), on: Host::Broker }
}

async fn say(
    w: &World,
    asked: &ApprovalRequest,
    after: Option<Said>,
    said: Said,
    second: u64,
) -> Result<(), StoreError> {
    let noted = record("approval.decided", at(second));
    w.store().decide_approval(asked.id, after, verdict(said, second), noted).await
}

pub(crate) async fn an_approval_reads_back_as_it_was_asked_and_decided(w: &mut World) {
    let one = request(w, 1).await;
    assert_eq!(w.store().approval(one.id).await.unwrap().as_ref(), Some(&one));
    say(w, &one, None, Said::Approved, 2).await.unwrap();
    w.reopen().await;
    let read = w.store().approval(one.id).await.unwrap().unwrap();
    assert_eq!(read, ApprovalRequest { verdict: Some(verdict(Said::Approved, 2)), ..one.clone() });
    say(w, &one, Some(Said::Approved), Said::Withdrawn, 3).await.unwrap();
    let read = w.store().approval(one.id).await.unwrap().unwrap();
    assert_eq!(read.verdict, Some(verdict(Said::Withdrawn, 3)));
    assert_eq!(w.chain(Stream::Admin).await.len(), 3);
    assert_eq!(w.store().approval(ApprovalId::new(T0, 0)).await.unwrap(), None);
}

pub(crate) async fn of_two_that_decide_at_once_one_is_told(w: &mut World) {
    let one = request(w, 1).await;
    say(w, &one, None, Said::Refused, 2).await.unwrap();
    for (after, said) in [(None, Said::Approved), (Some(Said::Approved), Said::Withdrawn)] {
        let late = say(w, &one, after, said, 3).await;
        assert!(matches!(late, Err(StoreError::DecidedInBetween(id)) if id == one.id), "{late:?}");
    }
    let read = w.store().approval(one.id).await.unwrap().unwrap();
    assert_eq!(read.verdict, Some(verdict(Said::Refused, 2)));
    assert_eq!(w.chain(Stream::Admin).await.len(), 2, "what was not written has no record");
    let unknown = asked(w, 1);
    assert!(say(w, &unknown, None, Said::Approved, 4).await.is_err());
}

pub(crate) async fn lists_hold_what_is_live_newest_first(w: &mut World) {
    let mut all = Vec::new();
    for (second, said) in
        [(1, None), (2, Some(Said::Approved)), (3, Some(Said::Refused)), (4, Some(Said::Withdrawn))]
    {
        let one = request(w, second).await;
        if let Some(said) = said {
            say(w, &one, None, said, 5).await.unwrap();
        }
        all.insert(0, one.id);
    }
    let ids = async |filter| -> Vec<ApprovalId> {
        w.store().approvals(filter).await.unwrap().iter().map(|one| one.id).collect()
    };
    assert_eq!(ids(ALL).await, all);
    assert_eq!(ids(ApprovalFilter { limit: 1, ..ALL }).await, all[..1]);
    assert_eq!(ids(ApprovalFilter { live_at: Some(at(3599)), ..ALL }).await, all[2..]);
    assert!(ids(ApprovalFilter { live_at: Some(at(3600)), ..ALL }).await.is_empty(), "its end is no part");
}

pub(crate) async fn only_so_many_requests_wait(w: &mut World) {
    let first = request(w, 1).await;
    let (second, third) = (asked(w, 2), asked(w, 2));
    let full = w.store().request_approval(second.clone(), 1, record("approval.requested", at(2))).await;
    assert!(matches!(full, Err(StoreError::TooManyRequests { limit: 1 })), "{full:?}");
    assert_eq!(w.chain(Stream::Admin).await.len(), 1);
    say(w, &first, None, Said::Refused, 2).await.unwrap();
    w.store().request_approval(second, 1, record("approval.requested", at(2))).await.unwrap();
    // What has lapsed waits no more.
    let later = ApprovalRequest { requested_at: at(3600), until: at(7200), ..third };
    w.store().request_approval(later, 1, record("approval.requested", at(3600))).await.unwrap();
}

pub(crate) async fn a_yes_waits_for_its_record_and_taking_back_does_not(w: &mut World) {
    let (waiting, approved) = (request(w, 1).await, request(w, 2).await);
    say(w, &approved, None, Said::Approved, 3).await.unwrap();
    w.lost_records = true;
    w.break_records(Stream::Admin, true).await;
    let yes = say(w, &waiting, None, Said::Approved, 4).await;
    assert!(matches!(yes, Err(StoreError::Database { .. })), "{yes:?}");
    assert_eq!(w.store().approval(waiting.id).await.unwrap().unwrap().verdict, None);
    say(w, &approved, Some(Said::Approved), Said::Withdrawn, 4).await.unwrap();
    let taken_back = w.store().approval(approved.id).await.unwrap().unwrap();
    assert_eq!(taken_back.verdict, Some(verdict(Said::Withdrawn, 4)));
    w.break_records(Stream::Admin, false).await;
}
