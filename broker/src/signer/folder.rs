//! The folder of private keys: who may own it, who may read it, and that nothing in it is ever overwritten.

use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use thiserror::Error;
use zeroize::Zeroizing;

use super::KeyFault;

/// Largest key file. An RSA key of 4096 bits has 2.4 kB.
const MAX_KEY_BYTES: u64 = 16 * 1024;

/// Why the broker does not start with these keys.
#[derive(Debug, Error)]
pub enum KeysError {
    /// The folder or a file in it cannot be read or made.
    #[error("could not {what} {path}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A link, a pipe, a folder where a file should be.
    #[error("{path} is not a {wanted}; move it away")]
    Kind {
        /// What was found.
        path: PathBuf,
        /// What it should be.
        wanted: &'static str,
    },
    /// It belongs to somebody else, who could have put a key of his own there.
    #[error(
        "{path} belongs to uid {owner}; the broker runs as uid {runs_as} and takes only its own: chown it"
    )]
    Owner {
        /// What was found.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Us.
        runs_as: u32,
    },
    /// Others may read or change it.
    #[error(
        "{path} has mode {mode:04o}; it must be {wanted:04o} or less: chmod it, and replace keys others may have read"
    )]
    Mode {
        /// What was found.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// The most they may be.
        wanted: u32,
    },
    /// Keys would travel over a network, and its locks and modes are another machine's word.
    #[error("{path} lies on a network file system; keep keys on a local one")]
    NetworkFileSystem {
        /// The folder.
        path: PathBuf,
    },
    /// What the file holds cannot be used.
    #[error(
        "the key in {path} cannot be used; restore it from where it was kept, or move it away to have a new one made"
    )]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: KeyFault,
    },
    /// A token of one kind could then pass for one of the other.
    #[error("{first} and {second} hold the same key; move the second away to have a new one made")]
    Shared {
        /// A key's file.
        first: PathBuf,
        /// Its copy.
        second: PathBuf,
    },
}

/// A folder that was checked, held open so that it cannot be swapped for another.
pub(super) struct KeyFolder {
    path: PathBuf,
    folder: OwnedFd,
}

