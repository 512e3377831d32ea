//! Folders for secrets that are never written to a disk.
//!
//! tmpfs is memory, but memory that can be swapped out, unless it was mounted with `noswap` (Linux 6.4). ramfs is never
//! swapped, but has no size limit.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

/// What stands under a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Memory that is never swapped: ramfs, or tmpfs with `noswap`.
    Memory,
    /// tmpfs, which goes to swap when memory is short.
    SwappableMemory,
    /// Anything else: a disk, a network file system, an overlay.
    Persistent,
}

/// Why a folder may not hold secrets.
#[derive(Debug, thiserror::Error)]
pub enum MemoryFsError {
    /// It is on a disk, or may be.
    #[error("{} is not on tmpfs or ramfs; choose a folder below /run or mount one", path.display())]
    Persistent {
        /// The folder.
        path: PathBuf,
    },
    /// It is tmpfs that can be swapped, and swap is on.
    #[error("{} is tmpfs without `noswap` while swap is on; mount it with `noswap` or turn swap off", path.display())]
    Swappable {
        /// The folder.
        path: PathBuf,
    },
    /// The mount failed.
    #[error("could not mount a memory file system on {}; it needs CAP_SYS_ADMIN", path.display())]
    Mount {
        /// The folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The system's tables could not be read.
    #[error("could not learn what {} is mounted on", path.display())]
    Read {
        /// The folder or table.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// Checks that what is written below `path` cannot reach a disk as things are now.
///
/// Any active swap counts, encrypted or not: this cannot tell them apart.
pub fn check_never_on_disk(path: &Path) -> Result<(), MemoryFsError> {
    match backing(path)? {
        Backing::Memory => Ok(()),
        Backing::SwappableMemory if !swap_is_on()? => Ok(()),
        Backing::SwappableMemory => Err(MemoryFsError::Swappable { path: path.to_owned() }),
        Backing::Persistent => Err(MemoryFsError::Persistent { path: path.to_owned() }),
    }
}

/// Mounts a private memory file system on the folder `path`: tmpfs with `noswap`, mode 0700 and at most `size_kib`
/// kibibytes, or ramfs on kernels before 6.4.
pub fn mount_tmpfs_noswap(path: &Path, size_kib: u32) -> Result<(), MemoryFsError> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let options = format!("mode=0700,noswap,size={size_kib}k");
    let mounted = match mount(Some("dayfly"), path, Some("tmpfs"), flags, Some(options.as_str())) {
        Err(Errno::EINVAL) => mount(Some("dayfly"), path, Some("ramfs"), flags, Some("mode=0700")),
        other => other,
    };
    mounted.map_err(|errno| MemoryFsError::Mount { path: path.to_owned(), source: errno.into() })
}

/// Tells what stands under an existing path.
pub fn backing(path: &Path) -> Result<Backing, MemoryFsError> {
    let device = fs::metadata(path).map_err(|source| read_error(path, source))?.dev();
    let table = Path::new("/proc/self/mountinfo");
    let mounts = fs::read_to_string(table).map_err(|source| read_error(table, source))?;
    Ok(backing_in(&mounts, device))
}

/// Whether any swap area is active.
pub fn swap_is_on() -> Result<bool, MemoryFsError> {
    let table = Path::new("/proc/swaps");
    match fs::read_to_string(table) {
        Ok(text) => Ok(swap_is_on_in(&text)),
        // A kernel built without swap has no such file.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(read_error(table, source)),
    }
}

fn read_error(path: &Path, source: io::Error) -> MemoryFsError {
    MemoryFsError::Read { path: path.to_owned(), source }
}

fn swap_is_on_in(swaps: &str) -> bool {
    swaps.lines().skip(1).any(|line| !line.trim().is_empty())
}

/// proc_pid_mountinfo(5): the third field is `major:minor`; after the lone `-` come type, source, super options.
fn backing_in(mountinfo: &str, device: u64) -> Backing {
    let device = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    for line in mountinfo.lines() {
        let Some((mount, file_system)) = line.split_once(" - ") else { continue };
        if mount.split(' ').nth(2) != Some(device.as_str()) {
            continue;
        }
        let mut fields = file_system.split(' ');
        let kind = fields.next().unwrap_or_default();
        let options = fields.nth(1).unwrap_or_default();
        return match kind {
            "ramfs" => Backing::Memory,
            "tmpfs" if options.split(',').any(|option| option == "noswap") => Backing::Memory,
            "tmpfs" => Backing::SwappableMemory,
            _ => Backing::Persistent,
        };
    }
    Backing::Persistent
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

    use super::*;

    const MOUNTS: &str = "\
22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
30 22 0:25 / /run rw,nosuid shared:5 - tmpfs tmpfs rw,size=1024k,mode=755
31 22 0:26 / /run/dayfly rw,nosuid - tmpfs dayfly rw,size=64k,mode=700,noswap
32 22 0:27 / /run/old rw - ramfs dayfly rw,mode=700
";

    #[test]
    fn each_kind_of_mount_is_told_by_its_device() {
        let at = |minor| backing_in(MOUNTS, rustix::fs::makedev(0, minor));
        assert_eq!(at(25), Backing::SwappableMemory);
        assert_eq!(at(26), Backing::Memory);
        assert_eq!(at(27), Backing::Memory);
        assert_eq!(backing_in(MOUNTS, rustix::fs::makedev(8, 1)), Backing::Persistent);
        assert_eq!(
            backing_in(MOUNTS, rustix::fs::makedev(9, 9)),
            Backing::Persistent,
            "unknown is not memory"
        );
    }

    #[test]
    fn swap_is_on_when_the_table_has_a_row() {
        assert!(!swap_is_on_in("Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"));
        assert!(swap_is_on_in("Filename Type Size Used Priority\n/dev/sda2 partition 8388604 0 -2\n"));
    }

    #[test]
    fn a_folder_on_a_disk_is_refused_by_name() {
        let refused = check_never_on_disk(Path::new("/proc")).unwrap_err();
        assert!(matches!(refused, MemoryFsError::Persistent { .. }));
        assert!(refused.to_string().starts_with("/proc is not on tmpfs"));
    }

    #[test]
    fn dev_shm_is_memory() {
        assert_ne!(backing(Path::new("/dev/shm")).unwrap(), Backing::Persistent);
    }
}
