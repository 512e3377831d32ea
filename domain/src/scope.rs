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
    /// What uses of it may leave behind that no end of a task takes back, in the platform team's words.
    pub leaves_behind: Vec<String>,
    /// How much of it may be asked for and held, by all who may; never more than the broker's own limits.
    pub limits: ScopeLimits,
    /// What becomes of its leases when the agent they came through falls silent.
    pub on_agent_loss: OnAgentLoss,
    /// The provider that issues it: `token`, `vault`, `aws`.
    pub provider: String,
    /// What the provider makes of it; its keys are the provider's own.
    pub target: Template,
    /// SHA-256 of the document it was written in, hexadecimal.
    pub digest: String,
}

/// What becomes of a lease when the agent it came through falls silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OnAgentLoss {
    /// It is taken back, like at the end of its task.
    #[default]
    Revoke,
    /// It is left to those who hold it, and its task is left open, until the task's own deadline. Nothing new is given
    /// meanwhile.
    HoldUntilDeadline,
}

impl OnAgentLoss {
    /// The word of documents and of the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            OnAgentLoss::Revoke => "revoke",
            OnAgentLoss::HoldUntilDeadline => "hold_until_deadline",
        }
    }
}

/// What a scope asks of approvals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApprovalRule {
    /// The longest an approval may stand.
    pub max: Ttl,
}

/// Limits of one scope, over all identities; absent where the broker's own suffice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ScopeLimits {
    /// Requests for it in a minute.
    pub requests_per_minute: Option<u32>,
    /// Leases of it that are not over.
    pub live_leases: Option<u32>,
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    /// What taking back means here.
    pub revocability: Revocability,
    /// The longest a credential can work after the end of its task. What it left behind is not counted.
    pub worst_case_after_end: Ttl,
    /// What its use may have left behind that nobody takes back, in the words of the scope; mostly nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leaves_behind: Vec<String>,
}

impl Promise {
    /// What a provider can do for a credential of this scope; no more than waiting for its expiry where a use of it
    /// leaves something behind.
    pub fn of(scope: &Scope, revocability: Revocability, worst_case_after_end: Ttl) -> Self {
        let leaves_behind = scope.leaves_behind.clone();
        if leaves_behind.is_empty() {
            return Self { revocability, worst_case_after_end, leaves_behind };
        }
        let worst_case_after_end = worst_case_after_end.max(scope.ttl.max);
        Self { revocability: Revocability::ExpiryOnly, worst_case_after_end, leaves_behind }
    }
}
