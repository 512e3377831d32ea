//! Frames over a Unix stream, each with at most one descriptor (`SCM_RIGHTS`).
//!
//! A frame is a length of four bytes, most significant first, and that many bytes. The descriptor travels with the
//! first byte. The payload is written from the caller's slice and read into a vector of its exact size: it may be a
//! secret, and no second copy of it is left behind here.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use tokio::io::Interest;
use tokio::net::UnixStream;

const HEADER: usize = 4;

/// A frame that came in.
#[derive(Debug)]
pub struct Frame {
    /// The payload; at most the limit that was given.
    pub bytes: Vec<u8>,
    /// The descriptor sent along, close-on-exec.
    pub fd: Option<OwnedFd>,
}

/// Why a frame could not be sent or received. The stream is of no use afterwards: close it.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The peer announced, or the caller wants to send, more than is allowed.
    #[error("a frame of {bytes} bytes is over the limit of {limit}")]
    TooLong {
        /// Length announced.
        bytes: usize,
        /// Length allowed.
        limit: usize,
    },
    /// The peer closed the stream inside a frame.
    #[error("the stream ended inside a frame")]
    Truncated,
    /// The peer sent more than one descriptor, or one where none may stand.
    #[error("the peer sent descriptors that the protocol does not know")]
    UnexpectedFds,
    /// The system call failed.
    #[error("could not use the unix stream")]
    Io(#[from] io::Error),
}

/// Sends one frame, with a descriptor if there is one. The descriptor stays the caller's.
pub async fn send_with_fd(
    stream: &UnixStream,
    payload: &[u8],
    fd: Option<BorrowedFd<'_>>,
) -> Result<(), FrameError> {
    let length = u32::try_from(payload.len())
        .map_err(|_| FrameError::TooLong { bytes: payload.len(), limit: u32::MAX as usize })?;
    let header = length.to_be_bytes();
    let total = HEADER + payload.len();
    let mut sent = 0;
    while sent < total {
        let head = header.get(sent..).unwrap_or_default();
        let body = &payload[sent.saturating_sub(HEADER)..];
        // The kernel ties the descriptor to the first byte that it takes, so it goes with the first write only.
        let fd = fd.filter(|_| sent == 0);
        sent += stream.async_io(Interest::WRITABLE, || send_some(stream.as_fd(), head, body, fd)).await?;
    }
    Ok(())
}

/// Receives one frame of at most `limit` bytes. `None` when the peer closed the stream between frames.
///
/// Not safe to cancel: a frame read in part is lost with its future.
pub async fn recv_with_fd(stream: &UnixStream, limit: usize) -> Result<Option<Frame>, FrameError> {
    let mut fd = None;
    let mut header = [0; HEADER];
    let mut got = 0;
    while got < HEADER {
        let (n, new_fd) = recv_some(stream, &mut header[got..]).await?;
        if n == 0 {
            return if got == 0 { Ok(None) } else { Err(FrameError::Truncated) };
        }
        if new_fd.is_some() && got > 0 {
            return Err(FrameError::UnexpectedFds);
        }
        fd = fd.or(new_fd);
        got += n;
    }
    let length = u32::from_be_bytes(header) as usize;
    if length > limit {
        return Err(FrameError::TooLong { bytes: length, limit });
    }
    let mut bytes = vec![0; length];
    let mut got = 0;
    while got < length {
        let (n, new_fd) = recv_some(stream, &mut bytes[got..]).await?;
        if new_fd.is_some() {
            return Err(FrameError::UnexpectedFds);
        }
        if n == 0 {
            return Err(FrameError::Truncated);
        }
        got += n;
    }
    Ok(Some(Frame { bytes, fd }))
}

