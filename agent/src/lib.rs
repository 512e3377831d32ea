//! The node agent: it knows which process stands in which task, and serves each what its task may have.

pub mod anchor;
pub mod cgroup;
pub mod member;
pub mod process;

#[cfg(test)]
mod testkit;
