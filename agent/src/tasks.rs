//! The agent's table of tasks, and how each ends.
//!
//! One watcher per task waits for its anchor; a member or the broker may be first. Whoever is: serving stops at once, the
//! broker is told and told again, then what is left is killed, and files and cgroup are removed. A task stays in the
//! roster until nothing of it is alive, so that what survives it does not pass for a process that never was in a task.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use arc_swap::ArcSwap;
use dayfly_proto::v1;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::anchor::{Anchor, EndCause, EndsWith, Spare};
use crate::credentials::Provider;
use crate::fault_point;
use crate::journal::Journal;
use crate::member::Roster;
use crate::metrics::Metrics;
use crate::outbox::Outbox;
use crate::task::{Bearer, EndSignal, NewTask, Task};

/// A task that is not served any more and not yet cleaned up, with those below it.
#[derive(Debug)]
#[must_use = "what is left of the task has to be cleaned up"]
pub struct Ending {
    task: Arc<Task>,
    below: Vec<Arc<Task>>,
}

impl Ending {
    /// How many tasks it is.
    pub fn tasks(&self) -> usize {
        1 + self.below.len()
    }
}

/// All tasks of this agent.
#[derive(Debug)]
pub struct Tasks {
    table: Mutex<HashMap<String, Arc<Task>>>,
    roster: ArcSwap<Roster>,
    /// What the broker has to hear.
    pub outbox: Outbox,
    /// Held for reading from a task's opening at the broker until it stands in the table: an inventory made in between
    /// would lack it, and what is missing has ended.
    pub opening: tokio::sync::RwLock<()>,
    /// Tasks of an earlier life that the broker has not agreed to yet, with what the kernel says of their anchors.
    unconfirmed: Mutex<HashMap<String, v1::Anchor>>,
    journal: Option<Arc<Journal>>,
    background: TaskTracker,
    metrics: Arc<Metrics>,
}

