//! Broker and agent as children: started in a group of their own, their output kept, ended with us.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};

use super::config::{AGENT_FILE, BROKER_FILE};
use super::place::{Place, failed};
use crate::failure::Failure;
use crate::output;

/// What a part may take to end when it is told to; longer than its own drain.
const END_WITHIN: Duration = Duration::from_secs(20);
/// Lines that are shown when a part failed.
const TAIL: usize = 12;

/// The programs that come with this one.
pub struct Bins {
    ourselves: PathBuf,
    broker: PathBuf,
    agent: PathBuf,
}

/// A command line.
pub type Line = Vec<OsString>;

impl Bins {
    /// Finds them beside our own program.
    pub fn beside_us() -> Result<Self, Failure> {
        let ourselves = std::env::current_exe()
            .map_err(|error| Failure::new("our own program cannot be found").because(&error))?;
        let folder = ourselves.parent().unwrap_or(Path::new("/"));
        let find = |name: &str| {
            let path = folder.join(name);
            if path.is_file() {
                return Ok(path);
            }
            Err(Failure::new(format!("there is no {}", path.display())).next(
                "build all three: cargo build --workspace --bins --features dayfly/dev,dayfly-broker/dev,dayfly-agent/dev",
            ))
        };
        Ok(Self { broker: find("dayfly-broker")?, agent: find("dayfly-agent")?, ourselves })
    }

    /// The credential broker.
    pub fn broker(&self, place: &Place) -> Line {
        self.line(&self.broker, "run", &place.kept(BROKER_FILE))
    }

    /// The part of the agent that asks who programs are.
    pub fn attest(&self, place: &Place) -> Line {
        self.line(&self.agent, "attest", &place.kept(AGENT_FILE))
    }

    /// The rest of the agent.
    pub fn agent(&self, place: &Place) -> Line {
        self.line(&self.agent, "run", &place.kept(AGENT_FILE))
    }

    fn line(&self, program: &Path, verb: &str, config: &Path) -> Line {
        let parent = rustix::process::getpid().as_raw_nonzero().to_string();
        let ourselves = [self.ourselves.as_os_str(), "dev".as_ref(), "part".as_ref(), "--parent".as_ref()];
        let part = [program.as_os_str(), verb.as_ref(), "--config".as_ref(), config.as_os_str()];
        let separated = [parent.as_ref(), "--".as_ref()];
        ourselves.into_iter().chain(separated).chain(part).map(OsString::from).collect()
    }
}

/// Becomes the program, with the word that the kernel ends it when our parent ends. Returns only if that failed.
pub fn become_part(parent: i32, command: &[OsString]) -> Failure {
    let bound = rustix::process::set_parent_process_death_signal(Some(Signal::TERM));
    if let Err(error) = bound {
        return Failure::new("cannot be bound to `dayfly dev`").because(&error);
    }
    // It may have ended before it could be bound to.
    if rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get()) != Some(parent) {
        return Failure::new("`dayfly dev` has ended");
    }
    let error = std::process::Command::new(&command[0]).args(&command[1..]).exec();
    Failure::new(format!("cannot execute {}", command[0].display())).because(&error)
}

/// A running part. Dropping it kills it.
pub struct Part {
    name: &'static str,
    child: Child,
    pid: u32,
    tail: Arc<Mutex<VecDeque<String>>>,
    log: PathBuf,
}

impl Part {
    /// Starts it with an environment that holds nothing of the shell's. With `follow` its whole log is shown.
    ///
    /// Called on the main thread: the kernel's word on the parent's end is about the thread that started the child.
    pub fn start(name: &'static str, line: Line, place: &Place, follow: bool) -> Result<Self, Failure> {
        let log = place.kept("logs").join(format!("{name}.log"));
        let file = File::options().create(true).write(true).truncate(true).mode(0o600).open(&log);
        let file = Arc::new(Mutex::new(file.map_err(|error| failed("write", &log, &error))?));
        let mut command = Command::new(&line[0]);
        command.args(&line[1..]).env_clear().env("NO_COLOR", "1");
        for variable in ["PATH", "HOME", "LANG", "TZ", "RUST_BACKTRACE"] {
            if let Some(value) = std::env::var_os(variable) {
                command.env(variable, value);
            }
        }
        // A group of its own: Ctrl-C reaches us alone, and we end the parts in order.
        command.process_group(0).kill_on_drop(true);
        command.current_dir(place.dir()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| failed("start", Path::new(&line[0]), &error))?;
        let pid = child.id().expect("it was not waited for");
        let tail = Arc::<Mutex<VecDeque<String>>>::default();
        if let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) {
            tokio::spawn(keep(stdout, name, Arc::clone(&file), Arc::clone(&tail), follow));
            tokio::spawn(keep(stderr, name, file, Arc::clone(&tail), follow));
        }
        Ok(Self { name, child, pid, tail, log })
    }

    /// Its process id; that of the program itself, which replaces our own.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits for an end that nobody asked for, and tells it.
    pub async fn ended(&mut self) -> Failure {
        let status = self.child.wait().await;
        // What it said last is still on its way to us.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        let said = tail.iter().map(|line| format!("\n    {line}")).collect::<String>();
        let failure = Failure::new(format!("the {} ended with {status}; it said last:{said}", self.name));
        failure.next(format!("read {}", self.log.display()))
    }

    /// Tells it to end, and kills it if it does not.
    pub async fn stop(&mut self) {
        // An error means that it has ended.
        let _ended = self.signal(Signal::TERM);
        if tokio::time::timeout(END_WITHIN, self.child.wait()).await.is_err() {
            output::note(&format!("dayfly dev: the {} does not end; it is killed", self.name));
            let _ended = self.child.kill().await;
        }
    }

    fn signal(&self, signal: Signal) -> Result<(), rustix::io::Errno> {
        // Without an id it was waited for, and the number may be somebody else's.
        let pid = self.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        pid.map_or(Ok(()), |pid| rustix::process::kill_process(pid, signal))
    }
}

/// Keeps what a part says, and shows it, or what of it a person should see.
async fn keep(
    from: impl AsyncRead + Unpin,
    name: &'static str,
    file: Arc<Mutex<File>>,
    tail: Arc<Mutex<VecDeque<String>>>,
    follow: bool,
) {
    let mut lines = BufReader::new(from).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let line = output::printable(&line);
        // A full disk must not stop the parts.
        let _kept = writeln!(file.lock().unwrap_or_else(PoisonError::into_inner), "{line}");
        if follow || is_warning(&line) {
            output::note(&format!("{name:>6} | {line}"));
        }
        let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.push_back(line);
        while tail.len() > TAIL {
            tail.pop_front();
        }
    }
}

/// As `tracing` writes levels, for people and as JSON.
fn is_warning(line: &str) -> bool {
    [" WARN ", " ERROR ", "\"WARN\"", "\"ERROR\"", "panicked at"].iter().any(|word| line.contains(word))
}
