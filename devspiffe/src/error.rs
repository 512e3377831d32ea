//! What can go wrong while making SVIDs, keeping keys and serving them.

use std::io;
use std::path::{Path, PathBuf};

use spiffe::{SpiffeId, SpiffeIdError, TrustDomain};

/// A trust domain's authority could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// The trust domain's name breaks the rules of SPIFFE-ID §2.1.
    #[error("{name:?} is not a trust domain name; use lower-case letters, digits, dots, dashes")]
    TrustDomain {
        /// The name as it was given.
        name: String,
        /// What is wrong with it.
        #[source]
        source: SpiffeIdError,
    },

    /// An SVID was asked for in another trust domain.
    #[error("{spiffe_id} is not in trust domain {trust_domain}; ask that domain's own authority")]
    Foreign {
        /// The SPIFFE ID that was asked for.
        spiffe_id: SpiffeId,
        /// The trust domain of this authority.
        trust_domain: TrustDomain,
    },

    /// A certificate could not be made.
    #[error("could not make a certificate")]
    Certificate(#[from] rcgen::Error),

    /// A key could not be made, read or used. The library says no more than this.
    #[error("could not {attempt} a P-256 key")]
    Key {
        /// The verb: make, read or use.
        attempt: &'static str,
    },

    /// The folder that keeps the keys cannot be used.
    #[error("could not {attempt} {path}", path = path.display())]
    Folder {
        /// What was tried, as a verb.
        attempt: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },

    /// Others could read or replace the keys.
    #[error("{path} must belong to this user and have mode {wanted:o}; found owner {owner}, mode {mode:o}",
        path = path.display())]
    Exposed {
        /// The file or folder.
        path: PathBuf,
        /// Its owner's user id.
        owner: u32,
        /// Its permission bits.
        mode: u32,
        /// The permission bits it should have.
        wanted: u32,
    },

    /// Another authority already uses the folder.
    #[error("{path} is in use by another process; stop it first, or choose another folder", path = path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },

    /// The kept keys are of another trust domain, or damaged.
    #[error("{path} {complaint}; choose another folder, or delete it to start with new keys", path = path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        complaint: String,
    },
}

impl AuthorityError {
    pub(crate) fn folder(attempt: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Folder { attempt, path: path.to_owned(), source: source.into() }
    }
}

/// An entry that the server will not take.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// The SPIFFE ID breaks the rules of SPIFFE-ID §2.
    #[error("{text:?} is not a SPIFFE ID; write spiffe://<trust domain>/<path>")]
    SpiffeId {
        /// The text as it was given.
        text: String,
        /// What is wrong with it.
        #[source]
        source: SpiffeIdError,
    },

    /// X509-SVID §2: a workload's SPIFFE ID has a path.
    #[error("{spiffe_id} names a trust domain, not a workload; add a path")]
    NoPath {
        /// The SPIFFE ID.
        spiffe_id: SpiffeId,
    },

    /// Every process would match.
    #[error(
        "the entry for {spiffe_id} has no selector and would match every process; add uid, gid, path or process"
    )]
    NoSelector {
        /// The SPIFFE ID.
        spiffe_id: SpiffeId,
    },

    /// The entry is in another trust domain than the server.
    #[error("{spiffe_id} is not in trust domain {trust_domain}; use an ID of that domain")]
    Foreign {
        /// The SPIFFE ID.
        spiffe_id: SpiffeId,
        /// The trust domain of the server's authority.
        trust_domain: TrustDomain,
    },

    /// The process to pin is not there, or may not be looked at.
    #[error("could not open process {pid}; it may have ended")]
    NoSuchProcess {
        /// The process id.
        pid: i32,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// The server could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// No Workload API socket was named.
    #[error("no Workload API socket was named; call workload_socket")]
    NoSocket,

    /// Linux unix(7): `sun_path` holds 108 bytes, the last of them NUL.
    #[error("{path} is longer than the 107 bytes a socket path may have; choose a shorter one", path = path.display())]
    PathTooLong {
        /// The socket's path.
        path: PathBuf,
    },

    /// A live server answers on the socket.
    #[error("another server listens on {path}; stop it first, or choose another path", path = path.display())]
    InUse {
        /// The socket's path.
        path: PathBuf,
    },

    /// The socket or its folder could not be made.
    #[error("could not {attempt} {path}", path = path.display())]
    Socket {
        /// What was tried, as a verb.
        attempt: &'static str,
        /// The socket's path or its folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },

    /// An entry was refused.
    #[error("an entry was refused")]
    Entry(#[from] EntryError),

    /// The authority could not be opened.
    #[error("the trust domain's authority could not be opened")]
    Authority(#[from] AuthorityError),

    /// Development identities must be recognisable, or they would be mistaken for real ones.
    #[error("{trust_domain:?} is not a development trust domain; its name must start with `dev.`")]
    NotDevelopment {
        /// The trust domain as it was given.
        trust_domain: String,
    },
}
