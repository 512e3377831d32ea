//! A request for approval: what may be asked for, who may say yes, and how it stands.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Serialize, Serializer};
use thiserror::Error;

use super::{Approval, digest};
use crate::id::ApprovalId;
use crate::parameter;
use crate::rules::Rules;
use crate::scope::ScopeAsk;
use crate::spiffe::SpiffeId;
use crate::time::{Timestamp, Ttl};

/// Longest ticket, in bytes.
pub const MAX_TICKET: usize = 256;
/// Longest reason, in bytes.
pub const MAX_REASON: usize = 512;

/// A request for approval, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApprovalRequest {
    /// Its id; the approval's too, once there is one.
    pub id: ApprovalId,
    /// Who is to be allowed to ask.
    pub identity: SpiffeId,
    /// For what, with which values.
    pub ask: ScopeAsk,
    /// From this moment on it allows nothing; it must be decided before.
    pub until: Timestamp,
    /// Where the reason is found; empty if nothing was said.
    pub ticket: String,
    /// Why.
    pub reason: String,
    /// Digest of all that is to be approved: see [`digest`].
    pub digest: String,
    /// When it was asked for.
    pub requested_at: Timestamp,
    /// By whom.
    pub requested_by: SpiffeId,
    /// From where.
    pub requested_on: Host,
    /// What was said of it.
    pub verdict: Option<Verdict>,
}

/// What was said of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What.
    pub said: Said,
    /// When.
    pub at: Timestamp,
    /// By whom.
    pub by: SpiffeId,
    /// From where.
    pub on: Host,
}

/// Yes, no, or no longer wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// A second admin said yes.
    Approved,
    /// An admin said no.
    Refused,
    /// It was taken back, before or after a yes.
    Withdrawn,
}

impl Said {
    /// Every word.
    pub const ALL: [Said; 3] = [Said::Approved, Said::Refused, Said::Withdrawn];

    /// The word in the database, in records and on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Said::Approved => "approved",
            Said::Refused => "refused",
            Said::Withdrawn => "withdrawn",
        }
    }
}

/// How a request stands at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It waits for a second admin.
    Requested,
    /// Its end came undecided.
    Lapsed,
    /// It allows what was asked for.
    Approved,
    /// It was approved, and its end came.
    Ended,
    /// The scope's document is another than the one that was looked at.
    Void,
    /// An admin said no.
    Refused,
    /// It was taken back.
    Withdrawn,
}

impl Standing {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Standing::Requested => "requested",
            Standing::Lapsed => "lapsed",
            Standing::Approved => "approved",
            Standing::Ended => "ended",
            Standing::Void => "void",
            Standing::Refused => "refused",
            Standing::Withdrawn => "withdrawn",
        }
    }

    /// Whether it waits or allows something.
    pub const fn is_live(self) -> bool {
        matches!(self, Standing::Requested | Standing::Approved)
    }
}

/// The host that an admin's connection came from, as far as the broker can tell: one address is one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// The broker's own: a Unix socket, loopback, or an address of its own.
    Broker,
    /// Another.
    At(IpAddr),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Broker => f.write_str("broker"),
            Host::At(address) => write!(f, "{address}"),
        }
    }
}

impl Serialize for Host {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for Host {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "broker" { Ok(Host::Broker) } else { text.parse().map(Host::At) }
    }
}

/// Why nothing of the kind can be requested.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum NotRequestable {
    /// There is no such scope.
    #[error("there is no scope {0:?}")]
    UnknownScope(String),
    /// The scope has no `approval`.
    #[error("scope {0:?} wants no approval; a binding alone gives it")]
    NoneWanted(String),
    /// A parameter is unknown, missing or out of its type or pattern.
    #[error("{0}")]
    Parameters(String),
    /// The end is past.
    #[error("{until} is past")]
    Past {
        /// The end that was asked for.
        until: Timestamp,
    },
    /// The end is later than the scope allows.
    #[error("scope {scope:?} is approved for {max} at most, so until {latest}")]
    TooLong {
        /// The scope.
        scope: String,
        /// The longest it is approved for.
        max: Ttl,
        /// The latest end, asked for now.
        latest: Timestamp,
    },
    /// No reason is given, or ticket or reason are not short lines.
    #[error(
        "say why in one line of at most {MAX_REASON} bytes; a ticket is one line of at most {MAX_TICKET}"
    )]
    Words,
}

