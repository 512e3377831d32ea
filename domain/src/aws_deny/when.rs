//! Which sessions of a scope are worth a deny.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::lease::RevokeCause;
use crate::task::EndCause;
use crate::time::Ttl;

/// When a session is denied; otherwise it runs out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum RevokeWhen {
    /// Whenever it is taken back.
    #[default]
    Always,
    /// If it would live for longer than this, or an admin takes it back.
    IfRemaining(Ttl),
    /// If an admin takes it back.
    AdminOnly,
}

/// The text says no such thing.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("expected always, admin_only, or if_remaining > 2m")]
pub struct NotAWhen;

impl RevokeWhen {
    /// Whether a session is denied that is taken back for this cause and would live for so long.
    pub fn wants(self, cause: RevokeCause, remaining: Ttl) -> bool {
        match (self, cause) {
            // An admin's word counts for everything, whatever it would cost to wait.
            (_, cause) if cause.is_admins() => true,
            (RevokeWhen::Always, _) => true,
            (RevokeWhen::IfRemaining(least), _) => remaining > least,
            // What ended the task above is not told; it may have been an admin.
            (RevokeWhen::AdminOnly, RevokeCause::TaskEnded(EndCause::ParentEnded)) => true,
            (RevokeWhen::AdminOnly, _) => false,
        }
    }
}

impl FromStr for RevokeWhen {
    type Err = NotAWhen;

    fn from_str(text: &str) -> Result<Self, NotAWhen> {
        match text {
            "always" => Ok(RevokeWhen::Always),
            "admin_only" => Ok(RevokeWhen::AdminOnly),
            other => {
                let span = other.strip_prefix("if_remaining").map(str::trim_start);
                let span = span.and_then(|rest| rest.strip_prefix('>')).map(str::trim);
                span.and_then(|span| span.parse().ok()).map(RevokeWhen::IfRemaining).ok_or(NotAWhen)
            }
        }
    }
}

impl fmt::Display for RevokeWhen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RevokeWhen::Always => f.write_str("always"),
            RevokeWhen::IfRemaining(span) => write!(f, "if_remaining > {span}"),
            RevokeWhen::AdminOnly => f.write_str("admin_only"),
        }
    }
}
