//! Who stands at the other end of a TLS connection, read from the leaf of an X.509-SVID.
//!
//! Reading is not verifying: the chain, the signature and the trust domain are checked in the handshake ([`crate::tls`]).

use std::{
    fmt::{self, Debug, Formatter},
    net::IpAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use spiffe::{SpiffeId, SpiffeIdError};
use thiserror::Error;
use x509_parser::{
    certificate::X509Certificate,
    extensions::GeneralName,
    prelude::{FromDer, X509Error},
};

/// SPIFFE-ID §2.3: at most 2048 bytes.
pub const MAX_SPIFFE_ID_BYTES: usize = 2048;

/// A peer, as its certificate names it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Peer {
    /// The one URI SAN of the leaf.
    pub spiffe_id: SpiffeId,
    /// The leaf's serial number in lower-case hex, two digits a byte.
    pub serial: String,
    /// When the leaf runs out. A connection outlives its certificate, so ask again on every call.
    pub not_after: SystemTime,
    /// The other host the connection came from; none if it came from this one, or nobody looked. One address is one host.
    pub host: Option<IpAddr>,
}

impl Peer {
    /// Reads the peer from a leaf certificate in DER.
    ///
    /// # Errors
    /// X509-SVID §2: a leaf holds exactly one URI SAN, and it is the SPIFFE ID, with a path.
    pub fn from_der(leaf: &[u8]) -> Result<Self, PeerError> {
        let (rest, certificate) = X509Certificate::from_der(leaf)
            .map_err(|source| PeerError::Malformed { source: source.into() })?;
        if !rest.is_empty() {
            return Err(PeerError::TrailingBytes { count: rest.len() });
        }
        Ok(Peer {
            spiffe_id: spiffe_id(&certificate)?,
            serial: certificate.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect(),
            not_after: not_after(&certificate)?,
            host: None,
        })
    }

    /// When the leaf runs out, in seconds since 1970-01-01T00:00:00Z.
    pub fn not_after_unix(&self) -> u64 {
        self.not_after.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }

    /// Whether the certificate still holds at `now`. RFC 5280 §4.1.2.5: through notAfter, inclusive.
    pub fn is_fresh(&self, now: SystemTime) -> bool {
        now <= self.not_after
    }
}

impl Debug for Peer {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer")
            .field("spiffe_id", &format_args!("{}", self.spiffe_id))
            .field("serial", &self.serial)
            .field("not_after_unix", &self.not_after_unix())
            .field("host", &self.host)
            .finish()
    }
}

/// Why a certificate names no peer.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PeerError {
    /// Not a certificate.
    #[error("the peer's certificate cannot be parsed")]
    Malformed {
        /// What the parser said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Something stands behind the certificate.
    #[error("{count} bytes follow the peer's certificate")]
    TrailingBytes {
        /// How many bytes.
        count: usize,
    },
    /// An X.509 certificate, but no SVID.
    #[error("the peer's certificate holds no URI SAN; it needs exactly one, the SPIFFE ID")]
    NoUri,
    /// X509-SVID §2: more than one is refused, whichever is meant.
    #[error("the peer's certificate holds {count} URI SANs; it needs exactly one, the SPIFFE ID")]
    SeveralUris {
        /// How many URI SANs.
        count: usize,
    },
    /// Longer than a SPIFFE ID may be.
    #[error("the peer's SPIFFE ID is {bytes} bytes long; at most {MAX_SPIFFE_ID_BYTES} are allowed")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// The one URI is not a SPIFFE ID.
    #[error("the peer's URI SAN is not a SPIFFE ID")]
    NotSpiffe {
        /// What is wrong with it.
        #[source]
        source: SpiffeIdError,
    },
    /// A bare trust domain names an authority, never a workload.
    #[error("the peer's SPIFFE ID {id} has no path")]
    NoPath {
        /// The trust domain's ID.
        id: SpiffeId,
    },
    /// `notAfter` lies before 1970.
    #[error("the peer's certificate ran out before 1970")]
    NotAfter,
}

