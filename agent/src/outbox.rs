//! What the broker has to hear, kept until it has heard it.
//!
//! An end is told on every stream and repeated with each heartbeat until the broker says that it is on record. Nothing
//! here is lost by a broker that is away.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Mutex;
use std::time::SystemTime;

use dayfly_proto::v1::attach_request::Message;
use dayfly_proto::v1::{EndAcknowledged, LeaseSeen, TaskEnded};
use tokio::sync::Notify;

/// More leases of one task's target than this are not reported by name; they end with the task's own credential.
const MOST_SEEN: usize = 1000;

/// Messages for the broker.
#[derive(Debug, Default)]
pub struct Outbox {
    inner: Mutex<Inner>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    ends: BTreeMap<String, TaskEnded>,
    seen: HashMap<String, Vec<LeaseSeen>>,
    fresh: VecDeque<Message>,
}

impl Outbox {
    /// A task ended here: `exit`, `cgroup_empty`, `explicit`, `agent_restarted`.
    pub fn task_ended(&self, task_id: &str, signal: &str, at: SystemTime) {
        let ended = TaskEnded {
            task_id: task_id.to_owned(),
            signal: signal.to_owned(),
            observed_at: Some(at.into()),
        };
        let mut inner = self.lock();
        inner.seen.remove(task_id);
        // The first signal is the one that counts.
        if inner.ends.contains_key(task_id) {
            return;
        }
        inner.ends.insert(task_id.to_owned(), ended.clone());
        inner.fresh.push_back(Message::TaskEnded(ended));
        drop(inner);
        self.wake.notify_one();
    }

    /// The broker ordered an end, and nothing of the task is served any more.
    pub fn end_acknowledged(&self, task_id: &str) {
        let mut inner = self.lock();
        inner.seen.remove(task_id);
        inner.fresh.push_back(Message::EndAcknowledged(EndAcknowledged { task_id: task_id.to_owned() }));
        drop(inner);
        self.wake.notify_one();
    }

    /// The target handed out something of its own under a task's credential.
    pub fn lease_seen(&self, seen: LeaseSeen) {
        let mut inner = self.lock();
        let of_task = inner.seen.entry(seen.task_id.clone()).or_default();
        if of_task.len() >= MOST_SEEN || of_task.contains(&seen) {
            return;
        }
        of_task.push(seen.clone());
        inner.fresh.push_back(Message::LeaseSeen(seen));
        drop(inner);
        self.wake.notify_one();
    }

    /// The broker has the end on record; it need not be told again.
    pub fn recorded(&self, task_id: &str) {
        self.lock().ends.remove(task_id);
    }

    /// How many ends the broker has not recorded.
    pub fn unrecorded(&self) -> usize {
        self.lock().ends.len()
    }

    /// Everything that a new stream has to begin with.
    pub fn all(&self) -> Vec<Message> {
        let mut inner = self.lock();
        inner.fresh.retain(|message| matches!(message, Message::EndAcknowledged(_)));
        let acknowledged: Vec<Message> = inner.fresh.drain(..).collect();
        let ends = inner.ends.values().cloned().map(Message::TaskEnded);
        let seen = inner.seen.values().flatten().cloned().map(Message::LeaseSeen);
        ends.chain(acknowledged).chain(seen).collect()
    }

    /// The ends that are to be told again.
    pub fn ends(&self) -> Vec<Message> {
        self.lock().ends.values().cloned().map(Message::TaskEnded).collect()
    }

    /// What was not told on this stream yet. Waits until there is something.
    pub async fn fresh(&self) -> Vec<Message> {
        loop {
            let woken = self.wake.notified();
            let fresh: Vec<Message> = self.lock().fresh.drain(..).collect();
            if !fresh.is_empty() {
                return fresh;
            }
            woken.await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder of this lock panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_end_is_told_until_it_is_recorded() {
        let outbox = Outbox::default();
        outbox.task_ended("t", "exit", SystemTime::now());
        outbox.task_ended("t", "explicit", SystemTime::now());
        let fresh = outbox.fresh().await;
        assert!(matches!(&fresh[..], [Message::TaskEnded(ended)] if ended.signal == "exit"), "{fresh:?}");
        assert_eq!(outbox.ends().len(), 1);
        assert_eq!(outbox.all().len(), 1, "a new stream hears it again");
        outbox.recorded("t");
        assert_eq!((outbox.unrecorded(), outbox.all().len()), (0, 0));
    }

    #[test]
    fn leases_of_the_target_are_told_once_a_stream_and_forgotten_with_the_task() {
        let outbox = Outbox::default();
        let seen = LeaseSeen {
            task_id: "t".to_owned(),
            lease_id: "l".to_owned(),
            target_lease_id: "database/creds/ro/abc".to_owned(),
        };
        outbox.lease_seen(seen.clone());
        outbox.lease_seen(seen);
        assert_eq!(outbox.all().len(), 1);
        outbox.end_acknowledged("t");
        assert!(matches!(&outbox.all()[..], [Message::EndAcknowledged(_)]));
        assert!(outbox.all().is_empty());
    }
}
