//! Scenarios on real parts: each tells a promise and breaks when it is broken. `scripts/test` starts them.
#![expect(clippy::unwrap_used, reason = "a panic is how a scenario fails")]

mod aws;
mod crash;
mod delegation;
mod demo;
mod deploy;
mod dev;
mod disk;
mod examples;
mod exchange;
mod fakecloud;

mod grpc;
mod hosts;
mod life;
mod migrations;
mod outages;
mod peers;
mod restart;
mod tasks;
mod two_brokers;
mod vault;
