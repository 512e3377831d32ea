//! A small SPIFFE Workload API server for laptops, and the source of right and wrong SVIDs for tests.
//!
//! It has what a program that runs on SPIRE needs: an [`Authority`] that signs X.509- and JWT-SVIDs, attestation of the
//! calling process by user, group and executable ([`Entry`]), and a [`Server`] with two Unix sockets: the SPIFFE
//! Workload API and SPIRE's Delegated Identity API. It is no replacement for SPIRE: there is no node attestation, no
//! registry, and the keys lie in a file.
//!
//! ```
//! # async fn example(dir: &std::path::Path) -> Result<(), Box<dyn std::error::Error>> {
//! use dayfly_devspiffe::{Authority, Entry, Server};
//!
//! let authority = Authority::in_memory("dev.dayfly")?;
//! let server = Server::builder(authority)
//!     .workload_socket(dir.join("workload.sock"))
//!     .entry(Entry::new("spiffe://dev.dayfly/training/trainer")?.process(std::process::id())?)
//!     .start()
//!     .await?;
//!
//! let source = spiffe::X509Source::builder().endpoint(server.workload_endpoint()).build().await?;
//! assert_eq!(source.svid()?.spiffe_id().to_string(), "spiffe://dev.dayfly/training/trainer");
//!
//! server.rotate_ca()?; // every open stream gets a new SVID and both roots
//! server.stop().await;
//! # Ok(()) }
//! # let home = tempfile::tempdir().unwrap();
//! # tokio::runtime::Runtime::new().unwrap().block_on(example(home.path())).unwrap();
//! ```
//!
//! Tests that need an SVID without a server ask the [`Authority`] itself; for one that must be refused they ask
//! [`wrong`]. `dayfly dev` calls [`dev::serve`].
//!
//! Limits: the executable of a script is its interpreter, so two Python programs of one user look alike. A process that
//! made itself not dumpable does not show its executable to a server without root: match it by user or by
//! [`Entry::process`].

mod attest;
mod authority;
mod cache;
mod delegated_identity;
pub mod dev;
mod entry;
mod error;
mod jwt;
mod keep;
mod pb;
mod server;
mod socket;
mod state;
mod workload_api;
pub mod wrong;
mod x509;

pub use authority::Authority;
pub use dev::DevConfig;
pub use entry::{Entry, Process};
pub use error::{AuthorityError, EntryError, ServerError};
pub use jwt::IssuedJwt;
pub use server::{Server, ServerBuilder};
pub use spiffe::{SpiffeId, TrustDomain};
pub use x509::IssuedX509;
