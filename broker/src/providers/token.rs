//! The `token` provider.
