//! Asks the attest process who a workload is, and keeps the answer for a few minutes.
//!
//! What is kept is kept per [`ProcessKey`]: an `exec`, a change of user or of cgroup asks anew. The key is read again at
//! the moment of serving, so that nobody is served as what it was.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dayfly_client::SpiffeId;
use dayfly_sys::fdpass::{self, FrameError};
use tokio::net::UnixStream;
use tracing::debug;
use zeroize::Zeroizing;

use crate::attest::wire::{Answer, MAX_ANSWER, REQUEST, Refused};
use crate::metrics::Metrics;
use crate::process::{Facts, Process, ProcessError, ProcessKey};

/// The attest process gives SPIRE five seconds.
const PATIENCE: Duration = Duration::from_secs(8);
/// The broker takes no subject token that was issued longer ago than five minutes.
const OLDEST: Duration = Duration::from_secs(5 * 60);
/// For the way to the broker, and for clocks that differ.
const MARGIN: Duration = Duration::from_secs(20);
/// More processes than this are not kept in mind; they are asked for again.
const MOST_KEPT: usize = 4096;

/// Who a process was shown to be, while its key held.
pub struct Subject {
    /// Its SPIFFE ID.
    pub spiffe_id: SpiffeId,
    /// Its JWT-SVID for the broker by way of this agent.
    pub token: Zeroizing<String>,
    /// Which process, as which program and user, in which cgroup.
    pub key: ProcessKey,
    issued_at: SystemTime,
    expires_at: SystemTime,
}

impl std::fmt::Debug for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subject")
            .field("spiffe_id", &self.spiffe_id)
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

impl Subject {
    /// Until when it is served from the cache: half its life, and never longer than the broker takes it.
    fn kept_until(&self) -> SystemTime {
        let life = self.expires_at.duration_since(self.issued_at).unwrap_or_default();
        self.issued_at + (life / 2).min(OLDEST - MARGIN)
    }

    fn is_usable(&self, now: SystemTime) -> bool {
        now + MARGIN / 4 < self.expires_at && now < self.issued_at + OLDEST - MARGIN / 4
    }
}

/// Why nobody can be shown to the broker.
#[derive(Debug, thiserror::Error)]
pub enum AttestError {
    /// SPIRE or the attest process said no.
    #[error("{refused} (uid {uid}, {})", exe.display())]
    Refused {
        /// What they said.
        refused: Refused,
        /// The workload's user.
        uid: u32,
        /// The workload's program.
        exe: PathBuf,
    },
    /// The process is gone, or cannot be read.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// It changed its program, user or cgroup while SPIRE was asked.
    #[error("the process changed while it was attested; try again")]
    Changed,
    /// The attest process does not answer.
    #[error("the attest process does not answer at {}; is `dayfly-agent attest` running?", socket.display())]
    Unreachable {
        /// Where.
        socket: PathBuf,
        /// The cause.
        #[source]
        source: FrameError,
    },
    /// Its answer makes no sense.
    #[error("the attest process gave an answer that cannot be used; are both processes of one version?")]
    Malformed,
    /// SPIRE hands out old tokens.
    #[error(
        "SPIRE gave a JWT-SVID older than five minutes, which the broker does not take; \
         set the entry's jwt_svid_ttl to ten minutes or less"
    )]
    Stale,
    /// One user asks too much at once.
    #[error("uid {uid} has too many attestations in flight; try again")]
    Busy {
        /// The user.
        uid: u32,
    },
}

/// The way to the attest process, and what it said lately.
#[derive(Debug)]
pub struct Attester {
    socket: PathBuf,
    per_uid: usize,
    kept: Mutex<HashMap<ProcessKey, Arc<Subject>>>,
    in_flight: Mutex<HashMap<u32, usize>>,
    metrics: Arc<Metrics>,
}

impl Attester {
    /// Nothing is connected yet: each question has a connection of its own.
    pub fn new(socket: PathBuf, per_uid: usize, metrics: Arc<Metrics>) -> Self {
        Self { socket, per_uid, kept: Mutex::default(), in_flight: Mutex::default(), metrics }
    }

    /// Who the process is now.
    pub async fn subject(&self, process: &Process) -> Result<Arc<Subject>, AttestError> {
        let facts = process.facts()?;
        if let Some(kept) = self.kept(&facts.key) {
            Metrics::count(&self.metrics.subject_cache, "hit");
            return Ok(kept);
        }
        Metrics::count(&self.metrics.subject_cache, "miss");
        let _place = self.place(facts.key.uid)?;
        let asked = self.ask(process, &facts).await;
        Metrics::count(&self.metrics.attestations, if asked.is_ok() { "ok" } else { "refused" });
        asked
    }

    /// Forgets everything, for instance because nothing may be served.
    pub fn clear(&self) {
        self.lock_kept().clear();
    }

    fn kept(&self, key: &ProcessKey) -> Option<Arc<Subject>> {
        let subject = Arc::clone(self.lock_kept().get(key)?);
        (SystemTime::now() < subject.kept_until()).then_some(subject)
    }

