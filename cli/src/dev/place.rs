//! Where a development Dayfly lives: its folder, its sockets, its memory, its ports.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::identities::{BROKER, BROKER_HOST, Me};
use crate::failure::Failure;
use crate::output;

/// unix(7): `sun_path` holds 108 bytes with the closing zero.
const MAX_SOCKET_PATH: usize = 107;
/// The longest name of a socket here.
const LONGEST_SOCKET: &str = "/delegated.sock";

/// The folders and addresses of one development Dayfly. Nobody else uses them while this lives.
pub struct Place {
    dir: PathBuf,
    sockets: PathBuf,
    memory: PathBuf,
    /// Who runs it, and so who all its programs are.
    pub me: Me,
    /// The address of the discovery documents and key sets.
    pub discovery: SocketAddr,
    /// The address where services ask about tokens.
    pub introspection: SocketAddr,
    /// The address where programs without gRPC exchange tokens.
    pub exchange: SocketAddr,
    _lock: File,
}

/// What a shell next to it needs to know; written when everything is ready.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Told {
    /// The process to end.
    pub pid: i32,
    /// `DAYFLY_AGENT_SOCKET`.
    pub agent_socket: PathBuf,
    /// `DAYFLY_BROKER`.
    pub broker: String,
    /// `DAYFLY_BROKER_ID`.
    pub broker_id: String,
    /// `DAYFLY_WORKLOAD_API`: the admin's own identity.
    pub admin_api: String,
    /// `SPIFFE_ENDPOINT_SOCKET`: the identity of programs.
    pub workload_api: String,
    /// The identity of services that check tokens.
    pub service_api: String,
    /// `iss` of access tokens lies below it.
    pub issuer: String,
    /// Where services ask about tokens.
    pub introspection: String,
    /// Where programs without gRPC exchange tokens.
    pub exchange: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Ports {
    discovery: u16,
    introspection: u16,
    exchange: u16,
}

impl Place {
    /// Makes the folder, or takes the one that is there, and locks it.
    pub fn take(dir: &Path) -> Result<Self, Failure> {
        private_folder(dir)?;
        let dir = fs::canonicalize(dir).map_err(|error| failed("find", dir, &error))?;
        let lock = lock(&dir)?.ok_or_else(|| {
            Failure::new(format!("another `dayfly dev` uses {}", dir.display()))
                .next("stop it with `dayfly dev stop`, or give this one its own --dir")
        })?;
        // What one that was killed has told.
        let _gone = fs::remove_file(dir.join(TOLD));
        write(&dir.join(".gitignore"), "*\n")?;
        for name in ["state", "keys", "spiffe", "logs"] {
            private_folder(&dir.join(name))?;
        }
        let sockets = socket_folder(&dir)?;
        let memory = memory_folder(&dir, &sockets)?;
        let ports = ports(&dir)?;
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Ok(Self {
            sockets,
            memory,
            me: Me::here(),
            discovery: local(ports.discovery),
            introspection: local(ports.introspection),
            exchange: local(ports.exchange),
            _lock: lock,
            dir,
        })
    }

    /// A file or folder that is kept from one start to the next.
    pub fn kept(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A socket.
    pub fn socket(&self, name: &str) -> PathBuf {
        self.sockets.join(format!("{name}.sock"))
    }

    /// A socket as an address: `unix:/path`.
    pub fn endpoint(&self, name: &str) -> String {
        format!("unix:{}", self.socket(name).display())
    }

    /// The folder itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the agent keeps files of tasks: memory, if this machine has such a folder.
    pub fn memory(&self) -> &Path {
        &self.memory
    }

    /// What our tokens say they come from, without the kind of token.
    pub fn issuer(&self) -> String {
        format!("http://{}", self.discovery)
    }

    /// Where services ask about tokens.
    pub fn introspection_url(&self) -> String {
        format!("https://{}/introspect", self.introspection)
    }

    /// Where programs without gRPC exchange tokens: by a name, for they know no SPIFFE.
    pub fn exchange_url(&self) -> String {
        format!("https://{BROKER_HOST}:{}/token", self.exchange.port())
    }

    /// Writes down how to use it, for `dayfly dev env`.
    pub fn tell(&self) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(&self.told()).expect("texts and numbers are plain data");
        write(&self.dir.join(TOLD), &text)
    }

