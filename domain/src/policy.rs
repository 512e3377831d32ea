//! What policies see and what they may say: deny with reasons, or narrow. They never widen what bindings grant.
//!
//! The input has three roots, so that a rule shows on its face what it rests on: `proven` comes from verified SVIDs and
//! the broker's own records, `observed` is the node agent's word, `claimed` is the workload's word.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::caller::Caller;
use crate::parameter::Parameters;
use crate::scope::Scope;
use crate::spiffe::SpiffeId;
use crate::stage::Stage;
use crate::task::{Anchor, Task, TaskState};
use crate::time::{Timestamp, Ttl};

/// Everything a policy is asked about. `docs/policy-input.schema.json` describes it as JSON.
#[derive(Clone, Debug, Serialize)]
pub struct PolicyInput<'a> {
    /// From verified SVIDs and the broker's own records.
    pub proven: Proven<'a>,
    /// The node agent's word; the broker cannot prove it.
    pub observed: Observed<'a>,
    /// The workload's word. Parameters passed the scope's types and the binding, and are still its choice.
    pub claimed: Claimed<'a>,
}

/// What the broker knows by itself.
#[derive(Clone, Debug, Serialize)]
pub struct Proven<'a> {
    /// Who asks.
    pub spiffe_id: &'a SpiffeId,
    /// Trust domain of who asks.
    pub trust_domain: &'a str,
    /// What the identity does.
    pub stage: Stage,
    /// `agent` or `direct`.
    pub via: &'static str,
    /// The scope that a binding carries.
    pub scope: &'a str,
    /// The scope's provider.
    pub provider: &'a str,
    /// `issue` for a credential, else the action on an artifact.
    pub action: &'a str,
    /// The task.
    pub task: ProvenTask,
    /// Who holds each task of the tree, root first, the asker's own last.
    pub chain: Vec<Link<'a>>,
    /// The moment of the decision, in seconds since 1970-01-01T00:00:00Z. Policies have no other clock.
    pub now: i64,
}

/// The task, as the broker keeps it.
#[derive(Clone, Debug, Serialize)]
pub struct ProvenTask {
    /// Its id.
    pub id: String,
    /// The root of its tree.
    pub session: String,
    /// Tasks above it; 0 for a root.
    pub depth: usize,
    /// When it was opened, in seconds since 1970-01-01T00:00:00Z.
    pub opened_at: i64,
    /// When the broker ends it, in the same seconds.
    pub deadline: i64,
}

/// One task of the chain.
#[derive(Clone, Debug, Serialize)]
pub struct Link<'a> {
    /// Who holds it.
    pub spiffe_id: &'a SpiffeId,
    /// The holder's stage when it was opened.
    pub stage: Stage,
}

/// What the node agent says. Empty of a direct caller.
#[derive(Clone, Debug, Serialize)]
pub struct Observed<'a> {
    /// The agent that speaks; absent for a direct caller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<&'a SpiffeId>,
    /// `cgroup_owned`, `process` or `stream`.
    pub anchor: &'static str,
    /// `pidfd`, `peercred` or `stream`.
    pub attested_by: &'a str,
    /// Id of the cgroup; 0 where there is none.
    pub cgroup_id: u64,
    /// Boot of the node; empty for a stream.
    pub boot_id: &'a str,
}

/// What the workload says.
#[derive(Clone, Debug, Serialize)]
pub struct Claimed<'a> {
    /// What the task is for.
    pub intent: &'a str,
    /// The task's labels.
    pub labels: &'a BTreeMap<String, String>,
    /// The scope's parameters.
    pub parameters: &'a Parameters,
    /// How long the credential is wanted for, in seconds; the scope's default if the caller did not say.
    pub ttl: u64,
    /// What is acted on; absent where a credential is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact: Option<&'a Artifact>,
}

