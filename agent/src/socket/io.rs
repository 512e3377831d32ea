//! A connection with its caller, and with two observations: that a first request came, and that it was closed.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use crate::native::server::Place;
use crate::process::{AttestedBy, Process};

/// Who is at the other end. Handlers find it in the request's extensions.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The process that connected.
    pub process: Process,
    /// How well that is known.
    pub attested_by: AttestedBy,
    /// Cancelled once the connection is closed. The agent's end is close-on-exec at the caller's, so while the caller
    /// lives this means that it has become another program, or that it is done here.
    pub closed: CancellationToken,
    asked: Arc<AtomicBool>,
}

impl Caller {
    /// A request of this connection has begun.
    pub fn has_asked(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }
}

/// A connection whose caller is known.
#[derive(Debug)]
pub struct CallerIo {
    stream: UnixStream,
    caller: Caller,
    patience: Pin<Box<Sleep>>,
    _place: Place,
}

impl CallerIo {
    /// Wraps an accepted connection, which may take `patience` to send the headers of its first request.
    pub fn new(
        stream: UnixStream,
        process: Process,
        attested_by: AttestedBy,
        place: Place,
        patience: Duration,
    ) -> Self {
        let closed = CancellationToken::new();
        let caller = Caller { process, attested_by, closed, asked: Arc::default() };
        Self { stream, caller, patience: Box::pin(tokio::time::sleep(patience)), _place: place }
    }
}

impl Connected for CallerIo {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl Drop for CallerIo {
    fn drop(&mut self) {
        self.caller.closed.cancel();
    }
}

impl AsyncRead for CallerIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        let ended = match &read {
            Poll::Ready(Ok(())) => buf.filled().len() == before && buf.remaining() > 0,
            Poll::Ready(Err(_)) => true,
            Poll::Pending => false,
        };
        if ended {
            self.caller.closed.cancel();
        }
        // A connection that says nothing, or says it very slowly, holds a place of its user's.
        if !self.caller.asked.load(Ordering::Relaxed) && self.patience.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl AsyncWrite for CallerIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::config::Limits;
    use crate::native::server::PerUser;

    const PATIENCE: Duration = Duration::from_millis(100);

    fn pair() -> (UnixStream, CallerIo, Caller) {
        let (client, server) = UnixStream::pair().unwrap();
        let (process, by) = Process::of_peer(&server).unwrap();
        let limits = Limits { connections: 1, connections_per_uid: 1, attestations_per_uid: 1 };
        let place = Arc::new(PerUser::default()).place(0, limits).unwrap();
        let io = CallerIo::new(server, process, by, place, PATIENCE);
        let caller = io.connect_info();
        (client, io, caller)
    }

    #[tokio::test]
    async fn the_end_of_a_connection_is_noticed() {
        let (mut client, mut io, caller) = pair();
        client.write_all(b"x").await.unwrap();
        assert_eq!(io.read_u8().await.unwrap(), b'x');
        assert!(!caller.closed.is_cancelled());
        drop(client);
        assert_eq!(io.read(&mut [0]).await.unwrap(), 0);
        assert!(caller.closed.is_cancelled());
    }

    #[tokio::test]
    async fn a_connection_that_asks_nothing_is_closed_and_one_that_asked_is_not() {
        let (mut client, mut io, _) = pair();
        client.write_all(b"PRI").await.unwrap();
        io.read_exact(&mut [0; 3]).await.unwrap();
        assert_eq!(io.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::TimedOut);

        let (_client, mut io, caller) = pair();
        caller.has_asked();
        let read = tokio::time::timeout(PATIENCE * 5, io.read_u8()).await;
        assert!(read.is_err(), "it may stay as long as it likes");
    }
}
