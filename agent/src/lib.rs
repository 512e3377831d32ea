//! The node agent: it knows which process stands in which task, and serves each what its task may have.
//!
//! Two processes from one binary. `attest` ([`attest`]) opens SPIRE's admin socket and does nothing else. `run` ([`run`])
//! does the rest: it listens to workloads ([`socket`], [`native`]), holds the tasks ([`tasks`]), and keeps one stream to
//! the broker ([`broker_link`]).

pub mod adopt;
pub mod anchor;
pub mod attest;
pub mod attester;
pub mod broker_link;
pub mod cgroup;
pub mod config;
pub mod credentials;
pub mod daemon;
pub mod deliver;
pub mod fault;
pub mod fence;
pub mod folder;
pub mod image;
pub mod journal;
pub mod leftovers;
pub mod logging;
pub mod member;
pub mod metrics;
pub mod native;
pub mod outbox;
pub mod process;
pub mod rules;
pub mod run;
pub mod socket;
pub mod task;
pub mod tasks;

#[cfg(test)]
mod testkit;
