//! The one way to talk to Dayfly's credential broker and node agent, and what both sides of such a talk must do alike:
//! hold an identity that rotates, pin the peer, read who the peer is, and say no in one shape.
//!
//! A workload that speaks to the broker itself needs four lines:
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use dayfly_client::{BrokerClient, BrokerEndpoint, Identity, IdentityOptions};
//!
//! let identity = Identity::from_workload_api(None, IdentityOptions::default()).await?;
//! let endpoint = BrokerEndpoint::new("broker.internal:7443", ["spiffe://prod.example/dayfly/broker"])?;
//! let broker = BrokerClient::connect(endpoint, &identity).await?;
//! let mut credentials = broker.credentials();
//! # Ok(())
//! # }
//! ```
//!
//! `examples/direct.rs` goes on from there: it opens a task, holds it open, and is issued a token.

pub mod address;
pub mod connect;
pub mod error;
pub mod identity;
pub mod incoming;
pub mod jwt;
pub mod peer;
pub mod receipt;
mod socket;
pub mod tls;

pub use address::{Address, BrokerEndpoint, EndpointError};
pub use connect::{AgentClient, AtEpoch, BreakGlassClient, BrokerClient, ConnectError, NODE_EPOCH};
pub use dayfly_proto::v1;
pub use error::{CallError, Refusal, chain, whole_seconds};
pub use identity::{Health, Identity, IdentityError, IdentityOptions, Pick};
pub use incoming::{Incoming, IncomingLimits, Listener, SpiffeIo};
pub use jwt::{JwtError, OwnJwt, VerifiedJwt};
pub use peer::{Peer, PeerError};
pub use spiffe::{SpiffeId, TrustDomain};
pub use tls::{ClientTls, HandshakeError, OptionalTls, ServerTls, Speaks, TlsError};

/// The largest message either side sends or takes, in bytes, except for answers to an admin.
pub const MAX_MESSAGE_BYTES: usize = 256 * 1024;

/// The largest answer of `AdminService`, in bytes.
pub const MAX_ADMIN_ANSWER_BYTES: usize = 16 * 1024 * 1024;
