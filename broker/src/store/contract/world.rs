//! An empty store, and short words for what is put into it.

use std::collections::{BTreeMap, HashMap, HashSet};

use async_trait::async_trait;
use dayfly_domain::audit::{Record, Stream, Verifier};
use dayfly_domain::id::{LeaseId, RequestId, SessionId, TaskId};
use dayfly_domain::lease::{Handle, Lease, LeaseEvent, LeaseState};
use dayfly_domain::scope::{Ceiling, Promise, Revocability, ScopeAsk};
use dayfly_domain::spiffe::SpiffeId;
use dayfly_domain::stage::Stage;
use dayfly_domain::task::{Anchor, AnchorKind, EndCause, Offer, Task, TaskState};
use dayfly_domain::time::{Timestamp, Ttl};
use serde_json::{Value, json};

use crate::store::{
    AuditRow, EndWhich, Ended, LeaseFilter, LeaseLimits, NewLease, Store, StoreError, TaskClaim, TaskFilter,
};

/// A store under test, and what may befall it.
#[async_trait]
pub(crate) trait Fixture: Send + Sync {
    /// The store.
    fn store(&self) -> &dyn Store;

    /// Closes the store and opens it again.
    async fn reopen(&mut self);

    /// Lets every write of a record to the stream fail, or succeed again.
    async fn break_records(&self, stream: Stream, broken: bool);
}

pub(crate) struct World {
    fixture: Box<dyn Fixture>,
    entropy: u128,
    /// Set by tests that lose records on purpose.
    pub(crate) lost_records: bool,
}

/// The moment at which every test begins.
pub(crate) const T0: Timestamp = Timestamp::from_unix_millis(1_700_000_000_000);

/// Seconds after the beginning.
pub(crate) fn at(seconds: u64) -> Timestamp {
    T0 + Ttl::seconds(seconds)
}

pub(crate) fn identity(name: &str) -> SpiffeId {
    format!("spiffe://example.org/{name}").parse().unwrap()
}

pub(crate) fn handle(name: &str) -> Handle {
    Handle(json!({"accessor": name, "note": "a \"quoted\" ä"}))
}

pub(crate) const NO_LIMITS: LeaseLimits =
    LeaseLimits { per_identity: u32::MAX, per_scope: u32::MAX, per_session: u32::MAX, per_node: u32::MAX };

impl World {
    pub(crate) fn new(fixture: impl Fixture + 'static) -> Self {
        Self { fixture: Box::new(fixture), entropy: 0, lost_records: false }
    }

    pub(crate) fn store(&self) -> &dyn Store {
        self.fixture.store()
    }

    pub(crate) async fn reopen(&mut self) {
        self.fixture.reopen().await;
    }

    pub(crate) async fn break_records(&self, stream: Stream, broken: bool) {
        self.fixture.break_records(stream, broken).await;
    }

    pub(crate) fn entropy(&mut self) -> u128 {
        self.entropy += 1;
        self.entropy
    }

    pub(crate) fn request(&mut self) -> RequestId {
        RequestId::new(T0, self.entropy())
    }

    /// A root by `owner`, over a node, that may live for an hour.
    pub(crate) fn root(&mut self, owner: &str) -> Task {
        let id = TaskId::new(T0, self.entropy());
        let parameters = BTreeMap::from([("dataset".to_owned(), "corpus-7".to_owned())]);
        Task {
            id,
            session: id.into(),
            parent: None,
            opened_by: identity(owner),
            stage: Stage::Training,
            node: Some(identity("node/1")),
            anchor: Anchor {
                kind: AnchorKind::CgroupOwned,
                boot_id: "boot-1".to_owned(),
                cgroup_id: u64::MAX,
                pidfd_inode: 7,
                start_time: 11,
                attested_by: "pidfd".to_owned(),
            },
            key_hash: None,
            ceiling: Ceiling::new(vec![ScopeAsk { scope: "s3-train-read".to_owned(), parameters }]),
            intent: "train 'it'".to_owned(),
            labels: [("team".to_owned(), "a \"b\"".to_owned())].into(),
            offer: None,
            opened_at: T0,
            state: TaskState::Open { deadline: at(3600) },
        }
    }

    /// A child of `parent`, otherwise like a root.
    pub(crate) fn child(&mut self, parent: &Task, owner: &str) -> Task {
        let child = self.root(owner);
        Task { session: parent.session, parent: Some(parent.id), ..child }
    }

    /// A task under `parent` that waits half a minute for `owner` to claim it, and then may live for ten.
    pub(crate) fn offer(&mut self, parent: &Task, owner: &str) -> Task {
        Task {
            node: None,
            anchor: Anchor::of_no_process(AnchorKind::Offer),
            offer: Some(Offer { deadline: at(600) }),
            state: TaskState::Open { deadline: at(30) },
            ..self.child(parent, owner)
        }
    }

