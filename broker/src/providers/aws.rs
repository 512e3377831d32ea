//! The `aws` provider.
