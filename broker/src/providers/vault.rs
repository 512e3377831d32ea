//! The `vault` provider.
