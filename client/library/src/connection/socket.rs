//! Sockets: connecting within a time, and bytes in and out without blocking.

use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use crate::address::Address;
use crate::system::{self, Readiness};

/// After this long without a sign of life on a connection that waits for an answer, the kernel ends it. A host that
/// died without a word costs its clients this much; an HSM that is busy answers the kernel's probes all the same.
const PEER_PATIENCE: Duration = Duration::from_secs(3);

/// A connected stream socket.
pub(crate) struct Socket {
    descriptor: OwnedFd,
}

impl Socket {
    /// Connects within `patience`. A name with several addresses is tried address by address.
    pub(crate) fn connect(address: &Address, patience: Duration) -> io::Result<Self> {
        let descriptor = match address {
            Address::Unix(path) => system::connect_unix(path, patience)?,
            Address::Tcp { host, port } => {
                let stream = connect_tcp(host, *port, patience)?;
                stream.set_nodelay(true)?;
                system::watch_peer(stream.as_fd(), PEER_PATIENCE)?;
                OwnedFd::from(stream)
            }
        };
        Ok(Self { descriptor })
    }

    /// What has arrived; `WouldBlock` = nothing; `Ok(0)` = the peer has closed.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        system::receive(self.as_raw_fd(), buffer)
    }

    /// Sends what the socket takes now; `WouldBlock` = nothing.
    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        system::send(self.as_raw_fd(), bytes)
    }

    /// Whether the peer has closed its side or the system has ended the connection. Takes nothing from the socket.
    pub(crate) fn is_hung_up(&self) -> bool {
        system::is_hung_up(self.as_raw_fd())
    }

    /// Ends both directions.
    pub(crate) fn shut_down(&self) {
        system::shut_down(self.as_raw_fd());
    }

    /// Waits until it is ready for what is wanted, or has failed, at most `patience`.
    pub(crate) fn wait_for(&self, wanted: Readiness, patience: Duration) -> Readiness {
        system::wait_for(self.as_raw_fd(), wanted, patience)
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }
}

fn connect_tcp(host: &str, port: u16, patience: Duration) -> io::Result<TcpStream> {
    let deadline = Instant::now() + patience;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (host, port).to_socket_addrs()? {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"));
        }
        match TcpStream::connect_timeout(&address, left) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}
