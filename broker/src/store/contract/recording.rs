//! No record, no grant; and no end that waits for a record.

use dayfly_domain::audit::{Record, Stream};
use dayfly_domain::id::SessionId;
use dayfly_domain::lease::{LeaseEvent, LeaseState, RevokeCause};
use dayfly_domain::task::{EndCause, Task, TaskState};
use serde_json::Value;

use super::World;
use super::world::{T0, at};
use crate::store::{EndWhich, StoreError};

fn events(records: &[Value]) -> Vec<&str> {
    records.iter().map(|record| record["event"].as_str().unwrap()).collect()
}

pub(crate) async fn every_change_has_its_record(w: &mut World) {
    let root = w.open_root("a").await;
    let lease = w.open_pending(&root, "a").await;
    w.record(&lease, w.answer(&lease), at(1)).await;
    w.end(EndWhich::Task(root.id), EndCause::Explicit, at(2)).await;
    w.record(&lease, LeaseEvent::Verify { evidence: "gone".to_owned() }, at(3)).await;
    let records = w.records(Stream::Lease).await;
    assert_eq!(
        events(&records),
        ["task.open", "lease.pending", "lease.active", "task.ended", "lease.revoking", "lease.ended"]
    );
    assert_eq!(records[3]["cause"], "explicit");
    assert_eq!(records[5]["evidence"], "gone");
    assert_eq!(w.chain(Stream::Decision).await.len(), 2);
}

pub(crate) async fn without_a_record_nothing_is_granted(w: &mut World) {
    let root = w.open_root("a").await;
    let waiting = w.open_pending(&root, "a").await;
    for broken in [Stream::Decision, Stream::Lease] {
        w.break_records(broken, true).await;
        let (child, lease) = (w.child(&root, "b"), w.active(&root, "a"));
        assert!(matches!(w.try_open(&child).await, Err(StoreError::Database { .. })));
        assert!(matches!(w.try_lease(&lease, T0).await, Err(StoreError::Database { .. })));
        let note = Record::new(broken, "noted", T0);
        assert!(matches!(w.store().write_records(vec![note]).await, Err(StoreError::Database { .. })));
        w.break_records(broken, false).await;
    }
    assert_eq!(w.all_tasks().await.len(), 1);
    assert_eq!(w.all_leases().await, std::slice::from_ref(&waiting));
    w.check().await;

    // The target has answered: the handle is kept, and the credential taken back instead of given.
    w.lost_records = true;
    w.break_records(Stream::Lease, true).await;
    let answered = w.record(&waiting, w.answer(&waiting), at(1)).await;
    w.break_records(Stream::Lease, false).await;
    assert!(
        matches!(
            answered.state,
            LeaseState::Revoking { cause: RevokeCause::Undelivered, handle: Some(_), runs_out_at: None, .. }
        ),
        "{answered:?}"
    );
}

pub(crate) async fn what_ends_goes_on_without_a_record_and_says_so(w: &mut World) {
    let root = w.open_root("a").await;
    let lease = w.open_active(&root, "a").await;
    w.lost_records = true;
    w.break_records(Stream::Lease, true).await;
    let ended = w.end(EndWhich::Task(root.id), EndCause::AnchorGone, at(1)).await;
    assert_eq!(ended.leases, [lease.id]);
    assert_eq!(w.task_state(&root).await, TaskState::Ended { at: at(1), cause: EndCause::AnchorGone });
    w.record(&lease, LeaseEvent::Verify { evidence: "gone".to_owned() }, at(2)).await;
    w.reopen().await;
    w.break_records(Stream::Lease, false).await;

    assert!(w.chain(Stream::Admin).await.is_empty());
    let other = w.open_root("b").await;
    let confession = w.records(Stream::Admin).await;
    assert_eq!(events(&confession), ["audit.records_lost"]);
    assert_eq!(confession[0]["count"], 3, "the task's end, the lease's revocation and its end");
    w.end(EndWhich::Task(other.id), EndCause::Explicit, at(3)).await;
    assert_eq!(w.chain(Stream::Admin).await.len(), 1, "it is said once");
}