/// Largest Rego module of a policy, in bytes.
pub const MAX_MODULE: usize = 64 << 10;
/// Most modules of one policy, its tests included.
pub const MAX_MODULES: usize = 16;
/// All modules of one policy together, in bytes.
pub const MAX_POLICY: usize = 256 << 10;

/// A policy as it is written: Rego modules, its own tests among them. Checked for form, not yet loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicySource {
    /// Its name, `[a-z][a-z0-9-]*`.
    pub name: String,
    /// The scopes it is for; `None` means every scope.
    pub scopes: Option<BTreeSet<String>>,
    /// Source by file name. Files named `*_test.rego` hold tests and take no part in decisions.
    pub modules: BTreeMap<String, String>,
    /// SHA-256 of the document it was written in, hexadecimal.
    pub digest: String,
}

impl PolicySource {
    /// Whether a file of this name holds tests.
    pub fn is_test(file: &str) -> bool {
        file.ends_with("_test.rego")
    }

    /// The Rego package of its rules: `dayfly.` and its name with `_` for `-`.
    pub fn package(&self) -> String {
        format!("dayfly.{}", self.name.replace('-', "_"))
    }

    /// Whether it judges requests for this scope.
    pub fn is_for(&self, scope: &str) -> bool {
        self.scopes.as_ref().is_none_or(|scopes| scopes.contains(scope))
    }
}

/// Something a workload loads, calls or queries.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, serde::Deserialize)]
pub struct Artifact {
    /// Its name: `models/llama-3-8b`, `tools/web-search`.
    pub name: String,
    /// Its digest where it has one: `sha256:` and 64 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// What policies took away from a grant. The default takes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize)]
pub struct Narrowing {
    /// The longest the credential may live; the least of all that were said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ttl: Option<Ttl>,
    /// `Deny` statements that are appended to a session policy.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub deny_statements: Vec<Value>,
    /// Tags the credential carries, outside the reserved keys.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
}

impl Narrowing {
    /// Takes what another policy took as well. Of two tags with one key the first stays, unless they differ: see
    /// [`Narrowing::conflict`].
    pub fn and(&mut self, other: Narrowing) {
        self.max_ttl = match (self.max_ttl, other.max_ttl) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        self.deny_statements.extend(other.deny_statements);
        for (key, value) in other.tags {
            self.tags.entry(key).or_insert(value);
        }
    }

    /// Whether anything of it has to be in the credential. The time is the credential's own already.
    pub fn is_in_credential(&self) -> bool {
        !(self.deny_statements.is_empty() && self.tags.is_empty())
    }

    /// SHA-256 of what has to be in the credential, hexadecimal; none if nothing has. Two credentials of one digest carry
    /// the same.
    pub fn digest(&self) -> Option<String> {
        self.is_in_credential().then(|| {
            let whole = serde_json::json!({ "deny_statements": self.deny_statements, "tags": self.tags });
            let canonical =
                serde_json_canonicalizer::to_vec(&whole).expect("statements and tags are plain data");
            crate::document::hex(&Sha256::digest(canonical))
        })
    }

    /// A tag that the other sets to another value: no credential can carry both.
    pub fn conflict<'a>(&'a self, other: &Narrowing) -> Option<&'a str> {
        let differs = |(key, value): &(&String, &String)| other.tags.get(*key).is_some_and(|v| v != *value);
        self.tags.iter().find(differs).map(|(key, _)| key.as_str())
    }
}

/// What a set of policies said about one request.
#[derive(Clone, Debug, PartialEq)]
pub enum Judgement {
    /// None denied.
    Allow(Narrowing),
    /// At least one denied.
    Deny {
        /// The first that did, by name.
        policy: String,
        /// Its reasons, in its authors' words. For the caller.
        reasons: Vec<String>,
    },
    /// One gave no answer that can be used: an error, an undefined decision, the limit of its time. A denial too.
    Fail {
        /// Which, by name.
        policy: String,
        /// What went wrong. For the record.
        what: String,
    },
}

