//! One socket for all threads: a combining writer, and a reader that the waiting threads provide by turns.
//!
//! A thread queues its frame; if nobody writes, it writes for all who have queued by then (one TLS record, one `send`).
//! While it waits for its answer, it reads for all if nobody reads; else it yields for a moment and then sleeps at its
//! futex word. There is no thread of our own. With one call at a time this is a plain write and read: no futex, no
//! yield. Who does what is decided in [`super::ledger`]; this file does the I/O, always outside that lock.
//!
//! Locks, in the order in which they may be taken: `outgoing` or `incoming` (held with the role of writer or reader,
//! so never contended for long), then `channel` (TLS, no system call inside) or `ledger`; never these two at once.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hsm_protocol::frame;
use zeroize::Zeroize;

use super::channel::Channel;
use super::ledger::{DONE, Duty, Ledger, POKED, Queued, RUNNING, SLEEPING, SLOTS, Sleepers, Slot, Word};
use super::lost::Lost;
use super::patience::{Answer, NoAnswer, Patience, Verdict};
use super::socket::Socket;
use crate::counters::{LiveCounters, add};
use crate::error::PeerFault;
use crate::fork::Registration;
use crate::limits::HEDGE;
use crate::system::{self, Courtesy, Readiness};

/// Batches that one thread writes in a row before it hands the role to another one that waits. Measured without a
/// limit: 235 batches and 30 ms for one unlucky thread.
const WRITER_ROUNDS: u32 = 2;

/// How long a waiting thread yields before it sleeps: saves the two system calls of sleeping and waking when answers
/// come back within it. Measured: 50 µs is harmful.
const YIELDING: Duration = Duration::from_micros(20);

/// From so many calls in flight on, the writer always yields before it writes: then the batch is worth a yield even when
/// that is dear (measured with foreign programs on all cores, 32 threads: a quarter more calls, a third less CPU time).
/// With fewer, a dear yield costs more than it brings (2 and 4 threads: the 99th percentile is two to five times higher).
const CROWD: usize = 4;

/// How often the reader looks up even when nothing arrives, in case that a writer left bytes behind.
const TICK: Duration = Duration::from_millis(100);

/// How often a writer on a full socket looks whether anybody still reads.
const FULL_SOCKET_TICK: Duration = Duration::from_millis(5);

/// A call that timed out after this long without anything at all from the HSM ends the connection with it.
const SILENCE: Duration = Duration::from_secs(3);

/// Bytes taken by one `recv`: four full TLS records.
const RECEIVE_BYTES: usize = 64 * 1024;

/// A buffer that a large frame has stretched over this is given back.
const KEPT_BYTES: usize = 256 * 1024;

/// A shared connection after its handshake.
pub(crate) struct Multiplexer {
    /// Before the socket: the entry must go before the descriptor is closed.
    _registration: Registration,
    socket: Socket,
    channel: Mutex<Channel>,
    ledger: Mutex<Ledger>,
    words: Box<[Word]>,
    outgoing: Mutex<Outgoing>,
    incoming: Mutex<Incoming>,
    counters: Arc<LiveCounters>,
    courtesy: Courtesy,
    /// A copy of the ledger's word, to be read without its lock.
    alive: AtomicBool,
    /// The HSM was found dead: whoever can leaves. Whoever cannot may still get an answer.
    condemned: AtomicBool,
}

/// Bytes on their way out. Belongs to the writer.
#[derive(Default)]
struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    batch: Vec<Queued>,
    frames: Vec<Vec<u8>>,
}

/// Bytes on their way in. Belongs to the reader.
struct Incoming {
    received: Vec<u8>,
    plaintext: Vec<u8>,
    answers: Vec<(u64, Vec<u8>)>,
}

/// A call under way.
struct Waiting {
    slot: Slot,
    id: u64,
    begin: Instant,
    /// What had arrived when it began.
    arrivals: u64,
}

enum Flush {
    Done,
    TimedOut,
    Lost,
}

