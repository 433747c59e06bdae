//! Who waits for which answer, who reads, who writes: the books of one shared connection, under one short lock.
//!
//! Every call in flight has a *slot*: an entry here, and a futex word outside the lock that its thread sleeps at. The
//! truth is always here; a word only says that it is worth looking:
//!
//! | word | meaning | set by |
//! |---|---|---|
//! | running | nothing new; the thread is awake | its thread |
//! | sleeping | the thread sleeps or is about to | its thread, from running only |
//! | poked | look: a role is free or yours | another thread, under the lock |
//! | done | look: your answer is here or the connection is lost | another thread, under the lock |
//!
//! A thread goes to sleep by compare-and-swap from running, so a poke or an answer that came first makes it fail: no
//! wake-up is lost. Words change under the lock; sleepers are woken after it. Does no I/O.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::lost::Lost;

/// Calls that may be in flight on one connection.
pub(crate) const SLOTS: usize = hsm_protocol::limits::REQUESTS_IN_FLIGHT as usize;

/// Requests that nobody waits for any more and that were never answered. A peer that leaves so many is of no use.
const FORSAKEN: usize = 256;

/// Bits of a request id that hold its slot; the others count up, so that no id is used twice.
const SLOT_BITS: u32 = 16;

const _: () = assert!(SLOTS <= 1 << SLOT_BITS);

/// A call in flight.
pub(crate) type Slot = usize;

/// What a thread sleeps at: alone on its cache line.
#[repr(align(64))]
pub(crate) struct Word(pub(crate) AtomicU32);

pub(crate) const RUNNING: u32 = 0;
pub(crate) const SLEEPING: u32 = 1;
pub(crate) const POKED: u32 = 2;
pub(crate) const DONE: u32 = 3;

/// A frame that has not been taken by a writer yet.
pub(crate) struct Queued {
    pub(crate) slot: Slot,
    pub(crate) frame: Vec<u8>,
    /// Overwrite the frame after it was encrypted.
    pub(crate) secret: bool,
}

#[derive(Default)]
struct Entry {
    id: u64,
    waits: bool,
    /// Whether a writer took the frame, so that the HSM may have seen it.
    sent: bool,
    /// Where it stands in `waiting`.
    position: usize,
    reply: Option<Vec<u8>>,
}

/// Threads to wake once the lock is released.
pub(crate) type Sleepers = Vec<Slot>;

/// The books.
pub(crate) struct Ledger {
    lost: Option<Arc<Lost>>,
    pub(crate) writer: Option<Slot>,
    pub(crate) reader: Option<Slot>,
    /// A writer left before everything was sent.
    pub(crate) unsent: bool,
    pub(crate) queue: Vec<Queued>,
    waiting: Vec<Slot>,
    free: Vec<Slot>,
    entries: Box<[Entry]>,
    forsaken: HashSet<u64>,
    limit: usize,
    next: u64,
    /// Times that something was received.
    pub(crate) arrivals: u64,
}

/// What a thread with a call in flight must do next.
pub(crate) enum Duty {
    /// Write the queue, then look again. `crowd` = other calls are in flight as well.
    Write { crowd: bool },
    /// Read for all, then look again.
    Read,
    /// Another thread reads: wait to be told.
    Wait,
    /// The answer.
    Answered(Vec<u8>),
    /// There will be none.
    Lost { reason: Arc<Lost>, sent: bool },
}

impl Ledger {
    pub(crate) fn new() -> Self {
        Self {
            lost: None,
            writer: None,
            reader: None,
            unsent: false,
            queue: Vec::new(),
            waiting: Vec::new(),
            free: Vec::new(),
            entries: Box::default(),
            forsaken: HashSet::new(),
            limit: SLOTS,
            next: 1,
            arrivals: 0,
        }
    }

