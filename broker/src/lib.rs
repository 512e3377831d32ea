//! The credential broker: exchanges attested SVIDs for short-lived, task-scoped credentials, and takes them back.
//!
//! Start reading at [`operations`]; `operations/issue.rs` is what the product does.

pub mod clock;
pub mod providers;
pub mod records;
pub mod signer;
pub mod store;
