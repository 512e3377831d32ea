//! Why a receipt is not good here.

use thiserror::Error;

use super::{LONGEST_LIFE, MAX_RECEIPT, TYP};

/// Why a receipt is not good here. No variant holds a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum ReceiptFault {
    /// Not a JWS in compact form (RFC 7515 §7.1).
    #[error("not a signed receipt")]
    Malformed,
    /// Longer than any of ours.
    #[error("longer than {MAX_RECEIPT} bytes, so not a receipt")]
    TooLong,
    /// Another kind of token, another algorithm, or header fields that receipts never have.
    #[error("another kind of token; a receipt has the typ {TYP} and the alg ES256")]
    Kind,
    /// No key of the issuer has this `kid`.
    #[error("signed with no key of the issuer; are its keys up to date here?")]
    UnknownKey,
    /// The signature is not over these bytes.
    #[error("the signature does not hold")]
    Signature,
    /// Signed, but with claims that receipts never have.
    #[error("the claims are not those of a receipt")]
    Claims,
    /// Another `iss`.
    #[error("another issuer's")]
    Issuer,
    /// For another guard.
    #[error("for another guard; ask for one with this guard's SPIFFE ID as audience")]
    Audience,
    /// It claims to live longer than receipts do.
    #[error("it claims to hold for more than {} seconds", LONGEST_LIFE.as_secs())]
    TooLongLived,
    /// Issued in the future.
    #[error("not valid yet; compare the clocks of the issuer and of this guard")]
    NotYet,
    /// It ran out.
    #[error("expired; ask for a new one")]
    Expired,
    /// Shown by another than the one it was made for.
    #[error("made for another workload than the one that shows it")]
    Peer,
    /// For another action.
    #[error("for another action")]
    Action,
    /// For another artifact.
    #[error("for another artifact")]
    Name,
    /// For other bytes than would be handed out.
    #[error("for another digest than that of what would be handed out")]
    Digest,
    /// Shown before.
    #[error("shown before; ask for a new one for each use")]
    Replayed,
    /// So many were shown within their life that no further one can be remembered.
    #[error("too many receipts at once; ask again in a minute")]
    Busy,
}
