//! What the tests share: a running server, and a process to be attested.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use dayfly_devspiffe::{Authority, Entry, Server, ServerBuilder, SpiffeId};
use tempfile::TempDir;

/// The SPIFFE ID of the test program itself.
pub const SELF_ID: &str = "spiffe://dev.test/inference/self";

/// Longer than anything here should take, short enough to see a test hang.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A server on both sockets whose only entry is the test program's, as [`SELF_ID`].
pub async fn serve(home: &TempDir) -> Server {
    builder(home).entry(entry_for_self(SELF_ID)).start().await.unwrap()
}

/// A server on both sockets, without entries.
pub fn builder(home: &TempDir) -> ServerBuilder {
    let authority = Authority::in_memory("dev.test").unwrap();
    Server::builder(authority)
        .workload_socket(home.path().join("workload.sock"))
        .admin_socket(home.path().join("admin.sock"))
}

pub fn entry_for_self(spiffe_id: &str) -> Entry {
    Entry::new(spiffe_id).unwrap().process(std::process::id()).unwrap()
}

pub fn id(spiffe_id: &str) -> SpiffeId {
    SpiffeId::new(spiffe_id).unwrap()
}

/// A child that runs until dropped.
pub struct Workload(Child);

impl Workload {
    pub fn start(program: &str) -> Self {
        Self(Command::new(program).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap())
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    pub fn end(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits for something to become true, and panics when it does not.
pub async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !is_so() {
        assert!(tokio::time::Instant::now() < deadline, "{what}: still not so after {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
