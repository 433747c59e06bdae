//! The sending half of one connection, shared by the thread that reads it and by whoever finishes a reply later.
//!
//! One short lock covers the TLS state and the bytes that the socket has not taken. Nobody blocks under it: a send takes
//! what the kernel has room for, the rest is kept and [`super::courier::Courier`] sends it when there is room. So a slow
//! reader holds up neither the worker that answers it nor, for ever, its own reading thread.

use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::Instant;

use hsm_protocol::limits::REQUESTS_IN_FLIGHT;
use hsm_protocol::session::BINDING_BYTES;
use parking_lot::{Condvar, Mutex};

use super::channel::{Channel, ChannelFault};
use super::courier::Courier;
use super::facts::ConnectionFacts;
use super::limits::{BYTES_IN_FLIGHT, KEPT_BUFFER_BYTES, UNSENT_BYTES};
use super::socket::Socket;
use crate::peer::Peer;

/// One connection, as everybody sees it.
pub(crate) struct Link {
    number: u64,
    peer: Peer,
    socket: Socket,
    sending: Mutex<Sending>,
    /// Told when the socket has taken bytes, a late reply is finished, or the connection is over.
    moved: Condvar,
    closed: AtomicBool,
    requests_in_flight: AtomicU32,
    bytes_in_flight: AtomicUsize,
    courier: Arc<Courier>,
}

struct Sending {
    channel: Channel,
    /// Frames that other threads have finished and that are not sealed yet.
    late: Vec<u8>,
    /// Sealed bytes; those before `sent` are on their way.
    sealed: Vec<u8>,
    sent: usize,
    /// Since when the socket takes nothing.
    stalled: Option<Instant>,
    with_courier: bool,
}

impl Sending {
    fn unsent(&self) -> usize {
        self.sealed.len() - self.sent
    }
}

/// The connection is over; replies to it have nobody to go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gone;

/// What is left after an attempt to deliver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// Everything is with the kernel, or the connection is over.
    Complete,
    /// The socket takes nothing more since then.
    Stalled(Instant),
}

impl Link {
    pub(crate) fn new(number: u64, peer: Peer, socket: Socket, channel: Channel, courier: Arc<Courier>) -> Arc<Self> {
        let sending =
            Sending { channel, late: Vec::new(), sealed: Vec::new(), sent: 0, stalled: None, with_courier: false };
        Arc::new(Self {
            number,
            peer,
            socket,
            sending: Mutex::new(sending),
            moved: Condvar::new(),
            closed: AtomicBool::new(false),
            requests_in_flight: AtomicU32::new(0),
            bytes_in_flight: AtomicUsize::new(0),
            courier,
        })
    }

    /// Number of this connection in this process, for logs.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// The other end.
    pub(crate) fn peer(&self) -> &Peer {
        &self.peer
    }

    /// The socket, for reading.
    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// What the policy for client certificates asks about.
    pub(crate) fn facts(&self) -> ConnectionFacts {
        ConnectionFacts {
            source: self.peer.source(),
            client_certificate: self.sending.lock().channel.client_certificate(),
        }
    }

    /// The TLS exporter of this connection; `None` on a Unix socket.
    pub(crate) fn binding(&self) -> Option<[u8; BINDING_BYTES]> {
        self.sending.lock().channel.binding()
    }

    /// Whether this connection speaks TLS.
    pub(crate) fn has_tls(&self) -> bool {
        matches!(self.socket, Socket::Tcp(_))
    }

    /// Whether the TLS handshake is still going on.
    pub(crate) fn is_handshaking(&self) -> bool {
        self.sending.lock().channel.is_handshaking()
    }

    /// Opens what a read brought, appends the plaintext, and sends what TLS has to say about it. Says whether more may
    /// come.
    ///
    /// # Errors
    /// [`ChannelFault`]; the alert for the peer has been sent as far as the socket took it.
    pub(crate) fn open(&self, arrived: &[u8], plain: &mut Vec<u8>) -> Result<bool, ChannelFault> {
        let sending = &mut *self.sending.lock();
        let opened = sending.channel.open(arrived, plain);
        sending.channel.seal(&[], &mut sending.sealed)?;
        if sending.unsent() > 0 {
            self.transmit(sending);
        }
        opened
    }

    /// Seals and sends `frames` and whatever late replies wait, in one write. What the socket does not take is kept.
    pub(crate) fn send(self: &Arc<Self>, frames: &[u8]) -> Result<(), Gone> {
        let sending = &mut *self.sending.lock();
        self.seal(sending, frames)?;
        self.transmit(sending);
        if sending.unsent() > 0 && !sending.with_courier && !self.is_closed() {
            sending.with_courier = true;
            self.courier.take(Arc::clone(self));
        }
        self.standing()
    }

    /// Leaves a frame for the courier to send. For threads that must not wait for anything, such as the log's.
    pub(crate) fn send_by_courier(self: &Arc<Self>, frame: &[u8]) -> Result<(), Gone> {
        let sending = &mut *self.sending.lock();
        self.standing()?;
        sending.late.extend_from_slice(frame);
        if !sending.with_courier {
            sending.with_courier = true;
            self.courier.take(Arc::clone(self));
        }
        Ok(())
    }

