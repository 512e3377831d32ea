//! The contract every store is held to.
