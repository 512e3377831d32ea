//! Finds again what an earlier life of the agent opened: the same cgroup, the same process, in the same boot.
//!
//! What the journal says is held against the kernel here, and against the broker's own record when the agent attaches;
//! until both agree nothing of it is served. What does not fit is not taken up: it ends, with the reason.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use dayfly_proto::v1;
use tracing::{info, warn};

use crate::anchor::{Anchor, EndsWith, ProcessAnchor};
use crate::cgroup::{CgroupError, CgroupTree, TaskCgroup};
use crate::credentials::Provider;
use crate::journal::{Anchored, Delivered, Earlier, Entry, Leader, unhex};
use crate::process::{Process, ProcessError};
use crate::task::{Bearer, Delivery};

/// Why a task is not taken up again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// Its leader has exited.
    Exited,
    /// Nothing lives in its cgroup, or that was removed.
    CgroupEmpty,
    /// Something else is in its place.
    Changed,
    /// The task above it was not found.
    ParentLost,
    /// Its programs were told an address that somebody else has now.
    AddressLost,
}

impl Lost {
    /// The word of `TaskEnded.signal`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Exited => "exit",
            Self::CgroupEmpty => "cgroup_empty",
            Self::Changed => "anchor_changed",
            Self::ParentLost | Self::AddressLost => "agent_restarted",
        }
    }
}

/// A task that was found again.
#[derive(Debug)]
pub struct Found {
    /// As the journal has it.
    pub entry: Entry,
    /// As the kernel has it.
    pub anchor: Arc<Anchor>,
    /// What is delivered.
    pub deliveries: std::collections::BTreeMap<&'static str, Delivery>,
}

/// Which endpoints listen where programs were told.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    /// The AWS endpoint.
    pub aws: bool,
    /// The Vault endpoint.
    pub vault: bool,
}

/// Looks for every task of an earlier life, parents first. The second part are those that are over.
pub fn look(earlier: Earlier, tree: Option<&CgroupTree>, kept: Kept) -> (Vec<Found>, Vec<(String, Lost)>) {
    let mut found: Vec<Found> = Vec::new();
    let mut lost: Vec<(String, Lost)> =
        earlier.of_other_boots.into_iter().map(|id| (id, Lost::Changed)).collect();
    for entry in earlier.tasks {
        let is_found = |parent: &String| found.iter().any(|found| found.entry.id == *parent);
        let looked = match &entry.parent {
            Some(parent) if !is_found(parent) => Err(Lost::ParentLost),
            _ => find(&entry, tree).and_then(|anchor| Ok((anchor, deliveries(&entry, kept)?))),
        };
        match looked {
            Ok((anchor, deliveries)) => {
                info!(task_id = %entry.id, anchor = anchor.kind(), "a task of an earlier life is found again");
                found.push(Found { entry, anchor: Arc::new(anchor), deliveries });
            }
            Err(why) => {
                warn!(task_id = %entry.id, ?why, "a task of an earlier life is over");
                lost.push((entry.id, why));
            }
        }
    }
    (found, lost)
}

fn find(entry: &Entry, tree: Option<&CgroupTree>) -> Result<Anchor, Lost> {
    match &entry.anchor {
        Anchored::Process { leader } => Ok(Anchor::Process(ProcessAnchor::again(process(*leader)?))),
        Anchored::CgroupOwned { directory, cgroup_id, since, leader, ends_with_leader } => {
            let tree = tree.ok_or(Lost::Changed)?;
            let cgroup = tree.reopen(directory, *cgroup_id, *since).map_err(|error| why_no_cgroup(&error))?;
            let is_populated = cgroup.is_populated().map_err(|error| why_no_cgroup(&error))?;
            let (leader, ends_with) = match (process(*leader), ends_with_leader) {
                (Ok(leader), true) => (Some(must_stand_in(&cgroup, leader)?), EndsWith::Leader),
                (Ok(leader), false) => (Some(must_stand_in(&cgroup, leader)?), EndsWith::LastProcess),
                (Err(Lost::Exited), false) if is_populated => (None, EndsWith::LastProcess),
                (Err(_), false) if !is_populated => return Err(Lost::CgroupEmpty),
                (Err(why), _) => return Err(why),
            };
            Ok(Anchor::OwnedCgroup { cgroup, leader, ends_with })
        }
    }
}

/// The very process: a number that another process has by now is none.
fn process(leader: Leader) -> Result<Process, Lost> {
    match Process::reopen(leader.id(), leader.pidfd_ino) {
        Ok(process) if process.is_alive() => Ok(process),
        Ok(_) | Err(ProcessError::Gone) => Err(Lost::Exited),
        Err(error) => {
            warn!(pid = leader.pid, %error, "a leader cannot be looked at");
            Err(Lost::Changed)
        }
    }
}

