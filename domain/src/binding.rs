//! Bindings: which SPIFFE IDs may use or delegate which scope, and how they may come by it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::parameter::{Parameters, WholePattern};
use crate::pattern::SpiffePattern;
use crate::spiffe::SpiffeId;
use crate::time::{Timestamp, Ttl};

/// Scopes that every broker has: the verbs of its own administration. Bound to identities of stage `admin` alone.
pub const ADMIN_SCOPES: [&str; 5] =
    ["admin.read", "admin.revoke", "admin.apply", "admin.approve", "admin.key"];

/// A binding as the platform team wrote it.
#[derive(Clone, Debug)]
pub struct Binding {
    /// Its name, unique among bindings.
    pub name: String,
    /// Whom it is for.
    pub identities: Vec<SpiffePattern>,
    /// The scope it grants.
    pub scope: String,
    /// Whether its holder may have credentials of the scope.
    pub may_use: bool,
    /// Whose tasks below its holder may have them, if any. Yields nothing to the holder itself.
    pub delegate: Option<Delegation>,
    /// Narrower values per parameter; what is absent is as the scope has it.
    pub parameters: BTreeMap<String, AllowedValues>,
    /// Whether a root task suffices or a parent is needed.
    pub start: Start,
    /// How its holder must come.
    pub via: ViaRule,
    /// How long after a task was opened the binding still grants under it.
    pub max_task: Ttl,
    /// From this moment on it grants nothing.
    pub until: Option<Timestamp>,
    /// Where the reason for it is found; empty if nothing was said.
    pub ticket: String,
    /// Who answers for it; empty if nothing was said.
    pub owner: String,
    /// SHA-256 of the document it was written in, hexadecimal.
    pub digest: String,
}

/// To whom the holder of a binding may hand a scope on, by opening tasks for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delegation {
    /// Whoever holds a task below the holder's, down to the one that asks.
    pub to: Vec<SpiffePattern>,
    /// How many tasks below the holder's own the asker may stand.
    pub depth: u32,
}

impl Delegation {
    /// Most tasks below the holder's own that a binding may allow.
    pub const MAX_DEPTH: u32 = 8;

    /// Whether the tasks below, nearest first, are all held by those it names, and are not too many.
    pub fn reaches<'a>(&self, mut below: impl ExactSizeIterator<Item = &'a SpiffeId>) -> bool {
        u32::try_from(below.len()).is_ok_and(|steps| steps <= self.depth)
            && below.all(|holder| self.to.iter().any(|pattern| pattern.matches(holder)))
    }
}

/// What a binding lets a parameter be.
#[derive(Clone, Debug)]
pub enum AllowedValues {
    /// Exactly one of these.
    List(Vec<String>),
    /// Whatever matches as a whole.
    Pattern(WholePattern),
}

/// Whether a root task suffices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// Under a root as well as under a parent.
    Root,
    /// Only in a task that some other task opened.
    UnderParent,
}

/// How the holder of a binding must come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ViaRule {
    /// Through a node agent, which knows what the process stands in.
    Agent,
    /// With its own X.509-SVID, straight to the broker.
    Direct,
}

impl Binding {
    /// Whether the binding is for this identity.
    pub fn is_for(&self, id: &SpiffeId) -> bool {
        self.identities.iter().any(|pattern| pattern.matches(id))
    }

    /// Whether it still grants.
    pub fn stands(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }

    /// Whether the binding lets the scope be asked with these values.
    pub fn allows(&self, parameters: &Parameters) -> bool {
        self.parameters
            .iter()
            .all(|(name, allowed)| parameters.get(name).is_some_and(|value| allowed.takes(value)))
    }
}

impl AllowedValues {
    /// Whether the value is among them.
    pub fn takes(&self, value: &str) -> bool {
        match self {
            AllowedValues::List(values) => values.iter().any(|allowed| allowed == value),
            AllowedValues::Pattern(pattern) => pattern.matches(value),
        }
    }
}