pub(crate) async fn reopening_keeps_everything(w: &mut World) {
    let root = w.open_root("a").await;
    w.open_child(&root, "b").await;
    w.open_pending(&root, "a").await;
    let active = w.open_active(&root, "a").await;
    w.store().queue_revocations(vec![active.id], RevokeCause::Admin, at(1), None).await.unwrap();
    let before = (w.all_tasks().await, w.all_leases().await, w.chain(Stream::Lease).await);
    w.reopen().await;
    assert_eq!((w.all_tasks().await, w.all_leases().await, w.chain(Stream::Lease).await), before);
    w.check().await;
    // The chains go on where they were.
    w.open_child(&root, "c").await;
    assert_eq!(w.chain(Stream::Lease).await.len(), before.2.len() + 1);
}

pub(crate) async fn records_are_read_from_any_number_on(w: &mut World) {
    let records = (0..200).map(|n| Record::new(Stream::Admin, "noted", at(n)).with("n", n)).collect();
    w.store().write_records(records).await.unwrap();
    let rows = w.store().audit(Stream::Admin, 198, 2).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.seq).collect::<Vec<_>>(), [198, 199]);
    assert_eq!(rows[0].at, at(197));
    assert!(w.store().audit(Stream::Decision, 1, 10).await.unwrap().is_empty());
    w.store().write_records(Vec::new()).await.unwrap();
}

pub(crate) async fn what_needs_an_open_task_is_not_recorded_after_its_end(w: &mut World) {
    let root = w.open_root("a").await;
    let child = w.open_child(&root, "b").await;
    let noted = |at| Record::new(Stream::Decision, "noted", at);
    let note = async |task: &Task, at| w.store().record_under(task.id, task.session, noted(at), at).await;
    note(&child, at(1)).await.unwrap();
    let count = async || w.chain(Stream::Decision).await.len();
    let before = count().await;
    let elsewhere = w.store().record_under(child.id, SessionId::from(child.id), noted(at(1)), at(1)).await;
    assert!(matches!(elsewhere, Err(StoreError::TaskNotOpen)), "another session");
    assert!(matches!(note(&child, at(3600)).await, Err(StoreError::TaskNotOpen)), "past its deadline");
    w.end(EndWhich::Task(root.id), EndCause::Explicit, at(2)).await;
    for task in [&root, &child] {
        assert!(matches!(note(task, at(3)).await, Err(StoreError::TaskNotOpen)));
    }
    assert_eq!(count().await, before);
}

pub(crate) async fn records_are_found_by_time_and_by_what_they_hold(w: &mut World) {
    assert_eq!(w.store().audit_since(Stream::Admin, T0).await.unwrap(), None);
    // The third and the fourth were written in the other order than they were asked.
    let times = [1, 2, 5, 4, 6, 7, 7, 9];
    let note = |(number, second): (usize, &u64)| {
        Record::new(Stream::Admin, "noted", at(*second)).with("number", number)
    };
    w.store().write_records(times.iter().enumerate().map(note).collect()).await.unwrap();
    for (moment, expected) in
        [(0, Some(1)), (1, Some(1)), (2, Some(2)), (6, Some(5)), (7, Some(6)), (8, Some(8)), (10, None)]
    {
        assert_eq!(w.store().audit_since(Stream::Admin, at(moment)).await.unwrap(), expected, "at {moment}");
    }
    assert_eq!(w.store().audit_since(Stream::Lease, at(0)).await.unwrap(), None, "another chain");
    let holding = async |from, within, text| -> Vec<u64> {
        let rows = w.store().audit_holding(Stream::Admin, from, within, text).await.unwrap();
        rows.iter().map(|row| row.seq).collect()
    };
    assert_eq!(holding(1, 8, "\"number\":4").await, [5]);
    assert_eq!(holding(1, 8, "noted").await.len(), 8);
    assert_eq!(holding(3, 2, "noted").await, [3, 4]);
    assert!(holding(6, 8, "\"number\":4").await.is_empty());
}
