//! Lint: what is legal and still a mistake, or soon will be. Told about documents, and about the SPIRE entries behind them.

mod bindings;
mod entries;

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

#[cfg(test)]
mod tests;
