//! What strangers may ask over HTTP: two documents per issuer in the open, introspection for those a token is for, and
//! the exchange of tokens for those that do not speak gRPC.
//! Each has a listener of its own, apart from gRPC.

pub mod discovery;
pub mod exchange;
pub mod introspection;
pub mod issuers;
mod serve;

pub use self::discovery::{Discovery, Endpoints};
pub use self::exchange::ExchangeConfig;
pub use self::introspection::{IntrospectionMetrics, Introspector, Ledger};
pub use self::issuers::{IssuerFault, Issuers};

use std::net::SocketAddr;

use serde::Deserialize;

/// `[issuer]`: what our tokens say they come from, and where its documents are served.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerConfig {
    /// The base URL. Issuers are `<url>/access`, `<url>/federation` and `<url>/receipt`; changing it makes every relying
    /// party refuse us.
    pub url: Issuers,
    /// Where discovery and JWKS are served, in plain HTTP: a proxy with a certificate of the public's trust, or static
    /// files, stand before it. Absent: nowhere, the documents are exported.
    pub listen: Option<SocketAddr>,
}

/// `[introspection]`: where services ask whether a token is still good.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IntrospectionConfig {
    /// Where it is served, over mutual TLS with SVIDs.
    pub listen: SocketAddr,
    /// How services reach it (`https://dayfly.internal:8444/introspect`), to be told in the discovery document.
    pub url: Option<String>,
}
