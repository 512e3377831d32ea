//! What a restarted agent needs to know its tasks again, in a file of its own.
//!
//! One line for each opening and each end, appended and synced before the opener is answered. No secret stands in it: of
//! what programs show at the endpoints only the hash. A line that a crash tore, and whatever follows it, is not read; a
//! task that is not found here is not taken up again, and the broker ends it. The file is of one boot: everything in
//! it is a kernel's number, and means nothing in another.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tracing::{error, warn};

use crate::image::Image;
use crate::process::ProcessId;

/// A longer file is not read: thousands of tasks take a few MiB.
const LONGEST: u64 = 64 * 1024 * 1024;
/// The file is written anew when it has so many lines more than twice the open tasks.
const SLACK: usize = 1000;

/// A task, as far as the kernel can find it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The broker's name for it.
    pub id: String,
    /// The root of its tree.
    pub session_id: String,
    /// The task it was opened in, if that is one of this agent's.
    pub parent: Option<String>,
    /// When it was opened.
    pub opened_at: SystemTime,
    /// When the broker ends it.
    pub deadline: Option<SystemTime>,
    /// What its life hangs on.
    pub anchor: Anchored,
    /// How well the leader was known when the task was opened.
    pub attested_by: String,
    /// Whether what is left is left alone.
    pub leave_orphans: bool,
    /// Whose its files are.
    pub owner: (u32, u32),
    /// What is delivered, by provider.
    pub deliveries: BTreeMap<String, Delivered>,
    /// What the leader was when it opened the task; only where a file waits for it to become another program.
    pub launcher: Option<Image>,
}

/// An anchor's numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Anchored {
    /// A cgroup that the agent made.
    CgroupOwned {
        /// Its folder.
        directory: PathBuf,
        /// Its id.
        cgroup_id: u64,
        /// When it was made, in clock ticks since boot.
        since: u64,
        /// The process that was moved into it.
        leader: Leader,
        /// Whether the leader's exit ends the task, or the last process's.
        ends_with_leader: bool,
    },
    /// A process.
    Process {
        /// Which.
        leader: Leader,
    },
}

impl Anchored {
    /// The process it hangs on, or hung on.
    pub fn leader(&self) -> Leader {
        match self {
            Self::CgroupOwned { leader, .. } | Self::Process { leader } => *leader,
        }
    }
}

/// A process's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leader {
    /// Process id in the agent's pid namespace.
    pub pid: i32,
    /// Start time in clock ticks since boot.
    pub start_time: u64,
    /// Inode of its pidfd.
    pub pidfd_ino: u64,
}

impl Leader {
    /// Number and start time.
    pub fn id(self) -> ProcessId {
        ProcessId { pid: self.pid, start_time: self.start_time }
    }
}

/// A scope that is delivered, and the hash of what the program shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivered {
    /// The scope.
    pub scope: String,
    /// Its parameters.
    pub parameters: BTreeMap<String, String>,
    /// SHA-256 of the bearer, hexadecimal; none for a file.
    pub bearer_sha256: Option<String>,
}

/// Where programs were told that the endpoints are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    /// The AWS endpoint's.
    pub aws: u16,
    /// The Vault endpoint's.
    pub vault: u16,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Line {
    Began { boot_id: String, ports: Ports },
    Opened { task: Box<Entry> },
    Over { id: String },
}

/// Why there is no journal.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file is not the agent's alone.
    #[error("{} must belong to the agent's user with mode 0600; look who changed it, then remove it", path.display())]
    NotOurs {
        /// The file.
        path: PathBuf,
    },
    /// It could not be read or written.
    #[error("could not {what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// An earlier failure left it in a state that nothing can be added to.
    #[error("the journal could not be mended after a failed write; restart the agent when there is room")]
    Broken,
}

/// What an earlier life wrote.
#[derive(Debug, Default)]
pub struct Earlier {
    /// Its open tasks in the order they were opened, parents before children.
    pub tasks: Vec<Entry>,
    /// Open tasks of another boot, by id: none of their processes lives.
    pub of_other_boots: Vec<String>,
    /// Where it listened, in this boot.
    pub ports: Option<Ports>,
}

/// The journal of this life.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    boot_id: String,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// None before the first writing, and after a failure that could not be undone.
    file: Option<File>,
    length: u64,
    lines: usize,
    ports: Ports,
    open: BTreeMap<u64, Entry>,
    places: HashMap<String, u64>,
    next: u64,
}

impl Journal {
    /// Reads what an earlier life left in this folder. Nothing is written before [`Journal::begin`].
    pub fn read(folder: &Path, boot_id: &str) -> Result<(Self, Earlier), JournalError> {
        let path = folder.join("journal");
        let earlier = match open_ours(&path)? {
            Some(file) => {
                let mut bytes = Vec::new();
                file.take(LONGEST).read_to_end(&mut bytes).map_err(|e| io_error("read", &path, e))?;
                replay(&bytes, boot_id)
            }
            None => Earlier::default(),
        };
        let inner = Inner {
            file: None,
            length: 0,
            lines: 0,
            ports: Ports::default(),
            open: BTreeMap::new(),
            places: HashMap::new(),
            next: 0,
        };
        Ok((Self { path, boot_id: boot_id.to_owned(), inner: Mutex::new(inner) }, earlier))
    }

    /// Begins this life's file with the tasks that were taken up again. It takes the place of the old one in one step.
    pub fn begin(&self, tasks: Vec<Entry>, ports: Ports) -> Result<(), JournalError> {
        let mut inner = self.lock();
        inner.ports = ports;
        for task in tasks {
            inner.add(task);
        }
        self.write_anew(&mut inner)
    }

