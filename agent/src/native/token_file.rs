//! Keeps an access token in a file, for the program that the leader became.
//!
//! It is issued after `exec`, to the identity of the program that will use it, and never to the launcher's. The launcher's
//! connection is close-on-exec, so its end is the moment to look whether the process has become another program. Until then
//! there is no file; a program that reads it at once has to try again for some milliseconds.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::credentials::{Credential, Provider};
use crate::deliver::Deliverer;
use crate::fence::Fence;
use crate::image::Image;
use crate::process::{Process, ProcessError};
use crate::task::Task;

/// The file's name in the task's folder.
pub const NAME: &str = "token";

/// Between looks at the cache once a renewal is due: its fruit shows in the file after at most this.
const LOOK: Duration = Duration::from_secs(1);
/// Between looks whether a launcher that closed its connection has become the program.
const EXEC_LOOK: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(500));
/// The longest pause after a refusal.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The process that becomes the program.
#[derive(Debug)]
pub struct Launcher {
    /// The process.
    pub process: Process,
    /// What it was when it opened the task.
    pub image: Image,
    /// Cancelled when its connection is closed.
    pub closed: CancellationToken,
}

impl Launcher {
    /// Waits until it is the program.
    async fn launched(&self) -> Result<(), ProcessError> {
        self.closed.cancelled().await;
        let mut pause = EXEC_LOOK.0;
        while Image::of(&self.process)? == self.image {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(EXEC_LOOK.1);
        }
        Ok(())
    }
}

/// Writes the file once the launcher is the program, renews it, and takes it away when it may not be there. Runs until the task is over.
pub async fn keep(task: Arc<Task>, launcher: Launcher, deliverer: Arc<Deliverer>, fence: Arc<Fence>) {
    let work = async {
        match launcher.launched().await {
            Ok(()) => keep_while_open(&task, &launcher.process, &deliverer, &fence).await,
            Err(error) => debug!(task_id = %task.id, %error, "the launcher did not become a program"),
        }
    };
    tokio::select! {
        () = work => {}
        () = task.ended() => {}
    }
}

async fn keep_while_open(task: &Arc<Task>, leader: &Process, deliverer: &Arc<Deliverer>, fence: &Fence) {
    let Some(folder) = &task.folder else { return };
    let mut written: Option<String> = None;
    let mut pause = LOOK;
    while leader.is_alive() {
        if fence.is_up() {
            folder.take_away(NAME);
            written = None;
            fence.is(false).await;
        }
        // Before the question, so that a change while it is asked is not missed.
        let mut changed = pin!(task.credentials.changed.notified());
        changed.as_mut().enable();
        match deliverer.obtain(task, Provider::Token, leader).await {
            Ok(lease) => {
                pause = LOOK;
                if written.as_ref() != Some(&lease.id) {
                    let Credential::Token { access_token } = &*lease.credential else { return };
                    match folder.put(NAME, access_token.as_bytes()) {
                        Ok(()) => written = Some(lease.id.clone()),
                        Err(error) => warn!(task_id = %task.id, %error, "could not write the token file"),
                    }
                }
                // The clock renews the lease in the cache; here only its fruit is looked for.
                let left = lease.refresh_at.duration_since(SystemTime::now()).unwrap_or_default();
                tokio::select! {
                    () = tokio::time::sleep(left.max(LOOK)) => {}
                    () = changed => {}
                    () = fence.is(true) => {}
                }
            }
            Err(error) => {
                // Revoked, denied, or run out: what lies there is not to be used any more.
                if written.take().is_some() {
                    folder.take_away(NAME);
                }
                warn!(task_id = %task.id, %error, "no access token for the file");
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = changed => {}
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}
