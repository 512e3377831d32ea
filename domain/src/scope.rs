//! Scopes: named, parameterised permissions on one target.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::parameter::{ParameterSpec, Parameters};
use crate::stage::Stage;
use crate::task::AnchorKind;
use crate::template::Template;
use crate::time::Ttl;

/// A permission on one target, kept in the database by the platform team.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Its name, unique among scopes.
    pub name: String,
    /// What it is for, in the platform team's words.
    pub description: String,
    /// The stages whose identities may hold it.
    pub stages: BTreeSet<Stage>,
    /// What it can be asked with.
    pub parameters: BTreeMap<String, ParameterSpec>,
    /// How long its credentials live.
    pub ttl: TtlLimits,
    /// The anchor that a task must have for it, if any is demanded.
    pub anchor: Option<AnchorKind>,
    /// Whether a second admin must have approved each use of it.
    pub approval: Option<ApprovalRule>,
    /// The provider that issues it: `token`, `vault`, `aws`.
    pub provider: String,
    /// What the provider makes of it; its keys are the provider's own.
    pub target: Template,
    /// SHA-256 of the document it was written in, hexadecimal.
    pub digest: String,
}

/// What a scope asks of approvals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApprovalRule {
    /// The longest an approval may stand.
    pub max: Ttl,
}

/// How long the credentials of a scope live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TtlLimits {
    /// If the caller does not say.
    pub default: Ttl,
    /// The most a caller may ask for.
    pub max: Ttl,
}

/// A scope and the values it is asked with: one line of a ceiling, or one request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ScopeAsk {
    /// Name of the scope.
    pub scope: String,
    /// Values by parameter name; claimed until checked.
    pub parameters: Parameters,
}

/// Everything a task and all under it may ever ask for.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ceiling(Vec<ScopeAsk>);

impl Ceiling {
    /// Most lines of one ceiling.
    pub const MAX_LINES: usize = 64;

    /// From the lines a task was opened with.
    pub fn new(lines: Vec<ScopeAsk>) -> Self {
        Self(lines)
    }

    /// Whether this very scope with these very values may be asked for.
    pub fn covers(&self, ask: &ScopeAsk) -> bool {
        self.0.contains(ask)
    }

    /// The first line that the other ceiling does not cover.
    pub fn first_outside<'a>(&'a self, other: &Ceiling) -> Option<&'a ScopeAsk> {
        self.0.iter().find(|line| !other.covers(line))
    }

    /// The lines, in the order they were given.
    pub fn lines(&self) -> &[ScopeAsk] {
        &self.0
    }
}

/// What a provider can truthfully promise about taking a credential back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Revocability {
    /// The target ends this one credential and says so.
    Exact,
    /// The target denies what it asks, some time after it was told.
    Deny,
    /// The workload never held it.
    Proxied,
    /// The target cannot take it back.
    ExpiryOnly,
}

impl Revocability {
    /// The word for it in records and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Revocability::Exact => "exact",
            Revocability::Deny => "deny",
            Revocability::Proxied => "proxied",
            Revocability::ExpiryOnly => "expiry_only",
        }
    }
}

/// How far, and how late, a credential can still work after its task has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    /// What taking back means here.
    pub revocability: Revocability,
    /// The longest a credential can work after the end of its task.
    pub worst_case_after_end: Ttl,
}
