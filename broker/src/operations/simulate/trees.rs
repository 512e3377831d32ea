//! Trees of tasks as they stood at the moments of recorded requests.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use dayfly_domain::id::TaskId;
use dayfly_domain::task::Task;
use dayfly_domain::time::Timestamp;

use crate::store::{Store, StoreError};

/// Trees by the task they are above, and the moment.
#[derive(Debug, Default)]
pub(super) struct Trees(HashMap<(TaskId, Timestamp), Vec<Task>>);

impl Trees {
    /// Reads what one page of records needs.
    pub(super) async fn read(
        store: &dyn Store,
        wanted: impl Iterator<Item = (TaskId, Timestamp)>,
    ) -> Result<Self, StoreError> {
        let mut trees = HashMap::new();
        for (task, at) in wanted {
            if let Entry::Vacant(unread) = trees.entry((task, at)) {
                unread.insert(store.lineage_at(task, at).await?);
            }
        }
        Ok(Self(trees))
    }

    /// The tree above a task as it stood, root first, the task itself last; empty if there is no such task.
    pub(super) fn at(&self, task: TaskId, at: Timestamp) -> Vec<Task> {
        self.0.get(&(task, at)).cloned().unwrap_or_default()
    }
}