    async fn ask(&self, process: &Process, facts: &Facts) -> Result<Arc<Subject>, AttestError> {
        let unreachable = |source| AttestError::Unreachable { socket: self.socket.clone(), source };
        let talk = async {
            let stream = UnixStream::connect(&self.socket).await?;
            fdpass::send_with_fd(&stream, REQUEST, Some(std::os::fd::AsFd::as_fd(process))).await?;
            fdpass::recv_with_fd(&stream, MAX_ANSWER).await
        };
        let late = || FrameError::Io(std::io::ErrorKind::TimedOut.into());
        let frame = match tokio::time::timeout(PATIENCE, talk).await {
            Ok(frame) => frame.map_err(unreachable)?.ok_or_else(|| unreachable(FrameError::Truncated))?,
            Err(_) => return Err(unreachable(late())),
        };
        let bytes = Zeroizing::new(frame.bytes);
        let mut svid = match serde_json::from_slice(&bytes).map_err(|_| AttestError::Malformed)? {
            Answer::Svid(svid) => svid,
            Answer::Refused(refused) => {
                let (uid, exe) = (facts.key.uid, facts.exe.clone());
                return Err(AttestError::Refused { refused, uid, exe });
            }
        };
        // Alive, and the very same as before: what SPIRE saw in between is what we saw.
        if process.facts()?.key != facts.key || svid.pidfd_inode != facts.key.pidfd_ino {
            return Err(AttestError::Changed);
        }
        let subject = Subject {
            spiffe_id: SpiffeId::new(&svid.spiffe_id).map_err(|_| AttestError::Malformed)?,
            token: Zeroizing::new(std::mem::take(&mut svid.token)),
            key: facts.key,
            issued_at: UNIX_EPOCH + Duration::from_secs(svid.issued_at),
            expires_at: UNIX_EPOCH + Duration::from_secs(svid.expires_at),
        };
        if !subject.is_usable(SystemTime::now()) {
            return Err(AttestError::Stale);
        }
        debug!(spiffe_id = %subject.spiffe_id, pid = facts.key.pid, exe = %facts.exe.display(), "workload attested");
        let subject = Arc::new(subject);
        self.keep(Arc::clone(&subject));
        Ok(subject)
    }

    fn keep(&self, subject: Arc<Subject>) {
        let now = SystemTime::now();
        let mut kept = self.lock_kept();
        if kept.len() >= MOST_KEPT {
            kept.retain(|_, subject| now < subject.kept_until());
        }
        if kept.len() < MOST_KEPT && now < subject.kept_until() {
            kept.insert(subject.key, subject);
        }
    }

    fn place(&self, uid: u32) -> Result<Place<'_>, AttestError> {
        let mut in_flight = self.in_flight.lock().expect("no holder of this lock panics");
        let count = in_flight.entry(uid).or_default();
        if *count >= self.per_uid {
            return Err(AttestError::Busy { uid });
        }
        *count += 1;
        Ok(Place { uid, of: self })
    }

    fn lock_kept(&self) -> std::sync::MutexGuard<'_, HashMap<ProcessKey, Arc<Subject>>> {
        self.kept.lock().expect("no holder of this lock panics")
    }
}

/// One attestation in flight.
struct Place<'a> {
    uid: u32,
    of: &'a Attester,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut in_flight = self.of.in_flight.lock().expect("no holder of this lock panics");
        if let Some(count) = in_flight.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                in_flight.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

    use super::*;

    fn subject(life: u64) -> Subject {
        let issued_at = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let key = Process::open(i32::try_from(std::process::id()).unwrap()).unwrap().facts().unwrap().key;
        Subject {
            spiffe_id: SpiffeId::new("spiffe://prod.example/train").unwrap(),
            token: Zeroizing::new("secret".to_owned()),
            key,
            issued_at,
            expires_at: issued_at + Duration::from_secs(life),
        }
    }

    #[test]
    fn a_token_is_kept_for_half_its_life_and_never_as_long_as_the_broker_takes_it() {
        for (life, kept) in [(300, 150), (60, 30), (600, 280), (3600, 280)] {
            let subject = subject(life);
            let until = subject.kept_until().duration_since(subject.issued_at).unwrap();
            assert_eq!(until.as_secs(), kept, "of {life}");
            assert!(subject.is_usable(subject.kept_until()), "what is kept can be used");
            assert!(!subject.is_usable(subject.issued_at + OLDEST));
            assert!(!subject.is_usable(subject.expires_at));
        }
    }

    #[test]
    fn a_subject_shows_no_token() {
        assert!(!format!("{:?}", subject(300)).contains("secret"));
    }

    #[test]
    fn one_user_has_a_bounded_number_of_questions() {
        let attester = Attester::new("/nowhere".into(), 2, Arc::default());
        let first = attester.place(1).unwrap();
        let _second = attester.place(1).unwrap();
        assert!(matches!(attester.place(1), Err(AttestError::Busy { uid: 1 })));
        assert!(attester.place(2).is_ok(), "another user's places are its own");
        drop(first);
        assert!(attester.place(1).is_ok());
    }
}
