//! Whose socket is at the other end of a loopback TCP connection (`NETLINK_SOCK_DIAG`).
//!
//! What the kernel tells has edges that matter to whoever decides on it:
//! - The cgroup is the one **in which the socket was created**, not that of the process that speaks now.
//! - A socket that its process has closed has inode 0, and then its uid reads 0: "unknown", not root. Such an answer is
//!   [`SockDiagError::Closed`] here and never reaches the caller as facts.
//! - A look-up that finds no connection falls back to a *listener* on the same port, which may be somebody else's. The
//!   answer's own addresses are compared, so that is [`SockDiagError::NotFound`].

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// What the kernel knows of one end of a connection that is open in some process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketFacts {
    /// Inode of the socket, as in `/proc/PID/fd/N -> socket:[inode]`. Never 0.
    pub inode: u32,
    /// Owner of the socket.
    pub uid: u32,
    /// Id of the cgroup v2 in which the socket was created; `None` where the kernel does not say.
    pub cgroup_id: Option<u64>,
}

/// Why there are no facts. Each of these means: refuse.
#[derive(Debug, thiserror::Error)]
pub enum SockDiagError {
    /// The two addresses are of different families.
    #[error("the two addresses are of different families")]
    MixedFamilies,
    /// No such connection in this network namespace.
    #[error("no such connection in this network namespace")]
    NotFound,
    /// The process has closed its end, or has died.
    #[error("the connection is no longer open in any process")]
    Closed,
    /// The kernel's answer could not be understood.
    #[error("the kernel's answer is malformed: {0}")]
    Malformed(&'static str),
    /// The question could not be asked.
    #[error("could not ask the kernel about the connection")]
    Io(#[from] io::Error),
}

/// Looks up the socket whose own address is `local` and whose peer is `remote`, and nothing near it.
///
/// To learn who is behind an accepted connection, `local` is the *client's* address and `remote` is ours. Answers for
/// this network namespace only. Blocks for some microseconds.
pub fn sock_diag_tcp(local: SocketAddr, remote: SocketAddr) -> Result<SocketFacts, SockDiagError> {
    let wanted = Connection { local: canonical(local), remote: canonical(remote) };
    if wanted.local.is_ipv4() != wanted.remote.is_ipv4() {
        return Err(SockDiagError::MixedFamilies);
    }
    let socket = connect()?;
    rustix::net::send(&socket, &request(wanted), SendFlags::empty()).map_err(io::Error::from)?;
    let mut answer = [0; 1024];
    let (n, _) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty()).map_err(io::Error::from)?;
    parse(&answer[..n], wanted)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Connection {
    local: SocketAddr,
    remote: SocketAddr,
}

/// A client with an IPv6 socket may speak IPv4; the kernel files such a connection under IPv4.
fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

fn connect() -> io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    // Only the kernel (port 0) may answer.
    rustix::net::connect(&socket, &SocketAddrNetlink::new(0, 0))?;
    Ok(socket)
}

// linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h.
const NLMSG_HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const INET_DIAG_CGROUP_ID: u16 = 21;
/// `sizeof(struct inet_diag_req_v2)`.
const REQUEST: usize = 56;
/// `sizeof(struct inet_diag_msg)`.
const MESSAGE: usize = 72;
const TCP_LISTEN: u8 = 10;

fn request(wanted: Connection) -> Vec<u8> {
    let mut out = Vec::with_capacity(NLMSG_HEADER + REQUEST);
    out.extend(((NLMSG_HEADER + REQUEST) as u32).to_ne_bytes());
    out.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    out.extend(NLM_F_REQUEST.to_ne_bytes());
    out.extend([0; 8]); // sequence number and port: one question per socket needs neither
    let family = if wanted.local.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    out.extend([family as u8, libc::IPPROTO_TCP as u8, 0, 0]);
    out.extend(u32::MAX.to_ne_bytes()); // every state
    out.extend(wanted.local.port().to_be_bytes());
    out.extend(wanted.remote.port().to_be_bytes());
    out.extend(address_bytes(wanted.local.ip()));
    out.extend(address_bytes(wanted.remote.ip()));
    out.extend(0u32.to_ne_bytes()); // any interface
    out.extend([0xFF; 8]); // INET_DIAG_NOCOOKIE
    debug_assert_eq!(out.len(), NLMSG_HEADER + REQUEST);
    out
}

fn address_bytes(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V6(ip) => ip.octets(),
        IpAddr::V4(ip) => {
            let mut out = [0; 16];
            out[..4].copy_from_slice(&ip.octets());
            out
        }
    }
}

fn parse(answer: &[u8], wanted: Connection) -> Result<SocketFacts, SockDiagError> {
    let header = Bytes(answer);
    let length = header.u32(0)? as usize;
    let body = answer.get(NLMSG_HEADER..length).ok_or(SockDiagError::Malformed("length of the message"))?;
    match header.u16(4)? {
        NLMSG_ERROR => return Err(error(Bytes(body).u32(0)?)),
        SOCK_DIAG_BY_FAMILY => {}
        _ => return Err(SockDiagError::Malformed("type of the message")),
    }
    let message = Bytes(body);
    if body.len() < MESSAGE {
        return Err(SockDiagError::Malformed("size of inet_diag_msg"));
    }
    let found = Connection { local: message.address(4, 8)?, remote: message.address(6, 24)? };
    let is_listener = message.u8(1)? == TCP_LISTEN;
    if found != wanted || is_listener {
        return Err(SockDiagError::NotFound);
    }
    let inode = message.u32(68)?;
    if inode == 0 {
        return Err(SockDiagError::Closed);
    }
    Ok(SocketFacts { inode, uid: message.u32(64)?, cgroup_id: cgroup_id(&body[MESSAGE..])? })
}

