//! What a task holds at the moment: leases, and the credentials they are for.
//!
//! A lease belongs to a [`Class`] of processes: the same identity, program, user and cgroup. It is dropped when it is
//! revoked, when its task ends, or when nothing may be served; what comes too late is not kept.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use dayfly_client::{CallError, SpiffeId};
use zeroize::Zeroizing;

use crate::attester::Subject;
use crate::process::Process;

/// More kinds of processes than this in one task are not served from one cache.
const MOST_CLASSES: usize = 64;
/// So many of those who asked are remembered, to renew in the name of one that lives.
const ASKERS: usize = 4;
/// A credential with less time left than this is not handed out.
const LEAST_LEFT: Duration = Duration::from_secs(5);

/// How a credential reaches the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Provider {
    /// Container credentials over HTTP.
    Aws,
    /// An address that speaks Vault.
    Vault,
    /// A file.
    Token,
}

impl Provider {
    /// The provider's word in the contract.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Aws => "aws",
            Self::Vault => "vault",
            Self::Token => "token",
        }
    }

    /// `None` where the agent has no way to deliver it but `IssueCredential`.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Aws, Self::Vault, Self::Token].into_iter().find(|provider| provider.as_str() == word)
    }
}

/// A credential, wiped when dropped.
pub enum Credential {
    /// A session.
    Aws {
        /// Access key id.
        access_key_id: Zeroizing<String>,
        /// Secret access key.
        secret_access_key: Zeroizing<String>,
        /// Session token.
        session_token: Zeroizing<String>,
    },
    /// A Vault token.
    Vault {
        /// The token.
        token: Zeroizing<String>,
        /// Where the broker says that Vault is.
        address: String,
    },
    /// An access token.
    Token {
        /// The token.
        access_token: Zeroizing<String>,
    },
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self {
            Self::Aws { .. } => "Aws(···)",
            Self::Vault { .. } => "Vault(···)",
            Self::Token { .. } => "Token(···)",
        };
        f.write_str(kind)
    }
}

/// A credential with its times.
#[derive(Clone, Debug)]
pub struct Lease {
    /// The broker's name for it.
    pub id: String,
    /// The credential.
    pub credential: Arc<Credential>,
    /// When it stops working.
    pub expires_at: SystemTime,
    /// When to renew it.
    pub refresh_at: SystemTime,
    /// Digest of the rules under which it was decided; empty where the broker tells none.
    pub rules_digest: String,
}

impl Lease {
    /// Whether it may still be handed out.
    pub fn is_usable(&self, now: SystemTime) -> bool {
        now + LEAST_LEFT < self.expires_at
    }
}

/// Processes that are one principal: whatever one of them was given is good for each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Class {
    spiffe_id: SpiffeId,
    exe: (u64, u64),
    uid: u32,
    gid: u32,
    cgroup_id: Option<u64>,
}

impl From<&Subject> for Class {
    fn from(subject: &Subject) -> Self {
        let key = &subject.key;
        Self {
            spiffe_id: subject.spiffe_id.clone(),
            exe: (key.exe_dev, key.exe_ino),
            uid: key.uid,
            gid: key.gid,
            cgroup_id: key.cgroup_id,
        }
    }
}

/// All that one task holds. Its scope and parameters are fixed per provider, so they are no part of the key.
#[derive(Debug, Default)]
pub struct Credentials {
    inner: Mutex<Slots>,
    /// Wakes whoever has written a credential somewhere, when one is dropped or has to be decided anew.
    pub changed: tokio::sync::Notify,
}

#[derive(Debug, Default)]
struct Slots {
    closed: bool,
    slots: HashMap<(Provider, Class), Arc<Slot>>,
}

/// Where one lease has its place.
#[derive(Debug, Default)]
pub struct Slot {
    /// Held by whoever talks to the broker about this place, so that nobody asks twice.
    pub gate: Arc<tokio::sync::Mutex<()>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    closed: bool,
    lease: Option<Arc<Lease>>,
    askers: VecDeque<Process>,
    /// Whether somebody renews it by the clock.
    kept: bool,
    /// When a renewal last could not be tried to its end.
    failed_at: Option<Instant>,
    /// The key of a request of which nobody knows whether it was answered, and since when it is used.
    key: Option<(String, Instant)>,
    /// Why a request brought nothing, and when it ended.
    failure: Option<(Instant, Failure)>,
}

/// Why a request brought nothing: told to all who waited for it.
#[derive(Clone, Debug)]
pub enum Failure {
    /// The broker said no, or nothing.
    Call(CallError),
    /// Its answer could not be used.
    Malformed,
    /// It could not be asked whether a credential of before stands.
    Undecided,
}

