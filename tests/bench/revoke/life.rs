//! A task's process, from its start to the moment before its death.

use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use anyhow::{Context, ensure};
use harness::{Program, Running};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::UnixListener;

use super::site::{Kind, Site};
use super::workload::Held;

const START: Duration = Duration::from_secs(30);

/// A place for one process after another.
pub struct Slot {
    program: Program,
    log: std::path::PathBuf,
    listener: UnixListener,
}

/// A process in its task, with what it holds.
pub struct Life {
    /// What it was given.
    pub held: Held,
    /// The process, as the kernel names it.
    pub pidfd: OwnedFd,
    _process: Running,
}

impl Slot {
    /// Listens for reports.
    ///
    /// # Errors
    /// When the socket cannot be bound.
    pub fn open(site: &Site, kind: Kind) -> anyhow::Result<Self> {
        let (program, report) = site.workload(kind)?;
        let listener = UnixListener::bind(&report).context("the socket for reports")?;
        std::fs::set_permissions(&report, std::fs::Permissions::from_mode(0o666))?;
        Ok(Self { program, log: report.with_extension("log"), listener })
    }

    /// Starts a process under `dayfly run` and waits until it holds its credential.
    ///
    /// # Errors
    /// When it fails before; with what it said.
    pub async fn start(&self) -> anyhow::Result<Life> {
        let process = self.program.start(&self.log)?;
        let reported = tokio::time::timeout(START, self.report()).await;
        let reported =
            reported.with_context(|| format!("no report; the task's log:\n{}", process.log_tail()))?;
        let (held, pidfd) = reported.with_context(|| process.log_tail())?;
        let pid = u32::try_from(dayfly_sys::pidfd::pid(&pidfd)?)?;
        ensure!(pid == process.pid(), "{pid} reported, {} was started", process.pid());
        Ok(Life { held, pidfd, _process: process })
    }

    async fn report(&self) -> anyhow::Result<(Held, OwnedFd)> {
        let (stream, _) = self.listener.accept().await?;
        let pidfd = dayfly_sys::pidfd::of_peer(&stream)?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).await?;
        Ok((serde_json::from_str(&line).context("half a report")?, pidfd))
    }
}
