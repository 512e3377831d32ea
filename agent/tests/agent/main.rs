//! The real `dayfly-agent`, both processes of it, with a development SPIFFE server, real workloads in real cgroups, and a
//! broker that writes down what it is asked.
//!
//! These tests need root and a cgroup v2 hierarchy.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod broker;
mod delegation;
mod delivery;
mod ends;
mod fence;
mod identity;
mod restart;
mod vault;
mod world;