    /// Bounds the calls in flight to what the peer takes.
    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.limit = limit.clamp(1, SLOTS);
    }

    pub(crate) fn lost(&self) -> Option<&Arc<Lost>> {
        self.lost.as_ref()
    }

    /// Enters a call and queues its frame, whose request id is filled in. `None` = no slot is free.
    pub(crate) fn enter(&mut self, mut frame: Vec<u8>, secret: bool, words: &[Word]) -> Option<Slot> {
        if self.waiting.len() + self.forsaken.len() >= self.limit {
            return None;
        }
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => self.grow()?,
        };
        let id = (self.next << SLOT_BITS) | slot as u64;
        self.next += 1;
        frame.get_mut(8..16)?.copy_from_slice(&id.to_be_bytes());
        self.entries[slot] = Entry { id, waits: true, sent: false, position: self.waiting.len(), reply: None };
        self.waiting.push(slot);
        words[slot].0.store(RUNNING, Ordering::Relaxed);
        self.queue.push(Queued { slot, frame, secret });
        Some(slot)
    }

    fn grow(&mut self) -> Option<Slot> {
        let before = self.entries.len();
        let after = (before * 2).clamp(16, SLOTS);
        if before == after {
            return None;
        }
        let mut entries = std::mem::take(&mut self.entries).into_vec();
        entries.resize_with(after, Entry::default);
        self.entries = entries.into_boxed_slice();
        self.free.extend((before + 1..after).rev());
        Some(before)
    }

    /// What this thread does next; takes a free role for it, and its slot back when it is done.
    pub(crate) fn next_duty(&mut self, slot: Slot) -> Duty {
        if let Some(reply) = self.entries[slot].reply.take() {
            if self.writer == Some(slot) && self.lost.is_none() {
                self.entries[slot].reply = Some(reply);
                return Duty::Write { crowd: true };
            }
            self.release(slot);
            return Duty::Answered(reply);
        }
        if let Some(reason) = self.lost.clone() {
            let sent = self.entries[slot].sent;
            self.release(slot);
            return Duty::Lost { reason, sent };
        }
        let may_write = self.writer.is_none() && (self.unsent || !self.queue.is_empty());
        if may_write || self.writer == Some(slot) {
            self.writer = Some(slot);
            return Duty::Write { crowd: self.waiting.len() > 1 };
        }
        if self.reader.is_none() {
            self.reader = Some(slot);
            return Duty::Read;
        }
        Duty::Wait
    }

    /// Takes the queue for writing.
    pub(crate) fn take_queue(&mut self, batch: &mut Vec<Queued>) {
        std::mem::swap(&mut self.queue, batch);
        for queued in batch.iter() {
            self.entries[queued.slot].sent = true;
        }
        self.unsent = false;
    }

    /// Hands an answer to the call that it belongs to; `false` = nobody ever asked for it.
    pub(crate) fn answer(&mut self, id: u64, body: Vec<u8>, words: &[Word], sleepers: &mut Sleepers) -> bool {
        let slot = usize::try_from(id & ((1 << SLOT_BITS) - 1)).unwrap_or(usize::MAX);
        match self.entries.get(slot) {
            Some(entry) if entry.id == id && entry.waits => {
                self.strike(slot);
                self.entries[slot].reply = Some(body);
                tell(words, slot, DONE, sleepers);
                true
            }
            // Late: whoever asked has left.
            _ => self.forsaken.remove(&id),
        }
    }

    /// Whether this call has been answered, or never will be.
    pub(crate) fn is_settled(&self, slot: Slot) -> bool {
        !self.entries[slot].waits || self.lost.is_some()
    }

    /// Gives the reader's role up and tells somebody who waits. Barging is allowed: whoever comes first takes it.
    pub(crate) fn leave_reading(&mut self, words: &[Word], sleepers: &mut Sleepers) {
        self.reader = None;
        // Not the writer: it may be stuck on a full socket. It looks by itself in that case.
        let heir = self.waiting.iter().copied().find(|&slot| Some(slot) != self.writer);
        if let Some(heir) = heir.or(self.writer) {
            tell(words, heir, POKED, sleepers);
        }
    }

    /// Hands the writer's role to the thread of a queued frame; `false` = there is none who could take it.
    pub(crate) fn hand_over_writing(&mut self, words: &[Word], sleepers: &mut Sleepers) -> bool {
        let can = |slot: &Slot| Some(*slot) != self.writer && Some(*slot) != self.reader;
        let Some(heir) = self.queue.iter().map(|queued| queued.slot).find(can) else {
            return false;
        };
        self.writer = Some(heir);
        tell(words, heir, POKED, sleepers);
        true
    }

    /// Gives the writer's role up with bytes still unsent; somebody who waits is told, and otherwise the next call or
    /// the reader's next tick goes on.
    pub(crate) fn leave_writing(&mut self, words: &[Word], sleepers: &mut Sleepers) {
        let leaving = self.writer.take();
        self.unsent = true;
        let heir = self.waiting.iter().copied().find(|&slot| Some(slot) != leaving && Some(slot) != self.reader);
        if let Some(heir) = heir {
            tell(words, heir, POKED, sleepers);
        }
    }

    /// Takes a call back whose time is over. `true` = a writer took its frame, so the HSM may have
    /// seen it.
    pub(crate) fn withdraw(&mut self, slot: Slot, words: &[Word], sleepers: &mut Sleepers) -> bool {
        let sent = self.entries[slot].sent;
        if sent {
            self.forsaken.insert(self.entries[slot].id);
        } else {
            self.queue.retain(|queued| queued.slot != slot);
        }
        self.release(slot);
        // The poke that this thread may have had must not end with it.
        if self.reader.is_none() {
            self.leave_reading(words, sleepers);
        }
        sent
    }

    /// Whether the peer has left too much without an answer.
    pub(crate) fn peer_is_silent(&self) -> bool {
        self.forsaken.len() >= FORSAKEN
    }

    /// Ends the connection for everybody. The first reason stays.
    pub(crate) fn fail(&mut self, reason: Lost, words: &[Word], sleepers: &mut Sleepers) {
        if self.lost.is_some() {
            return;
        }
        self.lost = Some(Arc::new(reason));
        self.queue.clear();
        self.reader = None;
        self.writer = None;
        for &slot in &self.waiting {
            tell(words, slot, DONE, sleepers);
        }
    }

    fn strike(&mut self, slot: Slot) {
        let entry = &mut self.entries[slot];
        if !entry.waits {
            return;
        }
        entry.waits = false;
        let position = entry.position;
        self.waiting.swap_remove(position);
        if let Some(&moved) = self.waiting.get(position) {
            self.entries[moved].position = position;
        }
    }

    fn release(&mut self, slot: Slot) {
        self.strike(slot);
        self.entries[slot].reply = None;
        self.free.push(slot);
    }
}

fn tell(words: &[Word], slot: Slot, news: u32, sleepers: &mut Sleepers) {
    if words[slot].0.swap(news, Ordering::AcqRel) == SLEEPING {
        sleepers.push(slot);
    }
}