fn send_some(
    socket: BorrowedFd<'_>,
    head: &[u8],
    body: &[u8],
    fd: Option<BorrowedFd<'_>>,
) -> io::Result<usize> {
    let fds: [BorrowedFd<'_>; 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if let Some(fd) = fd {
        fds = [fd];
        let fits = control.push(SendAncillaryMessage::ScmRights(&fds));
        debug_assert!(fits, "the space was made for one descriptor");
    }
    let parts = [IoSlice::new(head), IoSlice::new(body)];
    Ok(rustix::net::sendmsg(socket, &parts, &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?)
}

async fn recv_some(stream: &UnixStream, into: &mut [u8]) -> Result<(usize, Option<OwnedFd>), FrameError> {
    let (n, flags, mut fds) = stream
        .async_io(Interest::READABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut parts = [IoSliceMut::new(into)];
            let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
            let message = rustix::net::recvmsg(stream.as_fd(), &mut parts, &mut control, flags)?;
            // Taken out whatever they are, so that what is not wanted is closed and not leaked.
            let fds: Vec<OwnedFd> = control
                .drain()
                .filter_map(|message| match message {
                    RecvAncillaryMessage::ScmRights(fds) => Some(fds),
                    _ => None,
                })
                .flatten()
                .collect();
            Ok((message.bytes, message.flags, fds))
        })
        .await?;
    // Alignment leaves room for a second descriptor in the space for one, so the count is checked as well.
    if fds.len() > 1 || flags.contains(ReturnFlags::CTRUNC) {
        return Err(FrameError::UnexpectedFds);
    }
    Ok((n, fds.pop()))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

    use std::fs::File;
    use std::io::{Read, Seek, Write};

    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn a_descriptor_arrives_with_its_frame_and_is_close_on_exec() {
        let (a, b) = UnixStream::pair().unwrap();
        let mut file = tempfile();
        file.write_all(b"through the wall").unwrap();
        send_with_fd(&a, b"look at this", Some(file.as_fd())).await.unwrap();
        send_with_fd(&a, b"", None).await.unwrap();

        let frame = recv_with_fd(&b, 64).await.unwrap().unwrap();
        assert_eq!(frame.bytes, b"look at this");
        let fd = frame.fd.unwrap();
        assert!(rustix::io::fcntl_getfd(&fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        let mut text = String::new();
        let mut file = File::from(fd);
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through the wall");

        let frame = recv_with_fd(&b, 64).await.unwrap().unwrap();
        assert!(frame.bytes.is_empty() && frame.fd.is_none());
        drop(a);
        assert!(recv_with_fd(&b, 64).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_frame_larger_than_the_socket_buffer_arrives_whole() {
        let (a, b) = UnixStream::pair().unwrap();
        let big: Vec<u8> = (0..1 << 20).map(|i: u32| (i % 251) as u8).collect();
        let file = tempfile();
        let (sent, frame) =
            tokio::join!(send_with_fd(&a, &big, Some(file.as_fd())), recv_with_fd(&b, 1 << 20));
        sent.unwrap();
        let frame = frame.unwrap().unwrap();
        assert!(frame.bytes == big && frame.fd.is_some());
    }

    #[tokio::test]
    async fn an_oversize_frame_is_refused_before_it_is_read() {
        let (mut a, b) = UnixStream::pair().unwrap();
        a.write_all(&u32::MAX.to_be_bytes()).await.unwrap();
        let refused = recv_with_fd(&b, 1024).await.unwrap_err();
        assert!(matches!(refused, FrameError::TooLong { bytes: 4_294_967_295, limit: 1024 }));
    }

    #[tokio::test]
    async fn a_stream_that_ends_inside_a_frame_is_an_error() {
        let (mut a, b) = UnixStream::pair().unwrap();
        a.write_all(&[0, 0, 0, 9, b'x']).await.unwrap();
        drop(a);
        assert!(matches!(recv_with_fd(&b, 1024).await.unwrap_err(), FrameError::Truncated));
    }

    #[tokio::test]
    async fn a_second_descriptor_is_refused_and_closed() {
        let (a, b) = UnixStream::pair().unwrap();
        let mut pipe = rustix_pipe();
        let fds = [pipe.1.as_fd(), pipe.1.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        let frame = [IoSlice::new(&[0, 0, 0, 1, b'x'])];
        rustix::net::sendmsg(a.as_fd(), &frame, &mut control, SendFlags::empty()).unwrap();

        assert!(matches!(recv_with_fd(&b, 16).await.unwrap_err(), FrameError::UnexpectedFds));
        drop(pipe.1);
        // End of file only if no copy of the writing end is left open here.
        assert_eq!(pipe.0.read(&mut [0]).unwrap(), 0);
    }

    fn tempfile() -> File {
        File::from(rustix::fs::memfd_create("frame", rustix::fs::MemfdFlags::CLOEXEC).unwrap())
    }

    fn rustix_pipe() -> (std::io::PipeReader, std::io::PipeWriter) {
        std::io::pipe().unwrap()
    }
}
