//! Whether a thread yields for some microseconds before it sleeps in a read.
//!
//! Waking an idle virtual core takes longer than a signature. A client that asks again right after each answer is met
//! awake for less than sleeping would cost; but only while no other connection has work for the core, and only as long
//! as it pays: after a few looks in vain the thread sleeps, and tries again much later.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::limits::SPIN_TIME;
use super::socket::{Arrival, Socket};

/// Looks in vain before the thread gives up looking.
const TRIES: u32 = 4;

/// Quick requests met asleep before it looks again.
const REST: u32 = 64;

/// A request counts as quick when it comes this soon: both sides' wake-ups (some 40 µs each) and the client's own work.
const QUICK: Duration = Duration::from_micros(150);

/// Connections whose thread is not asleep in a read.
#[derive(Default)]
pub(crate) struct Busy(AtomicUsize);

/// Counts a connection as busy until it is dropped.
pub(crate) struct BusyGuard<'a>(&'a Busy);

impl Busy {
    /// Counts one more until the guard is dropped.
    pub(crate) fn enter(&self) -> BusyGuard<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        BusyGuard(self)
    }

    fn others(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 1
    }
}

impl Drop for BusyGuard<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One connection's reading habit.
pub(crate) struct Pace<'a> {
    busy: &'a Busy,
    guard: Option<BusyGuard<'a>>,
    tries: u32,
    rest: u32,
    quick: bool,
}

impl<'a> Pace<'a> {
    /// A connection that has just come.
    pub(crate) fn new(busy: &'a Busy) -> Self {
        Self { busy, guard: Some(busy.enter()), tries: TRIES, rest: 0, quick: false }
    }

    /// Reads: at once if bytes are there or come within the window, else asleep for up to the socket's tick.
    pub(crate) fn read(&mut self, socket: &Socket, buffer: &mut [u8]) -> std::io::Result<Arrival> {
        let begin = Instant::now();
        if self.quick && self.tries > 0 && !self.busy.others() {
            loop {
                match socket.read_at_once(buffer)? {
                    Arrival::Nothing => {}
                    arrival => {
                        self.tries = TRIES;
                        return Ok(arrival);
                    }
                }
                if begin.elapsed() >= SPIN_TIME || self.busy.others() {
                    break;
                }
                std::thread::yield_now();
            }
            self.tries -= 1;
        }
        self.guard = None;
        let arrival = socket.read(buffer);
        self.guard = Some(self.busy.enter());
        self.quick = begin.elapsed() < QUICK;
        if self.quick && self.tries == 0 {
            self.rest += 1;
            if self.rest >= REST {
                self.rest = 0;
                self.tries = 1;
            }
        }
        arrival
    }
}
