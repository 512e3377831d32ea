//! Mutual TLS between SPIFFE identities: 1.3 only, certificates that rotate under a running server, no resumption.
//!
//! A server may also hear clients that show no certificate: [`OptionalTls`].
//!
//! Both sides are types rather than rustls configurations, so that no caller can leave out what is checked after the
//! handshake: the protocol version, the protocol spoken, and who the peer is.

mod optional;

use std::{
    fmt::{self, Debug, Display, Formatter},
    io,
    sync::Arc,
};

use rustls::{CommonState, ProtocolVersion, ServerConfig, pki_types::ServerName};
use spiffe::{SpiffeId, TrustDomain};
use spiffe_rustls::{AllowList, TerminalSourcePolicy, TlsStatus, authorizer, mtls_client, mtls_server};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::{
    identity::Identity,
    peer::{Peer, PeerError},
};

pub use self::optional::OptionalTls;

/// What is spoken inside TLS (ALPN, RFC 7301).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP/2, and nothing else: gRPC.
    Http2,
    /// HTTP/2, or HTTP/1.1 where the client asks for that or for nothing.
    Http1Or2,
}

/// A server's side of mutual TLS.
#[derive(Clone)]
pub struct ServerTls {
    acceptor: TlsAcceptor,
    status: TlsStatus,
    speaks: Speaks,
}

impl ServerTls {
    /// Shows `identity`, and takes whoever proves an identity in one of the `accepted` trust domains. What that one may
    /// do is for each call to decide.
    ///
    /// # Errors
    /// `accepted` is empty, or the identity has no certificate now.
    pub fn new(identity: &Identity, accepted: &[TrustDomain], speaks: Speaks) -> Result<Self, TlsError> {
        let (config, status) = server_of(identity, accepted, speaks)?;
        Ok(ServerTls { acceptor: TlsAcceptor::from(Arc::new(config)), status, speaks })
    }

    /// Shakes hands, and says with whom.
    ///
    /// # Errors
    /// The peer proved no accepted identity, or spoke another protocol. There is no time limit here; set one.
    pub async fn accept<S>(&self, io: S) -> Result<(server::TlsStream<S>, Peer), HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let stream = self.acceptor.accept(io).await.map_err(|source| HandshakeError::Tls { source })?;
        let connection = stream.get_ref().1;
        check_protocol(connection, self.speaks)?;
        let peer = peer_of(connection)?;
        Ok((stream, peer))
    }

    /// Whether handshakes can succeed now: there is a certificate, and it has not run out or been withdrawn.
    pub fn available(&self) -> bool {
        self.status.current().available
    }
}

/// A client's side of mutual TLS, pinned to exact SPIFFE IDs.
#[derive(Clone)]
pub struct ClientTls {
    connector: TlsConnector,
    pinned: Arc<[SpiffeId]>,
}

impl ClientTls {
    /// Shows `identity`, and speaks to nobody who does not prove to be one of `pinned`.
    ///
    /// # Errors
    /// `pinned` is empty, or the identity has no certificate now.
    pub fn new(identity: &Identity, pinned: &[SpiffeId]) -> Result<Self, TlsError> {
        if pinned.is_empty() {
            return Err(TlsError::NobodyAccepted);
        }
        let config = mtls_client(identity.x509_source().clone())
            .authorize(authorizer::exact(pinned.iter().cloned())?)
            .trust_domain_policy(AllowList(pinned.iter().map(|id| id.trust_domain().clone()).collect()))
            .terminal_source_policy(TerminalSourcePolicy::FailClosed)
            .with_alpn_protocols(alpn(Speaks::Http2))
            // The peer is known by its SPIFFE ID; a host name would only tell listeners where we go.
            .with_config_customizer(|config| config.enable_sni = false)
            .build()?;
        Ok(ClientTls { connector: TlsConnector::from(Arc::new(config)), pinned: pinned.into() })
    }

    /// Shakes hands, and says with whom. A server that refuses *us* says so only at the first answer (TLS 1.3).
    ///
    /// # Errors
    /// The peer did not prove to be one of the pinned, or spoke another protocol. There is no time limit here; set one.
    pub async fn connect<S>(&self, io: S) -> Result<(client::TlsStream<S>, Peer), HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = ServerName::try_from("broker.dayfly").expect("a constant DNS name");
        let stream = self.connector.connect(name, io).await.map_err(|source| match refused_id(&source) {
            Some(presented) => HandshakeError::NotPinned { presented, pinned: Ids(Arc::clone(&self.pinned)) },
            None => HandshakeError::Tls { source },
        })?;
        let connection = stream.get_ref().1;
        check_protocol(connection, Speaks::Http2)?;
        let peer = peer_of(connection)?;
        Ok((stream, peer))
    }
}

impl Debug for ServerTls {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls")
            .field("speaks", &self.speaks)
            .field("available", &self.available())
            .finish()
    }
}

