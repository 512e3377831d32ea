//! Child processes that cannot outlive their test.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{LazyLock, mpsc};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::wait::eventually;

const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// A program about to be started, with nothing of our own environment but `PATH`.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    folder: Option<PathBuf>,
    user: Option<(u32, u32)>,
}

impl Program {
    /// The program at `path`, or found by `PATH` when it is a bare name.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), args: Vec::new(), env: Vec::new(), folder: None, user: None }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Starts it in this folder.
    #[must_use]
    pub fn in_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// Runs it as this user, without further groups. Only root can.
    #[must_use]
    pub fn as_user(mut self, uid: u32, gid: u32) -> Self {
        self.user = Some((uid, gid));
        self
    }

    /// Has another program start it: `ip netns exec NAME …`.
    #[must_use]
    pub fn behind<A: AsRef<OsStr>>(
        self,
        program: impl Into<PathBuf>,
        args: impl IntoIterator<Item = A>,
    ) -> Self {
        let own = self.args.iter().map(OsString::as_os_str);
        let mut whole: Vec<OsString> = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
        whole.extend([self.path.as_os_str()].into_iter().chain(own).map(OsStr::to_owned));
        Self { path: program.into(), args: whole, ..self }
    }

    /// Starts it as the head of a process group, with standard output and error appended to `log`.
    ///
    /// # Errors
    /// When the log cannot be opened or the program not started.
    pub fn start(&self, log: &Path) -> anyhow::Result<Running> {
        let output = File::options().create(true).append(true).open(log);
        let output = output.with_context(|| format!("could not open {}", log.display()))?;
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(0);
        let child = spawn(command).with_context(|| format!("could not start {}", self.path.display()))?;
        Ok(Running { name: self.name(), child, log: log.to_owned() })
    }

    /// Runs it to its end and returns what it wrote to standard output; anything but exit code 0 is an error.
    ///
    /// # Errors
    /// When it cannot be started, fails, or takes more than a minute; with what it wrote to standard error.
    pub async fn output(&self) -> anyhow::Result<String> {
        let finished = self.finish().await?;
        ensure!(
            finished.status.success(),
            "{} {:?} ended with {}: {}{}",
            self.name(),
            self.args,
            finished.status,
            finished.stderr,
            finished.stdout
        );
        Ok(finished.stdout)
    }

    /// Runs it to its end, whatever its exit code is.
    ///
    /// # Errors
    /// When it cannot be started or takes more than a minute.
    pub async fn finish(&self) -> anyhow::Result<Finished> {
        let mut command = tokio::process::Command::from(self.command());
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(COMMAND_TIMEOUT, command.output()).await;
        let output =
            output.with_context(|| format!("{} did not end within {COMMAND_TIMEOUT:?}", self.name()))?;
        let output = output.with_context(|| format!("could not start {}", self.path.display()))?;
        Ok(Finished {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// What it will be called in errors.
    fn name(&self) -> String {
        self.path.file_name().unwrap_or(self.path.as_os_str()).to_string_lossy().into_owned()
    }

    // setpriv(1) changes the user and asks for SIGKILL at the parent's end, then becomes the program: the pid is the program's.
    // In Rust that would be `pre_exec`, which is unsafe.
    fn command(&self) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if let Some((uid, gid)) = self.user {
            command.args([format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".to_owned()]);
        }
        command.arg("--").arg(&self.path).args(&self.args).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        command
    }
}

/// How a program ended and what it said.
#[derive(Debug)]
pub struct Finished {
    /// Its exit code or the signal that killed it.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

/// A process with its group; dropping it kills them all.
#[derive(Debug)]
pub struct Running {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where its output goes.
    #[must_use]
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// Its output up to now.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The end of its output, for an error.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }

    /// Its exit status, once it has ended.
    ///
    /// # Errors
    /// When the kernel will not say.
    pub fn exited(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Asks until the answer is `Ok`, and gives up at once when the process has ended.
    ///
    /// # Errors
    /// When it ends or `within` is over; with the tail of its log.
    pub async fn ready<T, E, F>(&mut self, within: Duration, mut ask: impl FnMut() -> F) -> anyhow::Result<T>
    where
        F: Future<Output = Result<T, E>>,
        E: std::fmt::Debug,
    {
        let child = &mut self.child;
        let answer = eventually("not ready", within, || {
            let ended = child.try_wait().ok().flatten();
            let answer = ask();
            async move {
                match ended {
                    Some(status) => Ok(Err(status)),
                    None => answer.await.map(Ok),
                }
            }
        });
        match answer.await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(status)) => {
                bail!("{} ended with {status} before it was ready; its log:\n{}", self.name, self.log_tail())
            }
            Err(error) => bail!("{}: {error:#}; its log:\n{}", self.name, self.log_tail()),
        }
    }

    /// Sends a signal to the process alone.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        nix::sys::signal::kill(self.nix_pid(), signal)
            .with_context(|| format!("could not signal {}", self.name))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn ended(&mut self, within: Duration) -> anyhow::Result<ExitStatus> {
        let (name, child) = (&self.name, &mut self.child);
        eventually(&format!("the end of {name}"), within, || {
            let status = child.try_wait().ok().flatten();
            async move { status.ok_or("it runs") }
        })
        .await
    }

    /// Sends SIGTERM and waits for its end; after ten seconds SIGKILL.
    ///
    /// # Errors
    /// When it does not end even then.
    pub async fn terminate(&mut self) -> anyhow::Result<ExitStatus> {
        if self.exited()?.is_none() {
            self.signal(Signal::SIGTERM)?;
        }
        match self.ended(Duration::from_secs(10)).await {
            Ok(status) => Ok(status),
            Err(_) => self.kill(),
        }
    }

    /// Kills the process and its group with SIGKILL and waits for it.
    ///
    /// # Errors
    /// When the kernel will not give its status.
    pub fn kill(&mut self) -> anyhow::Result<ExitStatus> {
        // An error here means that nobody of the group is left.
        let _gone = killpg(self.nix_pid(), Signal::SIGKILL);
        self.child.wait().with_context(|| format!("could not wait for {}", self.name))
    }

    /// Whether its end was a SIGKILL.
    #[must_use]
    pub fn was_killed(status: ExitStatus) -> bool {
        status.signal() == Some(Signal::SIGKILL as i32)
    }

    fn nix_pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("the kernel's pids fit an i32"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _status = self.kill();
    }
}

// The death signal comes at the end of the *thread* that started the child, prctl(2). A test's thread ends with the test,
// so one thread that never ends starts them all.
fn spawn(command: Command) -> std::io::Result<Child> {
    type Request = (Command, mpsc::Sender<std::io::Result<Child>>);
    static SPAWNER: LazyLock<mpsc::Sender<Request>> = LazyLock::new(|| {
        let (requests, inbox) = mpsc::channel::<Request>();
        std::thread::spawn(move || {
            for (mut command, answer) in inbox {
                let _nobody_waits = answer.send(command.spawn());
            }
        });
        requests
    });
    let (answer, child) = mpsc::channel();
    SPAWNER.send((command, answer)).expect("the spawner never ends");
    child.recv().expect("the spawner answers every request")
}
