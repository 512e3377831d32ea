//! Stages: what kind of work an identity does.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What kind of work an identity does. One identity, one stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Making models.
    Training,
    /// Serving models.
    Inference,
    /// Fetching what models are shown.
    Retrieval,
    /// Doing what models ask for.
    Tool,
    /// The platform team. Holds no target scope.
    Admin,
    /// Node agents. Holds no target scope.
    Node,
}

impl Stage {
    /// Every stage, in the order people think of them.
    pub const ALL: [Stage; 6] =
        [Stage::Training, Stage::Inference, Stage::Retrieval, Stage::Tool, Stage::Admin, Stage::Node];

    /// The stage's name in documents and records.
    pub const fn as_str(self) -> &'static str {
        match self {
            Stage::Training => "training",
            Stage::Inference => "inference",
            Stage::Retrieval => "retrieval",
            Stage::Tool => "tool",
            Stage::Admin => "admin",
            Stage::Node => "node",
        }
    }

    /// Whether identities of this stage may hold scopes on targets.
    pub const fn holds_target_scopes(self) -> bool {
        !matches!(self, Stage::Admin | Stage::Node)
    }

    /// Whether a binding for this stage starts roots if it does not say otherwise. Tools and retrieval run code and
    /// text that others chose, so they stand under a parent unless told otherwise.
    pub const fn starts_roots_by_default(self) -> bool {
        !matches!(self, Stage::Tool | Stage::Retrieval)
    }
}

impl FromStr for Stage {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = || Stage::ALL.map(Stage::as_str).join(", ");
        Stage::ALL
            .into_iter()
            .find(|stage| stage.as_str() == text)
            .ok_or_else(|| format!("unknown stage {text:?}; the stages are {}", known()))
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
