//! What an earlier life of the agent left behind and is not taken up again: tasks that nobody watches any more.
//!
//! Their processes are killed and their cgroups removed, and the broker is told that they ended; those it is not told of
//! are missing from the inventory.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::SystemTime;

use tracing::{info, warn};

use crate::cgroup::CgroupTree;
use crate::folder::Folders;
use crate::outbox::Outbox;

/// What stays: tasks by id, cgroups by theirs.
#[derive(Debug, Default)]
pub struct Kept {
    /// Tasks that were taken up again.
    pub tasks: HashSet<String>,
    /// Their cgroups.
    pub cgroups: HashSet<u64>,
}

/// Clears up, before anything is served.
pub async fn clear(tree: Option<&CgroupTree>, folders: &Folders, outbox: &Outbox, kept: &Kept) {
    for task_id in folders.leftovers(&kept.tasks) {
        info!(%task_id, "a task of an earlier life ends");
        outbox.task_ended(&task_id, "agent_restarted", SystemTime::now());
    }
    let Some(tree) = tree else { return };
    let mut folders = vec![tree.directory().to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) => {
                warn!(path = %folder.display(), %error, "could not look for cgroups of an earlier life");
                continue;
            }
        };
        for entry in entries.flatten() {
            let is_task = entry.file_name().as_encoded_bytes().starts_with(b"task-");
            let Ok(meta) = entry.metadata() else { continue };
            if !is_task || !meta.is_dir() {
                continue;
            }
            if kept.cgroups.contains(&meta.ino()) {
                // A child task's cgroup lies in its parent's, and may be over while that is not.
                folders.push(entry.path());
            } else {
                clear_cgroup(tree, &entry.path(), meta.ino()).await;
            }
        }
    }
}

async fn clear_cgroup(tree: &CgroupTree, path: &Path, id: u64) {
    let cleared = match tree.reopen(path, id, 0) {
        Ok(cgroup) => match cgroup.kill().await {
            Ok(()) => cgroup.remove(),
            failed => failed,
        },
        Err(error) => Err(error),
    };
    match cleared {
        Ok(()) => info!(path = %path.display(), "removed a cgroup of an earlier life"),
        Err(error) => {
            warn!(path = %path.display(), %error, "could not remove a cgroup of an earlier life")
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

    use dayfly_proto::v1::attach_request::Message;

    use super::*;
    use crate::testkit::{Shell, TestTree};

    #[tokio::test]
    async fn what_an_earlier_life_left_is_killed_removed_and_told() {
        let tree = TestTree::new();
        let home = tempfile::tempdir().unwrap();
        let folders = Folders::take(home.path(), false).unwrap();
        for name in ["01OLD", "01KEPT"] {
            folders.open(name, 0, 0).unwrap().leave();
        }
        let (shell, staying) = (Shell::start(), Shell::start());
        let process = shell.process();
        let kept = tree.open_task("kept", None, &staying.process()).unwrap();
        let cgroup = tree.open_task("old", None, &process).unwrap();
        let below = tree.open_task("child", Some(&kept), &process).unwrap();
        let paths = [cgroup.directory().to_owned(), below.directory().to_owned()];
        let id = kept.id();
        drop((cgroup, below));

        let outbox = Outbox::default();
        let kept = Kept { tasks: ["01KEPT".to_owned()].into(), cgroups: [id].into() };
        clear(Some(&tree), &folders, &outbox, &kept).await;
        assert!(!process.is_alive() && paths.iter().all(|path| !path.exists()));
        assert!(staying.process().is_alive(), "what is taken up again is left alone");
        let told = outbox.all();
        assert!(matches!(&told[..], [Message::TaskEnded(end)] if end.task_id == "01OLD"), "{told:?}");
    }
}
