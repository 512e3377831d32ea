//! A broker and an agent that answer by heart, on Unix sockets in a folder of their own, and the real binary beside.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]
#![allow(dead_code, reason = "each test program uses a part")]

pub mod admin;
mod agent;
pub mod approvals;
pub mod keys;
mod questions;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

pub use admin::FakeBroker;
pub use agent::FakeAgent;
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::server::Router;

/// A folder, what listens in it, and the runtime that serves it.
pub struct World {
    pub home: TempDir,
    pub broker: FakeBroker,
    pub agent: FakeAgent,
    pub runtime: tokio::runtime::Runtime,
}

impl World {
    pub fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (broker, agent) = (FakeBroker::default(), FakeAgent::default());
        {
            let _inside = runtime.enter();
            serve(&home.path().join("broker.sock"), broker.router());
            serve(&home.path().join("agent.sock"), agent.router());
        }
        World { home, broker, agent, runtime }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// `dayfly` with nothing of the tester's own environment that it would read.
    pub fn dayfly(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dayfly"));
        command.args(args).stdin(Stdio::null()).env("HOME", self.home.path()).env_remove("XDG_CONFIG_HOME");
        for name in [
            "DAYFLY_BROKER",
            "DAYFLY_BROKER_ID",
            "DAYFLY_WORKLOAD_API",
            "SPIFFE_ENDPOINT_SOCKET",
            "NO_COLOR",
            "CLICOLOR_FORCE",
        ] {
            command.env_remove(name);
        }
        command.env("DAYFLY_AGENT_SOCKET", self.path("agent.sock"));
        command
    }

    /// An admin's verb over the break-glass socket.
    pub fn admin(&self, args: &[&str]) -> Done {
        let socket = self.path("broker.sock");
        Done::of(self.dayfly(args).arg("--break-glass").arg(socket).output().unwrap())
    }

    /// `dayfly run` with these arguments.
    pub fn run(&self, args: &[&str]) -> Command {
        let mut all = vec!["run"];
        all.extend(args);
        self.dayfly(&all)
    }
}

fn serve(socket: &Path, router: Router) {
    let incoming = UnixListenerStream::new(UnixListener::bind(socket).unwrap());
    tokio::spawn(async move { router.serve_with_incoming(incoming).await.unwrap() });
}

/// What a finished command left.
#[derive(Debug)]
pub struct Done {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Done {
    pub fn of(output: Output) -> Self {
        Done {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Compares with the committed text. `UPDATE_GOLDEN=1` writes it instead.
pub fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
        return;
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, golden, "{name} changed; if on purpose, run with UPDATE_GOLDEN=1 and review the diff");
}
