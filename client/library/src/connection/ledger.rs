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
use std::time::Instant;

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
    /// When something was received last; at first, when the connection began.
    pub(crate) last_arrival: Instant,
}

/// What a thread with a call in flight must do next.
pub(crate) enum Duty {
    /// Write the queue, then look again. `crowd` = calls in flight, this one included.
    Write { crowd: usize },
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
            last_arrival: Instant::now(),
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

    /// The request id of a call.
    pub(crate) fn id(&self, slot: Slot) -> u64 {
        self.entries[slot].id
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
                return Duty::Write { crowd: self.waiting.len() };
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
            return Duty::Write { crowd: self.waiting.len() };
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

    /// Has everybody who waits look up.
    pub(crate) fn poke_all(&self, words: &[Word], sleepers: &mut Sleepers) {
        for &slot in &self.waiting {
            tell(words, slot, POKED, sleepers);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn words() -> Vec<Word> {
        (0..SLOTS).map(|_| Word(AtomicU32::new(RUNNING))).collect()
    }

    fn enter(ledger: &mut Ledger, words: &[Word]) -> (Slot, u64) {
        let slot = ledger.enter(vec![0; 16], false, words).unwrap();
        (slot, ledger.entries[slot].id)
    }

    fn state(words: &[Word], slot: Slot) -> u32 {
        words[slot].0.load(Ordering::Relaxed)
    }

    fn sleep(words: &[Word], slot: Slot) {
        words[slot].0.store(SLEEPING, Ordering::Relaxed);
    }

    /// Brings a call to where it waits for another one's reading.
    fn sent(ledger: &mut Ledger) {
        ledger.take_queue(&mut Vec::new());
        ledger.writer = None;
    }

    #[test]
    fn a_request_id_is_never_used_twice_and_only_the_whole_id_fits() {
        let (mut ledger, words) = (Ledger::new(), words());
        let mut seen = HashSet::new();
        let mut sleepers = Sleepers::new();
        for _ in 0..100 {
            let (slot, id) = enter(&mut ledger, &words);
            assert!(seen.insert(id));
            sent(&mut ledger);
            // The same slot under an older number: late, or a lie.
            assert!(!ledger.answer(id - (1 << SLOT_BITS), vec![], &words, &mut sleepers));
            assert!(ledger.answer(id, vec![7], &words, &mut sleepers));
            assert!(!ledger.answer(id, vec![8], &words, &mut sleepers), "answered twice");
            assert!(matches!(ledger.next_duty(slot), Duty::Answered(body) if body == [7]));
        }
    }

    #[test]
    fn a_late_answer_is_dropped_once_and_a_second_one_is_a_lie() {
        let (mut ledger, words, mut sleepers) = (Ledger::new(), words(), Sleepers::new());
        let (slot, id) = enter(&mut ledger, &words);
        sent(&mut ledger);
        assert!(ledger.withdraw(slot, &words, &mut sleepers));
        let (other, _) = enter(&mut ledger, &words);
        assert_eq!(other, slot, "the slot is free again");
        assert!(ledger.answer(id, vec![1], &words, &mut sleepers));
        assert!(!ledger.answer(id, vec![1], &words, &mut sleepers));
        assert!(!ledger.is_settled(other));
    }

    #[test]
    fn a_frame_that_nobody_took_is_never_sent_once_its_call_has_left() {
        let (mut ledger, words, mut sleepers) = (Ledger::new(), words(), Sleepers::new());
        let (slot, _) = enter(&mut ledger, &words);
        assert!(!ledger.withdraw(slot, &words, &mut sleepers));
        assert!(ledger.queue.is_empty());
        assert!(!ledger.peer_is_silent());
    }

    #[test]
    fn whoever_leaves_reading_tells_somebody_even_if_nobody_sleeps_yet() {
        let (mut ledger, words, mut sleepers) = (Ledger::new(), words(), Sleepers::new());
        let (first, first_id) = enter(&mut ledger, &words);
        let (second, _) = enter(&mut ledger, &words);
        sent(&mut ledger);
        assert!(matches!(ledger.next_duty(first), Duty::Read));
        assert!(matches!(ledger.next_duty(second), Duty::Wait));
        ledger.answer(first_id, vec![], &words, &mut sleepers);
        ledger.leave_reading(&words, &mut sleepers);
        assert!(sleepers.is_empty());
        assert_eq!(state(&words, second), POKED, "its way to sleep is barred");
        assert!(matches!(ledger.next_duty(second), Duty::Read));
    }

    #[test]
    fn a_poke_does_not_end_with_the_call_that_had_it() {
        let (mut ledger, words, mut sleepers) = (Ledger::new(), words(), Sleepers::new());
        let (leader, leader_id) = enter(&mut ledger, &words);
        let (second, _) = enter(&mut ledger, &words);
        let (third, _) = enter(&mut ledger, &words);
        sent(&mut ledger);
        assert!(matches!(ledger.next_duty(leader), Duty::Read));
        sleep(&words, second);
        sleep(&words, third);
        ledger.answer(leader_id, vec![], &words, &mut sleepers);
        ledger.leave_reading(&words, &mut sleepers);
        let [heir] = sleepers[..] else { panic!("one is woken: {sleepers:?}") };
        let other = if heir == second { third } else { second };
        sleepers.clear();
        ledger.withdraw(heir, &words, &mut sleepers);
        assert_eq!(sleepers, [other]);
        assert!(matches!(ledger.next_duty(other), Duty::Read));
    }

    #[test]
    fn an_answered_writer_discharges_its_role_before_it_leaves() {
        let (mut ledger, words, mut sleepers) = (Ledger::new(), words(), Sleepers::new());
        let (slot, id) = enter(&mut ledger, &words);
        assert!(matches!(ledger.next_duty(slot), Duty::Write { crowd: 1 }));
        ledger.take_queue(&mut Vec::new());
        ledger.answer(id, vec![3], &words, &mut sleepers);
        assert!(matches!(ledger.next_duty(slot), Duty::Write { .. }));
        ledger.writer = None;
        assert!(matches!(ledger.next_duty(slot), Duty::Answered(body) if body == [3]));
    }

    #[test]
    fn the_writer_hands_over_to_a_queued_call_that_does_not_read() {
        let (mut ledger, words, mut sleepers) = (Ledger::new(), words(), Sleepers::new());
        let (writer, _) = enter(&mut ledger, &words);
        let (reader, _) = enter(&mut ledger, &words);
        ledger.writer = Some(writer);
        ledger.reader = Some(reader);
        assert!(!ledger.hand_over_writing(&words, &mut sleepers), "a reader is stuck in its own wait");
        let (third, _) = enter(&mut ledger, &words);
        sleep(&words, third);
        assert!(ledger.hand_over_writing(&words, &mut sleepers));
        assert_eq!((ledger.writer, &sleepers[..]), (Some(third), &[third][..]));
        assert!(matches!(ledger.next_duty(third), Duty::Write { .. }));
    }

    #[test]
    fn what_a_writer_left_unsent_is_taken_up_by_the_next_one() {
        let (mut ledger, words, mut sleepers) = (Ledger::new(), words(), Sleepers::new());
        let (writer, _) = enter(&mut ledger, &words);
        let (second, _) = enter(&mut ledger, &words);
        ledger.writer = Some(writer);
        ledger.take_queue(&mut Vec::new());
        ledger.leave_writing(&words, &mut sleepers);
        assert_eq!(state(&words, second), POKED);
        assert!(matches!(ledger.next_duty(second), Duty::Write { .. }));
    }

    #[test]
    fn a_lost_connection_is_told_to_all_with_the_first_reason() {
        let (mut ledger, words, mut sleepers) = (Ledger::new(), words(), Sleepers::new());
        let (first, _) = enter(&mut ledger, &words);
        ledger.take_queue(&mut Vec::new());
        let (second, _) = enter(&mut ledger, &words);
        sleep(&words, first);
        sleep(&words, second);
        ledger.fail(Lost::Closed, &words, &mut sleepers);
        ledger.fail(Lost::Silent, &words, &mut sleepers);
        assert_eq!(sleepers.len(), 2);
        for (slot, was_sent) in [(first, true), (second, false)] {
            match ledger.next_duty(slot) {
                Duty::Lost { reason, sent } => assert!(matches!(*reason, Lost::Closed) && sent == was_sent),
                _ => panic!("the connection is lost"),
            }
        }
    }

    #[test]
    fn there_is_a_bound_of_calls_in_flight_and_of_silence() {
        let (mut ledger, words, mut sleepers) = (Ledger::new(), words(), Sleepers::new());
        let slots: Vec<Slot> = (0..SLOTS).map(|_| enter(&mut ledger, &words).0).collect();
        assert!(ledger.enter(vec![0; 16], false, &words).is_none());
        sent(&mut ledger);
        for &slot in &slots[..FORSAKEN] {
            assert!(!ledger.peer_is_silent());
            ledger.withdraw(slot, &words, &mut sleepers);
        }
        assert!(ledger.peer_is_silent());
        assert!(ledger.enter(vec![0; 16], false, &words).is_none(), "the HSM counts them still");
        ledger.set_limit(1);
        assert_eq!(ledger.limit, 1);
    }
}