/// One rule of a policy, as an explanation shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyStep {
    /// The policy, by name.
    pub policy: String,
    /// What was looked at: a rule with its place in the source, or the policy's whole answer.
    pub rule: String,
    /// Whether the rule's body held.
    pub matched: bool,
    /// What it said.
    pub what: String,
}

/// Judges requests by the policies in force. Pure: no clock, no network, no environment.
pub trait Judge: Any + Send + Sync + fmt::Debug {
    /// The judgement of every policy that is for the scope.
    fn judge(&self, input: &PolicyInput<'_>) -> Judgement;

    /// The same judgement with each rule that led to it.
    fn explain(&self, input: &PolicyInput<'_>) -> (Judgement, Vec<PolicyStep>);

    /// Whether any policy is for the scope. What none is for needs no input built.
    fn is_for(&self, scope: &str) -> bool;

    /// Name and digest of each policy that is for the scope.
    fn of_scope(&self, scope: &str) -> Vec<(String, String)>;
}

/// Policies that nobody has loaded yet. What they are for is denied.
#[derive(Debug)]
pub(crate) struct Unloaded(pub(crate) Vec<PolicySource>);

impl Judge for Unloaded {
    fn judge(&self, input: &PolicyInput<'_>) -> Judgement {
        match self.0.iter().find(|policy| policy.is_for(input.proven.scope)) {
            Some(policy) => {
                Judgement::Fail { policy: policy.name.clone(), what: "it is not loaded".to_owned() }
            }
            None => Judgement::Allow(Narrowing::default()),
        }
    }

    fn explain(&self, input: &PolicyInput<'_>) -> (Judgement, Vec<PolicyStep>) {
        (self.judge(input), Vec::new())
    }

    fn is_for(&self, scope: &str) -> bool {
        self.0.iter().any(|policy| policy.is_for(scope))
    }

    fn of_scope(&self, scope: &str) -> Vec<(String, String)> {
        let policies = self.0.iter().filter(|policy| policy.is_for(scope));
        policies.map(|policy| (policy.name.clone(), policy.digest.clone())).collect()
    }
}

impl<'a> PolicyInput<'a> {
    /// The input of one decision. `lineage` is the tree above the task, root first, the task itself last.
    pub fn new(
        caller: &'a Caller,
        lineage: &'a [Task],
        scope: &'a Scope,
        parameters: &'a Parameters,
        ttl: Ttl,
        act: Option<(&'a str, &'a Artifact)>,
        now: Timestamp,
    ) -> Option<Self> {
        let task = lineage.last()?;
        let Anchor { kind, attested_by, cgroup_id, boot_id, .. } = &task.anchor;
        let deadline = match task.state {
            TaskState::Open { deadline } => deadline,
            TaskState::Ended { at, .. } => at,
        };
        Some(Self {
            proven: Proven {
                spiffe_id: &caller.spiffe_id,
                trust_domain: caller.spiffe_id.trust_domain(),
                stage: caller.stage,
                via: caller.via.name(),
                scope: &scope.name,
                provider: &scope.provider,
                action: act.map_or("issue", |(action, _)| action),
                task: ProvenTask {
                    id: task.id.to_string(),
                    session: task.session.to_string(),
                    depth: lineage.len() - 1,
                    opened_at: task.opened_at.unix_seconds(),
                    deadline: deadline.unix_seconds(),
                },
                chain: lineage
                    .iter()
                    .map(|task| Link { spiffe_id: &task.opened_by, stage: task.stage })
                    .collect(),
                now: now.unix_seconds(),
            },
            observed: Observed {
                node: caller.via.node(),
                anchor: kind.as_str(),
                attested_by,
                cgroup_id: *cgroup_id,
                boot_id,
            },
            claimed: Claimed {
                intent: &task.intent,
                labels: &task.labels,
                parameters,
                ttl: ttl.as_seconds(),
                artifact: act.map(|(_, artifact)| artifact),
            },
        })
    }
}
