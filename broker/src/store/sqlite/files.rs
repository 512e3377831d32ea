//! Where the database lies, and whether it may lie there.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock, statfs};

use super::OpenError;

/// Nobody but the owner may read the folder or anything in it.
const FOR_OTHERS: u32 = 0o077;

/// File systems (`f_type` of statfs(2)) that lie about locks or durability, or keep the data elsewhere.
const ELSEWHERE: [(u32, &str); 9] = [
    (0x0000_6969, "nfs"),
    (0x0000_517B, "smb"),
    (0xFF53_4D42, "cifs"),
    (0xFE53_4D42, "smb2"),
    (0x6573_5546, "fuse"),
    (0x0102_1997, "9p"),
    (0x00C3_6400, "ceph"),
    (0x0BD0_0BD0, "lustre"),
    (0x4750_4653, "gpfs"),
];

/// The store's folder, checked, and locked for as long as this lives.
#[derive(Debug)]
pub(super) struct Place {
    folder: PathBuf,
    _lock: File,
}

impl Place {
    /// Makes what is missing, refuses what others could read or write, and keeps a second broker out.
    pub(super) fn prepare(folder: &Path) -> Result<Self, OpenError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| OpenError::File { path, source }
        };
        if !folder.exists() {
            DirBuilder::new().mode(0o700).recursive(true).create(folder).map_err(failed(folder))?;
            let above = folder.parent().filter(|path| !path.as_os_str().is_empty());
            sync_folder(above.unwrap_or(Path::new("."))).map_err(failed(folder))?;
        }
        check(folder, true)?;
        let kind = statfs(folder).map_err(|errno| failed(folder)(errno.into()))?.f_type;
        // The magic numbers are 32 bits wide; the field is signed and its width differs between machines.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "compared as 32 bits")]
        refuse_elsewhere(folder, kind as u32)?;

        let place = |name: &str| folder.join(name);
        let lock = open_private(&place("lock")).map_err(failed(&place("lock")))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| OpenError::InUse { path: folder.to_owned() })?;
        let database = place("dayfly.db");
        open_private(&database).and_then(|file| file.sync_all()).map_err(failed(&database))?;
        sync_folder(folder).map_err(failed(folder))?;
        let place = Self { folder: folder.to_owned(), _lock: lock };
        place.check_files()?;
        Ok(place)
    }

    /// Refuses files that others could read or write. SQLite makes `-wal` and `-shm` with the database's own mode.
    pub(super) fn check_files(&self) -> Result<(), OpenError> {
        for name in ["lock", "dayfly.db", "dayfly.db-wal", "dayfly.db-shm", "reserve"] {
            let path = self.folder.join(name);
            if path.symlink_metadata().is_ok() {
                check(&path, false)?;
            }
        }
        Ok(())
    }

    pub(super) fn database(&self) -> PathBuf {
        self.folder.join("dayfly.db")
    }

    /// SQLite's write-ahead log.
    pub(super) fn log(&self) -> PathBuf {
        self.folder.join("dayfly.db-wal")
    }

    pub(super) fn reserve(&self) -> PathBuf {
        self.folder.join("reserve")
    }
}

/// Makes a change of a folder's entries last.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Opens a file for the owner alone, and makes it if it is missing. A symbolic link is not followed.
pub(super) fn open_private(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_CLOEXEC)
        .open(path)
}

fn check(path: &Path, is_folder: bool) -> Result<(), OpenError> {
    let at = || path.to_owned();
    let found = fs::symlink_metadata(path).map_err(|source| OpenError::File { path: at(), source })?;
    let right_kind = if is_folder { found.is_dir() } else { found.is_file() };
    if !right_kind {
        return Err(OpenError::Kind { path: at(), wanted: if is_folder { "folder" } else { "plain file" } });
    }
    let us = rustix::process::geteuid().as_raw();
    if found.uid() != us {
        return Err(OpenError::Owner { path: at(), owner: found.uid(), us });
    }
    if found.mode() & FOR_OTHERS != 0 {
        let wanted = if is_folder { 0o700 } else { 0o600 };
        return Err(OpenError::Mode { path: at(), found: found.mode() & 0o7777, wanted });
    }
    Ok(())
}

fn refuse_elsewhere(folder: &Path, magic: u32) -> Result<(), OpenError> {
    match ELSEWHERE.iter().find(|(known, _)| *known == magic) {
        Some((_, kind)) => Err(OpenError::Elsewhere { path: folder.to_owned(), kind }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn scratch() -> (tempfile::TempDir, PathBuf) {
        let above = tempfile::tempdir().expect("a scratch folder");
        let folder = above.path().join("state");
        (above, folder)
    }

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("our own file");
    }

    #[test]
    fn what_is_made_is_for_the_owner_alone() {
        let (_above, folder) = scratch();
        let place = Place::prepare(&folder).expect("a fresh folder");
        for (path, mode) in [(folder.clone(), 0o700), (place.database(), 0o600)] {
            assert_eq!(fs::metadata(&path).expect("made").mode() & 0o777, mode, "{}", path.display());
        }
    }

    #[test]
    fn a_folder_or_file_that_others_may_read_is_refused() {
        let (_above, folder) = scratch();
        drop(Place::prepare(&folder).expect("a fresh folder"));
        chmod(&folder, 0o750);
        assert!(matches!(Place::prepare(&folder), Err(OpenError::Mode { wanted: 0o700, .. })));
        chmod(&folder, 0o700);
        for name in ["dayfly.db", "dayfly.db-wal", "dayfly.db-shm", "reserve", "lock"] {
            let path = folder.join(name);
            drop(open_private(&path).expect("our own folder"));
            chmod(&path, 0o640);
            assert!(matches!(Place::prepare(&folder), Err(OpenError::Mode { wanted: 0o600, .. })), "{name}");
            chmod(&path, 0o600);
        }
        assert!(Place::prepare(&folder).is_ok());
    }

    #[test]
    fn a_symbolic_link_is_refused() {
        let (_above, folder) = scratch();
        drop(Place::prepare(&folder).expect("a fresh folder"));
        let aside = folder.join("aside");
        fs::rename(folder.join("dayfly.db"), &aside).expect("our own folder");
        symlink(&aside, folder.join("dayfly.db")).expect("our own folder");
        assert!(Place::prepare(&folder).is_err());
    }

    #[test]
    fn a_second_broker_is_kept_out() {
        let (_above, folder) = scratch();
        let _first = Place::prepare(&folder).expect("a fresh folder");
        assert!(matches!(Place::prepare(&folder), Err(OpenError::InUse { .. })));
    }

    #[test]
    fn a_network_file_system_is_refused() {
        for (magic, kind) in ELSEWHERE {
            let refusal = refuse_elsewhere(Path::new("/state"), magic).expect_err("a network file system");
            assert!(refusal.to_string().contains(kind), "{refusal}");
        }
        const EXT4: u32 = 0xEF53;
        assert!(refuse_elsewhere(Path::new("/state"), EXT4).is_ok());
    }
}
