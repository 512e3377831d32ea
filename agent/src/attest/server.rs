//! Listens for the other process, and for nobody else.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dayfly_sys::{fdpass, pidfd};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::{debug, warn};
use zeroize::Zeroizing;

use super::spire::Spire;
use super::wire::{Answer, REQUEST, Refused, Svid};
use crate::config::Attest;

/// How long the other process may take to say its one sentence.
const REQUEST_PATIENCE: Duration = Duration::from_secs(5);

/// Why the attest process cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum AttestError {
    /// Nobody said where SPIRE's admin socket is.
    #[error("attest.spire_admin_socket is not set; name the SPIRE agent's admin_socket_path")]
    NoAdminSocket,
    /// The socket cannot be made.
    #[error("could not listen at {}", path.display())]
    Listen {
        /// Where.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// The listening socket, and what stands behind it.
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    run_uid: u32,
    places: Arc<Semaphore>,
    spire: Arc<Spire>,
}

impl Server {
    /// Listens, so that only the other process's user can connect.
    pub fn bind(config: &Attest, spire: Spire) -> Result<Self, AttestError> {
        let path = config.socket.clone();
        let failed = |source| AttestError::Listen { path: path.clone(), source };
        let listener = crate::daemon::listen(&path, 0o600).map_err(failed)?;
        if config.run_uid != rustix::process::geteuid().as_raw()
            && std::os::unix::fs::chown(&path, Some(config.run_uid), None).is_err()
        {
            // Without CAP_CHOWN anybody may knock; the kernel's word on who did decides all the same.
            fs::set_permissions(&path, Permissions::from_mode(0o666)).map_err(failed)?;
        }
        let places = Arc::new(Semaphore::new(config.in_flight));
        Ok(Self { listener, path, run_uid: config.run_uid, places, spire: Arc::new(spire) })
    }

    /// Answers until dropped.
    pub async fn serve(&self) {
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            match pidfd::credentials_of_peer(&stream) {
                Ok(peer) if peer.uid == self.run_uid => {}
                told => {
                    warn!(uid = ?told.map(|peer| peer.uid).ok(), "a stranger knocked at the attest socket");
                    continue;
                }
            }
            let (spire, place) = (Arc::clone(&self.spire), Arc::clone(&self.places).try_acquire_owned());
            tokio::spawn(async move {
                let answer = match place {
                    Ok(_place) => answer(&stream, &spire).await,
                    Err(_) => Some(Answer::Refused(Refused::Busy)),
                };
                if let Some(answer) = answer {
                    send(&stream, &answer).await;
                }
            });
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// `None` where the other side left without asking.
async fn answer(stream: &UnixStream, spire: &Spire) -> Option<Answer> {
    let frame = match timeout(REQUEST_PATIENCE, fdpass::recv_with_fd(stream, REQUEST.len())).await {
        Ok(Ok(Some(frame))) => frame,
        Ok(Ok(None)) => return None,
        Ok(Err(_)) | Err(_) => return Some(Answer::Refused(Refused::Misunderstood)),
    };
    let (true, Some(process)) = (frame.bytes == REQUEST, frame.fd) else {
        return Some(Answer::Refused(Refused::Misunderstood));
    };
    Some(match attest(&process, spire).await {
        Ok(svid) => Answer::Svid(svid),
        Err(refused) => Answer::Refused(refused),
    })
}

/// SPIRE takes a bare number. While the process lives nobody else has it; so it must live before *and* after.
async fn attest(process: &std::os::fd::OwnedFd, spire: &Spire) -> Result<Svid, Refused> {
    must_be_alive(process)?;
    let pid = pidfd::pid(process).ok().and_then(|pid| u32::try_from(pid).ok()).ok_or(Refused::Gone)?;
    let inode = pidfd::inode(process).map_err(|_| Refused::Misunderstood)?;
    let asked = spire.svid_of(pid, inode).await;
    must_be_alive(process)?;
    asked
}

fn must_be_alive(process: &std::os::fd::OwnedFd) -> Result<(), Refused> {
    // A descriptor that is no pidfd never reads as a living process's number further on.
    if pidfd::alive(process).unwrap_or(false) { Ok(()) } else { Err(Refused::Gone) }
}

async fn send(stream: &UnixStream, answer: &Answer) {
    let bytes = Zeroizing::new(serde_json::to_vec(answer).expect("an answer has string keys only"));
    if let Err(error) = fdpass::send_with_fd(stream, &bytes, None).await {
        debug!(%error, "the other process did not wait for its answer");
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

    use std::os::fd::{AsFd, BorrowedFd};
    use std::path::Path;

    use dayfly_client::TrustDomain;

    use super::*;

    /// SPIRE is not there: whatever is refused for another reason was refused before it was asked.
    fn serve(home: &Path, run_uid: u32) -> PathBuf {
        let socket = home.join("attest.sock");
        let config = Attest { socket: socket.clone(), spire_admin_socket: None, run_uid, in_flight: 1 };
        let nowhere = format!("unix:{}/nowhere.sock", home.display());
        let spire = Spire::new(nowhere, "a".to_owned(), TrustDomain::new("prod.example").unwrap());
        let server = Server::bind(&config, spire).unwrap();
        tokio::spawn(async move { server.serve().await });
        socket
    }

    async fn ask(socket: &Path, request: &[u8], fd: Option<BorrowedFd<'_>>) -> Option<Refused> {
        let stream = UnixStream::connect(socket).await.unwrap();
        fdpass::send_with_fd(&stream, request, fd).await.unwrap();
        let frame = fdpass::recv_with_fd(&stream, super::super::wire::MAX_ANSWER).await.ok()??;
        match serde_json::from_slice(&frame.bytes).unwrap() {
            Answer::Refused(refused) => Some(refused),
            Answer::Svid(svid) => panic!("{svid:?}"),
        }
    }

    #[tokio::test]
    async fn one_message_is_understood_and_a_dead_process_is_nobody() {
        let home = tempfile::tempdir().unwrap();
        let socket = serve(home.path(), rustix::process::geteuid().as_raw());
        let me = pidfd::open(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(matches!(ask(&socket, REQUEST, Some(me.as_fd())).await, Some(Refused::Unavailable { .. })));
        assert_eq!(ask(&socket, REQUEST, None).await, Some(Refused::Misunderstood));
        assert_eq!(ask(&socket, b"another audience", Some(me.as_fd())).await, Some(Refused::Misunderstood));
        assert_eq!(ask(&socket, b"dayfly", Some(me.as_fd())).await, Some(Refused::Misunderstood));

        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let dead = pidfd::open(i32::try_from(child.id()).unwrap()).unwrap();
        child.kill().unwrap();
        pidfd::exited(&dead).await.unwrap();
        assert_eq!(ask(&socket, REQUEST, Some(dead.as_fd())).await, Some(Refused::Gone));
        child.wait().unwrap();
        assert_eq!(ask(&socket, REQUEST, Some(dead.as_fd())).await, Some(Refused::Gone));
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(
            ask(&socket, REQUEST, Some(file.as_fd())).await,
            Some(Refused::Gone),
            "a file is no process"
        );
    }

    #[tokio::test]
    async fn another_user_gets_no_answer() {
        let home = tempfile::tempdir().unwrap();
        let socket = serve(home.path(), rustix::process::geteuid().as_raw() + 1);
        let stream = UnixStream::connect(&socket).await;
        // Without root the socket cannot be given to the other user, and the mode lets us knock all the same.
        let stream = stream.unwrap();
        assert!(fdpass::recv_with_fd(&stream, 1024).await.unwrap().is_none(), "closed at once");
    }
}
