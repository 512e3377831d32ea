//! Who belongs: in which task a process stands, or the process at the other end of a loopback connection.
//!
//! The answer is the *innermost* task. It comes from the kernel (cgroups, parents, sockets), never from what somebody
//! sends. Where the kernel's answers do not fit together, nobody is served.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use dayfly_sys::sock_diag::{SockDiagError, SocketFacts, sock_diag_tcp};

use crate::anchor::{Anchor, descendants};
use crate::cgroup::{CgroupError, Hierarchy, TaskCgroup};
use crate::process::{Process, ProcessError, ProcessId, Stat};

/// The tasks of this agent that have not ended. Clones are cheap next to a look-up, and share the anchors.
#[derive(Clone, Debug, Default)]
pub struct Roster {
    hierarchy: Option<Hierarchy>,
    tasks: HashMap<String, Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    parent: Option<String>,
    anchor: Arc<Anchor>,
}

/// Where a process stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// In this task, and in none below it.
    In(String),
    /// In no task of this agent.
    Outside,
}

/// Who is at the other end of a loopback connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Speaker {
    /// The socket.
    pub inode: u32,
    /// Every process of the task that holds the socket; at least one. More than one when it was inherited: nobody can
    /// tell which of them speaks, so what is given has to be good for each.
    pub holders: Vec<Process>,
}

