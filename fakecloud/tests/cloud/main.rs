//! The fake cloud, asked by AWS's own client of STS and by requests that AWS's own library signed.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the answer")]

mod assume;
mod client;
mod document;
mod process;
mod revoke;
mod signed;
mod troubles;
mod world;
