//! The kill switch: what is cut off from now on, whatever bindings say, until an admin lifts it.
//!
//! Leases, tasks and sessions are not here: taking one back is a change of its state, and it never comes back by itself.

mod standing;
mod width;

use std::fmt;

use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};
use thiserror::Error;

pub use self::standing::Kills;
pub use self::width::{Live, WideAbove, Width, width};

use crate::approval::Host;
use crate::id::KillId;
use crate::pattern::SpiffePattern;
use crate::spiffe::{SpiffeId, is_trust_domain};
use crate::time::Timestamp;

/// Longest reason, in bytes.
pub const MAX_REASON: usize = 512;
/// Most kills that may stand or wait at once.
pub const MOST_KILLS: u32 = 1_000;

/// What is cut off.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// One identity, whatever stage it fills.
    Identity(SpiffeId),
    /// Every workload that the pattern takes in. Admins and nodes are spared.
    Pattern(SpiffePattern),
    /// Every workload of a trust domain. Admins and nodes are spared.
    TrustDomain(String),
    /// A node: its stream, its tasks, and whoever comes through it.
    Node(SpiffeId),
    /// A scope, whoever asks.
    Scope(String),
    /// Every scope of a provider.
    Provider(String),
    /// Every workload. Admins and nodes are spared.
    Everything,
}

impl Target {
    /// The word for the kind, in the database, in records and on the wire.
    pub const fn kind(&self) -> &'static str {
        match self {
            Target::Identity(_) => "identity",
            Target::Pattern(_) => "pattern",
            Target::TrustDomain(_) => "trust_domain",
            Target::Node(_) => "node",
            Target::Scope(_) => "scope",
            Target::Provider(_) => "provider",
            Target::Everything => "everything",
        }
    }

    /// What is named; empty for everything.
    pub fn name(&self) -> String {
        match self {
            Target::Identity(id) | Target::Node(id) => id.to_string(),
            Target::Pattern(pattern) => pattern.to_string(),
            Target::TrustDomain(name) | Target::Scope(name) | Target::Provider(name) => name.clone(),
            Target::Everything => String::new(),
        }
    }

    /// Reads a target back.
    ///
    /// # Errors
    /// The kind is unknown, or the name is none of that kind.
    pub fn read(kind: &str, name: &str) -> Result<Self, NotATarget> {
        let malformed = || NotATarget { kind: cut(kind), name: cut(name) };
        let plain = || {
            let fits = !name.is_empty() && name.len() <= 128 && !name.chars().any(char::is_control);
            fits.then(|| name.to_owned()).ok_or_else(malformed)
        };
        Ok(match kind {
            "identity" => Target::Identity(name.parse().map_err(|_| malformed())?),
            "pattern" => Target::Pattern(name.parse().map_err(|_| malformed())?),
            "trust_domain" if is_trust_domain(name) => Target::TrustDomain(name.to_owned()),
            "node" => Target::Node(name.parse().map_err(|_| malformed())?),
            "scope" => Target::Scope(plain()?),
            "provider" => Target::Provider(plain()?),
            "everything" if name.is_empty() => Target::Everything,
            _ => return Err(malformed()),
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Everything => f.write_str("everything"),
            Target::TrustDomain(name) => write!(f, "trust domain {name}"),
            other => write!(f, "{} {}", other.kind(), other.name()),
        }
    }
}

impl Serialize for Target {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn cut(text: &str) -> String {
    text.chars().take(64).collect()
}

/// The text names nothing that can be cut off.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{name:?} is no {kind} that can be cut off")]
pub struct NotATarget {
    /// The kind, cut to a bounded length.
    pub kind: String,
    /// The name, cut likewise.
    pub name: String,
}

/// Where a kill stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is wide, and waits for a second admin. Nothing is cut off yet.
    Proposed,
    /// It cuts off.
    Standing,
    /// It was lifted, or taken back before it stood.
    Lifted,
}

impl State {
    /// Every state.
    pub const ALL: [State; 3] = [State::Proposed, State::Standing, State::Lifted];

    /// The word in the database, in records and on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            State::Proposed => "proposed",
            State::Standing => "standing",
            State::Lifted => "lifted",
        }
    }
}

/// Who said something of a kill, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// An admin, by name.
    pub by: String,
    /// Where the connection came from.
    pub on: Host,
    /// When.
    pub at: Timestamp,
}

/// One use of the kill switch. It never expires by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kill {
    /// Its id.
    pub id: KillId,
    /// What it cuts off.
    pub target: Target,
    /// Why.
    pub reason: String,
    /// Who asked for it.
    pub asked: Word,
    /// Who said yes to it, where it waited for that.
    pub approved: Option<Word>,
    /// Who lifted it.
    pub lifted: Option<Word>,
    /// Where it stands.
    pub state: State,
}

impl Kill {
    /// SHA-256 of what is to be cut off and why, hexadecimal: what a second admin says yes to.
    pub fn digest(&self) -> String {
        let whole = format!("{}\n{}\n{}\n{}", self.id, self.target.kind(), self.target.name(), self.reason);
        Sha256::digest(whole).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Checks that this admin may say yes to it, having looked at what has this digest.
    ///
    /// # Errors
    /// It does not wait, it is not what was looked at, or the admin or the host is the one that asked.
    pub fn check_approve(
        &self,
        by: &str,
        on: Host,
        looked_at: &str,
        one_host: bool,
    ) -> Result<(), NotConfirmable> {
        match self.state {
            State::Proposed => {}
            State::Standing | State::Lifted => return Err(NotConfirmable::Over(self.state)),
        }
        if looked_at != self.digest() {
            return Err(NotConfirmable::Changed);
        }
        if by == self.asked.by {
            return Err(NotConfirmable::SamePerson);
        }
        if on == self.asked.on && !one_host {
            return Err(NotConfirmable::SameHost);
        }
        Ok(())
    }
}

/// Why a yes to a kill does not count.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum NotConfirmable {
    /// It stands, or was lifted.
    #[error("the kill is {} already", .0.as_str())]
    Over(State),
    /// What was looked at is another.
    #[error("the digest is not that of the kill; look at it again")]
    Changed,
    /// The one who asked.
    #[error("whoever asked for the kill cannot be its second pair of eyes")]
    SamePerson,
    /// The host it was asked from.
    #[error("the kill was asked for from the same host; a yes comes from another")]
    SameHost,
}

#[cfg(test)]
mod tests;
