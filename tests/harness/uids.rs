//! Users for workloads: numbers without an entry in passwd, each handed out once per test process.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::process::Program;

static NEXT: AtomicU32 = AtomicU32::new(61_000);

/// A user (and group) of its own for one workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uid(pub u32);

impl Uid {
    /// One that nobody else in this test process has.
    #[must_use]
    pub fn fresh() -> Self {
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// The SPIRE selector that tells its processes apart.
    #[must_use]
    pub fn selector(self) -> String {
        format!("unix:uid:{}", self.0)
    }

    /// A program that will run as this user.
    #[must_use]
    pub fn program(self, path: impl Into<std::path::PathBuf>) -> Program {
        Program::new(path).as_user(self.0, self.0)
    }
}
