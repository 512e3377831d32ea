//! `dayfly dev`, as a person starts it: one process with broker and agent beneath it.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::parts;
use crate::process::{Finished, Program, Running};
use crate::python::Python;
use crate::scratch::Scratch;
use crate::uids::Uid;

const START: Duration = Duration::from_secs(60);

/// What a scenario may want otherwise.
#[derive(Debug, Default)]
pub struct DevOptions {
    /// The user who runs it; root if absent.
    pub user: Option<Uid>,
    /// Further words of its command line.
    pub args: Vec<String>,
    /// Variables that stand in its shell.
    pub env: Vec<(String, String)>,
}

/// It, running.
#[derive(Debug)]
pub struct Dev {
    /// The process of `dayfly dev` itself.
    pub process: Running,
    /// The user's folder; `.dayfly` lies in it.
    pub home: PathBuf,
    /// What `dayfly dev env` exports.
    pub env: Vec<(String, String)>,
    /// Where everything lies.
    pub scratch: Scratch,
    user: Option<Uid>,
}

impl Dev {
    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// Whatever does not start, with the end of its log.
    pub async fn start(options: DevOptions) -> anyhow::Result<Self> {
        Self::start_in(Scratch::new()?, options).await
    }

    /// Starts it in a folder that an earlier one was started in.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_in(scratch: Scratch, options: DevOptions) -> anyhow::Result<Self> {
        let home = match options.user {
            Some(user) => scratch.folder_of("home", user.0)?,
            None => scratch.folder("home", 0o700)?,
        };
        let mut program =
            Self::program_of(options.user, "dayfly")?.arg("dev").args(&options.args).in_folder(&home);
        for (name, value) in &options.env {
            program = program.env(name, value);
        }
        let process = program.env("HOME", &home).start(&scratch.join("dev.log"))?;
        let mut dev = Self { process, home, env: Vec::new(), scratch, user: options.user };
        let ask = dev.verb(["dev", "env"])?;
        let exports = dev.process.ready(START, || ask.output()).await?;
        dev.env = exports.lines().filter_map(read_export).collect();
        ensure!(dev.env.len() > 4, "`dayfly dev env` said: {exports}");
        Ok(dev)
    }

    /// Ends it as `dayfly dev stop` does, and gives the folder back.
    ///
    /// # Errors
    /// When it does not end, or not well.
    pub async fn stop(mut self) -> anyhow::Result<Scratch> {
        self.verb(["dev", "stop"])?.output().await?;
        let status = self.process.ended(START).await?;
        ensure!(status.success(), "it ended with {status}:\n{}", self.process.log_tail());
        Ok(self.scratch)
    }

    /// The value of a variable that it exports.
    #[must_use]
    pub fn exported(&self, name: &str) -> &str {
        self.env.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    /// A program in the shell next to it.
    #[must_use]
    pub fn shell(&self, program: Program) -> Program {
        let program = match self.user {
            Some(user) => program.as_user(user.0, user.0),
            None => program,
        };
        let program = program.in_folder(&self.home).env("HOME", &self.home);
        self.env.iter().fold(program, |program, (name, value)| program.env(name, value))
    }

    /// `dayfly` with these words, in that shell.
    ///
    /// # Errors
    /// When it was not built.
    pub fn verb<W: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = W>) -> anyhow::Result<Program> {
        Ok(self.shell(Program::new(parts::binary("dayfly")?).args(words)))
    }

    /// What `dayfly … -o json` says.
    ///
    /// # Errors
    /// When it fails or says no JSON.
    pub async fn json(&self, words: &[&str]) -> anyhow::Result<Value> {
        let said = self.verb(words.iter().copied().chain(["-o", "json"]))?.output().await?;
        serde_json::from_str(&said).with_context(|| format!("dayfly {words:?} said: {said}"))
    }

    /// Applies one of `deploy/examples/`.
    ///
    /// # Errors
    /// When a document is refused; with every fault.
    pub async fn apply(&self, name: &str) -> anyhow::Result<()> {
        // The user may not be able to enter our folder.
        let copy =
            self.scratch.file(name, 0o644, fs::read(repository().join("deploy/examples").join(name))?)?;
        self.verb([OsStr::new("apply"), "--yes".as_ref(), "-f".as_ref(), copy.as_os_str()])?
            .output()
            .await
            .map(drop)
    }

    /// An example in Python, in that shell, with the stubs it imports.
    ///
    /// # Errors
    /// When there is no Python, or the stubs cannot be made.
    pub async fn example(&self, name: &str) -> anyhow::Result<Program> {
        let stubs = self.scratch.join("stubs");
        if !stubs.is_dir() {
            make_stubs(&self.scratch).await?;
        }
        let program = Python::find()?.program().arg(self.scratch.join("examples").join(name));
        Ok(self.shell(program.env("PYTHONPATH", stubs)))
    }

    /// The words that start an example in Python, for `dayfly run -- …`.
    ///
    /// # Errors
    /// As [`Self::example`].
    pub async fn example_in_task(&self, run: &[&str], name: &str, args: &[&str]) -> anyhow::Result<Finished> {
        let stubs = self.scratch.join("stubs");
        if !stubs.is_dir() {
            make_stubs(&self.scratch).await?;
        }
        let python = Python::find()?.path();
        let words = ["run"].iter().chain(run).chain(&["--"]).map(OsStr::new);
        let script = self.scratch.join("examples").join(name);
        let words = words.chain([python.as_os_str(), script.as_os_str()]).chain(args.iter().map(OsStr::new));
        let program = self.verb(words)?.env("PYTHONPATH", stubs).env("PYTHONDONTWRITEBYTECODE", "1");
        program.env("AWS_CONFIG_FILE", "/dev/null").env("AWS_EC2_METADATA_DISABLED", "true").finish().await
    }

    fn program_of(user: Option<Uid>, name: &str) -> anyhow::Result<Program> {
        let path = parts::binary(name)?;
        Ok(match user {
            Some(user) => user.program(path),
            None => Program::new(path),
        })
    }
}

/// The stubs that the examples import, and the examples where every user can read them.
async fn make_stubs(scratch: &Scratch) -> anyhow::Result<()> {
    let (root, stubs) = (repository(), scratch.folder("stubs", 0o755)?);
    let examples = scratch.folder("examples", 0o755)?;
    for entry in fs::read_dir(root.join("examples/python"))? {
        let path = entry?.path();
        if path.is_file() {
            let name = path.file_name().context("a file has a name")?;
            scratch.file(
                PathBuf::from("examples").join(name).to_string_lossy().as_ref(),
                0o644,
                fs::read(&path)?,
            )?;
        }
    }
    ensure!(examples.join("svid.py").is_file(), "examples/python lacks svid.py");
    let protoc = Python::find()?.module("grpc_tools.protoc");
    let folders = [root.join("proto"), root.join("devspiffe/proto")];
    let includes = folders.iter().map(|folder| format!("-I{}", folder.display()));
    let outputs = ["--python_out", "--grpc_python_out"].map(|out| format!("{out}={}", stubs.display()));
    let protos = ["dayfly/v1/scope.proto", "dayfly/v1/credential.proto", "workload.proto"];
    protoc.args(includes).args(outputs).args(protos).output().await.map(drop)
}

/// The root of the repository.
#[must_use]
pub fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read_export(line: &str) -> Option<(String, String)> {
    let (name, value) = line.strip_prefix("export ")?.split_once('=')?;
    Some((name.to_owned(), value.trim_matches('\'').to_owned()))
}
