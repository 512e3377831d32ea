//! What an earlier life of the agent left behind: tasks that nobody watches any more.
//!
//! They are not taken up again. Their processes are killed and their cgroups removed, and the broker is told that they
//! ended; those it is not told of are missing from the inventory.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::SystemTime;

use tracing::{info, warn};

use crate::cgroup::CgroupTree;
use crate::folder::Folders;
use crate::outbox::Outbox;

/// Clears up, before anything is served.
pub async fn clear(tree: Option<&CgroupTree>, folders: &Folders, outbox: &Outbox) {
    for task_id in folders.leftovers() {
        info!(%task_id, "a task of an earlier life ends");
        outbox.task_ended(&task_id, "agent_restarted", SystemTime::now());
    }
    let Some(tree) = tree else { return };
    let entries = match fs::read_dir(tree.directory()) {
        Ok(entries) => entries,
        Err(error) => {
            warn!(path = %tree.directory().display(), %error, "could not look for cgroups of an earlier life");
            return;
        }
    };
    for entry in entries.flatten() {
        let is_task = entry.file_name().as_encoded_bytes().starts_with(b"task-");
        let Ok(meta) = entry.metadata() else { continue };
        if !is_task || !meta.is_dir() {
            continue;
        }
        let path = entry.path();
        let cleared = match tree.reopen(&path, meta.ino()) {
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
        std::mem::forget(folders.open("01OLD", 0, 0).unwrap());
        let shell = Shell::start();
        let process = shell.process();
        let cgroup = tree.open_task("old", None, &process).unwrap();
        let path = cgroup.directory().to_owned();
        drop(cgroup);

        let outbox = Outbox::default();
        clear(Some(&tree), &folders, &outbox).await;
        assert!(!process.is_alive() && !path.exists());
        let told = outbox.all();
        assert!(matches!(&told[..], [Message::TaskEnded(end)] if end.task_id == "01OLD"), "{told:?}");
    }
}
