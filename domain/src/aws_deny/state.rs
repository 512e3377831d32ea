//! What is known of the sessions of one role.

use super::document::DenyDocument;
use super::slot::Slot;
use crate::time::{Timestamp, Ttl};

/// One session of a role, from before STS was asked for it until nobody can use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its slot.
    pub slot: Slot,
    /// The earliest its `aws:TokenIssueTime` can be, in whole seconds since the Unix epoch.
    pub earliest: i64,
    /// The latest its `aws:TokenIssueTime` can be.
    pub latest: i64,
    /// From when on STS and every service refuse it by themselves.
    pub gone_at: Timestamp,
    /// Whether it is to be denied.
    pub revoked: bool,
}

impl Session {
    /// A session that was asked for at one moment and given at the latest at another. `aws:TokenIssueTime` has whole
    /// seconds, by AWS's clock, which may differ from ours by `skew`.
    pub fn between(slot: Slot, asked: Timestamp, given: Timestamp, gone_at: Timestamp, skew: Ttl) -> Self {
        let latest = (given + skew + Ttl::millis(999)).unix_seconds();
        Self { slot, earliest: (asked - skew).unix_seconds(), latest, gone_at, revoked: false }
    }

    /// Whether it can have been issued after the settled second: see [`State::settled`].
    pub fn is_young(&self, settled: i64) -> bool {
        self.latest >= settled
    }
}

/// The sessions of one role at a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    sessions: Vec<Session>,
    settled: i64,
}

/// What is known of a document that the target took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// The moment of the state it was made from.
    pub of: Timestamp,
    /// When the target had it.
    pub at: Timestamp,
}

impl State {
    /// The state of a role at `now`. Every session that can have been issued before must be among them, those that are gone
    /// are left out.
    pub fn at(now: Timestamp, skew: Ttl, sessions: impl IntoIterator<Item = Session>) -> Self {
        let sessions = sessions.into_iter().filter(|session| session.gone_at > now).collect();
        Self { sessions, settled: Self::settled(now, skew) }
    }

    /// The second before which nothing can be issued any more that is not known at `now`.
    pub fn settled(now: Timestamp, skew: Ttl) -> i64 {
        (now - skew).unix_seconds()
    }

    /// Those that can still be used if nothing denies them.
    pub fn sessions(&self) -> &[Session] {
        &self.sessions
    }

    /// How many of them can have been issued after the settled second.
    pub fn young(&self) -> u32 {
        let young = self.sessions.iter().filter(|session| session.is_young(self.settled)).count();
        u32::try_from(young).unwrap_or(u32::MAX)
    }

    /// The document that denies those that are revoked and none of the others.
    pub fn document(&self) -> DenyDocument {
        DenyDocument::of(&self.sessions, self.settled)
    }
}

impl Session {
    /// Whether nothing can mean it any more, so that its slot is free: it is gone, and if a document ever named it, one that
    /// does not has stood for as long as changes take to reach all of AWS.
    pub fn is_forgettable(&self, written: Option<Written>, now: Timestamp, propagation: Ttl) -> bool {
        if self.gone_at > now {
            return false;
        }
        !self.revoked || written.is_some_and(|last| last.of >= self.gone_at && last.at + propagation <= now)
    }
}