/// Why somebody is not served.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// No such task here.
    #[error("this agent has no such task")]
    NoSuchTask,
    /// It stands elsewhere.
    #[error("the caller does not stand in the task; run it inside, with `dayfly run`")]
    NotAMember,
    /// A process of a task has left the task's cgroup.
    #[error("the caller descends from a task and has left its cgroup; run it inside the task")]
    Escaped,
    /// It belongs to two tasks of which neither is below the other.
    #[error("the caller belongs to two tasks that have nothing to do with each other")]
    Ambiguous,
    /// The connection was not made in the task.
    #[error("the connection was made outside the task; connect from inside it")]
    MadeElsewhere,
    /// No process of the task holds the connection any more, or none that the agent may look at.
    #[error("no process of the task holds the connection ({unreadable} could not be looked at)")]
    NoHolder {
        /// How many processes the agent may not look at.
        unreadable: usize,
    },
    /// The connection is not on the loopback interface.
    #[error("the connection does not come from this machine's loopback address")]
    NotLoopback,
    /// The kernel would not say whose connection it is.
    #[error(transparent)]
    Socket(#[from] SockDiagError),
    /// The process could not be read.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The cgroup could not be read.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The list of processes could not be read.
    #[error("could not read the list of processes")]
    Proc(#[from] io::Error),
}

impl Roster {
    /// An empty roster. Without a hierarchy there are process anchors only.
    pub fn new(hierarchy: Option<Hierarchy>) -> Self {
        Self { hierarchy, tasks: HashMap::new() }
    }

    /// Adds a task. Its parent is one of this agent's or none.
    pub fn insert(&mut self, task: String, parent: Option<String>, anchor: Arc<Anchor>) {
        self.tasks.insert(task, Entry { parent, anchor });
    }

    /// Takes a task out; from now on nobody stands in it. Those below it have to be taken out as well, first.
    pub fn remove(&mut self, task: &str) -> Option<Arc<Anchor>> {
        self.tasks.remove(task).map(|entry| entry.anchor)
    }

    /// The anchor of a task.
    pub fn anchor(&self, task: &str) -> Option<&Arc<Anchor>> {
        self.tasks.get(task).map(|entry| &entry.anchor)
    }

    /// The nearest cgroup at or above a task: where a child's cgroup is to be made.
    pub fn cgroup_above(&self, task: &str) -> Option<&TaskCgroup> {
        self.with_cgroup(task).map(|(_, cgroup)| cgroup)
    }

    /// The innermost task in which a living process stands. Blocks for some tens of microseconds.
    pub fn innermost(&self, process: &Process) -> Result<Standing, Refusal> {
        process.must_be_alive()?;
        let line = process.lineage()?;
        let by_cgroup = self.by_cgroup(process)?;
        let by_descent = self.by_descent(&line);
        self.must_not_have_escaped(&line, by_cgroup)?;
        process.must_be_alive()?;
        let innermost = match (by_cgroup, by_descent) {
            (None, None) => return Ok(Standing::Outside),
            (Some(task), None) => task,
            (by_cgroup, Some(task)) => {
                // A process task inside a cgroup task: who has left the cgroup has left both.
                let around = self.with_cgroup(task).map(|(around, _)| around);
                if around
                    .is_some_and(|around| !by_cgroup.is_some_and(|found| self.is_at_or_below(found, around)))
                {
                    return Err(Refusal::Escaped);
                }
                match by_cgroup {
                    None => task,
                    Some(found) if self.is_at_or_below(task, found) => task,
                    Some(found) if self.is_at_or_below(found, task) => found,
                    Some(_) => return Err(Refusal::Ambiguous),
                }
            }
        };
        Ok(Standing::In(innermost.to_owned()))
    }

    /// Refuses a process unless `task` is the innermost in which it stands.
    pub fn must_stand_in(&self, task: &str, process: &Process) -> Result<(), Refusal> {
        match self.innermost(process)? {
            Standing::In(innermost) if innermost == task => Ok(()),
            Standing::In(_) | Standing::Outside => Err(Refusal::NotAMember),
        }
    }

    /// Who speaks on the loopback connection from `client` to `server` (our end), if it was made in `task` and only
    /// processes whose innermost task that is hold it.
    ///
    /// To be asked for each request, as a connection may change hands. Processes outside the task to which a member
    /// gave its socket are not looked for: what a member gives away is its own. Blocks for about a millisecond, longer if
    /// the task has many thousands of open files.
    pub fn speaker(&self, task: &str, client: SocketAddr, server: SocketAddr) -> Result<Speaker, Refusal> {
        let entry = self.tasks.get(task).ok_or(Refusal::NoSuchTask)?;
        if !client.ip().to_canonical().is_loopback() || !server.ip().to_canonical().is_loopback() {
            return Err(Refusal::NotLoopback);
        }
        let socket = sock_diag_tcp(client, server)?;
        let candidates = match self.with_cgroup(task) {
            Some((around, cgroup)) => {
                self.must_be_made_in(around, cgroup, socket)?;
                cgroup.processes()?
            }
            None => family(&entry.anchor)?,
        };
        let mut holders = Vec::new();
        let mut unreadable = 0;
        for pid in candidates {
            match holder(pid, socket.inode) {
                Ok(Some(process)) => holders.push(process),
                Ok(None) => {}
                Err(_) => unreadable += 1,
            }
        }
        if holders.is_empty() {
            return Err(Refusal::NoHolder { unreadable });
        }
        for process in &holders {
            self.must_stand_in(task, process)?;
        }
        // While all this was read, the addresses may have become another connection's.
        if sock_diag_tcp(client, server)? != socket {
            return Err(SockDiagError::Closed.into());
        }
        Ok(Speaker { inode: socket.inode, holders })
    }

    /// The cgroup task in which a process stands by its cgroup; the deepest one.
    fn by_cgroup(&self, process: &Process) -> Result<Option<&str>, Refusal> {
        let Some(hierarchy) = &self.hierarchy else { return Ok(None) };
        Ok(self.deepest_at(&hierarchy.path_of(process)?))
    }

    fn deepest_at(&self, path: &Path) -> Option<&str> {
        self.tasks
            .iter()
            .filter_map(|(task, entry)| match entry.anchor.as_ref() {
                Anchor::OwnedCgroup { cgroup, .. } if path.starts_with(cgroup.path()) => {
                    Some((cgroup.path().components().count(), task.as_str()))
                }
                _ => None,
            })
            .max()
            .map(|(_, task)| task)
    }

    /// The process task in which a process stands by its parents; the one with the nearest leader.
    fn by_descent(&self, line: &[ProcessId]) -> Option<&str> {
        let position = |leader: ProcessId| line.iter().position(|&id| id == leader);
        self.tasks
            .iter()
            .filter_map(|(task, entry)| match entry.anchor.as_ref() {
                Anchor::Process(anchor) if anchor.leader().is_alive() => {
                    // One leader may have several tasks, each opened inside the one before.
                    let depth = self.above(task).count();
                    Some((position(anchor.leader().id())?, std::cmp::Reverse(depth), task.as_str()))
                }
                _ => None,
            })
            .min()
            .map(|(_, _, task)| task)
    }

    /// A process that was forked inside a cgroup task can only stand outside its cgroup if it was moved. It must not
    /// pass for one that never was in a task, which may open a task of its own with all its authority.
    fn must_not_have_escaped(&self, line: &[ProcessId], by_cgroup: Option<&str>) -> Result<(), Refusal> {
        for (task, entry) in &self.tasks {
            let Anchor::OwnedCgroup { cgroup, leader: Some(leader), .. } = entry.anchor.as_ref() else {
                continue;
            };
            let Some(at) = line.iter().position(|&id| id == leader.id()) else { continue };
            // What the leader forked before it was moved was never inside.
            let was_inside = at == 0 || line[at - 1].start_time >= cgroup.since();
            let is_inside = by_cgroup.is_some_and(|found| self.is_at_or_below(found, task));
            if was_inside && !is_inside {
                return Err(Refusal::Escaped);
            }
        }
        Ok(())
    }

    /// The kernel remembers the cgroup in which a socket was *made*. It has to be the task's own, not a child task's.
    fn must_be_made_in(&self, around: &str, cgroup: &TaskCgroup, socket: SocketFacts) -> Result<(), Refusal> {
        let made_in = match socket.cgroup_id {
            Some(id) => cgroup.path_of_id(id)?,
            None => None,
        };
        match made_in {
            Some(path) if self.deepest_at(&path) == Some(around) => Ok(()),
            _ => Err(Refusal::MadeElsewhere),
        }
    }

    fn with_cgroup(&self, task: &str) -> Option<(&str, &TaskCgroup)> {
        self.above(task).find_map(|(name, entry)| match entry.anchor.as_ref() {
            Anchor::OwnedCgroup { cgroup, .. } => Some((name, cgroup)),
            Anchor::Process(_) => None,
        })
    }

    fn is_at_or_below(&self, task: &str, above: &str) -> bool {
        self.above(task).any(|(name, _)| name == above)
    }

    /// The task itself, then its parent, and so on up.
    fn above<'a>(&'a self, task: &str) -> impl Iterator<Item = (&'a str, &'a Entry)> {
        let first = self.tasks.get_key_value(task);
        let up = |(_, entry): &(&'a String, &'a Entry)| self.tasks.get_key_value(entry.parent.as_ref()?);
        // A parent is older than its child, so there are no circles; should there be one, it ends here.
        std::iter::successors(first, up).take(self.tasks.len()).map(|(name, entry)| (name.as_str(), entry))
    }
}

