//! Where a connection comes from, and its word back to the listener that its handshake is over.
//!
//! The listener makes a [`Peer`] for every socket it accepts and hands both to `connection`. It must hold nothing that a
//! client said: only what the kernel knows.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The other end of one connection.
#[derive(Debug)]
pub struct Peer {
    source: Source,
    established: Arc<AtomicBool>,
}

/// What the kernel says of the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// TCP address.
    Network(SocketAddr),
    /// Unix socket.
    Local(PeerCredentials),
}

/// Who connected to a Unix socket, as the kernel noted it at `connect` (`SO_PEERCRED`, unix(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerCredentials {
    /// Process id.
    pub process: i32,
    /// User id.
    pub user: u32,
    /// Group id.
    pub group: u32,
}

impl Peer {
    /// A peer whose handshake is under way; the listener watches `established`.
    pub(crate) fn new(source: Source, established: Arc<AtomicBool>) -> Self {
        Self { source, established }
    }

    /// A peer that no listener watches, for tests.
    pub fn unwatched(source: Source) -> Self {
        Self::new(source, Arc::new(AtomicBool::new(false)))
    }

    /// Where the connection comes from.
    pub fn source(&self) -> Source {
        self.source
    }

    /// The handshake is over (TLS), or the first whole frame has come (Unix socket): from now on the connection counts
    /// as open and the listener's deadline for half-open connections no longer ends it. Call once, after success.
    pub fn established(&self) {
        self.established.store(true, Ordering::Release);
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(formatter)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(address) => write!(formatter, "{address}"),
            Self::Local(credentials) => {
                write!(formatter, "unix:uid={},pid={}", credentials.user, credentials.process)
            }
        }
    }
}
