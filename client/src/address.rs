//! Where a broker listens, and who it must be.

use std::{
    fmt::{self, Debug, Display, Formatter},
    path::PathBuf,
    str::FromStr,
};

use spiffe::{SpiffeId, SpiffeIdError};
use thiserror::Error;

/// `sun_path` holds 108 bytes, the closing zero included (unix(7)).
const MAX_UNIX_PATH: usize = 107;

/// Where something listens: `host:port`, `[::1]:port` or `unix:/absolute/path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// Host and port; a name is resolved anew at each connection.
    Tcp(String),
    /// A Unix stream socket.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix("unix:") {
            // `unix:///run/x` is what other tools of this field write.
            let path = path.strip_prefix("//").unwrap_or(path);
            return unix_path(path.into()).map(Address::Unix);
        }
        let unusable = || EndpointError::Address { given: text.to_owned() };
        let (host, port) = text.rsplit_once(':').ok_or_else(unusable)?;
        let port: u16 = port.parse().map_err(|_| unusable())?;
        let bare_v6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
        if host.is_empty() || host.contains('/') || bare_v6 || port == 0 {
            return Err(unusable());
        }
        Ok(Address::Tcp(text.to_owned()))
    }
}

impl Display for Address {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(host_and_port) => f.write_str(host_and_port),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A broker: its address and the identities it may have.
#[derive(Clone)]
pub struct BrokerEndpoint {
    address: Address,
    spiffe_ids: Vec<SpiffeId>,
}

impl BrokerEndpoint {
    /// Names a broker. Whoever answers at `address` without one of exactly these SPIFFE IDs is not spoken to; there is
    /// no default and no pattern, for a false broker would collect tokens and could end every task.
    ///
    /// # Errors
    /// An address of another form, a SPIFFE ID that is none or has no path, or no SPIFFE ID at all.
    pub fn new<I>(address: &str, spiffe_ids: I) -> Result<Self, EndpointError>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let address = address.parse()?;
        let spiffe_ids =
            spiffe_ids.into_iter().map(|id| exact(id.as_ref())).collect::<Result<Vec<_>, _>>()?;
        if spiffe_ids.is_empty() {
            return Err(EndpointError::NotPinned);
        }
        Ok(BrokerEndpoint { address, spiffe_ids })
    }

    /// Where it listens.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The identities it may have; at least one.
    pub fn spiffe_ids(&self) -> &[SpiffeId] {
        &self.spiffe_ids
    }
}

impl Debug for BrokerEndpoint {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("BrokerEndpoint")
            .field("address", &format_args!("{}", self.address))
            .field("spiffe_ids", &self.spiffe_ids.iter().map(SpiffeId::to_string).collect::<Vec<_>>())
            .finish()
    }
}

/// Why something cannot be spoken to, found before trying.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// Neither `host:port` nor `unix:/path`.
    #[error("`{given}` is no address; write host:port or unix:/absolute/path")]
    Address {
        /// What was given.
        given: String,
    },
    /// Relative, or longer than a socket address holds.
    #[error(
        "`{path}` is no path for a Unix socket; it must be absolute and at most {MAX_UNIX_PATH} bytes long"
    )]
    UnixPath {
        /// What was given.
        path: PathBuf,
    },
    /// Not an exact SPIFFE ID of a workload.
    #[error("`{given}` does not name a broker; give its exact SPIFFE ID, without patterns")]
    SpiffeId {
        /// What was given.
        given: String,
        /// What is wrong with it, where it is no SPIFFE ID.
        #[source]
        source: Option<SpiffeIdError>,
    },
    /// No identity to hold the broker to.
    #[error("no SPIFFE ID was given for the broker; name the exact one it runs under")]
    NotPinned,
}

/// Checks that a Unix socket can have this path.
pub(crate) fn unix_path(path: PathBuf) -> Result<PathBuf, EndpointError> {
    if path.is_absolute() && path.as_os_str().len() <= MAX_UNIX_PATH {
        Ok(path)
    } else {
        Err(EndpointError::UnixPath { path })
    }
}

fn exact(given: &str) -> Result<SpiffeId, EndpointError> {
    let refuse = |source| EndpointError::SpiffeId { given: given.to_owned(), source };
    let id = SpiffeId::new(given).map_err(|source| refuse(Some(source)))?;
    if id.path().is_empty() { Err(refuse(None)) } else { Ok(id) }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use super::*;

    const ID: &str = "spiffe://prod.example/dayfly/broker";

    #[test]
    fn addresses_are_tcp_or_unix() {
        for (text, shown) in [
            ("broker.internal:7443", "broker.internal:7443"),
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("[::1]:7443", "[::1]:7443"),
            ("unix:/run/dayfly/broker.sock", "unix:/run/dayfly/broker.sock"),
            ("unix:///run/dayfly/broker.sock", "unix:/run/dayfly/broker.sock"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), shown);
        }
        let long = format!("unix:/{}", "a".repeat(107));
        for text in [
            "",
            "broker",
            "broker:",
            ":7443",
            "broker:0",
            "broker:70000",
            "::1:7443",
            "https://b:1",
            "unix:run/x",
            &long,
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_broker_is_named_by_its_exact_spiffe_id() {
        assert_eq!(BrokerEndpoint::new("b:1", [ID]).unwrap().spiffe_ids()[0].to_string(), ID);
        let none: [&str; 0] = [];
        assert!(matches!(BrokerEndpoint::new("b:1", none), Err(EndpointError::NotPinned)));
        for id in [
            "",
            "spiffe://prod.example",
            "spiffe://prod.example/*",
            "spiffe://*/broker",
            "https://prod.example/b",
        ] {
            assert!(
                matches!(BrokerEndpoint::new("b:1", [ID, id]), Err(EndpointError::SpiffeId { .. })),
                "{id}"
            );
        }
    }
}