    /// What [`Self::tell`] writes.
    pub fn told(&self) -> Told {
        Told {
            pid: rustix::process::getpid().as_raw_nonzero().get(),
            agent_socket: self.socket("agent"),
            broker: self.endpoint("broker"),
            broker_id: BROKER.to_owned(),
            admin_api: self.endpoint("admin"),
            workload_api: self.endpoint("workload"),
            service_api: self.endpoint("service"),
            issuer: self.issuer(),
            introspection: self.introspection_url(),
            exchange: self.exchange_url(),
        }
    }

    /// From now on it is not to be used any more.
    pub fn forget(&self) {
        // What is left is found to be old by the lock.
        let _gone = fs::remove_file(self.dir.join(TOLD));
    }
}

impl Drop for Place {
    /// Takes away what lies in memory, and sockets that lie elsewhere; the next start makes them anew.
    fn drop(&mut self) {
        // The agent of root mounts memory there where there is none.
        let _gone = rustix::mount::unmount(self.memory.join("tasks"), rustix::mount::UnmountFlags::DETACH);
        let _gone = fs::remove_dir_all(&self.memory);
        if !self.sockets.starts_with(&self.dir) {
            let _gone = fs::remove_dir_all(&self.sockets);
        }
        // Only if it is empty: it may be the sockets' folder too.
        let _gone = self.memory.parent().map(fs::remove_dir);
    }
}

const TOLD: &str = "running.json";

/// How to use what runs in `dir`; a failure when nothing does.
pub fn running(dir: &Path) -> Result<Told, Failure> {
    let nothing = || {
        Failure::new(format!("no `dayfly dev` runs in {}", dir.display()))
            .next("start one with `dayfly dev`, or name its folder with --dir")
    };
    if lock(dir).map_err(|_| nothing())?.is_some() {
        return Err(nothing());
    }
    let path = dir.join(TOLD);
    let text = fs::read_to_string(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            Failure::new("`dayfly dev` is not ready yet").next("ask again in a moment")
        }
        _ => failed("read", &path, &error),
    })?;
    serde_json::from_str(&text).map_err(|error| failed("understand", &path, &error))
}

/// Whether nothing runs in `dir` any more.
pub fn is_free(dir: &Path) -> bool {
    matches!(lock(dir), Ok(Some(_)) | Err(_))
}

/// Writes a file that only this user can read, whole or not at all.
pub fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let draft = path.with_extension("new");
    let written = File::options().write(true).create(true).truncate(true).mode(0o600).open(&draft);
    let written = written.and_then(|mut file| file.write_all(text.as_bytes()));
    written.and_then(|()| fs::rename(&draft, path)).map_err(|error| failed("write", path, &error))
}

/// A failure about a file or folder.
pub fn failed(what: &str, path: &Path, error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::new(format!("could not {what} {}", path.display())).because(error)
}

/// `None` when somebody else holds it.
fn lock(dir: &Path) -> Result<Option<File>, Failure> {
    let path = dir.join("lock");
    let file = File::options().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.map_err(|error| failed("open", &path, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(error)) => Err(failed("lock", &path, &error)),
    }
}

/// Makes a folder that only this user can enter. One that is there must be such a folder already.
fn private_folder(path: &Path) -> Result<(), Failure> {
    match DirBuilder::new().mode(0o700).create(path) {
        // The umask may have taken more away.
        Ok(()) => {
            return fs::set_permissions(path, Permissions::from_mode(0o700))
                .map_err(|error| failed("protect", path, &error));
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed("make", path, &error)),
    }
    // A symbolic link could be somebody else's, and is none of ours.
    let found = fs::symlink_metadata(path).map_err(|error| failed("look at", path, &error))?;
    let ours = rustix::process::geteuid().as_raw();
    if found.is_dir() && found.uid() == ours && found.mode() & 0o077 == 0 {
        return Ok(());
    }
    let told = format!("{} must be a folder of uid {ours} with mode 0700", path.display());
    Err(Failure::new(told).next("remove it or run chmod 700 on it, or choose another --dir"))
}