impl Debug for ClientTls {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").field("pinned", &Ids(Arc::clone(&self.pinned))).finish()
    }
}

/// Why there can be no TLS with this identity.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TlsError {
    /// Nobody could ever be spoken to.
    #[error("no accepted trust domain or SPIFFE ID was given; name at least one")]
    NobodyAccepted,
    /// No certificate, or one that TLS cannot use.
    #[error("the identity cannot be used for TLS now")]
    Identity(#[from] spiffe_rustls::Error),
    /// The cryptography of this process speaks no TLS 1.3.
    #[error("there is no cryptography for TLS 1.3 in this process")]
    Provider {
        /// What rustls said.
        #[source]
        source: rustls::Error,
    },
}

/// Why a handshake came to nothing.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// rustls or the socket refused: an untrusted, expired or foreign certificate, a lost connection.
    #[error("the TLS handshake failed")]
    Tls {
        /// What failed.
        #[source]
        source: io::Error,
    },
    /// Somebody with a valid SVID answers, but not the one we came for.
    #[error(
        "{presented} answers, which is not pinned as the broker ({pinned}); check the address and the configured SPIFFE IDs"
    )]
    NotPinned {
        /// Who answered.
        presented: SpiffeId,
        /// Who may answer.
        pinned: Ids,
    },
    /// Only TLS 1.3 hides the client's certificate, and its resumption is off here.
    #[error("the peer speaks {spoken:?}; only TLS 1.3 is spoken here")]
    Version {
        /// What was agreed on.
        spoken: Option<ProtocolVersion>,
    },
    /// No common ALPN protocol.
    #[error("the peer did not agree to speak HTTP/2 (ALPN h2)")]
    Protocol,
    /// The certificate that was verified names nobody.
    #[error("the peer's certificate names no peer")]
    Peer(#[from] PeerError),
    /// A handshake without a client certificate cannot end well; if it did, nobody would be there.
    #[error("the peer showed no certificate")]
    NoCertificate,
}

/// SPIFFE IDs, shown as a list.
#[derive(Clone)]
pub struct Ids(pub(crate) Arc<[SpiffeId]>);

impl Display for Ids {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (index, id) in self.0.iter().enumerate() {
            write!(f, "{}{id}", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

impl Debug for Ids {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

/// A configuration that shows `identity` and demands an SVID of an accepted trust domain, and its state.
fn server_of(
    identity: &Identity,
    accepted: &[TrustDomain],
    speaks: Speaks,
) -> Result<(ServerConfig, TlsStatus), TlsError> {
    if accepted.is_empty() {
        return Err(TlsError::NobodyAccepted);
    }
    let (config, status) = mtls_server(identity.x509_source().clone())
        .authorize(authorizer::trust_domains(accepted.iter().cloned())?)
        .trust_domain_policy(AllowList(accepted.iter().cloned().collect()))
        .terminal_source_policy(TerminalSourcePolicy::FailClosed)
        .with_alpn_protocols(alpn(speaks))
        .build_with_status()?;
    debug_assert_eq!(config.send_tls13_tickets, 0, "a resumed session would skip the verifier");
    Ok((config, status))
}

/// What the configurations cannot be told to demand. `spiffe-rustls` builds them for every version rustls knows, so an
/// older one is turned away here, before a byte of either side's data has been read.
fn check_protocol(connection: &CommonState, speaks: Speaks) -> Result<(), HandshakeError> {
    let spoken = connection.protocol_version();
    if spoken != Some(ProtocolVersion::TLSv1_3) {
        return Err(HandshakeError::Version { spoken });
    }
    match (speaks, connection.alpn_protocol()) {
        (_, Some(b"h2")) | (Speaks::Http1Or2, Some(b"http/1.1") | None) => Ok(()),
        _ => Err(HandshakeError::Protocol),
    }
}

/// Who is at the other end, by the certificate that the handshake verified.
fn peer_of(connection: &CommonState) -> Result<Peer, HandshakeError> {
    let leaf = connection.peer_certificates().and_then(<[_]>::first).ok_or(HandshakeError::NoCertificate)?;
    Ok(Peer::from_der(leaf)?)
}

fn alpn(speaks: Speaks) -> &'static [&'static [u8]] {
    match speaks {
        Speaks::Http2 => &[b"h2"],
        Speaks::Http1Or2 => &[b"h2", b"http/1.1"],
    }
}

/// The identity that the pin refused, out of the depths of an I/O error.
fn refused_id(error: &io::Error) -> Option<SpiffeId> {
    let Some(rustls::Error::Other(rustls::OtherError(cause))) = error.get_ref()?.downcast_ref() else {
        return None;
    };
    match cause.downcast_ref()? {
        spiffe_rustls::Error::UnauthorizedSpiffeId(id) => Some(id.clone()),
        _ => None,
    }
}