impl Tasks {
    /// No tasks yet. Ends go into the journal, if there is one.
    pub fn new(roster: Roster, journal: Option<Arc<Journal>>, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            table: Mutex::default(),
            roster: ArcSwap::from_pointee(roster),
            outbox: Outbox::default(),
            opening: tokio::sync::RwLock::default(),
            unconfirmed: Mutex::default(),
            journal,
            background: TaskTracker::new(),
            metrics,
        })
    }

    /// Who belongs where, now.
    pub fn roster(&self) -> Arc<Roster> {
        self.roster.load_full()
    }

    /// A task that is open or ending.
    pub fn get(&self, id: &str) -> Option<Arc<Task>> {
        self.lock().get(id).cloned()
    }

    /// The open task whose bearer this is. Takes as long whichever it is.
    pub fn by_bearer(&self, provider: Provider, shown: &[u8]) -> Option<Arc<Task>> {
        let shown = Bearer::of(shown);
        let mut found = None;
        for task in self.lock().values() {
            if task.has_bearer(provider, &shown) {
                found = Some(Arc::clone(task));
            }
        }
        found.filter(|task| task.is_open())
    }

    /// The ids of all open tasks.
    pub fn inventory(&self) -> Vec<String> {
        self.lock().values().filter(|task| task.is_open()).map(|task| task.id.clone()).collect()
    }

    /// All open tasks.
    pub fn open_tasks(&self) -> Vec<Arc<Task>> {
        self.lock().values().filter(|task| task.is_open()).cloned().collect()
    }

    /// Whether `task` is `above` or below it.
    pub fn is_at_or_below(&self, task: &str, above: &str) -> bool {
        let table = self.lock();
        is_at_or_below(&table, task, above)
    }

    /// Takes a task in and watches it. `Err` when its parent ended while it was opened: then it has ended as well.
    pub fn insert(self: &Arc<Self>, new: NewTask) -> Result<Arc<Task>, Arc<Task>> {
        let (task, parent_is_over) = self.place(new);
        self.metrics.tasks_opened.inc();
        info!(
            task_id = %task.id, session_id = %task.session_id, parent = task.parent.as_deref().unwrap_or(""),
            anchor = task.anchor.kind(), pid = task.anchor.leader().map(|leader| leader.id().pid), "task opened"
        );
        if parent_is_over {
            self.end(&task.id, &EndSignal::Explicit);
            return Err(task);
        }
        Ok(task)
    }

    /// Takes a task of an earlier life in again, and watches it. It is served once the broker has agreed.
    pub fn adopt(self: &Arc<Self>, again: NewTask, observed: v1::Anchor) -> Arc<Task> {
        let unconfirmed = &mut *self.unconfirmed.lock().expect("no holder of this lock panics");
        unconfirmed.insert(again.id.clone(), observed);
        self.place(again).0
    }

    /// What the broker has to agree to, and what the kernel says of it now.
    pub fn unconfirmed(&self) -> Vec<(String, v1::Anchor)> {
        let unconfirmed = self.unconfirmed.lock().expect("no holder of this lock panics");
        unconfirmed.iter().map(|(id, anchor)| (id.clone(), anchor.clone())).collect()
    }

    /// The broker said which of these it holds open with that very anchor. The others end here.
    pub fn confirm(self: &Arc<Self>, asked: &[String], confirmed: &[String]) {
        let mut unconfirmed = self.unconfirmed.lock().expect("no holder of this lock panics");
        for id in asked {
            unconfirmed.remove(id);
        }
        drop(unconfirmed);
        for id in asked {
            let outcome = if confirmed.contains(id) {
                info!(task_id = %id, "a task of an earlier life goes on");
                "adopted"
            } else {
                // Where it ordered the end itself, this changes nothing.
                self.end(id, &EndSignal::AnchorChanged);
                "refused"
            };
            Metrics::count(&self.metrics.tasks_adopted, outcome);
        }
    }

    fn place(self: &Arc<Self>, new: NewTask) -> (Arc<Task>, bool) {
        let task = Arc::new(Task::from(new));
        let parent_is_over = {
            let mut table = self.lock();
            let is_over = |parent: &String| table.get(parent).is_none_or(|parent| !parent.is_open());
            let parent_is_over = task.parent.as_ref().is_some_and(is_over);
            table.insert(task.id.clone(), Arc::clone(&task));
            self.change_roster(|roster| {
                roster.insert(task.id.clone(), task.parent.clone(), Arc::clone(&task.anchor));
            });
            self.metrics.tasks.set(count(&table));
            parent_is_over
        };
        let (tasks, watched) = (Arc::clone(self), Arc::clone(&task));
        self.background.spawn(async move {
            tokio::select! {
                cause = watched.anchor.ended() => {
                    fault_point!("end.seen");
                    let cause = told_apart(&watched.anchor, cause).await;
                    tasks.end(&watched.id, &EndSignal::Anchor(cause));
                }
                () = watched.ended() => {}
            }
        });
        (task, parent_is_over)
    }

    /// Ends a task and all below it. Says how many were open; the second call for one is harmless.
    ///
    /// When this returns, nothing of them is served any more and the broker will be told; the rest goes on behind.
    pub fn end(self: &Arc<Self>, id: &str, signal: &EndSignal) -> usize {
        let Some(ending) = self.stop_serving(id, signal) else {
            // The broker asks about what is long gone here: it may have missed the answer.
            if matches!(signal, EndSignal::Ordered(_)) {
                self.outbox.end_acknowledged(id);
            }
            return 0;
        };
        fault_point!("end.after_stop_serving");
        self.tell(id, signal);
        fault_point!("end.after_report");
        let tasks_ended = ending.tasks();
        self.clean_up(ending, signal);
        tasks_ended
    }

    /// Tells the broker of an end, until it is on record.
    pub fn tell(&self, id: &str, signal: &EndSignal) {
        match signal.word() {
            Some(word) => self.outbox.task_ended(id, word, std::time::SystemTime::now()),
            None => self.outbox.end_acknowledged(id),
        }
        self.metrics.ends_unrecorded.set(i64::try_from(self.outbox.unrecorded()).unwrap_or(i64::MAX));
    }

    /// The end of a task is on record at the broker.
    pub fn recorded(&self, id: &str) {
        self.outbox.recorded(id);
        self.metrics.ends_unrecorded.set(i64::try_from(self.outbox.unrecorded()).unwrap_or(i64::MAX));
    }

    /// Ends everything and waits until it is cleaned up and recorded, or the time is over.
    pub async fn stop(self: &Arc<Self>, within: Duration) {
        for task in self.open_tasks() {
            self.end(&task.id, &EndSignal::AgentStops);
        }
        self.background.close();
        let all = async {
            self.background.wait().await;
            while self.outbox.unrecorded() > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(within, all).await.is_err() {
            warn!(unrecorded = self.outbox.unrecorded(), "stopped before every end was on record");
        }
    }

    /// Leaves everything as it is for the next life of the agent: processes, cgroups and files.
    pub fn leave(&self) {
        let tasks = self.open_tasks();
        info!(tasks = tasks.len(), "open tasks are left for the next start");
        for task in tasks {
            if let Some(folder) = &task.folder {
                folder.leave();
            }
        }
    }

    /// The first half of [`Tasks::end`]: nothing is served any more. `None` if it was over already. What is returned has
    /// to be told and cleaned up, whatever happens in between.
    pub fn stop_serving(&self, id: &str, signal: &EndSignal) -> Option<Ending> {
        let table = self.lock();
        let task = Arc::clone(table.get(id)?);
        if !task.finish(signal.cause()) {
            return None;
        }
        let below: Vec<Arc<Task>> = table
            .values()
            .filter(|other| other.id != task.id && is_at_or_below(&table, &other.id, id))
            .filter(|other| other.finish("parent_ended"))
            .cloned()
            .collect();
        self.metrics.tasks.set(count(&table));
        drop(table);
        // Before anybody is told: a restarted agent must not take up what its caller believes to be over.
        if let Some(journal) = &self.journal {
            for over in below.iter().chain([&task]) {
                journal.over(&over.id);
            }
        }
        Metrics::count(&self.metrics.tasks_ended, signal.metric());
        info!(
            task_id = id,
            cause = signal.cause(),
            signal = signal.metric(),
            below = below.len(),
            "task ended"
        );
        Some(Ending { task, below })
    }

    /// The second half: kills what is left, and removes files and cgroup, behind.
    pub fn clean_up(self: &Arc<Self>, ending: Ending, signal: &EndSignal) {
        let Ending { task, below } = ending;
        // Who says itself that it is done lives on, outside the task.
        let spare = if *signal == EndSignal::Explicit { Spare::Leader } else { Spare::Nobody };
        let tasks = Arc::clone(self);
        let work = async move {
            for each in below.iter().chain([&task]) {
                if let Some(folder) = &each.folder {
                    folder.remove();
                }
            }
            if task.leave_orphans {
                wait_for_orphans(&task.anchor, spare).await;
            } else {
                kill_rest(&task, spare).await;
            }
            fault_point!("end.after_kill");
            remove(&task).await;
            tasks.forget(below.iter().map(|task| task.id.as_str()).chain([task.id.as_str()]));
            fault_point!("end.after_remove");
        };
        self.background.spawn(work);
    }

    fn forget<'a>(&self, ids: impl Iterator<Item = &'a str>) {
        let mut table = self.lock();
        self.change_roster(|roster| {
            for id in ids {
                table.remove(id);
                roster.remove(id);
            }
        });
    }

    /// Only ever called with the table locked, so changes do not overwrite each other.
    fn change_roster(&self, change: impl FnOnce(&mut Roster)) {
        let mut roster = Roster::clone(&self.roster.load());
        change(&mut roster);
        self.roster.store(Arc::new(roster));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Task>>> {
        self.table.lock().expect("no holder of this lock panics")
    }
}