    /// Sends what waits. The courier's part: it keeps the connection until this is complete.
    pub(crate) fn deliver(&self) -> Delivery {
        let sending = &mut *self.sending.lock();
        if self.seal(sending, &[]).is_ok() {
            self.transmit(sending);
        }
        if sending.unsent() == 0 || self.is_closed() {
            sending.with_courier = false;
            return Delivery::Complete;
        }
        Delivery::Stalled(sending.stalled.unwrap_or_else(Instant::now))
    }

    /// Waits until the client has taken enough of its replies for more to be made.
    pub(crate) fn wait_for_room(&self) -> Result<(), Gone> {
        let mut sending = self.sending.lock();
        while sending.unsent() > UNSENT_BYTES && !self.is_closed() {
            self.moved.wait(&mut sending);
        }
        self.standing()
    }

    /// Waits until the replies that are still being made have been given to the kernel, at most until `deadline`.
    pub(crate) fn wait_for_late_replies(&self, deadline: Instant) {
        let mut sending = self.sending.lock();
        while !self.is_closed()
            && (self.requests_in_flight.load(Ordering::Acquire) > 0 || !sending.late.is_empty() || sending.unsent() > 0)
        {
            if self.moved.wait_until(&mut sending, deadline).timed_out() {
                return;
            }
        }
    }

    fn seal(&self, sending: &mut Sending, frames: &[u8]) -> Result<(), Gone> {
        self.standing()?;
        let Sending { channel, late, sealed, .. } = sending;
        let outcome = channel.seal(late, sealed).and_then(|()| channel.seal(frames, sealed));
        late.clear();
        late.shrink_to(KEPT_BUFFER_BYTES);
        outcome.map_err(|fault| {
            tracing::error!(connection = self.number, peer = %self.peer, %fault, "a reply could not be sealed");
            self.end();
            Gone
        })
    }

    /// Gives the kernel what it takes.
    fn transmit(&self, sending: &mut Sending) {
        let unsent_before = sending.unsent();
        while sending.unsent() > 0 {
            match self.socket.send_at_once(&sending.sealed[sending.sent..]) {
                Ok(0) => break,
                Ok(count) => sending.sent += count,
                Err(error) => {
                    tracing::debug!(connection = self.number, peer = %self.peer, %error, "the peer is gone");
                    self.end();
                    return;
                }
            }
        }
        if sending.unsent() == 0 {
            sending.sealed.clear();
            sending.sealed.shrink_to(KEPT_BUFFER_BYTES);
            sending.sent = 0;
            sending.stalled = None;
        } else if sending.unsent() < unsent_before || sending.stalled.is_none() {
            sending.stalled = Some(Instant::now());
            // What was sent goes when it is the larger half, so that the buffer stays within twice the backlog.
            if sending.sent > sending.sealed.len() / 2 {
                sending.sealed.drain(..sending.sent);
                sending.sent = 0;
            }
        }
        if sending.unsent() < unsent_before && (sending.with_courier || sending.unsent() == 0) {
            self.moved.notify_all();
        }
    }

    /// Whether the connection is over.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn standing(&self) -> Result<(), Gone> {
        if self.is_closed() { Err(Gone) } else { Ok(()) }
    }

    /// Ends the connection at once; its reading thread wakes up and leaves.
    pub(crate) fn end(&self) {
        if !self.closed.swap(true, Ordering::AcqRel) {
            self.socket.shut_down(Shutdown::Both);
            self.moved.notify_all();
        }
    }

    /// Ends the connection after telling the peer that nothing more comes.
    pub(crate) fn end_politely(&self) {
        let sending = &mut *self.sending.lock();
        if !self.is_closed() {
            sending.channel.say_goodbye();
            if self.seal(sending, &[]).is_ok() {
                self.transmit(sending);
            }
        }
        self.end();
    }

    /// Takes no further requests: the reading thread sees the end of its input and answers what it has.
    pub(crate) fn stop_reading(&self) {
        self.socket.shut_down(Shutdown::Read);
    }

    /// Counts a request of `bytes` that another thread will answer; false (and not counted) = too many are under way.
    pub(crate) fn count_in(&self, bytes: usize) -> bool {
        let requests = self.requests_in_flight.fetch_add(1, Ordering::AcqRel);
        let others = self.bytes_in_flight.fetch_add(bytes, Ordering::AcqRel);
        let counted = requests < REQUESTS_IN_FLIGHT && others <= BYTES_IN_FLIGHT;
        if !counted {
            self.count_out(bytes);
        }
        counted
    }

    /// Takes a request off the counts.
    pub(crate) fn count_out(&self, bytes: usize) {
        self.bytes_in_flight.fetch_sub(bytes, Ordering::AcqRel);
        if self.requests_in_flight.fetch_sub(1, Ordering::AcqRel) == 1 {
            // The lock makes sure that a thread between its look at the count and its sleep is not missed.
            drop(self.sending.lock());
            self.moved.notify_all();
        }
    }
}
