//! Opens a task, or takes one that was opened for the caller: `stand → attest → anchor → attest again → ask the broker →
//! deliver → watch`.
//!
//! The caller is the task's leader: it is moved into the task, then becomes the program by `exec`. Nothing of ours stays
//! between it and its exit. Whatever fails on the way is undone, and the caller is back where it was.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use dayfly_client::BrokerClient;
use tonic::{Code, Status};
use tracing::{debug, warn};

use super::ask::{Ask, Entered, Granted, Known};
use super::environment::{self, AWS_BEARER, Places};
use super::io::Caller;
use super::refuse::Refuse;
use crate::adopt;
use crate::anchor::{Anchor, EndsWith, ProcessAnchor};
use crate::attester::Attester;
use crate::cgroup::{CgroupError, CgroupTree, TaskCgroup};
use crate::config::Anchors;
use crate::credentials::Provider;
use crate::deliver::Deliverer;
use crate::fault_point;
use crate::fence::Fence;
use crate::folder::{FolderError, Folders, TaskFolder};
use crate::image::Image;
use crate::journal::{self, Delivered, Entry, Journal};
use crate::member::Standing;
use crate::native::token_file::{self, Launcher};
use crate::process::{Process, ProcessError, ProcessId};
use crate::task::{Delivery, EndSignal, NewTask};
use crate::tasks::Tasks;

/// The label by which a caller asks that what its program leaves behind is not killed.
pub const LEAVE_ORPHANS: &str = "leave_orphans";
/// The label by which a caller asks that the last process ends the task, and not the leader.
pub const WAIT_ALL: &str = "wait_all";

/// How long a caller waits for an agent that has not heard the broker yet.
pub const HEARD_SOON: Duration = Duration::from_millis(1500);

/// Everything that opening a task needs.
#[derive(Debug)]
pub struct Opener {
    /// The table.
    pub tasks: Arc<Tasks>,
    /// Who the caller is.
    pub attester: Arc<Attester>,
    /// Who decides.
    pub broker: BrokerClient,
    /// Where credentials come from later.
    pub deliverer: Arc<Deliverer>,
    /// Whether anything may be served.
    pub fence: Arc<Fence>,
    /// Per-task files.
    pub folders: Folders,
    /// Where cgroups are made, if the agent may.
    pub tree: Option<CgroupTree>,
    /// What tasks hang on.
    pub anchors: Anchors,
    /// What environments name.
    pub places: Places,
    /// What a restarted agent finds tasks again by.
    pub journal: Arc<Journal>,
    /// Names this boot.
    pub boot_id: String,
    /// Those whose task is being opened now.
    pub opening: Mutex<HashSet<ProcessId>>,
}

impl Opener {
    /// Makes the caller the leader of a task.
    pub async fn enter(&self, caller: &Caller, ask: &Ask, refuse: &Refuse<'_>) -> Result<Entered, Status> {
        if !self.fence.down_within(HEARD_SOON).await {
            let message = "the broker has been silent for too long";
            return Err(refuse.with(
                Code::Unavailable,
                "FENCED",
                message,
                "try again when the broker is back",
            ));
        }
        let leader = &caller.process;
        let _turn = self.turn(leader, refuse)?;
        let parent = self.parent(leader, refuse)?;
        if let (Ask::Claim(_), Some(_)) = (ask, &parent) {
            // It would stand in two trees, with the authority of both.
            let message = "the caller stands in a task already, and a process stands in one";
            let next = "claim from a process outside; a server of many tasks claims directly at the broker";
            return Err(refuse.with(Code::FailedPrecondition, "STANDS_IN_A_TASK", message, next));
        }
        let before = self.attester.subject(leader).await.map_err(|error| refuse.attestation(&error))?;

        fault_point!("open.before_anchor");
        let ends_with = if ask.is_set(WAIT_ALL) { EndsWith::LastProcess } else { EndsWith::Leader };
        let anchor = self.anchor(leader, parent.as_deref(), ends_with, refuse)?;
        let opened = async {
            fault_point!("open.after_anchor");
            // In its cgroup it is another to the kernel, and may be to SPIRE.
            let subject = self.attester.subject(leader).await.map_err(|error| refuse.attestation(&error))?;
            if subject.spiffe_id != before.spiffe_id {
                let message = format!(
                    "in a cgroup of its own the caller is {}, not {}",
                    subject.spiffe_id, before.spiffe_id
                );
                let next =
                    "set tasks.anchor = \"process\" on this node: its SPIRE selectors depend on the cgroup";
                return Err(refuse.with(Code::FailedPrecondition, "IDENTITY_CHANGED", message, next));
            }
            let _opening = self.tasks.opening.read().await;
            let known = Known {
                subject_token: subject.token.to_string(),
                parent: parent.clone(),
                anchor: adopt::observed(&anchor, &self.boot_id, caller.attested_by.as_str()),
            };
            fault_point!("open.before_broker");
            let granted = ask.put(&self.broker, known).await.map_err(|status| refuse.broker(status))?;
            fault_point!("open.after_broker");
            self.take_in(caller, parent, ask.is_set(LEAVE_ORPHANS), &anchor, granted, refuse)
        };
        let opened = opened.await;
        if opened.is_err() {
            undo(&anchor);
        }
        opened
    }

