//! The guard itself: hands out artifacts over mutual TLS, each against a receipt for its very bytes.
//!
//! What it hands out is a copy that it made while it took the digest: the file may change meanwhile, the copy cannot.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dayfly_client::receipt::{AcceptOnce, JwksFault, Receipt, ReceiptFault, ReceiptVerifier, Wanted};
use dayfly_client::{Incoming, Peer, SpiffeId};
use http::header::{AUTHORIZATION, CONTENT_LENGTH, WWW_AUTHENTICATE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use sha2::{Digest, Sha256};
use thiserror::Error;
use tokio::io::AsyncReadExt;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tracing::{error, info};

/// What a receipt must allow here.
const ACTION: &str = "load-model";
/// `Authorization: Dayfly-Receipt eyJ…`
const SCHEME: &str = "Dayfly-Receipt ";
/// Where artifacts are asked for; their names follow.
const PREFIX: &str = "/artifacts/";
/// Receipts remembered at once, so that each is good once.
const REMEMBERED: usize = 10_000;
/// Artifacts copied at once.
const COPIES: usize = 4;
/// Connections at once; further ones are closed unread.
const CONNECTIONS: usize = 256;
/// How long a client may take over the head of a request.
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// Bytes read at once.
const CHUNK: usize = 256 * 1024;

type Body = BoxBody<Bytes, io::Error>;

/// One guard of one folder.
pub struct Guard {
    own: SpiffeId,
    verifier: ReceiptVerifier,
    once: AcceptOnce,
    folder: Arc<OwnedFd>,
    spool: PathBuf,
    copies: Semaphore,
}

/// Why nothing was handed out.
enum Refusal {
    NoReceipt,
    Receipt(ReceiptFault),
    /// The connection outlived the peer's certificate.
    PeerExpired,
    NoSuchArtifact,
    Failed(io::Error),
}

impl Guard {
    /// A guard called `own`, of the artifacts below `folder`. `issuer` and `jwks` are those of the broker's receipts; copies
    /// are made in `spool`, without a name.
    pub fn new(
        own: SpiffeId,
        issuer: &str,
        jwks: &str,
        folder: &Path,
        spool: &Path,
    ) -> Result<Self, GuardError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(folder, flags, Mode::empty()).map_err(io::Error::from)?;
        Ok(Guard {
            verifier: ReceiptVerifier::new(issuer, jwks, own.clone())?,
            own,
            once: AcceptOnce::new(REMEMBERED),
            folder: Arc::new(folder),
            spool: spool.to_owned(),
            copies: Semaphore::new(COPIES),
        })
    }

    /// Takes the issuer's keys of today.
    pub fn update_jwks(&self, jwks: &str) -> Result<(), JwksFault> {
        self.verifier.update_jwks(jwks)
    }

    /// Serves until the listener is gone.
    pub async fn serve(self: Arc<Self>, mut connections: Incoming) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        while let Some(Ok(io)) = connections.next().await {
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
            let (guard, peer) = (Arc::clone(&self), Arc::clone(io.peer()));
            tokio::spawn(async move {
                let answer = service_fn(move |request: Request<hyper::body::Incoming>| {
                    let (guard, peer) = (Arc::clone(&guard), Arc::clone(&peer));
                    async move { Ok::<_, std::convert::Infallible>(guard.answer(&peer, &request).await) }
                });
                let mut builder = Builder::new(TokioExecutor::new());
                builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN);
                builder.http2().timer(TokioTimer::new()).keep_alive_interval(Duration::from_secs(20));
                // A client that broke off has nothing more to be told.
                let _ = builder.serve_connection(TokioIo::new(io), answer).await;
                drop(place);
            });
        }
    }

    async fn answer<B>(&self, peer: &Peer, request: &Request<B>) -> Response<Body> {
        match self.hand_out(peer, request).await {
            Ok((receipt, copy, length)) => {
                info!(peer = %peer.spiffe_id, artifact = receipt.name, decision_id = receipt.decision_id, "handed out");
                let mut response = Response::new(stream(copy));
                response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
                response
            }
            Err(refusal) => self.refuse(peer, &refusal),
        }
    }

    /// The artifact's bytes, if the receipt is for them.
    async fn hand_out<B>(&self, peer: &Peer, request: &Request<B>) -> Result<(Receipt, File, u64), Refusal> {
        let name = request.uri().path().strip_prefix(PREFIX).ok_or(Refusal::NoSuchArtifact)?;
        if request.method() != Method::GET {
            return Err(Refusal::NoSuchArtifact);
        }
        let shown = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let shown = shown.and_then(|value| value.strip_prefix(SCHEME)).ok_or(Refusal::NoReceipt)?;
        let now = SystemTime::now();
        if !peer.is_fresh(now) {
            return Err(Refusal::PeerExpired);
        }
        // What costs nothing comes first: no stranger makes the guard read a file, nor twice on one receipt.
        let receipt = self.verifier.read(shown, &peer.spiffe_id, now)?;
        receipt.names(ACTION, name)?;
        self.once.accept(&receipt, now)?;
        let _turn = self.copies.acquire().await.expect("nobody closes the semaphore");
        let (folder, spool, name) = (Arc::clone(&self.folder), self.spool.clone(), name.to_owned());
        let copied = tokio::task::spawn_blocking(move || copy(&folder, &spool, &name)).await;
        let (copy, length, digest) = copied.map_err(io::Error::other)??;
        receipt.allows(&Wanted { action: ACTION, name: &receipt.name, digest: Some(&digest) })?;
        Ok((receipt, copy, length))
    }

    fn refuse(&self, peer: &Peer, refusal: &Refusal) -> Response<Body> {
        let (status, words) = match refusal {
            Refusal::NoReceipt => {
                (StatusCode::UNAUTHORIZED, format!("show a receipt: dayfly check --audience {}", self.own))
            }
            Refusal::Receipt(ReceiptFault::Busy) => {
                (StatusCode::SERVICE_UNAVAILABLE, ReceiptFault::Busy.to_string())
            }
            Refusal::Receipt(fault) => {
                (StatusCode::FORBIDDEN, format!("the receipt is not good here: {fault}"))
            }
            Refusal::PeerExpired => (StatusCode::FORBIDDEN, "connect anew with a fresh SVID".to_owned()),
            Refusal::NoSuchArtifact => (StatusCode::NOT_FOUND, "there is no such artifact".to_owned()),
            // What the system said is for the log.
            Refusal::Failed(_) => (StatusCode::INTERNAL_SERVER_ERROR, "the guard failed".to_owned()),
        };
        match refusal {
            Refusal::Failed(error) => error!(peer = %peer.spiffe_id, %error, "failed"),
            _ => info!(peer = %peer.spiffe_id, words, "refused"),
        }
        let mut response = Response::new(Full::from(words + "\n").map_err(|never| match never {}).boxed());
        *response.status_mut() = status;
        if status == StatusCode::UNAUTHORIZED {
            let challenge = format!("{SCHEME}audience=\"{}\"", self.own);
            let challenge = HeaderValue::try_from(challenge).expect("a SPIFFE ID is plain ASCII");
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

/// Copies an artifact into a file without a name, and says its length and digest.
fn copy(folder: &OwnedFd, spool: &Path, name: &str) -> Result<(File, u64, String), Refusal> {
    // Beneath the folder, through no link; and a pipe must not make the guard wait.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let opened = rustix::fs::openat2(folder, name, flags, Mode::empty(), beneath);
    let original = opened.map_err(|_| Refusal::NoSuchArtifact)?;
    let stat = rustix::fs::fstat(&original).map_err(io::Error::from)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Refusal::NoSuchArtifact);
    }
    let (mut original, mut copy) = (File::from(original), tempfile::tempfile_in(spool)?);
    let (mut digest, mut length, mut chunk) = (Sha256::new(), 0, vec![0; CHUNK]);
    loop {
        let read = original.read(&mut chunk)?;
        if read == 0 {
            break;
        }
        digest.update(&chunk[..read]);
        copy.write_all(&chunk[..read])?;
        length += read as u64;
    }
    copy.seek(SeekFrom::Start(0))?;
    Ok((copy, length, format!("sha256:{:x}", digest.finalize())))
}

/// The copy, piece by piece, as fast as the client takes it.
fn stream(copy: File) -> Body {
    let (pieces, taken) = mpsc::channel(2);
    tokio::spawn(async move {
        let mut copy = tokio::fs::File::from_std(copy);
        loop {
            let mut chunk = vec![0; CHUNK];
            let piece = match copy.read(&mut chunk).await {
                Ok(0) => return,
                Ok(read) => {
                    chunk.truncate(read);
                    Ok(Frame::data(Bytes::from(chunk)))
                }
                Err(error) => Err(error),
            };
            let failed = piece.is_err();
            if pieces.send(piece).await.is_err() || failed {
                return;
            }
        }
    });
    StreamBody::new(ReceiverStream::new(taken)).boxed()
}

impl From<ReceiptFault> for Refusal {
    fn from(fault: ReceiptFault) -> Self {
        Refusal::Receipt(fault)
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Refusal::Failed(error)
    }
}

/// Why there is no guard.
#[derive(Debug, Error)]
pub enum GuardError {
    /// The artifacts' folder.
    #[error("the artifacts' folder cannot be opened")]
    Folder(#[from] io::Error),
    /// The issuer's keys.
    #[error("the issuer's keys cannot be read")]
    Keys(#[from] JwksFault),
}
