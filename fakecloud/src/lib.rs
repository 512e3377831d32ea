//! A cloud for tests that evaluates: STS, IAM and a little S3, which refuse what AWS refuses.

pub mod policy;