/// Sockets lie in the folder itself, unless its path is too long for one.
fn socket_folder(dir: &Path) -> Result<PathBuf, Failure> {
    let inside = dir.join("run");
    let folder = if inside.as_os_str().len() + LONGEST_SOCKET.len() <= MAX_SOCKET_PATH {
        inside
    } else {
        let short = runtime_folder().unwrap_or_else(|| PathBuf::from("/tmp")).join(short_name(dir));
        output::note(&format!(
            "dayfly dev: {} is too deep for sockets ({MAX_SOCKET_PATH} bytes at most); they lie in {}",
            dir.display(),
            short.display()
        ));
        short
    };
    private_folder(&folder)?;
    Ok(folder)
}

/// Token files are kept off the disk: the user's runtime folder and /dev/shm are memory.
fn memory_folder(dir: &Path, sockets: &Path) -> Result<PathBuf, Failure> {
    let shared = PathBuf::from("/dev/shm");
    let folder = match runtime_folder().or_else(|| shared.is_dir().then_some(shared)) {
        Some(base) => {
            let folder = base.join(short_name(dir));
            private_folder(&folder)?;
            folder.join("agent")
        }
        // The agent refuses token files there and says why.
        None => sockets.join("agent"),
    };
    private_folder(&folder)?;
    Ok(folder)
}

/// The user's own, and not that of somebody whose environment was kept by sudo.
fn runtime_folder() -> Option<PathBuf> {
    let folder =
        std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|folder| folder.is_absolute())?;
    let found = fs::metadata(&folder).ok()?;
    (found.is_dir() && found.uid() == rustix::process::geteuid().as_raw()).then_some(folder)
}

/// The same for the same folder and user each time, and no other's.
fn short_name(dir: &Path) -> String {
    let digest = Sha256::digest(dir.as_os_str().as_encoded_bytes());
    let hash: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("dayfly-{}-{hash}", rustix::process::geteuid().as_raw())
}

/// The ports of the last start, so that issuer and addresses stay the same, or new ones where they are taken.
fn ports(dir: &Path) -> Result<Ports, Failure> {
    let path = dir.join("ports.json");
    let kept: Ports =
        fs::read_to_string(&path).ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    let discovery = free_port(kept.discovery, "the issuer's documents")?;
    let introspection = free_port(kept.introspection, "introspection")?;
    let exchange = free_port(kept.exchange, "the token exchange")?;
    let ports = Ports { discovery, introspection, exchange };
    write(&path, &serde_json::to_string(&ports).expect("numbers are plain data"))?;
    Ok(ports)
}

fn free_port(kept: u16, what: &str) -> Result<u16, Failure> {
    if kept != 0 {
        if TcpListener::bind((Ipv4Addr::LOCALHOST, kept)).is_ok() {
            return Ok(kept);
        }
        output::note(&format!("dayfly dev: port {kept} of {what} is taken; it moves to another one"));
    }
    let found = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    found
        .map(|address| address.port())
        .map_err(|error| Failure::new("no port is free on 127.0.0.1").because(&error))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_others_may_enter_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let open = home.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, Permissions::from_mode(0o755)).unwrap();
        assert!(Place::take(&open).is_err());
        let link = home.path().join("link");
        std::os::unix::fs::symlink(home.path(), &link).unwrap();
        assert!(private_folder(&link).is_err(), "a link leads where somebody else says");
    }

    #[test]
    fn the_folder_is_private_hidden_from_git_and_taken_once() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join(".dayfly");
        let place = Place::take(&dir).unwrap();
        assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::read_to_string(dir.join(".gitignore")).unwrap(), "*\n");
        assert!(Place::take(&dir).is_err(), "it is in use");
        assert!(running(&dir).is_err(), "it is not ready");
        place.tell().unwrap();
        assert_eq!(running(&dir).unwrap().broker, place.endpoint("broker"));
        let issuer = place.issuer();
        drop(place);
        assert!(running(&dir).is_err() && is_free(&dir), "what it told is old now");
        assert_eq!(Place::take(&dir).unwrap().issuer(), issuer, "relying parties find it again");
    }

    #[test]
    fn sockets_of_a_deep_folder_lie_elsewhere() {
        let home = tempfile::tempdir().unwrap();
        let deep = home.path().join("a".repeat(100));
        fs::create_dir(&deep).unwrap();
        let place = Place::take(&deep.join(".dayfly")).unwrap();
        let socket = place.socket("delegated");
        assert!(socket.as_os_str().len() <= MAX_SOCKET_PATH, "{}", socket.display());
        assert_eq!(fs::metadata(socket.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
        fs::remove_dir_all(socket.parent().unwrap()).unwrap();
    }
}
