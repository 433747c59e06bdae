//! The thread of one connection: reads all that is there, runs every whole request, and sends all replies by one write.
//!
//! Long requests leave this thread (their replies come through [`super::link::Link`] from others), so one batch never
//! holds up the next for long. Memory is bounded: one read, one frame, one batch of replies, one backlog.

use std::sync::Arc;
use std::time::Instant;

use hsm_protocol::frame::{self, FrameError, Header};
use hsm_protocol::limits::FRAME_LIMIT;

use super::channel::ChannelFault;
use super::limits::{
    FAREWELL_TIME, FRAME_TIME, HANDSHAKE_TIME, IDLE_TIME, KEPT_BUFFER_BYTES, READ_BYTES, READ_TICK, REPLY_BATCH_BYTES,
};
use super::link::{Gone, Link};
use super::pace::{Busy, Pace};
use super::replies::Replies;
use super::socket::Arrival;

/// What runs the requests of one connection. `dispatch` implements it; the connection knows frames and nothing more.
pub(crate) trait Requests {
    /// The handshake is over. Called once, before the first request.
    fn ready(&mut self);

    /// Runs one request: pushes the reply, or sees to it that it comes later.
    fn answer(&mut self, header: Header, body: &[u8], replies: &mut Replies);

    /// Whether the connection may be closed when nothing is asked for a while.
    fn is_idle(&self) -> bool;
}

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum End {
    /// The client has finished, or is gone between two frames.
    #[error("the client closed the connection")]
    Closed,
    /// The client vanished in the middle of a frame or of the handshake.
    #[error("the connection broke off inside a frame or the handshake")]
    BrokenOff,
    /// The client does not speak the protocol.
    #[error("no frame of this protocol: {0}")]
    Frame(#[from] FrameError),
    /// The client does not speak TLS as it is asked for here, or its certificate was refused.
    #[error("{0}")]
    Channel(#[from] ChannelFault),
    /// The operating system ended it.
    #[error("the socket failed: {0}")]
    Socket(#[from] std::io::Error),
    /// The handshake took too long.
    #[error("no handshake within {HANDSHAKE_TIME:?}")]
    Handshake,
    /// One frame took too long.
    #[error("a frame was not whole after {FRAME_TIME:?}")]
    Slow,
    /// Nothing was asked for a long time, and nobody is logged in.
    #[error("nobody logged in and nothing asked for {IDLE_TIME:?}")]
    Idle,
    /// This side ended it: a policy change, a stop, or a client that takes no replies.
    #[error("this HSM closed the connection")]
    Ended,
}

impl From<Gone> for End {
    fn from(_: Gone) -> Self {
        Self::Ended
    }
}

/// Runs a connection to its end and says why it ended. The socket is closed when this returns.
pub(crate) fn run(link: &Arc<Link>, requests: &mut impl Requests, busy: &Busy) -> End {
    let end = Reader::new(link, busy).run(requests);
    if matches!(end, End::Closed | End::Idle) {
        link.wait_for_late_replies(Instant::now() + FAREWELL_TIME);
        link.end_politely();
    }
    link.end();
    end
}

struct Reader<'a> {
    link: &'a Arc<Link>,
    pace: Pace<'a>,
    arrived: Box<[u8]>,
    plain: Vec<u8>,
    replies: Replies,
    /// Whether the listener knows that this connection is no longer half open.
    established: bool,
    /// When the first byte of an unfinished frame (or of the handshake) came, else of the last request.
    since: Instant,
}

impl<'a> Reader<'a> {
    fn new(link: &'a Arc<Link>, busy: &'a Busy) -> Self {
        Self {
            link,
            pace: Pace::new(busy),
            arrived: vec![0; READ_BYTES].into_boxed_slice(),
            plain: Vec::new(),
            replies: Replies::default(),
            established: false,
            since: Instant::now(),
        }
    }

    fn run(&mut self, requests: &mut impl Requests) -> End {
        match self.shake_hands().and_then(|more| {
            requests.ready();
            if more { self.serve(requests) } else { Ok(End::Closed) }
        }) {
            Ok(end) | Err(end) => end,
        }
    }

    /// Ends with the handshake. What the last read brought beyond it is in `plain`.
    fn shake_hands(&mut self) -> Result<bool, End> {
        let socket = self.link.socket();
        let mut more = true;
        while more && self.link.is_handshaking() {
            let left = HANDSHAKE_TIME.saturating_sub(self.since.elapsed());
            if left.is_zero() {
                return Err(End::Handshake);
            }
            socket.set_read_tick(left)?;
            match socket.read(&mut self.arrived)? {
                Arrival::Bytes(count) => more = self.link.open(&self.arrived[..count], &mut self.plain)?,
                Arrival::Nothing => {}
                Arrival::End => return Err(End::BrokenOff),
            }
        }
        socket.set_read_tick(READ_TICK)?;
        if self.link.has_tls() {
            self.established = true;
            self.link.peer().established();
        }
        self.since = Instant::now();
        Ok(more)
    }

    fn serve(&mut self, requests: &mut impl Requests) -> Result<End, End> {
        loop {
            self.run_requests(requests)?;
            match self.pace.read(self.link.socket(), &mut self.arrived)? {
                Arrival::Bytes(count) => {
                    if self.plain.is_empty() {
                        self.since = Instant::now();
                    }
                    if !self.link.open(&self.arrived[..count], &mut self.plain)? {
                        self.run_requests(requests)?;
                        return Ok(self.closed());
                    }
                }
                Arrival::End => return Ok(self.closed()),
                Arrival::Nothing => {}
            }
            self.check_time(requests)?;
        }
    }

    fn closed(&self) -> End {
        if self.link.is_closed() {
            End::Ended
        } else if self.plain.is_empty() {
            End::Closed
        } else {
            End::BrokenOff
        }
    }

    fn check_time(&self, requests: &impl Requests) -> Result<(), End> {
        if self.link.is_closed() {
            return Err(End::Ended);
        }
        if self.plain.is_empty() {
            if self.since.elapsed() > IDLE_TIME && requests.is_idle() {
                return Err(End::Idle);
            }
        } else if self.since.elapsed() > FRAME_TIME && matches!(frame::parse(&self.plain), Ok(None)) {
            return Err(End::Slow);
        }
        Ok(())
    }

    /// Runs every whole request that has arrived.
    fn run_requests(&mut self, requests: &mut impl Requests) -> Result<(), End> {
        let mut from = 0;
        let outcome = loop {
            match frame::parse(&self.plain[from..]) {
                Ok(Some(frame)) => {
                    requests.answer(frame.header, frame.body, &mut self.replies);
                    from += frame.consumed;
                    if !self.established {
                        self.established = true;
                        self.link.peer().established();
                    }
                }
                Ok(None) => break Ok(()),
                // The replies to what came before are still the client's.
                Err(error) => break Err(error.into()),
            }
            if self.replies.frames().len() >= REPLY_BATCH_BYTES {
                self.send()?;
                self.link.wait_for_room()?;
            }
        };
        if !self.replies.frames().is_empty() {
            self.send()?;
            self.link.wait_for_room()?;
        }
        self.forget(from);
        outcome
    }

    fn send(&mut self) -> Result<(), Gone> {
        let sent = self.link.send(self.replies.frames());
        self.replies.clear();
        sent
    }

    /// Wipes requests that are done: they may have held passwords or keys.
    fn forget(&mut self, done: usize) {
        if done == 0 {
            return;
        }
        let rest = self.plain.len() - done;
        self.plain.copy_within(done.., 0);
        self.plain[rest..].fill(0);
        self.plain.truncate(rest);
        if rest == 0 {
            self.plain.shrink_to(KEPT_BUFFER_BYTES);
        }
        self.since = Instant::now();
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        self.plain.fill(0);
        if std::thread::panicking() {
            // Nobody may go on waiting for this connection.
            self.link.end();
        }
    }
}

const _: () = assert!(READ_BYTES < FRAME_LIMIT as usize);
