//! The cloud's state: the account, its troubles, its clock, and what it was asked.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::account::Account;
use crate::answer::{NOT_KNOWN, Refusal};
use crate::trouble::{Settings, Trouble, Troubles};

/// Requests that are kept.
const LONGEST_LOG: usize = 200_000;

/// One request, as it was heard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// When it came, in milliseconds since 1970 by this machine's clock.
    pub from_ms: i64,
    /// When it was answered, or its connection cut.
    pub until_ms: i64,
    /// As `iam:PutRolePolicy`.
    pub action: String,
    /// The region that its signature names.
    pub region: String,
    /// The session that signed it, as an ARN.
    pub who: Option<String>,
    /// What it was about: an ARN or `*`.
    pub resource: String,
    /// AWS's code of a refusal; none if it was done.
    pub refused: Option<String>,
    /// The trouble it met.
    pub trouble: Option<Trouble>,
}

/// Everything behind the door.
#[derive(Debug, Default)]
pub(crate) struct Cloud {
    account: Mutex<Account>,
    pub(crate) troubles: Mutex<Troubles>,
    pub(crate) log: Mutex<VecDeque<Asked>>,
    pub(crate) complaints: Mutex<Vec<String>>,
}

/// What is learnt about a request on its way.
#[derive(Debug, Default)]
pub(crate) struct Note {
    pub(crate) region: String,
    pub(crate) who: Option<String>,
    pub(crate) resource: String,
}

/// A lock whose holder panicked is still of use: what it guards is replaced whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Cloud {
    pub(crate) fn account(&self) -> MutexGuard<'_, Account> {
        lock(&self.account)
    }

    pub(crate) fn settings(&self) -> Settings {
        lock(&self.troubles).settings.clone()
    }

    /// The cloud's own time, in milliseconds since 1970.
    pub(crate) fn now_ms(&self) -> i64 {
        wall_ms().saturating_add(lock(&self.troubles).settings.clock_offset_ms)
    }

    /// Writes down a request that is over.
    pub(crate) fn done(
        &self,
        action: String,
        note: Note,
        from_ms: i64,
        refusal: Option<&Refusal>,
        trouble: Option<Trouble>,
    ) {
        if let Some(refusal) = refusal.filter(|refusal| refusal.code == NOT_KNOWN) {
            lock(&self.complaints).push(format!("{action}: {}", refusal.message));
        }
        if !lock(&self.troubles).settings.keeps_log {
            return;
        }
        let mut log = lock(&self.log);
        if log.len() >= LONGEST_LOG {
            log.pop_front();
        }
        log.push_back(Asked {
            from_ms,
            until_ms: wall_ms(),
            action,
            region: note.region,
            who: note.who,
            resource: note.resource,
            refused: refusal.map(|refusal| refusal.code.to_owned()),
            trouble,
        });
    }
}

/// This machine's time, in milliseconds since 1970.
pub(crate) fn wall_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