impl KeyFolder {
    /// Opens the folder, or makes it (0700) if it is missing.
    pub(super) fn open(path: &Path) -> Result<Self, KeysError> {
        let failed = |what, source: io::Error| KeysError::Io { what, path: path.to_owned(), source };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|source| failed("make the folder", source))?;
        let folder =
            rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .map_err(|source| failed("open the folder", source.into()))?;
        let stat = rustix::fs::fstat(&folder).map_err(|source| failed("look at", source.into()))?;
        judge(path, &stat, FileType::Directory)?;
        let system = rustix::fs::fstatfs(&folder).map_err(|source| failed("look at", source.into()))?;
        if is_network(system.f_type as u32) {
            return Err(KeysError::NetworkFileSystem { path: path.to_owned() });
        }
        Ok(Self { path: path.to_owned(), folder })
    }

    /// The content of a file, which is made first if it is missing. Of two that make it at once, both get the same.
    pub(super) fn read_or_make(
        &self,
        name: &str,
        make: impl FnOnce() -> Result<Zeroizing<Vec<u8>>, KeyFault>,
    ) -> Result<(PathBuf, Zeroizing<Vec<u8>>), KeysError> {
        let path = self.path.join(name);
        if let Some(found) = self.read(name, &path)? {
            return Ok((path, found));
        }
        let fresh = make().map_err(|source| KeysError::Unusable { path: path.clone(), source })?;
        self.put(name, &fresh).map_err(|source| KeysError::Io {
            what: "write",
            path: path.clone(),
            source,
        })?;
        match self.read(name, &path)? {
            Some(found) => Ok((path, found)),
            None => {
                let source = io::Error::from(io::ErrorKind::NotFound);
                Err(KeysError::Io { what: "read back", path, source })
            }
        }
    }

    /// The names of what lies in it.
    pub(super) fn names(&self) -> Result<Vec<String>, KeysError> {
        let failed =
            |source: Errno| KeysError::Io { what: "list", path: self.path.clone(), source: source.into() };
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.folder).map_err(failed)? {
            names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    /// Where a file of that name lies.
    pub(super) fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The content of a file that is there.
    pub(super) fn read_there(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, KeysError> {
        self.read(name, &self.path.join(name))
    }

    /// Writes a file that is not there; what is there stands.
    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), KeysError> {
        let path = self.path.join(name);
        self.put(name, bytes).map_err(|source| KeysError::Io { what: "write", path, source })
    }

    /// Removes a file. What is gone already is gone.
    pub(super) fn remove(&self, name: &str) -> Result<(), KeysError> {
        let failed = |source: Errno| KeysError::Io {
            what: "remove",
            path: self.path.join(name),
            source: source.into(),
        };
        match rustix::fs::unlinkat(&self.folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => rustix::fs::fsync(&self.folder).map_err(failed),
            Err(error) => Err(failed(error)),
        }
    }

    fn read(&self, name: &str, path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, KeysError> {
        let failed = |source: io::Error| KeysError::Io { what: "read", path: path.to_owned(), source };
        // A pipe put in its place must not hang the start.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.folder, name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            // O_NOFOLLOW on a link.
            Err(Errno::LOOP) => return Err(KeysError::Kind { path: path.to_owned(), wanted: "file" }),
            Err(error) => return Err(failed(error.into())),
        };
        let stat = rustix::fs::fstat(&file).map_err(|error| failed(error.into()))?;
        judge(path, &stat, FileType::RegularFile)?;
        // One allocation: what a growing buffer leaves behind is not zeroed.
        let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_KEY_BYTES as usize));
        File::from(file).take(MAX_KEY_BYTES).read_to_end(&mut bytes).map_err(failed)?;
        Ok(Some(bytes))
    }

    /// Writes a file whole or not at all, and never over another: a hard link to an existing name fails.
    fn put(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let draft = format!(".{name}.{}", std::process::id());
        let unlink = || rustix::fs::unlinkat(&self.folder, &draft, AtFlags::empty());
        match unlink() {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file =
            File::from(rustix::fs::openat(&self.folder, &draft, flags, Mode::from_raw_mode(0o600))?);
        let written = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| {
            match rustix::fs::linkat(&self.folder, &draft, &self.folder, name, AtFlags::empty()) {
                // Another start was quicker; its key stands.
                Ok(()) | Err(Errno::EXIST) => Ok(()),
                Err(error) => Err(error.into()),
            }
        });
        unlink()?;
        written?;
        Ok(rustix::fs::fsync(&self.folder)?)
    }
}

/// What we own, with no bits for others, may be used. systemd hands credentials over as 0400 in a folder 0500.
fn judge(path: &Path, stat: &Stat, wanted: FileType) -> Result<(), KeysError> {
    let path = path.to_owned();
    let (most, kind) = match wanted {
        FileType::Directory => (0o700, "folder"),
        _ => (0o600, "file"),
    };
    if FileType::from_raw_mode(stat.st_mode) != wanted {
        return Err(KeysError::Kind { path, wanted: kind });
    }
    let runs_as = rustix::process::geteuid().as_raw();
    if stat.st_uid != runs_as {
        return Err(KeysError::Owner { path, owner: stat.st_uid, runs_as });
    }
    let mode = stat.st_mode & 0o7777;
    if mode & !most != 0 {
        return Err(KeysError::Mode { path, mode, wanted: most });
    }
    Ok(())
}

