//! What travels between the two processes: a frame with a pidfd one way, one answer the other way.

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// The whole of a request, besides the pidfd. The audience is not asked for: the attest process knows one.
pub const REQUEST: &[u8] = b"dayfly attest 1";

/// The longest answer, in bytes. A JWT-SVID is about one KiB.
pub const MAX_ANSWER: usize = 64 * 1024;

/// The answer.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// The one SVID of the process.
    Svid(Svid),
    /// Why there is none.
    Refused(Refused),
}

/// The JWT-SVID of a process, and what it says of itself.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct Svid {
    /// The token.
    pub token: String,
    /// Its subject.
    pub spiffe_id: String,
    /// When SPIRE issued it, in seconds since 1970. SPIRE answers from a cache: that may be minutes ago.
    pub issued_at: u64,
    /// When it runs out, in seconds since 1970.
    pub expires_at: u64,
    /// Inode of the pidfd that came in: which process this is about.
    pub pidfd_inode: u64,
}

impl std::fmt::Debug for Svid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Svid")
            .field("token", &"···")
            .field("spiffe_id", &self.spiffe_id)
            .field("expires_at", &self.expires_at)
            .finish()
    }
}

/// Why a process gets no SVID.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refused {
    /// It exited before, or while, SPIRE was asked.
    #[error("the process has exited")]
    Gone,
    /// SPIRE knows nobody like it.
    #[error("no registration entry matches the process")]
    NoEntry,
    /// Several entries match, and which one to be is nobody's to choose here.
    #[error("several registration entries match the process: {}; make their selectors disjoint", spiffe_ids.join(", "))]
    Ambiguous {
        /// What SPIRE offers.
        spiffe_ids: Vec<String>,
    },
    /// SPIRE's configuration does not allow this.
    #[error(
        "SPIRE does not take the attest process for a delegate; name its SPIFFE ID in the SPIRE agent's authorized_delegates"
    )]
    NotDelegate,
    /// SPIRE does not answer.
    #[error("SPIRE's admin socket cannot be asked: {why}")]
    Unavailable {
        /// What failed.
        why: String,
    },
    /// SPIRE answers with something that may not be passed on.
    #[error("SPIRE gave an SVID that cannot be used: {why}")]
    Unusable {
        /// What is wrong with it.
        why: String,
    },
    /// Too many requests at once.
    #[error("the attest process has too much to do; try again")]
    Busy,
    /// Not the one message that is spoken here.
    #[error("the attest process does not understand this request; are both processes of one version?")]
    Misunderstood,
}
