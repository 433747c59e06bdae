//! A look at an HSM that was lost, without waiting for it: the connection and the handshake go on a step at a time, in calls
//! that happen to come by, until the HSM itself has answered. A host that is dead, a cut link and a stopped process cost no
//! call anything.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::{ClientConfig, ClientConnection};

use super::handshake;
use super::lost::Lost;
use super::socket::Socket;
use crate::address::Address;
use crate::fork::{ForkGuard, Registration};
use crate::system::Readiness;

/// Time for an HSM to take the connection and begin to shake hands. A far one needs two round trips.
const PATIENCE: Duration = Duration::from_secs(2);

/// A connection that is being made.
pub(crate) struct Visit {
    /// Before the socket: the entry must go before the descriptor is closed.
    registration: Registration,
    socket: Socket,
    address: Address,
    begin: Instant,
    tls: Option<Box<ClientConnection>>,
}

/// Where a visit stands.
pub(crate) enum Step {
    /// Nothing to see yet.
    Pending(Visit),
    /// The HSM has begun to shake hands: it lives.
    Answered(Visit),
    /// Nobody is there.
    Failed(Lost),
}

impl Visit {
    /// Begins one. `None` for an address that can only be reached by waiting: a name, a Unix socket.
    pub(crate) fn begin(address: &Address, guard: &Arc<ForkGuard>) -> Option<Result<Self, Lost>> {
        let Address::Tcp { host, port } = address else { return None };
        let host: IpAddr = host.parse().ok()?;
        let visit = |socket: Socket| Self {
            registration: guard.register(&socket),
            socket,
            address: address.clone(),
            begin: Instant::now(),
            tls: None,
        };
        Some(Socket::begin_to_connect(SocketAddr::new(host, *port)).map(visit).map_err(Lost::from))
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// Goes as far as it can without waiting.
    pub(crate) fn step(mut self, configuration: &Arc<ClientConfig>) -> Step {
        match self.advance(configuration) {
            Ok(true) => Step::Answered(self),
            Ok(false) if self.begin.elapsed() < PATIENCE => Step::Pending(self),
            Ok(false) => Step::Failed(Lost::Io("no answer in time".to_owned())),
            Err(lost) => Step::Failed(lost),
        }
    }

    fn advance(&mut self, configuration: &Arc<ClientConfig>) -> Result<bool, Lost> {
        if self.tls.is_none() {
            if !self.socket.wait_for(Readiness { read: false, write: true }, Duration::ZERO).write {
                return Ok(false);
            }
            self.socket.outcome_of_connecting()?;
            let mut tls = handshake::begin(configuration)?;
            let mut hello = Vec::new();
            tls.write_tls(&mut hello)?;
            // A fresh socket takes the few hundred octets of the first flight at once.
            match self.socket.send(&hello) {
                Ok(count) if count == hello.len() => {}
                Ok(_) => return Err(Lost::Io("the socket takes nothing".to_owned())),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return Err(Lost::Io("the socket takes nothing".to_owned()));
                }
                Err(error) => return Err(error.into()),
            }
            self.tls = Some(Box::new(tls));
        }
        Ok(self.socket.wait_for(Readiness { read: true, write: false }, Duration::ZERO).read)
    }

    /// What was made so far, to be finished by waiting.
    pub(super) fn into_parts(self) -> (Address, Socket, Option<Box<ClientConnection>>, Registration) {
        (self.address, self.socket, self.tls, self.registration)
    }
}