    /// One process opens one task at a time: two moves at once would take it out of the first.
    fn turn(&self, leader: &Process, refuse: &Refuse<'_>) -> Result<Turn<'_>, Status> {
        let mut opening = self.opening.lock().expect("no holder of this lock panics");
        if !opening.insert(leader.id()) {
            let message = "this process is opening another task";
            return Err(refuse.with(Code::Aborted, "OPEN_IN_PROGRESS", message, "open one task at a time"));
        }
        Ok(Turn { leader: leader.id(), of: self })
    }

    /// The innermost task the caller stands in, whatever it may say.
    fn parent(&self, leader: &Process, refuse: &Refuse<'_>) -> Result<Option<String>, Status> {
        match self.tasks.roster().innermost(leader).map_err(|refusal| refuse.standing(&refusal))? {
            Standing::Outside => Ok(None),
            Standing::In(task) => {
                if self.tasks.get(&task).is_some_and(|task| task.is_open()) {
                    return Ok(Some(task));
                }
                let next = "processes that outlive their task cannot open another; start from outside";
                Err(refuse.with(Code::FailedPrecondition, "TASK_ENDED", "the caller's task has ended", next))
            }
        }
    }

    fn anchor(
        &self,
        leader: &Process,
        parent: Option<&str>,
        ends_with: EndsWith,
        refuse: &Refuse<'_>,
    ) -> Result<Arc<Anchor>, Status> {
        if let (Some(tree), Anchors::Auto | Anchors::Cgroup) = (&self.tree, self.anchors) {
            let roster = self.tasks.roster();
            let above: Option<&TaskCgroup> = parent.and_then(|parent| roster.cgroup_above(parent));
            match tree.open_task(&format!("{:032x}", rand::random::<u128>()), above, leader) {
                Ok(cgroup) => {
                    let leader = Some(leader.clone());
                    return Ok(Arc::new(Anchor::OwnedCgroup { cgroup, leader, ends_with }));
                }
                Err(CgroupError::Process(error)) => return Err(refuse.gone(&error.to_string())),
                Err(error) if self.anchors == Anchors::Cgroup => {
                    let next = "run the agent as root, with a cgroup of its own";
                    return Err(refuse.with(Code::FailedPrecondition, "NO_CGROUP", error.to_string(), next));
                }
                Err(error) => debug!(%error, "no cgroup for this task; it hangs on its process"),
            }
        }
        match ProcessAnchor::new(leader, leader.clone()) {
            Ok(anchor) => Ok(Arc::new(Anchor::Process(anchor))),
            Err(error) => Err(refuse.gone(&error.to_string())),
        }
    }

    /// The broker has granted the task: whatever fails from here on ends it again.
    fn take_in(
        &self,
        caller: &Caller,
        parent: Option<String>,
        leave_orphans: bool,
        anchor: &Arc<Anchor>,
        granted: Granted,
        refuse: &Refuse<'_>,
    ) -> Result<Entered, Status> {
        let task_id = granted.task_id.clone();
        let end_again = |status: Status| {
            self.tasks.tell(&task_id, &EndSignal::Explicit);
            status
        };
        let slots = environment::deliveries(&granted.ceiling, &granted.providers).map_err(|same| {
            let message = format!(
                "the scopes `{}` and `{}` are both of the provider {}: a program would look for both in one place",
                same.first, same.second, same.provider
            );
            let next = "open a child task for one of them, or ask for its credential by IssueCredential";
            end_again(refuse.with(Code::InvalidArgument, "TWO_SCOPES_ONE_SLOT", message, next))
        })?;
        let (deliveries, bearers) = slots;
        if deliveries.contains_key(Provider::Token.as_str())
            && let Err(why) = self.folders.may_hold_credentials()
        {
            let next = "let the operator put agent.runtime_dir on tmpfs, or set agent.mount_memory_fs";
            return Err(end_again(refuse.with(Code::FailedPrecondition, "TOKEN_FILE_UNSAFE", why, next)));
        }
        let folder = self.folder(caller, &task_id, &bearers).map_err(|error| {
            let next = "see the agent's log; it needs CAP_CHOWN for workloads of other users";
            end_again(refuse.with(Code::FailedPrecondition, "NO_TASK_FILES", error.to_string(), next))
        })?;
        fault_point!("open.after_folder");
        let environment =
            environment::variables(&task_id, &deliveries, &bearers, Some(&folder), &self.places);
        // Read before the answer: only with that can the launcher go on to `exec`. Without it the leader is dead.
        let has_token = deliveries.contains_key(Provider::Token.as_str());
        let launcher = if has_token { Image::of(&caller.process).ok() } else { None };
        let deadline = granted.deadline.and_then(|deadline| SystemTime::try_from(deadline).ok());
        let entry = adopt::remembered(anchor).map(|anchored| Entry {
            id: task_id.clone(),
            session_id: granted.session_id.clone(),
            parent: parent.clone(),
            opened_at: SystemTime::now(),
            deadline,
            anchor: anchored,
            attested_by: caller.attested_by.as_str().to_owned(),
            leave_orphans,
            owner: folder.owner(),
            deliveries: deliveries.iter().map(|(provider, delivery)| delivered(provider, delivery)).collect(),
            launcher: launcher.clone(),
        });
        if let Some(Err(error)) = entry.map(|entry| self.journal.opened(entry)) {
            let next = "see the agent's log; agent.runtime_dir may be full";
            let message = format!("the task could not be noted for a restart of the agent: {error}");
            return Err(end_again(refuse.with(Code::FailedPrecondition, "NO_TASK_FILES", message, next)));
        }
        fault_point!("open.after_journal");
        let task = self.tasks.insert(NewTask {
            id: task_id.clone(),
            session_id: granted.session_id.clone(),
            parent,
            deadline,
            anchor: Arc::clone(anchor),
            leave_orphans,
            deliveries,
            folder: Some(folder),
        });
        let Ok(task) = task else {
            let next = "start from outside, in a new task";
            return Err(refuse.with(
                Code::FailedPrecondition,
                "TASK_ENDED",
                "the caller's task has ended",
                next,
            ));
        };
        if let Some(image) = launcher {
            let (deliverer, fence) = (Arc::clone(&self.deliverer), Arc::clone(&self.fence));
            let launcher = Launcher { process: caller.process.clone(), image, closed: caller.closed.clone() };
            tokio::spawn(token_file::keep(task, launcher, deliverer, fence));
        }
        fault_point!("open.before_answer");
        Ok(Entered { granted, environment })
    }

    fn folder(
        &self,
        caller: &Caller,
        task_id: &str,
        bearers: &environment::Bearers,
    ) -> Result<TaskFolder, FolderError> {
        let key = caller.process.facts().map(|facts| facts.key);
        let (uid, gid) = key.map_or_else(|_| own_ids(), |key| (key.uid, key.gid));
        let folder = self.folders.open(task_id, uid, gid)?;
        if let Some(bearer) = bearers.get(Provider::Aws.as_str()) {
            folder.put(AWS_BEARER, bearer.as_bytes())?;
        }
        Ok(folder)
    }
}

/// A delivery as the journal has it.
fn delivered(provider: &str, delivery: &Delivery) -> (String, Delivered) {
    let delivered = Delivered {
        scope: delivery.scope.scope.clone(),
        parameters: delivery.scope.parameters.clone().into_iter().collect(),
        bearer_sha256: delivery.bearer.map(|bearer| journal::hex(bearer.hash())),
    };
    (provider.to_owned(), delivered)
}

/// A leader that has died meanwhile reads no files.
fn own_ids() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

/// Puts the caller, and what it forked meanwhile, back where it was.
fn undo(anchor: &Anchor) {
    let Anchor::OwnedCgroup { cgroup, leader, .. } = anchor else { return };
    if let Some(leader) = leader
        && let Err(error) = cgroup.release(leader)
        && !matches!(error, CgroupError::Process(ProcessError::Gone))
    {
        warn!(%error, "could not move a process back out of a task that was not opened");
    }
    for pid in cgroup.processes().unwrap_or_default() {
        if let Ok(process) = Process::open(pid) {
            let _ = cgroup.release(&process);
        }
    }
    if let Err(error) = anchor.remove() {
        warn!(%error, "could not remove the cgroup of a task that was not opened");
    }
}

/// The right to open a task, one at a time for each process.
struct Turn<'a> {
    leader: ProcessId,
    of: &'a Opener,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.of.opening.lock().expect("no holder of this lock panics").remove(&self.leader);
    }
}