impl Multiplexer {
    pub(crate) fn new(
        socket: Socket,
        registration: Registration,
        channel: Channel,
        counters: Arc<LiveCounters>,
    ) -> Self {
        let words = (0..SLOTS).map(|_| Word(RUNNING.into())).collect();
        Self {
            _registration: registration,
            socket,
            channel: Mutex::new(channel),
            ledger: Mutex::new(Ledger::new()),
            words,
            outgoing: Mutex::default(),
            incoming: Mutex::new(Incoming {
                received: vec![0; RECEIVE_BYTES],
                plaintext: Vec::new(),
                answers: Vec::new(),
            }),
            counters,
            courtesy: Courtesy::new(),
            alive: AtomicBool::new(true),
            condemned: AtomicBool::new(false),
        }
    }

    /// Bounds the calls in flight to what the peer takes.
    pub(crate) fn set_limit(&self, limit: usize) {
        self.ledger().set_limit(limit);
    }

    /// Whether new calls may use the connection: it was good when last looked at, and its HSM not found dead.
    pub(crate) fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Relaxed) && !self.is_condemned()
    }

    /// Whether no answer can come any more.
    pub(crate) fn is_lost(&self) -> bool {
        !self.alive.load(Ordering::Relaxed)
    }

    fn is_condemned(&self) -> bool {
        self.condemned.load(Ordering::Relaxed)
    }

    /// Whether the HSM has closed its side, seen from the socket alone: for a connection that nobody reads now.
    pub(crate) fn is_hung_up(&self) -> bool {
        self.socket.is_hung_up()
    }

    /// Has every call leave that can be made elsewhere; the others wait on.
    pub(crate) fn condemn(&self) {
        let mut sleepers = Sleepers::new();
        self.condemned.store(true, Ordering::Relaxed);
        self.ledger().poke_all(&self.words, &mut sleepers);
        self.wake(&sleepers);
    }

    /// Sends a frame, whose request id is filled in here, and gives its answer. `secret` = overwrite the frame once it is
    /// encrypted.
    pub(crate) fn exchange(&self, frame: Vec<u8>, secret: bool, patience: Patience<'_>) -> Result<Answer, NoAnswer> {
        let _poison = PoisonOnPanic(self);
        if patience.watch.is_some() && self.is_condemned() {
            return Err(NoAnswer::Lost { reason: Arc::new(Lost::Silent), sent: false });
        }
        let begin = Instant::now();
        let (waiting, mut duty) = {
            let mut ledger = self.ledger();
            if let Some(reason) = ledger.lost().cloned() {
                return Err(NoAnswer::Lost { reason, sent: false });
            }
            let slot = ledger.enter(frame, secret, &self.words).ok_or(NoAnswer::Full)?;
            let waiting = Waiting { slot, id: ledger.id(slot), begin, arrivals: ledger.arrivals };
            (waiting, ledger.next_duty(slot))
        };
        let slot = waiting.slot;
        let mut until = patience.deadline;
        if patience.watch.is_some() {
            until = until.min(begin + HEDGE);
        }
        loop {
            match duty {
                Duty::Answered(body) => return Ok(Answer { id: waiting.id, body }),
                Duty::Lost { reason, sent } => return Err(NoAnswer::Lost { reason, sent }),
                Duty::Write { crowd } => self.write(slot, crowd, until),
                Duty::Read => self.read(slot, until),
                Duty::Wait => self.wait(slot, until),
            }
            if Instant::now() >= until || (patience.watch.is_some() && self.is_condemned()) {
                until = self.look_up(&waiting, patience)?;
            }
            duty = self.ledger().next_duty(slot);
        }
    }

    /// The answer is overdue: gives the call up, or says when to look again.
    fn look_up(&self, waiting: &Waiting, patience: Patience<'_>) -> Result<Instant, NoAnswer> {
        let (now, slot) = (Instant::now(), waiting.slot);
        if now >= patience.deadline {
            let silent_since = (now.duration_since(waiting.begin) >= SILENCE).then_some(waiting.arrivals);
            return match self.leave(slot, silent_since) {
                Some(_) => Err(NoAnswer::TimedOut),
                None => Ok(patience.deadline),
            };
        }
        let Some(watch) = patience.watch else { return Ok(patience.deadline) };
        let last_arrival = {
            let ledger = self.ledger();
            if ledger.is_settled(slot) {
                return Ok(patience.deadline);
            }
            ledger.last_arrival
        };
        let verdict = if self.is_condemned() {
            Verdict::Leave
        } else {
            watch.judge(last_arrival.max(waiting.begin), patience.deadline)
        };
        match verdict {
            Verdict::WaitUntil(moment) => Ok(moment.min(patience.deadline)),
            Verdict::Leave => match self.leave(slot, None) {
                Some(sent) => Err(NoAnswer::Lost { reason: Arc::new(Lost::Silent), sent }),
                // Answered meanwhile, or with a role to discharge first.
                None => Ok(patience.deadline),
            },
        }
    }

    /// Ends the connection for everybody on it.
    pub(crate) fn fail(&self, reason: Lost) {
        let mut sleepers = Sleepers::new();
        self.ledger().fail(reason, &self.words, &mut sleepers);
        self.alive.store(false, Ordering::Relaxed);
        self.wake(&sleepers);
        self.socket.shut_down();
    }

    /// Leaves without an answer, unless there is one by now or a role to discharge (`None`); says whether the HSM may
    /// have seen the request. `silent_since` = when no more than this has arrived, the connection is given up.
    fn leave(&self, slot: Slot, silent_since: Option<u64>) -> Option<bool> {
        let mut sleepers = Sleepers::new();
        let (sent, useless) = {
            let mut ledger = self.ledger();
            if ledger.is_settled(slot) || ledger.writer == Some(slot) {
                return None;
            }
            let sent = ledger.withdraw(slot, &self.words, &mut sleepers);
            // The HSM hangs, or what stands between us swallows everything.
            let silent = sent && silent_since == Some(ledger.arrivals);
            (sent, silent || ledger.peer_is_silent())
        };
        self.wake(&sleepers);
        if useless {
            self.fail(Lost::Silent);
        }
        Some(sent)
    }

    // ---- waiting ----

    fn wait(&self, slot: Slot, deadline: Instant) {
        let word = &self.words[slot].0;
        let begin = Instant::now();
        while word.load(Ordering::Acquire) == RUNNING {
            if begin.elapsed() < YIELDING && self.courtesy.give_way() {
                continue;
            }
            if word.compare_exchange(RUNNING, SLEEPING, Ordering::AcqRel, Ordering::Acquire).is_err() {
                break;
            }
            add(&self.counters.sleeps, 1);
            while word.load(Ordering::Acquire) == SLEEPING {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                system::futex_wait(word, SLEEPING, left);
            }
            break;
        }
        // Back to running, unless the answer is here: done stays done.
        for state in [SLEEPING, POKED] {
            if word.compare_exchange(state, RUNNING, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                break;
            }
        }
        debug_assert!(matches!(word.load(Ordering::Relaxed), RUNNING | POKED | DONE));
    }

    fn wake(&self, sleepers: &[Slot]) {
        for &slot in sleepers {
            system::futex_wake(&self.words[slot].0);
        }
    }

    // ---- writing ----

    /// Writes what is queued, its own frame among it. Holds the writer's role on entry and not on return.
    fn write(&self, slot: Slot, crowd: usize, deadline: Instant) {
        let mut outgoing = self.outgoing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sleepers = Sleepers::new();
        for round in 0.. {
            // Others who were woken by the same batch of answers add their frames meanwhile.
            if round == 0 && crowd >= CROWD {
                std::thread::yield_now();
            } else if round == 0 && crowd > 1 {
                self.courtesy.give_way();
            }
            {
                let mut ledger = self.ledger();
                if ledger.lost().is_some() {
                    return;
                }
                if ledger.queue.is_empty() && !ledger.unsent && outgoing.is_sent() {
                    ledger.writer = None;
                    return;
                }
                if round >= WRITER_ROUNDS && ledger.hand_over_writing(&self.words, &mut sleepers) {
                    drop(ledger);
                    drop(outgoing);
                    return self.wake(&sleepers);
                }
                ledger.take_queue(&mut outgoing.batch);
            }
            if let Err(error) = self.seal(&mut outgoing) {
                return self.fail(Lost::from(error));
            }
            match self.flush(&mut outgoing, slot, deadline) {
                Flush::Done => {}
                Flush::Lost => return,
                Flush::TimedOut => {
                    // Between records: what is sealed belongs to the connection and stays in `outgoing`.
                    self.ledger().leave_writing(&self.words, &mut sleepers);
                    drop(outgoing);
                    return self.wake(&sleepers);
                }
            }
        }
    }

    fn seal(&self, outgoing: &mut Outgoing) -> std::io::Result<()> {
        let secret = outgoing.batch.iter().any(|queued| queued.secret);
        outgoing.frames.extend(outgoing.batch.drain(..).map(|queued| queued.frame));
        add(&self.counters.frames_written, outgoing.frames.len() as u64);
        let mut channel = self.channel();
        channel.seal(&outgoing.frames, &mut outgoing.bytes)?;
        drop(channel);
        if secret {
            outgoing.frames.iter_mut().for_each(Zeroize::zeroize);
        }
        outgoing.frames.clear();
        Ok(())
    }

    fn flush(&self, outgoing: &mut Outgoing, slot: Slot, deadline: Instant) -> Flush {
        while !outgoing.is_sent() {
            match self.socket.send(&outgoing.bytes[outgoing.sent..]) {
                Ok(count) => {
                    add(&self.counters.writes, 1);
                    outgoing.sent += count;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Flush::TimedOut;
                    }
                    self.make_room(slot, left);
                }
                Err(error) => {
                    // The HSM may have said why before it closed.
                    self.read_once_if_nobody_reads(slot, Duration::ZERO, false);
                    self.fail(Lost::from(error));
                    return Flush::Lost;
                }
            }
            if self.ledger().lost().is_some() {
                return Flush::Lost;
            }
        }
        outgoing.bytes.clear();
        outgoing.bytes.shrink_to(KEPT_BYTES);
        outgoing.sent = 0;
        Flush::Done
    }

    /// The socket takes nothing. The HSM may be stuck in the same way, writing to us: so somebody must read, and when
    /// nobody does, that is the writer.
    fn make_room(&self, slot: Slot, left: Duration) {
        if !self.read_once_if_nobody_reads(slot, left.min(TICK), true) {
            self.socket.wait_for(Readiness { read: false, write: true }, left.min(FULL_SOCKET_TICK));
        }
    }

    /// `false` = another thread reads.
    fn read_once_if_nobody_reads(&self, slot: Slot, patience: Duration, or_writable: bool) -> bool {
        {
            let mut ledger = self.ledger();
            if ledger.reader.is_some() || ledger.lost().is_some() {
                return false;
            }
            ledger.reader = Some(slot);
        }
        let ready = self.socket.wait_for(Readiness { read: true, write: or_writable }, patience);
        let mut sleepers = Sleepers::new();
        if ready.read {
            let mut incoming = self.incoming.lock().unwrap_or_else(PoisonError::into_inner);
            match self.socket.receive(&mut incoming.received) {
                Ok(count) => {
                    self.take_in(&mut incoming, count, slot, &mut sleepers);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => self.fail(Lost::from(error)),
            }
        }
        self.stop_reading(slot, &mut sleepers);
        true
    }

    // ---- reading ----

    /// Reads for all until its own answer is here, the time is over, or a tick has passed. Holds the reader's role on
    /// entry and not on return.
    fn read(&self, slot: Slot, deadline: Instant) {
        let mut incoming = self.incoming.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sleepers = Sleepers::new();
        let mut idle_since = Instant::now();
        loop {
            match self.socket.receive(&mut incoming.received) {
                Ok(count) => {
                    if self.take_in(&mut incoming, count, slot, &mut sleepers) {
                        break;
                    }
                    self.wake(&sleepers);
                    sleepers.clear();
                    idle_since = Instant::now();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let now = Instant::now();
                    if now.duration_since(idle_since) < YIELDING && self.courtesy.give_way() {
                        continue;
                    }
                    let left = deadline.saturating_duration_since(now).min(TICK);
                    let wanted = Readiness { read: true, write: false };
                    if left.is_zero() || !self.socket.wait_for(wanted, left).read {
                        break;
                    }
                }
                Err(error) => {
                    self.fail(Lost::from(error));
                    break;
                }
            }
        }
        drop(incoming);
        self.stop_reading(slot, &mut sleepers);
    }

    /// Gives the reader's role up if it is still held, and wakes whom to wake: after `incoming` was released, so that
    /// the next reader does not run into it.
    fn stop_reading(&self, slot: Slot, sleepers: &mut Sleepers) {
        {
            let mut ledger = self.ledger();
            if ledger.reader == Some(slot) {
                ledger.leave_reading(&self.words, sleepers);
            }
        }
        self.wake(sleepers);
    }

    /// Takes `count` received bytes in (0 = the peer has closed) and hands out the answers in them. `true` = the call
    /// of the reader `slot` itself is settled.
    fn take_in(&self, incoming: &mut Incoming, count: usize, slot: Slot, sleepers: &mut Sleepers) -> bool {
        let Incoming { received, plaintext, answers } = incoming;
        let (outcome, wants_to_send) = {
            let mut channel = self.channel();
            (channel.open(&received[..count], plaintext), channel.has_own_records())
        };
        add(&self.counters.reads, 1);
        let cut = cut_frames(plaintext, answers);
        add(&self.counters.frames_read, answers.len() as u64);
        let (mut known, now) = (true, Instant::now());
        let settled = {
            let mut ledger = self.ledger();
            ledger.arrivals += 1;
            ledger.last_arrival = now;
            ledger.unsent |= wants_to_send;
            for (id, body) in answers.drain(..) {
                known &= ledger.answer(id, body, &self.words, sleepers);
            }
            ledger.is_settled(slot)
        };
        let end = match (cut, outcome) {
            (Err(fault), _) => Lost::Peer(fault),
            (_, Err(error)) => Lost::from(error),
            _ if !known => Lost::Peer(PeerFault::RequestId),
            (_, Ok(closed)) if closed || count == 0 => Lost::Closed,
            _ => return settled,
        };
        self.fail(end);
        true
    }

    // ---- locks ----

    fn channel(&self) -> MutexGuard<'_, Channel> {
        self.channel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The books. After a panic the connection is lost for all ([`PoisonOnPanic`]), so a poisoned lock says nothing new.
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outgoing {
    fn is_sent(&self) -> bool {
        self.sent == self.bytes.len()
    }
}

/// Moves whole frames from the front of `plaintext` to `answers`.
fn cut_frames(plaintext: &mut Vec<u8>, answers: &mut Vec<(u64, Vec<u8>)>) -> Result<(), PeerFault> {
    let mut begin = 0;
    while let Some(found) = frame::parse(&plaintext[begin..])? {
        answers.push((found.header.request_id, found.body.to_vec()));
        begin += found.consumed;
    }
    plaintext.drain(..begin);
    if plaintext.is_empty() {
        plaintext.shrink_to(KEPT_BYTES);
    }
    Ok(())
}

/// A panic with a role held would leave it taken for ever: the connection is lost instead.
struct PoisonOnPanic<'a>(&'a Multiplexer);

impl Drop for PoisonOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(Lost::Panicked);
        }
    }
}

impl Drop for Multiplexer {
    /// Never runs in a forked child: whoever owns a connection leaks it there (see [`crate::fork`]).
    fn drop(&mut self) {
        let mut farewell = Vec::new();
        let channel = self.channel.get_mut().unwrap_or_else(PoisonError::into_inner);
        let outgoing = self.outgoing.get_mut().unwrap_or_else(PoisonError::into_inner);
        if outgoing.is_sent() && channel.farewell(&mut farewell).is_ok() && !farewell.is_empty() {
            // A courtesy: when the socket does not take it now, its end says the same.
            drop(self.socket.send(&farewell));
        }
    }
}