/// A leader outside its cgroup was moved by somebody else while nobody watched.
fn must_stand_in(cgroup: &TaskCgroup, leader: Process) -> Result<Process, Lost> {
    match cgroup.holds(&leader) {
        Ok(true) => Ok(leader),
        Err(CgroupError::Process(ProcessError::Gone)) => Err(Lost::Exited),
        Ok(false) | Err(_) => Err(Lost::Changed),
    }
}

fn why_no_cgroup(error: &CgroupError) -> Lost {
    match error {
        CgroupError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => Lost::CgroupEmpty,
        error => {
            warn!(%error, "a task's cgroup is not what it was");
            Lost::Changed
        }
    }
}

fn deliveries(entry: &Entry, kept: Kept) -> Result<std::collections::BTreeMap<&'static str, Delivery>, Lost> {
    let delivered = entry.deliveries.iter().map(|(provider, delivered)| {
        let provider = Provider::from_word(provider).ok_or(Lost::Changed)?;
        match provider {
            Provider::Aws if !kept.aws => return Err(Lost::AddressLost),
            Provider::Vault if !kept.vault => return Err(Lost::AddressLost),
            Provider::Aws | Provider::Vault | Provider::Token => {}
        }
        Ok((provider.as_str(), delivery(delivered)?))
    });
    delivered.collect()
}

fn delivery(delivered: &Delivered) -> Result<Delivery, Lost> {
    let bearer = match &delivered.bearer_sha256 {
        Some(text) => Some(Bearer::from_hash(unhex(text).ok_or(Lost::Changed)?)),
        None => None,
    };
    let parameters: HashMap<String, String> = delivered.parameters.clone().into_iter().collect();
    Ok(Delivery { scope: v1::ScopeRequest { scope: delivered.scope.clone(), parameters }, bearer })
}

/// What the broker is told of an anchor, read from the kernel now.
pub fn observed(anchor: &Anchor, boot_id: &str, attested_by: &str) -> v1::Anchor {
    let (kind, cgroup_id) = match anchor {
        Anchor::OwnedCgroup { cgroup, .. } => (v1::anchor::Kind::CgroupOwned, cgroup.id()),
        Anchor::Process(_) => (v1::anchor::Kind::Process, 0),
    };
    let leader = anchor.leader();
    v1::Anchor {
        kind: kind.into(),
        boot_id: boot_id.to_owned(),
        cgroup_id,
        pidfd_inode: leader.map(Process::pidfd_ino).unwrap_or_default(),
        start_time: leader.map(|leader| leader.id().start_time).unwrap_or_default(),
        attested_by: attested_by.to_owned(),
    }
}