/// NFS, SMB, CIFS, SMB2, AFS, Ceph (statfs(2)).
fn is_network(magic: u32) -> bool {
    matches!(magic, 0x6969 | 0x517b | 0xff53_4d42 | 0xfe53_4d42 | 0x5346_414f | 0x00c3_6400)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn made() -> Result<Zeroizing<Vec<u8>>, KeyFault> {
        Ok(Zeroizing::new(b"a key".to_vec()))
    }

    fn chmod(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("our own file");
    }

    #[test]
    fn what_is_made_is_private_and_never_made_again() {
        let home = tempfile::tempdir().expect("a folder");
        let keys = home.path().join("state/keys");
        let (path, first) = KeyFolder::open(&keys).and_then(|f| f.read_or_make("a.pk8", made)).expect("made");
        let mode = |path: &Path| path.metadata().expect("it is there").permissions().mode() & 0o7777;
        assert_eq!((mode(&keys), mode(&path)), (0o700, 0o600));
        assert_eq!(std::fs::read_dir(&keys).expect("a folder").count(), 1, "no draft is left behind");

        let again = KeyFolder::open(&keys).and_then(|f| f.read_or_make("a.pk8", || panic!("made twice")));
        assert_eq!(again.expect("read").1, first);

        let folder = KeyFolder::open(&keys).expect("checked");
        folder.put("a.pk8", b"another key").expect("the second of two that start at once");
        assert_eq!(std::fs::read(&path).expect("the file"), b"a key");
    }

    #[test]
    fn what_others_could_read_or_change_is_a_refusal() {
        let home = tempfile::tempdir().expect("a folder");
        let keys = home.path().join("keys");
        let (path, _) = KeyFolder::open(&keys).and_then(|f| f.read_or_make("a.pk8", made)).expect("made");
        for mode in [0o644, 0o640, 0o604, 0o660, 0o601, 0o700, 0o4600] {
            chmod(&path, mode);
            let refused = KeyFolder::open(&keys).and_then(|f| f.read_or_make("a.pk8", made));
            assert!(
                matches!(refused, Err(KeysError::Mode { mode: m, .. }) if m == mode),
                "{mode:o} {refused:?}"
            );
        }
        chmod(&path, 0o400);
        assert!(KeyFolder::open(&keys).and_then(|f| f.read_or_make("a.pk8", made)).is_ok());
        for mode in [0o755, 0o750, 0o770, 0o701, 0o1700] {
            chmod(&keys, mode);
            assert!(matches!(KeyFolder::open(&keys), Err(KeysError::Mode { .. })), "{mode:o}");
        }
    }

    #[test]
    fn a_link_or_a_pipe_is_no_key() {
        let home = tempfile::tempdir().expect("a folder");
        let keys = home.path().join("keys");
        let folder = KeyFolder::open(&keys).expect("made");
        std::fs::write(home.path().join("elsewhere"), b"x").expect("written");
        symlink(home.path().join("elsewhere"), keys.join("link")).expect("linked");
        symlink(home.path().join("nowhere"), keys.join("dangling")).expect("linked");
        nix::unistd::mkfifo(&keys.join("pipe"), nix::sys::stat::Mode::from_bits_truncate(0o600))
            .expect("a pipe");
        std::fs::create_dir(keys.join("folder")).expect("a folder");
        for name in ["link", "dangling", "pipe", "folder"] {
            let refused = folder.read_or_make(name, made);
            assert!(matches!(refused, Err(KeysError::Kind { .. })), "{name}: {refused:?}");
        }
        std::fs::write(home.path().join("file"), b"x").expect("written");
        assert!(KeyFolder::open(&home.path().join("file")).is_err());
    }

    #[test]
    fn what_belongs_to_somebody_else_is_a_refusal() {
        let home = tempfile::tempdir().expect("a folder");
        chmod(home.path(), 0o700);
        let mut stat = rustix::fs::stat(home.path()).expect("it is there");
        assert!(judge(home.path(), &stat, FileType::Directory).is_ok());
        stat.st_uid += 1;
        assert!(matches!(judge(home.path(), &stat, FileType::Directory), Err(KeysError::Owner { .. })));
    }

    #[test]
    fn network_file_systems_are_known_by_their_magic() {
        assert!(is_network(0x6969) && is_network(0xff53_4d42));
        assert!(!is_network(0xef53) && !is_network(0x0102_1994), "ext4, tmpfs");
    }
}
