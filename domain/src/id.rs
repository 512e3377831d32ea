//! Ids: each kind its own type. An id names, it never authorises.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use ulid::Ulid;

use crate::time::Timestamp;

/// The text is not a ULID of 26 characters in Crockford's base 32.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("not an id: expected 26 characters of a ULID")]
pub struct NotAnId;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Ulid);

        impl $name {
            /// Makes an id from the time and 80 random bits.
            pub fn new(now: Timestamp, entropy: u128) -> Self {
                Self(Ulid::from_parts(now.unix_millis().unsigned_abs(), entropy))
            }

            /// The time it was made from.
            pub fn made_at(self) -> Timestamp {
                Timestamp::from_unix_millis(i64::try_from(self.0.timestamp_ms()).unwrap_or(i64::MAX))
            }
        }

        impl FromStr for $name {
            type Err = NotAnId;

            fn from_str(text: &str) -> Result<Self, NotAnId> {
                Ulid::from_string(text).map(Self).map_err(|_| NotAnId)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NotAnId;

            fn try_from(text: String) -> Result<Self, NotAnId> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.to_string()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    )* };
}

ids! {
    /// Names a task.
    TaskId,
    /// Names a session: the root task's id.
    SessionId,
    /// Names a lease. Legal as an AWS SourceIdentity and RoleSessionName.
    LeaseId,
    /// Names one request in logs, records and error answers.
    RequestId,
    /// Names a request for approval, and the approval it leads to.
    ApprovalId,
    /// Names one use of the kill switch.
    KillId,
}

impl From<TaskId> for SessionId {
    /// The session that a root task begins.
    fn from(root: TaskId) -> Self {
        Self(root.0)
    }
}

impl From<SessionId> for TaskId {
    /// The root task of a session.
    fn from(session: SessionId) -> Self {
        Self(session.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_as_written() {
        let id = LeaseId::new(Timestamp::from_unix_millis(1_700_000_000_000), 42);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(format!("{id:?}"), id.to_string());
        assert_eq!(id.made_at(), Timestamp::from_unix_millis(1_700_000_000_000));
        assert_eq!("lease-1".parse::<LeaseId>(), Err(NotAnId));
    }
}