/// An anchor's numbers, to be found again by. None for one whose leader was gone when the task was opened.
pub fn remembered(anchor: &Anchor) -> Option<Anchored> {
    let leader = anchor.leader()?;
    let (pid, start_time) = (leader.id().pid, leader.id().start_time);
    let leader = Leader { pid, start_time, pidfd_ino: leader.pidfd_ino() };
    Some(match anchor {
        Anchor::OwnedCgroup { cgroup, ends_with, .. } => Anchored::CgroupOwned {
            directory: cgroup.directory().to_owned(),
            cgroup_id: cgroup.id(),
            since: cgroup.since(),
            leader,
            ends_with_leader: *ends_with == EndsWith::Leader,
        },
        Anchor::Process(_) => Anchored::Process { leader },
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

    use std::collections::BTreeMap;
    use std::time::SystemTime;

    use super::*;
    use crate::testkit::{Shell, TestTree};

    const BOTH: Kept = Kept { aws: true, vault: true };

    fn entry(id: &str, parent: Option<&str>, anchor: &Anchor) -> Entry {
        Entry {
            id: id.to_owned(),
            session_id: id.to_owned(),
            parent: parent.map(str::to_owned),
            opened_at: SystemTime::now(),
            deadline: None,
            anchor: remembered(anchor).unwrap(),
            attested_by: "pidfd".to_owned(),
            leave_orphans: false,
            owner: (0, 0),
            deliveries: BTreeMap::new(),
            launcher: None,
        }
    }

    fn owned(tree: &TestTree, name: &str, leader: &Process, ends_with: EndsWith) -> Anchor {
        let cgroup = tree.open_task(name, None, leader).unwrap();
        Anchor::OwnedCgroup { cgroup, leader: Some(leader.clone()), ends_with }
    }

    fn looked(tree: &TestTree, tasks: Vec<Entry>) -> (Vec<Found>, Vec<Lost>) {
        let earlier = Earlier { tasks, ..Earlier::default() };
        let (found, lost) = look(earlier, Some(tree), BOTH);
        (found, lost.into_iter().map(|(_, why)| why).collect())
    }

    #[tokio::test]
    async fn the_same_cgroup_and_the_same_leader_are_found_with_what_is_known_of_them() {
        let tree = TestTree::new();
        let shell = Shell::start();
        let anchor = owned(&tree, "a", &shell.process(), EndsWith::Leader);
        let told = observed(&anchor, "boot", "pidfd");
        let entry = entry("A", None, &anchor);
        drop(anchor);
        let (found, lost) = looked(&tree, vec![entry]);
        assert!(lost.is_empty(), "{lost:?}");
        assert_eq!(observed(&found[0].anchor, "boot", "pidfd"), told, "what the broker has on record");
        assert_eq!(
            remembered(&found[0].anchor),
            Some(found[0].entry.anchor.clone()),
            "when it was made, too"
        );
    }

    #[tokio::test]
    async fn a_leader_that_died_or_whose_number_is_another_processs_is_over() {
        let tree = TestTree::new();
        let (shell, other) = (Shell::start(), Shell::start());
        let gone = entry("A", None, &owned(&tree, "a", &shell.process(), EndsWith::Leader));
        let by_process = entry("B", None, &Anchor::Process(ProcessAnchor::again(shell.process())));
        drop(shell);
        // The number of the dead one, as if the kernel had given it to the other.
        let pid = other.process().id().pid;
        let mut reused = by_process.clone();
        let Anchored::Process { leader } = &mut reused.anchor else { panic!() };
        leader.pid = pid;
        let (found, lost) = looked(&tree, vec![gone, by_process, reused]);
        assert!(found.is_empty());
        assert_eq!(lost, [Lost::Exited; 3]);
        assert!(other.process().is_alive());
    }

    #[tokio::test]
    async fn another_cgroup_of_that_name_a_leader_outside_and_an_empty_cgroup_are_not_taken_up() {
        let tree = TestTree::new();
        let (shell, moved, last) = (Shell::start(), Shell::start(), Shell::start());
        let changed = entry("A", None, &owned(&tree, "a", &shell.process(), EndsWith::Leader));
        let mut another = changed.clone();
        let Anchored::CgroupOwned { cgroup_id, .. } = &mut another.anchor else { panic!() };
        *cgroup_id += 1;
        let anchor = owned(&tree, "b", &moved.process(), EndsWith::Leader);
        let outside = entry("B", None, &anchor);
        let Anchor::OwnedCgroup { cgroup, .. } = &anchor else { panic!() };
        cgroup.release(&moved.process()).unwrap();
        let empty = entry("C", None, &owned(&tree, "c", &last.process(), EndsWith::LastProcess));
        drop(last);
        let child = entry("D", Some("B"), &Anchor::Process(ProcessAnchor::again(shell.process())));
        let (found, lost) = looked(&tree, vec![another, outside, empty, child]);
        assert!(found.is_empty(), "{found:?}");
        assert_eq!(lost, [Lost::Changed, Lost::Changed, Lost::CgroupEmpty, Lost::ParentLost]);
    }

    #[tokio::test]
    async fn a_cgroup_that_the_last_process_ends_outlives_its_leader() {
        let tree = TestTree::new();
        let mut shell = Shell::start();
        let anchor = owned(&tree, "a", &shell.process(), EndsWith::LastProcess);
        let entry = entry("A", None, &anchor);
        let daemon: i32 = shell.run("(setsid sleep 600 >/dev/null & echo $!)").parse().unwrap();
        drop(shell);
        let (found, lost) = looked(&tree, vec![entry]);
        assert!(lost.is_empty(), "{lost:?}");
        assert!(found[0].anchor.leader().is_none());
        found[0].anchor.kill_rest(crate::anchor::Spare::Nobody).await.unwrap();
        assert!(Process::open(daemon).is_err_and(|error| matches!(error, ProcessError::Gone)));
    }

    #[test]
    fn a_task_whose_address_somebody_else_has_is_over() {
        let tree = TestTree::new();
        let shell = Shell::start();
        let mut with_aws = entry("A", None, &Anchor::Process(ProcessAnchor::again(shell.process())));
        let delivered =
            Delivered { scope: "s3".to_owned(), parameters: BTreeMap::new(), bearer_sha256: None };
        with_aws.deliveries.insert("aws".to_owned(), delivered);
        let earlier = |tasks| Earlier { tasks, ..Earlier::default() };
        let (found, _) = look(earlier(vec![with_aws.clone()]), Some(&tree), BOTH);
        assert_eq!(found.len(), 1);
        let (found, lost) = look(earlier(vec![with_aws]), Some(&tree), Kept { aws: false, vault: true });
        assert!(found.is_empty());
        assert_eq!(lost[0].1, Lost::AddressLost);
    }
}
