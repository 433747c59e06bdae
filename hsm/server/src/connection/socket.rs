//! The two kinds of sockets as one: blocking reads, and sends that never block.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::{RecvFlags, SendFlags};

/// A connected socket.
pub(crate) enum Socket {
    /// With TLS on it.
    Tcp(TcpStream),
    /// On this host.
    Unix(UnixStream),
}

/// What a read brought.
pub(crate) enum Arrival {
    /// So many bytes.
    Bytes(usize),
    /// Nothing within the tick, or nothing yet.
    Nothing,
    /// The peer has ended its side.
    End,
}

impl Socket {
    /// Sets how long a blocking read waits before it reports [`Arrival::Nothing`].
    pub(crate) fn set_read_tick(&self, tick: Duration) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_read_timeout(Some(tick)),
            Self::Unix(stream) => stream.set_read_timeout(Some(tick)),
        }
    }

    /// Sends small replies at once and has the kernel find out about peers that vanished.
    pub(crate) fn prepare(&self) -> io::Result<()> {
        if let Self::Tcp(stream) = self {
            stream.set_nodelay(true)?;
            rustix::net::sockopt::set_socket_keepalive(stream, true)?;
        }
        Ok(())
    }

    /// Waits for bytes, at most one tick.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<Arrival> {
        self.receive(buffer, RecvFlags::empty())
    }

    /// Takes bytes that are there.
    pub(crate) fn read_at_once(&self, buffer: &mut [u8]) -> io::Result<Arrival> {
        self.receive(buffer, RecvFlags::DONTWAIT)
    }

    fn receive(&self, buffer: &mut [u8], flags: RecvFlags) -> io::Result<Arrival> {
        match rustix::net::recv(self, buffer, flags) {
            Ok((0, _)) => Ok(Arrival::End),
            Ok((count, _)) => Ok(Arrival::Bytes(count)),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(Arrival::Nothing),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends what the kernel takes now: 0 when it takes nothing.
    pub(crate) fn send_at_once(&self, bytes: &[u8]) -> io::Result<usize> {
        match rustix::net::send(self, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(sent) => Ok(sent),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// Ends one or both directions; a socket that has ended already is no error.
    pub(crate) fn shut_down(&self, how: Shutdown) {
        let result = match self {
            Self::Tcp(stream) => stream.shutdown(how),
            Self::Unix(stream) => stream.shutdown(how),
        };
        if let Err(error) = result {
            tracing::trace!(%error, "the socket had ended already");
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}
