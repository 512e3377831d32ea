//! The credential broker: exchanges attested SVIDs for short-lived, task-scoped credentials, and takes them back.
//!
//! Start reading at [`operations`]; `operations/issue.rs` is what the product does.

pub mod api;
pub mod app;
pub mod caller;
pub mod clock;
pub mod config;
pub mod denials;
pub mod fault;
pub mod janitor;
pub mod limited;
pub mod limits;
pub mod listen;
pub mod metrics;
pub mod operations;
pub mod policy;
pub mod providers;
pub mod public;
pub mod rate;
pub mod receipts;
pub mod records;
pub mod revoker;
pub mod signer;
pub mod store;
