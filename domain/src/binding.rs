//! Bindings: which SPIFFE IDs may use or delegate which scope, and how they may come by it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::parameter::{Parameters, WholePattern};
use crate::pattern::SpiffePattern;
use crate::spiffe::SpiffeId;
use crate::time::Ttl;

/// Scopes that every broker has: the verbs of its own administration. Bound to identities of stage `admin` alone.
pub const ADMIN_SCOPES: [&str; 3] = ["admin.read", "admin.revoke", "admin.apply"];

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
    /// Whether tasks below its holder may have them. Yields nothing to the holder itself.
    pub may_delegate: bool,
    /// Narrower values per parameter; what is absent is as the scope has it.
    pub parameters: BTreeMap<String, AllowedValues>,
    /// Whether a root task suffices or a parent is needed.
    pub start: Start,
    /// How its holder must come.
    pub via: ViaRule,
    /// How long after a task was opened the binding still grants under it.
    pub max_task: Ttl,
    /// SHA-256 of the document it was written in, hexadecimal.
    pub digest: String,
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

    /// Whether the binding lets the scope be asked with these values.
    pub fn allows(&self, parameters: &Parameters) -> bool {
        self.parameters.iter().all(|(name, allowed)| {
            parameters.get(name).is_some_and(|value| match allowed {
                AllowedValues::List(values) => values.contains(value),
                AllowedValues::Pattern(pattern) => pattern.matches(value),
            })
        })
    }
}
