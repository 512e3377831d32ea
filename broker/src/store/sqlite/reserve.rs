//! Room kept free for taking away: a file beside the database that is given up when an end finds the disk full.

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
    bytes: u64,
    held: bool,
}

impl Reserve {
    /// Takes the reserve if there is room for it.
    pub(super) fn new(path: PathBuf, bytes: u64) -> Self {
        let mut reserve = Self { path, bytes, held: false };
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

    /// Takes the room again if there is enough of it, with a quarter to spare, so that it is not lost at once.
    pub(super) fn restore(&mut self) -> bool {
        if !self.held && self.has_room_beside() && self.allocate().is_ok() {
            self.held = true;
            info!(bytes = self.bytes, "the store has its reserve again");
        }
        self.held
    }

    fn has_room_beside(&self) -> bool {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        statvfs(folder).is_ok_and(|disk| disk.f_bavail.saturating_mul(disk.f_frsize) >= self.bytes / 4 * 5)
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
