//! The broker over its own wire: who is heard, what is given, what is taken back. Needs no peers.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod world;

#[path = "broker/approvals.rs"]
mod approvals;
#[path = "broker/authorize.rs"]
mod authorize;
#[path = "broker/bad_input.rs"]
mod bad_input;
#[path = "broker/delegation.rs"]
mod delegation;
#[path = "broker/deny.rs"]
mod deny;
#[path = "broker/direct.rs"]
mod direct;
#[path = "broker/exchange.rs"]
mod exchange;
#[path = "broker/exchange_chain.rs"]
mod exchange_chain;
#[path = "broker/exchange_page.rs"]
mod exchange_page;
#[path = "broker/exchange_site.rs"]
mod exchange_site;
#[path = "broker/guard.rs"]
mod guard;
#[path = "broker/keys.rs"]
mod keys;
#[path = "broker/kills.rs"]
mod kills;
#[path = "broker/limits.rs"]
mod limits;
#[path = "broker/nodes.rs"]
mod nodes;
#[path = "broker/policies.rs"]
mod policies;
#[path = "broker/questions.rs"]
mod questions;
#[path = "broker/review.rs"]
mod review;
#[path = "broker/simulate.rs"]
mod simulate;
#[path = "broker/storm.rs"]
mod storm;