    pub(crate) async fn open_offer(&mut self, parent: &Task, owner: &str) -> Task {
        let task = self.offer(parent, owner);
        self.try_open(&task).await.unwrap();
        task
    }

    /// A claim over another node than where the task was offered.
    pub(crate) fn claim(&self, task: &Task, claimant: &str, now: Timestamp) -> TaskClaim {
        TaskClaim {
            task: task.id,
            claimant: identity(claimant),
            stage: Stage::Tool,
            node: Some(identity("node/2")),
            anchor: Anchor {
                kind: AnchorKind::Process,
                boot_id: "boot-2".to_owned(),
                cgroup_id: 0,
                pidfd_inode: 17,
                start_time: 19,
                attested_by: "pidfd".to_owned(),
            },
            key_hash: None,
            latest_deadline: now + Ttl::hours(1),
            now,
        }
    }

    pub(crate) async fn try_claim(&mut self, claim: TaskClaim) -> Result<Task, StoreError> {
        let decision = Record::new(Stream::Decision, "decision.allow", claim.now).with("task_id", claim.task);
        let request = self.request();
        self.store().claim_task(claim, decision, request).await
    }

    pub(crate) async fn try_open(&mut self, task: &Task) -> Result<(), StoreError> {
        let decision =
            Record::new(Stream::Decision, "decision.allow", task.opened_at).with("task_id", task.id);
        let request = self.request();
        self.store().open_task(task.clone(), decision, request).await
    }

    pub(crate) async fn open_root(&mut self, owner: &str) -> Task {
        let task = self.root(owner);
        self.try_open(&task).await.unwrap();
        task
    }

    pub(crate) async fn open_child(&mut self, parent: &Task, owner: &str) -> Task {
        let task = self.child(parent, owner);
        self.try_open(&task).await.unwrap();
        task
    }

    /// A pending lease of `holder`, whose lost answer could work for a minute.
    pub(crate) fn pending(&mut self, task: &Task, holder: &str) -> Lease {
        Lease {
            id: LeaseId::new(T0, self.entropy()),
            task: task.id,
            session: task.session,
            spiffe_id: identity(holder),
            scope: "s3-train-read".to_owned(),
            parameters: BTreeMap::from([("dataset".to_owned(), "corpus-7".to_owned())]),
            provider: "vault".to_owned(),
            promise: Promise {
                revocability: Revocability::Exact,
                worst_case_after_end: Ttl::seconds(30),
                leaves_behind: Vec::new(),
            },
            narrowed: None,
            renews: None,
            opened_at: T0,
            state: LeaseState::Pending { since: T0, residue_until: at(60) },
        }
    }

    /// A lease that was given out locally, for ten minutes.
    pub(crate) fn active(&mut self, task: &Task, holder: &str) -> Lease {
        let lease = self.pending(task, holder);
        let handle = handle(&lease.id.to_string());
        Lease { state: LeaseState::Active { expires_at: at(600), handle }, ..lease }
    }

    pub(crate) fn new_lease(&mut self, lease: &Lease, limits: LeaseLimits) -> NewLease {
        let decision =
            Record::new(Stream::Decision, "decision.allow", lease.opened_at).with("lease_id", lease.id);
        let node = Some(identity("node/1"));
        NewLease { lease: lease.clone(), decision, node, limits, request: self.request(), key: None }
    }

    pub(crate) async fn try_lease(&mut self, lease: &Lease, now: Timestamp) -> Result<(), StoreError> {
        let new = self.new_lease(lease, NO_LIMITS);
        self.store().open_lease(new, now).await
    }

    pub(crate) async fn open_pending(&mut self, task: &Task, holder: &str) -> Lease {
        let lease = self.pending(task, holder);
        self.try_lease(&lease, T0).await.unwrap();
        lease
    }

    pub(crate) async fn open_active(&mut self, task: &Task, holder: &str) -> Lease {
        let lease = self.active(task, holder);
        self.try_lease(&lease, T0).await.unwrap();
        lease
    }

    /// The target's answer for a lease.
    pub(crate) fn answer(&self, lease: &Lease) -> LeaseEvent {
        LeaseEvent::Issue { expires_at: at(600), handle: handle(&lease.id.to_string()) }
    }

    pub(crate) async fn record(&self, lease: &Lease, event: LeaseEvent, now: Timestamp) -> Lease {
        self.store().record_lease(lease.id, event, now, None).await.unwrap()
    }

    pub(crate) async fn end(&self, which: EndWhich, cause: EndCause, now: Timestamp) -> Ended {
        self.store().end(which, cause, now, None).await.unwrap()
    }

