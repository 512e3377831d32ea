//! What a change of the rules does to requests that were made: each is decided under both, and told apart here.

mod tally;

use std::fmt;

use serde_json::Value;

use crate::policy::Narrowing;
use crate::time::Ttl;

pub use self::tally::{Group, NotReplayed, Repeated, Replayed, Subject, Summary, Tally, Total, What};

/// What a request is told under some rules.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It may; on these terms, where a credential is given or an action is allowed.
    Allowed(Option<Terms>),
    /// It may not.
    Denied {
        /// The stable code.
        reason: &'static str,
        /// What the caller is told.
        message: String,
    },
}

/// What an allow gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Terms {
    /// For how long.
    pub ttl: Ttl,
    /// What the target is asked for: the provider, and the target with its parameters filled in. None for an action,
    /// which is allowed or not.
    pub target: Option<(String, Value)>,
    /// What policies took away. The time is already cut.
    pub narrowing: Narrowing,
}

/// How the answer to one request changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Change {
    /// It was allowed and would be denied.
    NewlyDenied,
    /// It was denied and would be allowed.
    NewlyAllowed,
    /// It would get more: a longer life, or less taken away by policies.
    Widened,
    /// It would get something else, which is neither more nor less: another target, other tags.
    Altered,
    /// It would get less: a shorter life, or more taken away by policies.
    Narrowed,
    /// It was denied and would be, for another reason.
    DeniedOtherwise,
}

impl Change {
    /// Every change, those that are looked at first standing first.
    pub const ALL: [Change; 6] = [
        Change::NewlyDenied,
        Change::NewlyAllowed,
        Change::Widened,
        Change::Altered,
        Change::Narrowed,
        Change::DeniedOtherwise,
    ];

    /// The change's name on the wire and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Change::NewlyDenied => "newly_denied",
            Change::NewlyAllowed => "newly_allowed",
            Change::Widened => "widened",
            Change::Altered => "altered",
            Change::Narrowed => "narrowed",
            Change::DeniedOtherwise => "denied_otherwise",
        }
    }

    /// How the second answer differs from the first; none where it does not.
    pub fn between(before: &Outcome, after: &Outcome) -> Option<Change> {
        match (before, after) {
            (Outcome::Allowed(_), Outcome::Denied { .. }) => Some(Change::NewlyDenied),
            (Outcome::Denied { .. }, Outcome::Allowed(_)) => Some(Change::NewlyAllowed),
            (Outcome::Denied { reason: before, .. }, Outcome::Denied { reason: after, .. }) => {
                (before != after).then_some(Change::DeniedOtherwise)
            }
            (Outcome::Allowed(before), Outcome::Allowed(after)) => match (before, after) {
                (Some(before), Some(after)) => of_terms(before, after),
                (None, None) => None,
                (Some(_), None) | (None, Some(_)) => Some(Change::Altered),
            },
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// More in one way and less in another is neither.
fn of_terms(before: &Terms, after: &Terms) -> Option<Change> {
    let (taken, would_take) = (&before.narrowing, &after.narrowing);
    if before.target != after.target || taken.tags != would_take.tags {
        return Some(Change::Altered);
    }
    let all_of = |some: &[Value], others: &[Value]| some.iter().all(|one| others.contains(one));
    let keeps = all_of(&taken.deny_statements, &would_take.deny_statements);
    let adds = !all_of(&would_take.deny_statements, &taken.deny_statements);
    let less = after.ttl < before.ttl || adds;
    let more = after.ttl > before.ttl || !keeps;
    match (more, less) {
        (true, true) => Some(Change::Altered),
        (true, false) => Some(Change::Widened),
        (false, true) => Some(Change::Narrowed),
        (false, false) => None,
    }
}

#[cfg(test)]
mod tests;
