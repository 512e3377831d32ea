//! Everything that a test needs around the agent, on a memory file system.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use dayfly_agent::cgroup::Hierarchy;
use dayfly_client::{AgentClient, Identity, IdentityOptions, Pick, SpiffeId};
use dayfly_devspiffe::{Authority, Entry, Server};
use tempfile::TempDir;

use crate::broker::{Broker, Listening};

pub const BROKER: &str = "spiffe://prod.example/dayfly/broker";
pub const AGENT: &str = "spiffe://prod.example/node/n1";
pub const LAUNCHER: &str = "spiffe://prod.example/tool/launcher";
pub const BASH: &str = "spiffe://prod.example/training/bash";
const ATTEST: &str = "spiffe://prod.example/node/n1-attest";

pub const PATIENCE: Duration = Duration::from_secs(15);

pub struct World {
    pub broker: Broker,
    pub spiffe: Server,
    pub home: TempDir,
    pub cgroup: PathBuf,
    listening: Option<Listening>,
    attest: Child,
    run: Child,
    settings: String,
    /// As whom agent and workloads run, where that is not root.
    user: Option<u32>,
}

/// A shell that stands in a task, or nowhere; killed when dropped.
pub struct Shell {
    pub child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl World {
    pub async fn start() -> Self {
        Self::start_with("").await
    }

    /// `settings` is TOML that follows the usual.
    pub async fn start_with(settings: &str) -> Self {
        Self::start_as(None, settings).await
    }

    /// Agent and workloads run as this user, without any privilege.
    pub async fn start_as(user: Option<u32>, settings: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let home = tempfile::Builder::new().prefix("dayfly-").tempdir_in("/dev/shm").unwrap();
        let name =
            format!("dayfly-agent-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let cgroup = Hierarchy::find().unwrap().own_directory().unwrap().join(name);

        let spiffe = Server::builder(Authority::in_memory("prod.example").unwrap())
            .workload_socket(home.path().join("workload.sock"))
            .admin_socket(home.path().join("admin.sock"))
            .socket_mode(0o666)
            .authorized_delegate(SpiffeId::new(ATTEST).unwrap())
            .entry(Entry::new(BROKER).unwrap().process(std::process::id()).unwrap())
            .entry(Entry::new(LAUNCHER).unwrap().path(example()))
            .entry(Entry::new(BASH).unwrap().path(which("bash")))
            .start()
            .await
            .unwrap();
        let options =
            IdentityOptions { pick: Pick::Id(SpiffeId::new(BROKER).unwrap()), ..Default::default() };
        let identity = Identity::from_workload_api(Some(&spiffe.workload_endpoint()), options).await.unwrap();
        let broker = Broker::new(identity, format!("{BROKER}?via={AGENT}")).await;
        for (scope, provider) in [("s3", "aws"), ("s3-too", "aws"), ("kv", "vault"), ("index", "token")] {
            broker.book().providers.insert(scope.to_owned(), provider.to_owned());
        }
        let listening = Some(broker.listen(&home.path().join("broker.sock")));

        if let Some(uid) = user {
            std::os::unix::fs::chown(home.path(), Some(uid), Some(uid)).unwrap();
            std::os::unix::fs::chown(home.path().join("broker.sock"), Some(uid), Some(uid)).unwrap();
        }
        let settings = settings.to_owned();
        let (attest, run) = Self::start_agent(&home, &cgroup, &spiffe, &settings, user);
        let mut world = Self { broker, spiffe, home, cgroup, listening, attest, run, settings, user };
        world.until_attached(1).await;
        world
    }

    fn start_agent(
        home: &TempDir,
        cgroup: &Path,
        spiffe: &Server,
        settings: &str,
        user: Option<u32>,
    ) -> (Child, Child) {
        let at = home.path().display();
        let config = format!(
            "[agent]\nspiffe_id = \"{AGENT}\"\nsocket = \"{at}/agent.sock\"\nruntime_dir = \"{at}/run\"\n\
             workload_api = \"{}\"\n\
             [broker]\naddress = \"unix:{at}/broker.sock\"\nspiffe_id = \"{BROKER}\"\n\
             [attest]\nsocket = \"{at}/attest.sock\"\nspire_admin_socket = \"{}\"\n\
             [log]\nformat = \"plain\"\nlevel = \"info,dayfly_agent=debug\"\n\
             [tasks]\ncgroup = \"{}\"\ndrain = \"2s\"\n{settings}",
            spiffe.workload_endpoint(),
            spiffe.admin_endpoint().unwrap(),
            cgroup.display(),
        );
        let file = home.path().join("agent.toml");
        std::fs::write(&file, config).unwrap();
        let start = |command: &str, id: &str| {
            let log = std::fs::File::options()
                .create(true)
                .append(true)
                .open(home.path().join(format!("{command}.log")));
            let child = command_as(user, Path::new(env!("CARGO_BIN_EXE_dayfly-agent")))
                .args([command, "--config"])
                .arg(&file)
                .stderr(log.unwrap())
                .spawn()
                .unwrap();
            spiffe.add_entry(Entry::new(id).unwrap().process(child.id()).unwrap()).unwrap();
            child
        };
        (start("attest", ATTEST), start("run", AGENT))
    }

    pub async fn until_attached(&mut self, times: u32) {
        let run = &mut self.run;
        let broker = &self.broker;
        let home = self.home.path();
        let begin = Instant::now();
        while broker.book().attached < times {
            let log = || std::fs::read_to_string(home.join("run.log")).unwrap();
            assert!(run.try_wait().unwrap().is_none(), "the agent ended:\n{}", log());
            assert!(begin.elapsed() < PATIENCE, "the agent does not attach:\n{}", log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn crash_broker(&mut self) {
        self.listening = None;
    }

    pub fn revive_broker(&mut self) {
        self.listening = Some(self.broker.listen(&self.home.path().join("broker.sock")));
    }

    pub fn kill_agent(&mut self) {
        self.run.kill().unwrap();
        self.run.wait().unwrap();
        self.attest.kill().unwrap();
        self.attest.wait().unwrap();
    }

    /// SIGTERM, as a service manager sends it for a restart.
    pub async fn terminate_agent(&mut self) -> std::process::ExitStatus {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.run.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        let status = self.agent_ended().await;
        self.attest.kill().unwrap();
        self.attest.wait().unwrap();
        status
    }

    pub async fn restart_agent(&mut self) {
        let before = self.broker.book().attached;
        self.start_agent_again();
        self.until_attached(before + 1).await;
    }

    /// The same without waiting for anything.
    pub fn start_agent_again(&mut self) {
        for id in [AGENT, ATTEST] {
            self.spiffe.withdraw(&SpiffeId::new(id).unwrap());
        }
        (self.attest, self.run) =
            Self::start_agent(&self.home, &self.cgroup, &self.spiffe, &self.settings, self.user);
    }

    pub fn agent_pid(&self) -> u32 {
        self.run.id()
    }

    pub async fn agent_ended(&mut self) -> std::process::ExitStatus {
        let run = &mut self.run;
        let begin = Instant::now();
        loop {
            if let Some(status) = run.try_wait().unwrap() {
                return status;
            }
            assert!(begin.elapsed() < PATIENCE, "the agent does not end");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.home.path().join("agent.sock")
    }

    /// A connection of the test's own process.
    pub async fn client(&self) -> AgentClient {
        AgentClient::connect(self.socket()).await.unwrap()
    }

    /// Opens a task whose leader becomes a shell.
    pub fn task(&self, options: &[&str]) -> Shell {
        self.task_as(self.user, options)
    }

    /// The same as another user.
    pub fn task_as(&self, user: Option<u32>, options: &[&str]) -> Shell {
        let mut shell = Shell::spawn(self.workload(user, options));
        assert_eq!(shell.run("echo here"), "here", "{}", self.log());
        shell
    }

    /// The launcher's words where it is refused.
    pub fn refused(&self, options: &[&str]) -> String {
        let output = self.workload(self.user, options).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stdout).unwrap()
    }

    /// A program that opens a task, watches it, and ends it; and what it said.
    pub async fn watch_and_end(&self) -> String {
        self.says(&["--end"])
    }

    /// What the example says with these options.
    pub fn says(&self, options: &[&str]) -> String {
        let mut command = Command::new(example());
        let output = command.arg("--socket").arg(self.socket()).args(options).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn workload(&self, user: Option<u32>, options: &[&str]) -> Command {
        let mut command = command_as(user, &example());
        command.arg("--socket").arg(self.socket()).args(options).args([
            "--",
            "bash",
            "--noprofile",
            "--norc",
        ]);
        command
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.home.path().join("run.log")).unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for child in [&mut self.run, &mut self.attest] {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::write(self.cgroup.join("cgroup.kill"), "1");
        for _ in 0..100 {
            if remove_below(&self.cgroup).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            let _ = writeln!(std::io::stderr(), "the agent's log ends with:\n{}", tail.join("\n"));
        }
    }
}

fn remove_below(folder: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_below(&entry.path())?;
        }
    }
    std::fs::remove_dir(folder)
}

impl Shell {
    /// A shell in no task.
    pub fn outside() -> Self {
        let mut command = Command::new("bash");
        command.args(["--noprofile", "--norc"]);
        Self::spawn(command)
    }

    fn spawn(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdin, stdout }
    }

    /// Runs a line and gives back what it printed.
    pub fn run(&mut self, line: &str) -> String {
        writeln!(self.stdin, "{line}\necho; echo --done").unwrap();
        let mut out = String::new();
        loop {
            let mut read = String::new();
            assert!(self.stdout.read_line(&mut read).unwrap() > 0, "the shell died of `{line}` after: {out}");
            if read == "--done\n" {
                return out.trim_end().to_owned();
            }
            out.push_str(&read);
        }
    }

    /// Sends a line without waiting for it to be done.
    pub fn send(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").unwrap();
    }

    /// A variable of its environment.
    pub fn var(&mut self, name: &str) -> String {
        self.run(&format!("printf %s \"${name}\""))
    }

    /// Sends an HTTP request by means of the shell itself, and gives back the whole answer. Another program would be
    /// another process, with an identity of its own.
    pub fn http(&mut self, host: &str, request: &str) -> String {
        let port = host.rsplit_once(':').unwrap().1;
        let lines = request.replace('%', "%%").replace('\n', "\\r\\n");
        self.run(&format!(
            "exec 9<>/dev/tcp/127.0.0.1/{port}; printf '{lines}\\r\\nHost: {host}\\r\\nConnection: close\\r\\n\\r\\n' >&9; \
             while IFS= read -r line <&9 || [ -n \"$line\" ]; do printf '%s\\n' \"$line\"; done; exec 9>&-"
        ))
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks until there is an answer.
pub async fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begin.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// setpriv(1) becomes the program, so the pid is the program's.
fn command_as(user: Option<u32>, program: &Path) -> Command {
    let Some(uid) = user else { return Command::new(program) };
    let mut command = Command::new("setpriv");
    let ids = [format!("--reuid={uid}"), format!("--regid={uid}"), "--clear-groups".to_owned()];
    command.args(ids).args(["--inh-caps=-all", "--"]).arg(program);
    command
}

/// The example beside the tests' own folder, which cargo builds with them.
pub fn example() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_dayfly-agent")).with_file_name("examples").join("workload");
    assert!(path.is_file(), "{} is missing: cargo build -p dayfly-agent --example workload", path.display());
    path
}

fn which(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    let found = std::env::split_paths(&path).map(|folder| folder.join(program)).find(|path| path.is_file());
    std::fs::canonicalize(found.unwrap()).unwrap()
}
