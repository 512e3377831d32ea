//! Room kept free for taking away: a file beside the database that is given up when an end finds the disk full.
//!
//! SQLite commits to its write-ahead log and moves pages into the database later. What the log holds may need as much
//! room again in the database. The log is therefore kept shorter than the reserve, and nothing is given out once the
//! disk has no room left for what the log holds.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use tracing::{error, info, warn};

use super::files::{open_private, sync_folder};

/// The reserve, held or given up. While it is given up, nothing is granted.
#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
    log: PathBuf,
    bytes: u64,
    held: bool,
}

impl Reserve {
    /// Takes the reserve if there is room for it.
    pub(super) fn new(path: PathBuf, log: PathBuf, bytes: u64) -> Self {
        let mut reserve = Self { path, log, bytes, held: false };
        match reserve.allocate() {
            Ok(()) => reserve.held = true,
            Err(error) => {
                warn!(%error, bytes, "no room for the reserve of the store: nothing is granted until there is");
                reserve.discard();
            }
        }
        reserve
    }

    pub(super) fn is_held(&self) -> bool {
        self.held
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Gives the room up, for what takes away.
    pub(super) fn release(&mut self) {
        error!(
            bytes = self.bytes,
            "the store is full: its reserve is given up, ends go on, nothing is granted"
        );
        self.held = false;
        self.discard();
    }

    /// Whether something may be given out: the reserve is held, or can be taken again, and the disk has room beside it.
    pub(super) fn leaves_room(&mut self) -> bool {
        let needed = self.logged() + self.bytes / 16;
        if self.held {
            return self.free() >= needed;
        }
        if self.free() >= needed.saturating_add(self.bytes) && self.allocate().is_ok() {
            self.held = true;
            info!(bytes = self.bytes, "the store has its reserve again");
        }
        self.held
    }

    /// Bytes in the write-ahead log.
    fn logged(&self) -> u64 {
        fs::metadata(&self.log).map_or(0, |log| log.len())
    }

    /// Bytes free on the disk for this user. 0 if that cannot be told.
    fn free(&self) -> u64 {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        statvfs(folder).map_or(0, |disk| disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    fn allocate(&self) -> io::Result<()> {
        let file = open_private(&self.path)?;
        fallocate(&file, FallocateFlags::empty(), 0, self.bytes)?;
        file.sync_all()?;
        sync_folder(self.path.parent().unwrap_or(Path::new(".")))
    }

    fn discard(&self) {
        if let Err(error) = fs::remove_file(&self.path) {
            error!(%error, path = %self.path.display(), "could not give up the reserve of the store");
        }
    }
}
