//! One type for both kinds of stream socket, so that everything above is written once.

use std::{
    io::{self, IoSlice},
    net::{IpAddr, SocketAddr, UdpSocket},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};

/// A connected TCP or Unix stream socket.
#[derive(Debug)]
pub enum Socket {
    /// TCP, without Nagle's delay.
    Tcp(TcpStream),
    /// Unix.
    Unix(UnixStream),
}

impl Socket {
    /// The other host that the connection came from; none if it is this one, or cannot be told.
    pub fn other_host(&self) -> Option<IpAddr> {
        match self {
            Socket::Tcp(socket) => other_host(socket.peer_addr().ok()?, socket.local_addr().ok()?, is_own),
            Socket::Unix(_) => None,
        }
    }
}

/// By both ends of a TCP connection.
fn other_host(from: SocketAddr, to: SocketAddr, is_own: impl Fn(SocketAddr) -> bool) -> Option<IpAddr> {
    let (from_ip, to_ip) = (from.ip().to_canonical(), to.ip().to_canonical());
    // All of 127.0.0.0/8 is this host, and so is whoever comes from the address, or by way of a loopback one.
    let this_host = from_ip == to_ip || from_ip.is_loopback() || to_ip.is_loopback() || is_own(from);
    (!this_host).then_some(from_ip)
}

/// Whether an address is one of this machine's: then a socket may be bound to it. Where the kernel says neither, or lets
/// sockets be bound to any address (`net.ipv4.ip_nonlocal_bind`), it may be.
fn is_own(mut address: SocketAddr) -> bool {
    address.set_port(0);
    !UdpSocket::bind(address).is_err_and(|error| error.kind() == io::ErrorKind::AddrNotAvailable)
}

macro_rules! each {
    ($self:ident, $io:ident => $call:expr) => {
        match $self.get_mut() {
            Socket::Tcp(io) => {
                let $io = Pin::new(io);
                $call
            }
            Socket::Unix(io) => {
                let $io = Pin::new(io);
                $call
            }
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, io => io.poll_read(cx, buf))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, io => io.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, io => io.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Socket::Tcp(io) => io.is_write_vectored(),
            Socket::Unix(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => io.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => io.poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_another_machines_address_is_another_host() {
        let host = |from: &str, to: &str| {
            let end = |text: &str| text.parse::<SocketAddr>().expect("an address");
            let is_own = |address: SocketAddr| address.ip() == end("10.0.0.9:5").ip();
            other_host(end(from), end(to), is_own).map(|host| host.to_string())
        };
        assert_eq!(host("10.0.0.7:5", "10.0.0.1:7443"), Some("10.0.0.7".to_owned()));
        assert_eq!(host("[::ffff:10.0.0.7]:5", "[::]:7443"), Some("10.0.0.7".to_owned()));
        assert_eq!(host("[fd00::7]:5", "[fd00::1]:7443"), Some("fd00::7".to_owned()));
        for (from, to) in [
            ("127.0.0.1:5", "127.0.0.1:7443"),
            ("127.0.0.2:5", "127.0.0.1:7443"),
            ("[::1]:5", "[::1]:7443"),
            ("10.0.0.1:5", "10.0.0.1:7443"),
            ("10.0.0.1:5", "127.0.0.1:7443"),
            ("10.0.0.9:5", "10.0.0.1:7443"),
        ] {
            assert_eq!(host(from, to), None, "{from} to {to}");
        }
    }

    #[test]
    fn the_kernel_tells_which_addresses_are_this_machines() {
        let own = |text: &str| is_own(text.parse().expect("an address"));
        assert!(own("127.0.0.1:5") && own("127.8.9.1:5") && own("[::ffff:127.0.0.1]:5"));
        let any = std::fs::read_to_string("/proc/sys/net/ipv4/ip_nonlocal_bind").expect("a setting of Linux");
        // RFC 5737: nobody's.
        assert_eq!(own("192.0.2.1:5"), any.trim() == "1");
    }
}
