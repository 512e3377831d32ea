//! Anchors of direct callers: their WatchTask stream. When it is gone for longer than a grace, the task is over.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::time::Duration;

use dayfly_domain::id::TaskId;
use tokio::time::Instant;

/// Streams by task: how many stand, and since when none does.
#[derive(Debug, Default)]
pub struct StreamAnchors {
    tasks: Mutex<HashMap<TaskId, Standing>>,
}

#[derive(Debug)]
struct Standing {
    streams: u32,
    none_since: Instant,
}

impl StreamAnchors {
    /// A task was opened whose stream must come.
    pub fn expect(&self, task: TaskId) {
        self.lock().entry(task).or_insert(Standing { streams: 0, none_since: Instant::now() });
    }

    /// A stream stands. False if the task is not anchored on streams, or is over.
    pub fn begin(&self, task: TaskId) -> bool {
        match self.lock().get_mut(&task) {
            Some(standing) => {
                standing.streams += 1;
                true
            }
            None => false,
        }
    }

    /// A stream is gone.
    pub fn gone(&self, task: TaskId) {
        if let Some(standing) = self.lock().get_mut(&task) {
            standing.streams = standing.streams.saturating_sub(1);
            standing.none_since = Instant::now();
        }
    }

    /// Tasks with a stream here.
    pub fn standing(&self) -> Vec<TaskId> {
        let tasks = self.lock();
        tasks.iter().filter(|(_, standing)| standing.streams > 0).map(|(task, _)| *task).collect()
    }

    /// Expects streams of these tasks, and no longer of others that have none here.
    pub fn expect_only(&self, open: &HashSet<TaskId>) {
        self.lock().retain(|task, standing| standing.streams > 0 || open.contains(task));
        open.iter().for_each(|task| self.expect(*task));
    }

    /// The task is over, by whatever signal.
    pub fn forget(&self, task: TaskId) {
        self.lock().remove(&task);
    }

    /// Tasks without a stream for longer than the grace.
    pub fn lapsed(&self, grace: Duration) -> Vec<TaskId> {
        let tasks = self.lock();
        let lapsed = tasks.iter().filter(|(_, s)| s.streams == 0 && s.none_since.elapsed() >= grace);
        lapsed.map(|(task, _)| *task).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<TaskId, Standing>> {
        self.tasks.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
