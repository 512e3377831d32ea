//! OPA as the oracle: what a policy means to it, it must mean to both engines. `scripts/test opa` runs this.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "oracle/ask.rs"]
mod ask;
#[path = "oracle/calls.rs"]
mod calls;
#[path = "oracle/examples.rs"]
mod examples;
#[path = "oracle/inputs.rs"]
mod inputs;
#[path = "oracle/patterns.rs"]
mod patterns;
#[path = "oracle/policies.rs"]
mod policies;
