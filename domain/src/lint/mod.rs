//! Lint: what is legal and still a mistake, or soon will be. Told about documents, and about the SPIRE entries behind them.

mod bindings;
mod entries;
mod starts;

use serde::Serialize;

use crate::rules::Rules;
use crate::time::Timestamp;

pub use self::entries::{MAX_ENTRIES_INPUT, check_entries};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// It may be meant.
    Warning,
    /// It gives everybody something, or nobody anything.
    Error,
}

impl Severity {
    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Severity::Warning => "warning",
            Severity::Error => "error",
        }
    }
}

/// One thing to look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Stable code.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// `Binding/train-reads`, or `Entry/<id>`.
    pub document: String,
    /// `spec.identities`.
    pub path: String,
    /// What was found.
    pub what: String,
    /// Why it matters.
    pub why: &'static str,
    /// What to do.
    pub next: &'static str,
}

/// Everything to look at in the documents, by document.
pub fn check(rules: &Rules, now: Timestamp) -> Vec<Finding> {
    let mut findings = bindings::check(rules, now);
    findings.sort_by(|a, b| (&a.document, a.code, &a.path).cmp(&(&b.document, b.code, &b.path)));
    findings
}

/// A scope that declares to leave something behind although nothing it allows could. Whoever knows the target says so.
pub fn needless_leaves_behind(scope: &str) -> Finding {
    Finding {
        code: "leaves-behind-needless",
        severity: Severity::Warning,
        document: format!("Scope/{scope}"),
        path: "spec.leaves_behind".to_owned(),
        what: "nothing that it allows could leave anything behind".to_owned(),
        why: "its leases are promised to run out only, though they could be taken back; and what is added later to \
              leave something is not noticed",
        next: "remove it; apply says if it is needed",
    }
}

/// A binding of which less would have sufficed, by what was recorded. `taken` says what was not used.
pub fn wider_than_use(binding: &str, since: &str, taken: &[String]) -> Finding {
    Finding {
        code: "binding-wider-than-use",
        severity: Severity::Warning,
        document: format!("Binding/{binding}"),
        path: "spec".to_owned(),
        what: format!("since {since} less would have sufficed: {}", taken.join("; ")),
        why: "what nobody uses is there for whoever takes over an identity that it is for",
        next: "look at `dayfly review --binding`, which proposes the narrower document",
    }
}

/// A binding that nobody used.
pub fn never_used(binding: &str, since: &str) -> Finding {
    Finding {
        code: "binding-never-used",
        severity: Severity::Warning,
        document: format!("Binding/{binding}"),
        path: "metadata.name".to_owned(),
        what: format!("nobody used it since {since}"),
        why: "what nobody uses is there for whoever takes over an identity that it is for",
        next: "remove it, or let its owner say what it is for",
    }
}

#[cfg(test)]
mod tests;