fn is_at_or_below(table: &HashMap<String, Arc<Task>>, task: &str, above: &str) -> bool {
    let first = table.get(task);
    let up = |task: &&Arc<Task>| table.get(task.parent.as_ref()?);
    // A parent is older than its child, so there are no circles; should there be one, it ends here.
    std::iter::successors(first, up).take(table.len()).any(|task| task.id == above)
}

fn count(table: &HashMap<String, Arc<Task>>) -> i64 {
    i64::try_from(table.values().filter(|task| task.is_open()).count()).unwrap_or(i64::MAX)
}

/// The last process of a cgroup leaves it some microseconds before its pidfd says that it has exited. If that was the
/// leader, its exit is what happened.
async fn told_apart(anchor: &Anchor, cause: EndCause) -> EndCause {
    let Anchor::OwnedCgroup { leader: Some(leader), ends_with: EndsWith::Leader, .. } = anchor else {
        return cause;
    };
    let exited = tokio::time::timeout(Duration::from_millis(20), dayfly_sys::pidfd::exited(leader)).await;
    if matches!(exited, Ok(Ok(()))) { EndCause::LeaderExited } else { cause }
}

/// Tries until nothing is left; a process anchor's fork bomb is given up on after some tries.
async fn kill_rest(task: &Task, spare: Spare) {
    let mut pause = Duration::from_millis(50);
    for round in 1_u32.. {
        match task.anchor.kill_rest(spare).await {
            Ok(()) => return,
            Err(error) => warn!(task_id = %task.id, %error, "could not kill what is left of a task"),
        }
        if matches!(*task.anchor, Anchor::Process(_)) && round >= 10 {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(30));
    }
}

async fn wait_for_orphans(anchor: &Anchor, spare: Spare) {
    let Anchor::OwnedCgroup { cgroup, leader, .. } = anchor else { return };
    if let (Spare::Leader, Some(leader)) = (spare, leader)
        && leader.is_alive()
        && let Err(error) = cgroup.release(leader)
    {
        warn!(%error, "could not move a leader out of its ended task");
    }
    cgroup.emptied().await;
}

async fn remove(task: &Task) {
    let mut pause = Duration::from_millis(5);
    // The kernel takes a moment to let go of what was just killed.
    for _ in 0..20 {
        match task.anchor.remove() {
            Ok(()) => return,
            Err(error) if pause > Duration::from_secs(5) => {
                warn!(task_id = %task.id, %error, "could not remove what was made for a task");
            }
            Err(_) => {}
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(10));
    }
}

#[cfg(test)]
mod tests;
