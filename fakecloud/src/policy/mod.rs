//! Says what an IAM policy allows. Pure: no I/O and no clock; the moment of a request is a key of its context.
//!
//! What it does not know is an error and never passed over: a test must not succeed because a statement was not understood.

mod condition;
mod context;
mod document;
mod evaluate;
mod json;
mod pattern;
#[cfg(test)]
mod tests;

pub use context::Context;
pub use document::{Document, Kind};
pub use evaluate::{Decision, Layer, Layers, Request, evaluate, trusts};

use thiserror::Error;

/// Why a policy cannot be used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PolicyError {
    /// AWS would refuse it too.
    #[error("{0}")]
    Malformed(String),
    /// AWS may take it; this evaluator has no meaning for it.
    #[error("the fake cloud does not know {0}")]
    Unknown(String),
}

impl PolicyError {
    fn malformed<T>(what: impl Into<String>) -> Result<T, Self> {
        Err(PolicyError::Malformed(what.into()))
    }

    fn unknown<T>(what: impl Into<String>) -> Result<T, Self> {
        Err(PolicyError::Unknown(what.into()))
    }
}