impl Credentials {
    /// The place for one class of processes; `None` once the task is over, or when there are too many.
    pub fn slot(&self, provider: Provider, class: Class) -> Option<Arc<Slot>> {
        let mut inner = self.lock();
        if inner.closed {
            return None;
        }
        let full = inner.slots.len() >= MOST_CLASSES;
        match inner.slots.entry((provider, class)) {
            std::collections::hash_map::Entry::Occupied(slot) => Some(Arc::clone(slot.get())),
            std::collections::hash_map::Entry::Vacant(_) if full => None,
            std::collections::hash_map::Entry::Vacant(place) => {
                Some(Arc::clone(place.insert(Arc::default())))
            }
        }
    }

    /// Drops everything, for good.
    pub fn close(&self) {
        let slots = {
            let mut inner = self.lock();
            inner.closed = true;
            std::mem::take(&mut inner.slots)
        };
        for slot in slots.values() {
            let mut state = slot.lock();
            state.closed = true;
            state.lease = None;
            state.askers.clear();
        }
    }

    /// Drops everything that is held now; new leases may follow.
    pub fn clear(&self) {
        for slot in self.lock().slots.values() {
            slot.drop_lease();
        }
        self.changed.notify_waiters();
    }

    /// Drops the credential of one lease. Says whether it was held.
    pub fn drop_lease(&self, lease_id: &str) -> bool {
        let mut dropped = false;
        for slot in self.lock().slots.values() {
            let mut state = slot.lock();
            if state.lease.as_ref().is_some_and(|lease| lease.id == lease_id) {
                state.lease = None;
                dropped = true;
            }
        }
        self.changed.notify_waiters();
        dropped
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.inner.lock().expect("no holder of this lock panics")
    }
}

impl Slot {
    /// The lease, if it can be handed out.
    pub fn lease(&self, now: SystemTime) -> Option<Arc<Lease>> {
        self.lock().lease.clone().filter(|lease| lease.is_usable(now))
    }

    /// Keeps a lease; `false` when the task was over meanwhile.
    pub fn keep(&self, lease: Arc<Lease>) -> bool {
        let mut state = self.lock();
        if state.closed {
            return false;
        }
        state.failure = None;
        state.lease = Some(lease);
        true
    }

    /// Drops the lease.
    pub fn drop_lease(&self) {
        self.lock().lease = None;
    }

    /// Remembers who asked.
    pub fn asked_by(&self, process: &Process) {
        let mut state = self.lock();
        if state.closed || state.askers.contains(process) {
            return;
        }
        state.askers.push_front(process.clone());
        state.askers.truncate(ASKERS);
    }

    /// Those who asked, the latest first.
    pub fn askers(&self) -> Vec<Process> {
        self.lock().askers.iter().cloned().collect()
    }

    /// `true` for the one who begins to renew by the clock, until [`Slot::end_keeping`] is `true`.
    pub fn begin_keeping(&self) -> bool {
        !std::mem::replace(&mut self.lock().kept, true)
    }

    /// Nobody renews it by the clock any more, unless there is a lease to renew: then `false`, and it has to go on. In
    /// one step, so that a lease that comes just now is neither dropped nor left alone.
    pub fn end_keeping(&self, now: SystemTime) -> bool {
        let mut state = self.lock();
        if state.lease.as_ref().is_some_and(|lease| lease.is_usable(now)) {
            return false;
        }
        state.lease = None;
        state.kept = false;
        true
    }

    /// The key for a request to the broker: that of the last one, while nobody knows what became of it. The broker then
    /// takes back what it may have issued, so that no credential is left that nobody holds.
    pub fn key(&self) -> String {
        let new = || (format!("{:032x}", rand::random::<u128>()), Instant::now());
        self.lock().key.get_or_insert_with(new).0.clone()
    }

    /// It is known what became of the request: the next one has a key of its own.
    pub fn forget_key(&self) {
        self.lock().key = None;
    }

    /// For how long the key has been in use.
    pub fn key_age(&self) -> Duration {
        self.lock().key.as_ref().map_or(Duration::ZERO, |(_, since)| since.elapsed())
    }

    /// A request brought nothing.
    pub fn failed(&self, failure: Failure) {
        self.lock().failure = Some((Instant::now(), failure));
    }

    /// Why the request brought nothing that somebody waited for since then.
    pub fn failure_since(&self, since: Instant) -> Option<Failure> {
        self.lock().failure.as_ref().filter(|(at, _)| *at >= since).map(|(_, failure)| failure.clone())
    }

    /// A renewal could not be tried to its end.
    pub fn could_not_renew(&self) {
        self.lock().failed_at = Some(Instant::now());
    }

    /// Whether that was less than `pause` ago.
    pub fn failed_within(&self, pause: Duration) -> bool {
        self.lock().failed_at.is_some_and(|at| at.elapsed() < pause)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }
}

#[cfg(test)]
mod tests;