    pub(crate) async fn lease_state(&self, lease: &Lease) -> LeaseState {
        self.store().lease(lease.id).await.unwrap().expect("the lease was opened").lease.state
    }

    pub(crate) async fn task_state(&self, task: &Task) -> TaskState {
        self.store().lineage(task.id).await.unwrap().pop().expect("the task was opened").state
    }

    pub(crate) async fn all_tasks(&self) -> Vec<Task> {
        let filter = TaskFilter { include_ended: true, ..TaskFilter::default() };
        self.store().tasks(filter).await.unwrap().into_iter().map(|(task, _)| task).collect()
    }

    pub(crate) async fn all_leases(&self) -> Vec<Lease> {
        let filter = LeaseFilter { include_ended: true, ..LeaseFilter::default() };
        self.store().leases(filter).await.unwrap().into_iter().map(|row| row.lease).collect()
    }

    pub(crate) async fn chain(&self, stream: Stream) -> Vec<AuditRow> {
        self.store().audit(stream, 1, u32::MAX).await.unwrap()
    }

    /// Events of a chain with the fields they carry.
    pub(crate) async fn records(&self, stream: Stream) -> Vec<Value> {
        self.chain(stream).await.iter().map(|row| serde_json::from_slice(&row.bytes).unwrap()).collect()
    }

    /// What holds at any time, whatever was done.
    pub(crate) async fn check(&self) {
        self.check_chains().await;
        let (tasks, leases) = (self.all_tasks().await, self.all_leases().await);
        let open: HashSet<TaskId> = tasks
            .iter()
            .filter(|task| matches!(task.state, TaskState::Open { .. }))
            .map(|task| task.id)
            .collect();
        for task in tasks.iter().filter(|task| open.contains(&task.id)) {
            assert!(
                task.parent.is_none_or(|parent| open.contains(&parent)),
                "{task:?} is open under an ended task"
            );
            assert!(open.contains(&TaskId::from(task.session)), "{task:?} is open in an ended session");
        }
        for lease in &leases {
            let is_held = matches!(lease.state, LeaseState::Pending { .. } | LeaseState::Active { .. });
            assert!(!is_held || open.contains(&lease.task), "{lease:?} lives under an ended task");
        }
        for offer in tasks.iter().filter(|task| task.offer.is_some()) {
            assert!(!tasks.iter().any(|task| task.parent == Some(offer.id)), "a task under {offer:?}");
            assert!(!leases.iter().any(|lease| lease.task == offer.id), "a lease under {offer:?}");
        }
        if !self.lost_records {
            self.check_records(&tasks, &leases).await;
        }
    }

    async fn check_chains(&self) {
        for stream in Stream::ALL {
            let mut verifier = Verifier::default();
            for row in self.chain(stream).await {
                verifier.take(row.seq, &row.prev_hash, &row.hash, &row.bytes).unwrap();
            }
        }
    }

    /// The last record of each task and lease tells where it stands, and there is a decision for each of them.
    async fn check_records(&self, tasks: &[Task], leases: &[Lease]) {
        let mut last = HashMap::new();
        for record in self.records(Stream::Lease).await {
            let event = record["event"].as_str().unwrap().to_owned();
            let about = if event.starts_with("task.") { "task_id" } else { "lease_id" };
            let about = record[about].as_str().unwrap().to_owned();
            // What was opened for itself is never claimed, and what was claimed is not claimed again.
            let before = last.insert(about, event.clone());
            assert!(event != "task.claimed" || before.as_deref() == Some("task.offered"), "{record}");
        }
        let mut decided = HashSet::new();
        for record in self.records(Stream::Decision).await {
            let about = record.get("lease_id").or(record.get("task_id"));
            decided.insert(about.and_then(Value::as_str).unwrap_or_default().to_owned());
        }
        for task in tasks {
            let told: &[&str] = match (task.state, task.offer) {
                (TaskState::Ended { .. }, _) => &["task.ended"],
                (TaskState::Open { .. }, Some(_)) => &["task.offered"],
                (TaskState::Open { .. }, None) => &["task.open", "task.claimed"],
            };
            let last = last.get(&task.id.to_string()).map(String::as_str);
            assert!(last.is_some_and(|last| told.contains(&last)), "{last:?}: {task:?}");
            assert!(decided.contains(&task.id.to_string()), "{task:?} was opened without a decision");
        }
        for lease in leases {
            let told = format!("lease.{}", lease.state.name());
            assert_eq!(last.get(&lease.id.to_string()), Some(&told), "{lease:?}");
            assert!(decided.contains(&lease.id.to_string()), "{lease:?} was opened without a decision");
        }
    }
}

/// The session of a task.
pub(crate) fn session(task: &Task) -> SessionId {
    task.session
}