/// Why a yes does not count.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum NotApprovable {
    /// It was decided, taken back, or its end came.
    #[error("approval {id} is {} already", .standing.as_str())]
    Over {
        /// Which.
        id: ApprovalId,
        /// How it stands.
        standing: Standing,
    },
    /// The scope's document changed since it was requested, or the approver looked at something else.
    #[error("what is asked for is not what was looked at: the scope changed, or the digest is another")]
    Changed,
    /// The requester.
    #[error("{0} requested it; the second pair of eyes is somebody else's")]
    SamePerson(SpiffeId),
    /// The requester's host.
    #[error("the request came from the same host ({0}); a yes comes from another")]
    SameHost(Host),
}

/// Checks that this may be requested, and returns the digest of what is to be approved.
pub fn check_request(
    rules: &Rules,
    identity: &SpiffeId,
    ask: &ScopeAsk,
    until: Timestamp,
    (ticket, reason): (&str, &str),
    now: Timestamp,
) -> Result<String, NotRequestable> {
    let named = || ask.scope.chars().take(64).collect::<String>();
    let scope = rules.scope(&ask.scope).ok_or_else(|| NotRequestable::UnknownScope(named()))?;
    let rule = scope.approval.ok_or_else(|| NotRequestable::NoneWanted(named()))?;
    if let Err(faults) = parameter::check(&scope.parameters, &ask.parameters) {
        let told: Vec<String> = faults.iter().map(ToString::to_string).collect();
        return Err(NotRequestable::Parameters(told.join("; ")));
    }
    if until <= now {
        return Err(NotRequestable::Past { until });
    }
    let latest = now + rule.max;
    if until > latest {
        return Err(NotRequestable::TooLong { scope: named(), max: rule.max, latest });
    }
    let line = |text: &str, most: usize| text.len() <= most && !text.chars().any(char::is_control);
    if reason.trim().is_empty() || !line(reason, MAX_REASON) || !line(ticket, MAX_TICKET) {
        return Err(NotRequestable::Words);
    }
    Ok(digest(identity, ask, &scope.digest, until))
}

impl ApprovalRequest {
    /// How it stands.
    pub fn standing(&self, rules: &Rules, now: Timestamp) -> Standing {
        let over = now >= self.until;
        match self.verdict.as_ref().map(|verdict| verdict.said) {
            Some(Said::Refused) => Standing::Refused,
            Some(Said::Withdrawn) => Standing::Withdrawn,
            None if over => Standing::Lapsed,
            Some(Said::Approved) if over => Standing::Ended,
            None | Some(Said::Approved) if !self.is_of(rules) => Standing::Void,
            None => Standing::Requested,
            Some(Said::Approved) => Standing::Approved,
        }
    }

    /// Checks that this admin may say yes to it, having looked at what has this digest.
    pub fn check_approve(
        &self,
        rules: &Rules,
        by: &SpiffeId,
        on: Host,
        looked_at: &str,
        one_host: bool,
        now: Timestamp,
    ) -> Result<(), NotApprovable> {
        match self.standing(rules, now) {
            Standing::Requested => {}
            Standing::Void => return Err(NotApprovable::Changed),
            standing => return Err(NotApprovable::Over { id: self.id, standing }),
        }
        if looked_at != self.digest {
            return Err(NotApprovable::Changed);
        }
        if *by == self.requested_by {
            return Err(NotApprovable::SamePerson(by.clone()));
        }
        if on == self.requested_on && !one_host {
            return Err(NotApprovable::SameHost(on));
        }
        Ok(())
    }

    /// What decisions see of it, if it was approved.
    pub fn approval(&self) -> Option<Approval> {
        let said = self.verdict.as_ref().map(|verdict| verdict.said);
        (said == Some(Said::Approved)).then(|| Approval {
            id: self.id.to_string(),
            identity: self.identity.clone(),
            ask: self.ask.clone(),
            until: self.until,
            digest: self.digest.clone(),
        })
    }

    /// Whether the scope is the one that was looked at.
    fn is_of(&self, rules: &Rules) -> bool {
        rules.scope(&self.ask.scope).is_some_and(|scope| {
            scope.approval.is_some()
                && digest(&self.identity, &self.ask, &scope.digest, self.until) == self.digest
        })
    }
}

#[cfg(test)]
mod tests;