    /// A task was opened. When this returns, a restarted agent finds it.
    pub fn opened(&self, task: Entry) -> Result<(), JournalError> {
        let mut inner = self.lock();
        let line = line(&Line::Opened { task: Box::new(task.clone()) });
        self.append(&mut inner, &line)?;
        inner.add(task);
        Ok(())
    }

    /// A task is over. A failure is logged: a restarted agent finds that its anchor is gone, or is told by the broker.
    pub fn over(&self, id: &str) {
        let mut inner = self.lock();
        let Some(place) = inner.places.remove(id) else { return };
        inner.open.remove(&place);
        let appended = self.append(&mut inner, &line(&Line::Over { id: id.to_owned() }));
        let anew = inner.lines > inner.open.len() * 2 + SLACK;
        let written = appended.and_then(|()| if anew { self.write_anew(&mut inner) } else { Ok(()) });
        if let Err(error) = written {
            warn!(task_id = id, error = dayfly_client::chain(&error), "an end is not in the journal");
        }
    }

    fn append(&self, inner: &mut Inner, line: &[u8]) -> Result<(), JournalError> {
        let file = inner.file.as_mut().ok_or(JournalError::Broken)?;
        match file.write_all(line).and_then(|()| file.sync_data()) {
            Ok(()) => {
                inner.length += line.len() as u64;
                inner.lines += 1;
                Ok(())
            }
            Err(source) => {
                // What follows a torn line would not be read.
                if let Err(error) = file.set_len(inner.length).and_then(|()| file.sync_data()) {
                    error!(path = %self.path.display(), %error, "a torn line stays in the journal: no task is opened any more");
                    inner.file = None;
                }
                Err(io_error("write", &self.path, source))
            }
        }
    }

    fn write_anew(&self, inner: &mut Inner) -> Result<(), JournalError> {
        let new = self.path.with_extension("new");
        let failed = |what| {
            let new = new.clone();
            move |source| io_error(what, &new, source)
        };
        let began = Line::Began { boot_id: self.boot_id.clone(), ports: inner.ports };
        let mut bytes = line(&began);
        for task in inner.open.values() {
            bytes.extend(line(&Line::Opened { task: Box::new(task.clone()) }));
        }
        let _ = fs::remove_file(&new);
        let mut file =
            File::options().append(true).create_new(true).mode(0o600).open(&new).map_err(failed("make"))?;
        file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(failed("write"))?;
        fs::rename(&new, &self.path).map_err(failed("put in place"))?;
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("sync the folder of"))?;
        inner.file = Some(file);
        inner.length = bytes.len() as u64;
        inner.lines = inner.open.len() + 1;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder of this lock panics")
    }
}

impl Inner {
    fn add(&mut self, task: Entry) {
        self.next += 1;
        self.places.insert(task.id.clone(), self.next);
        self.open.insert(self.next, task);
    }
}

/// SHA-256 of what a program shows, as it stands in the journal.
pub fn hex(hash: &[u8]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The other way; none if it is no SHA-256.
pub fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (at, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).ok()?;
    }
    Some(hash)
}

/// The first half of a SHA-256, a space, JSON, a line end: a line that is cut or mixed with another does not fit.
fn line(line: &Line) -> Vec<u8> {
    let json = serde_json::to_vec(line).expect("it has no map with other keys than strings");
    let mut bytes = check(&json).into_bytes();
    bytes.push(b' ');
    bytes.extend(json);
    bytes.push(b'\n');
    bytes
}

fn check(json: &[u8]) -> String {
    hex(&Sha256::digest(json)[..16])
}

fn parse(bytes: &[u8]) -> Option<Line> {
    let (sum, json) = bytes.split_at_checked(32)?;
    let json = json.strip_prefix(b" ")?;
    if sum != check(json).as_bytes() {
        return None;
    }
    serde_json::from_slice(json).ok()
}

fn replay(bytes: &[u8], boot_id: &str) -> Earlier {
    let mut open: Vec<Entry> = Vec::new();
    let mut began: Option<(String, Ports)> = None;
    let mut rest = bytes;
    while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
        let Some(line) = parse(&rest[..end]) else {
            warn!("the journal holds a line that was torn or changed; what follows it is not read");
            break;
        };
        match line {
            Line::Began { boot_id, ports } => began = Some((boot_id, ports)),
            Line::Opened { task } => open.push(*task),
            Line::Over { id } => open.retain(|task| task.id != id),
        }
        rest = &rest[end + 1..];
    }
    match began {
        Some((boot, ports)) if boot == boot_id => {
            Earlier { tasks: open, of_other_boots: Vec::new(), ports: Some(ports) }
        }
        _ => {
            let of_other_boots = open.into_iter().map(|task| task.id).collect();
            Earlier { tasks: Vec::new(), of_other_boots, ports: None }
        }
    }
}

/// Opens the file if it is there, and the agent's alone.
fn open_ours(path: &Path) -> Result<Option<File>, JournalError> {
    let no_follow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    let file = match File::options().read(true).custom_flags(no_follow).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(io_error("open", path, source)),
    };
    let meta = file.metadata().map_err(|source| io_error("stat", path, source))?;
    let is_ours = meta.uid() == rustix::process::geteuid().as_raw() && meta.mode() & 0o777 == 0o600;
    if !is_ours || !meta.is_file() {
        return Err(JournalError::NotOurs { path: path.to_owned() });
    }
    Ok(Some(file))
}

fn io_error(what: &'static str, path: &Path, source: io::Error) -> JournalError {
    JournalError::Io { what, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;
