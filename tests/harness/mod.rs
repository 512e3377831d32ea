//! Starts the real parts that the scenarios run on, and takes them down again.
//!
//! Every peer is a struct: `start` returns when the peer answers, dropping it kills its process group, and the kernel kills
//! it when the test process dies. All listen on 127.0.0.1 or on sockets under `/tmp`. What is missing is an error that
//! says how to get it; nothing is skipped.

pub mod cloud;
pub mod dev;
pub mod manual;
pub mod minio;
pub mod moto;
pub mod opa;
pub mod pages;
pub mod pair;
pub mod parts;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod python;
pub mod scratch;
pub mod site;
pub mod spire;
pub mod uids;
pub mod vault;
pub mod wait;
pub mod world;

pub use minio::Minio;
pub use moto::Moto;
pub use opa::Opa;
pub use pair::{Pair, Which};
pub use postgres::Postgres;
pub use process::{Program, Running};
pub use proxy::{Answers, TcpProxy};
pub use python::Python;
pub use scratch::Scratch;
pub use site::StaticSite;
pub use spire::{Entry, Spire, SpireOptions};
pub use uids::Uid;
pub use vault::Vault;
pub use wait::eventually;
pub use world::{Peers, World, WorldOptions};