fn family(anchor: &Anchor) -> Result<Vec<i32>, Refusal> {
    let Some(leader) = anchor.leader() else { return Ok(Vec::new()) };
    let mut pids = vec![leader.id().pid];
    pids.extend(descendants(leader.id(), &Stat::of_all()?).iter().map(|id| id.pid));
    Ok(pids)
}

/// The process `pid`, if it holds the socket.
fn holder(pid: i32, inode: u32) -> Result<Option<Process>, ProcessError> {
    let process = match Process::open(pid) {
        Err(ProcessError::Gone) => return Ok(None),
        other => other?,
    };
    let holds = match holds_socket(pid, inode) {
        Err(e) if crate::process::is_gone(&e) => return Ok(None),
        other => other.map_err(|source| ProcessError::Unreadable { pid, what: "open files", source })?,
    };
    // Alive after it was read: it was this process's table.
    Ok((holds && process.is_alive()).then_some(process))
}

/// proc_pid_fd(5): an open socket is a link to `socket:[inode]`.
fn holds_socket(pid: i32, inode: u32) -> io::Result<bool> {
    let wanted = format!("socket:[{inode}]");
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        match fs::read_link(entry?.path()) {
            Ok(target) if target.as_os_str() == wanted.as_str() => return Ok(true),
            Ok(_) => {}
            // Closed while we looked.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests;