fn spiffe_id(certificate: &X509Certificate<'_>) -> Result<SpiffeId, PeerError> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|source| PeerError::Malformed { source: source.into() })?
        .map(|extension| extension.value.general_names.as_slice())
        .unwrap_or_default();
    let mut uris = Vec::new();
    for name in names {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            // It may be a second URI in bad encoding.
            GeneralName::Invalid(..) => {
                return Err(PeerError::Malformed { source: X509Error::InvalidExtensions.into() });
            }
            _ => {}
        }
    }
    let uri = match uris[..] {
        [] => return Err(PeerError::NoUri),
        [uri] => uri,
        _ => return Err(PeerError::SeveralUris { count: uris.len() }),
    };
    if uri.len() > MAX_SPIFFE_ID_BYTES {
        return Err(PeerError::TooLong { bytes: uri.len() });
    }
    let id = SpiffeId::new(uri).map_err(|source| PeerError::NotSpiffe { source })?;
    if id.path().is_empty() {
        return Err(PeerError::NoPath { id });
    }
    Ok(id)
}

fn not_after(certificate: &X509Certificate<'_>) -> Result<SystemTime, PeerError> {
    u64::try_from(certificate.validity().not_after.timestamp())
        .ok()
        .and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)))
        .ok_or(PeerError::NotAfter)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, SanType, SerialNumber, date_time_ymd};

    type Expected = fn(&Result<Peer, PeerError>) -> bool;

    fn leaf(uris: &[&str]) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["also.example".to_owned()]).unwrap();
        params.subject_alt_names.extend(uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())));
        params.serial_number = Some(SerialNumber::from_slice(&[0x0a, 0xff, 0x01]));
        params.not_after = date_time_ymd(2030, 1, 2);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn a_leaf_names_its_peer() {
        let peer = Peer::from_der(&leaf(&["spiffe://prod.example/train"])).unwrap();
        assert_eq!(peer.spiffe_id.to_string(), "spiffe://prod.example/train");
        assert_eq!(peer.serial, "0aff01");
        assert_eq!(peer.not_after_unix(), 1_893_542_400);
        assert!(peer.is_fresh(peer.not_after));
        assert!(!peer.is_fresh(peer.not_after + Duration::from_secs(1)));
    }

    #[test]
    fn only_one_well_formed_spiffe_id_names_a_peer() {
        let longest = format!("spiffe://prod.example/{}", "a".repeat(MAX_SPIFFE_ID_BYTES - 22));
        assert_eq!(longest.len(), MAX_SPIFFE_ID_BYTES);
        let too_long = format!("{longest}a");
        let table: [(&[&str], Expected); 12] = [
            (&["spiffe://prod.example/train"], |r| r.is_ok()),
            (&[&longest], |r| r.is_ok()),
            (&[&too_long], |r| matches!(r, Err(PeerError::TooLong { bytes: 2049 }))),
            (&[], |r| matches!(r, Err(PeerError::NoUri))),
            (&["spiffe://prod.example/a", "spiffe://prod.example/b"], |r| {
                matches!(r, Err(PeerError::SeveralUris { count: 2 }))
            }),
            // The second URI counts although it is no SPIFFE ID.
            (&["spiffe://prod.example/a", "https://prod.example/"], |r| {
                matches!(r, Err(PeerError::SeveralUris { count: 2 }))
            }),
            (&["https://prod.example/train"], |r| matches!(r, Err(PeerError::NotSpiffe { .. }))),
            (&["spiffe://prod.example/"], |r| matches!(r, Err(PeerError::NotSpiffe { .. }))),
            (&["spiffe://prod.example/a/../b"], |r| matches!(r, Err(PeerError::NotSpiffe { .. }))),
            (&["spiffe://prod.example:8443/a"], |r| matches!(r, Err(PeerError::NotSpiffe { .. }))),
            (&["spiffe://prod.example/a?via=b"], |r| matches!(r, Err(PeerError::NotSpiffe { .. }))),
            (&["spiffe://prod.example"], |r| matches!(r, Err(PeerError::NoPath { .. }))),
        ];
        for (uris, expected) in table {
            let read = Peer::from_der(&leaf(uris));
            assert!(expected(&read), "{uris:?} gave {read:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_certificate_name_nobody() {
        let mut der = leaf(&["spiffe://prod.example/train"]);
        assert!(matches!(Peer::from_der(&der[..der.len() - 1]), Err(PeerError::Malformed { .. })));
        assert!(matches!(Peer::from_der(&[]), Err(PeerError::Malformed { .. })));
        der.push(0);
        assert!(matches!(Peer::from_der(&der), Err(PeerError::TrailingBytes { count: 1 })));
    }
}