fn error(negated_errno: u32) -> SockDiagError {
    let errno = (negated_errno as i32).wrapping_neg();
    if errno == libc::ENOENT { SockDiagError::NotFound } else { io::Error::from_raw_os_error(errno).into() }
}

fn cgroup_id(mut attributes: &[u8]) -> Result<Option<u64>, SockDiagError> {
    while attributes.len() >= 4 {
        let attribute = Bytes(attributes);
        let length = attribute.u16(0)? as usize;
        if length < 4 || length > attributes.len() {
            return Err(SockDiagError::Malformed("length of an attribute"));
        }
        if attribute.u16(2)? == INET_DIAG_CGROUP_ID {
            let value = Bytes(&attributes[..length]).array(4)?;
            return Ok(Some(u64::from_ne_bytes(value)));
        }
        let aligned = length.next_multiple_of(4).min(attributes.len());
        attributes = &attributes[aligned..];
    }
    Ok(None)
}

/// Reads numbers out of a slice without trusting its length.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn array<const N: usize>(&self, at: usize) -> Result<[u8; N], SockDiagError> {
        let slice = self.0.get(at..at + N).ok_or(SockDiagError::Malformed("too short"))?;
        Ok(slice.try_into().expect("the slice was cut to N bytes"))
    }

    fn u8(&self, at: usize) -> Result<u8, SockDiagError> {
        Ok(self.array::<1>(at)?[0])
    }

    fn u16(&self, at: usize) -> Result<u16, SockDiagError> {
        Ok(u16::from_ne_bytes(self.array(at)?))
    }

    fn u32(&self, at: usize) -> Result<u32, SockDiagError> {
        Ok(u32::from_ne_bytes(self.array(at)?))
    }

    fn address(&self, port_at: usize, ip_at: usize) -> Result<SocketAddr, SockDiagError> {
        let port = u16::from_be_bytes(self.array(port_at)?);
        let ip = match i32::from(self.u8(0)?) {
            libc::AF_INET => IpAddr::from(self.array::<4>(ip_at)?),
            libc::AF_INET6 => IpAddr::from(self.array::<16>(ip_at)?),
            _ => return Err(SockDiagError::Malformed("address family")),
        };
        Ok(canonical(SocketAddr::new(ip, port)))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn an_open_client_is_found_by_its_exact_addresses_in_both_families() {
        for (listen, connect) in [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1"), ("[::]:0", "127.0.0.1")] {
            let listener = TcpListener::bind(listen).unwrap();
            let port = listener.local_addr().unwrap().port();
            let client = TcpStream::connect((connect, port)).unwrap();
            let (server, peer) = listener.accept().unwrap();
            let facts = sock_diag_tcp(peer, server.local_addr().unwrap()).unwrap();
            assert_eq!(u64::from(facts.inode), rustix::fs::fstat(client.as_fd()).unwrap().st_ino, "{listen}");
            assert_eq!(facts.uid, nix::unistd::geteuid().as_raw());
            assert!(facts.cgroup_id.is_some_and(|id| id > 0));
        }
    }

    #[test]
    fn a_closed_client_is_closed_and_not_root() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, peer) = listener.accept().unwrap();
        drop(client);
        let answer = sock_diag_tcp(peer, server.local_addr().unwrap());
        assert!(matches!(answer, Err(SockDiagError::Closed | SockDiagError::NotFound)), "{answer:?}");
    }

    #[test]
    fn a_listener_on_the_same_port_is_never_taken_for_the_client() {
        let bystander = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = TcpListener::bind("127.0.0.1:0").unwrap();
        let answer = sock_diag_tcp(bystander.local_addr().unwrap(), ours.local_addr().unwrap());
        assert!(matches!(answer, Err(SockDiagError::NotFound)), "{answer:?}");
    }

    #[test]
    fn addresses_of_two_families_are_refused() {
        let answer = sock_diag_tcp("127.0.0.1:1".parse().unwrap(), "[::1]:1".parse().unwrap());
        assert!(matches!(answer, Err(SockDiagError::MixedFamilies)));
    }

    #[test]
    fn a_cut_answer_is_malformed_and_never_a_panic() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, peer) = listener.accept().unwrap();
        let wanted = Connection { local: peer, remote: server.local_addr().unwrap() };
        let socket = connect().unwrap();
        rustix::net::send(&socket, &request(wanted), SendFlags::empty()).unwrap();
        let mut answer = [0; 1024];
        let (n, _) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty()).unwrap();
        assert!(parse(&answer[..n], wanted).is_ok());
        for cut in 0..n {
            assert!(
                matches!(parse(&answer[..cut], wanted), Err(SockDiagError::Malformed(_))),
                "cut at {cut}"
            );
        }
    }
}
