//! What other members forward to this one while it leads: parts of log entries, each taken once.
//!
//! A member sends one part at a time, numbered from 1 for each of its starts, and sends it again when no answer comes. So
//! a number that is not above all earlier ones of that start was seen before, or is a message that arrived too late. A
//! part is for one term of this node's leading only; a number that was refused once is refused for ever, so that
//! whoever was told so may send the same commands under the next one.

use std::collections::{BTreeMap, VecDeque};

use hsm_protocol::ErrorCode;
use openraft::AsyncRuntime;
use tokio::sync::oneshot;

use crate::limits;
use crate::proposals::Room;
use crate::runtime::Rt;
use crate::types::{NodeId, Part};

type Instant = <Rt as AsyncRuntime>::Instant;

/// What a forwarder learns: in the log and on the leader's disk, or surely in no log.
pub(crate) type Taken = Result<(), ErrorCode>;

/// Tells a forwarder.
pub(crate) struct Ticket(oneshot::Sender<Taken>);

impl Ticket {
    pub(crate) fn tell(self, taken: Taken) {
        // A forwarder that does not wait any more asks again, or is gone.
        self.0.send(taken).ok();
    }
}

/// Parts that wait to become entries.
pub(crate) struct Inbox {
    /// Term of the vote that this node started with: what it did in that one or before, it does not know.
    born: u64,
    term: u64,
    /// What was seen in that term, by node and start.
    seen: BTreeMap<(NodeId, u64), Seen>,
    waiting: VecDeque<Waiting>,
    bytes: usize,
    /// Whose turn it is to go first into an entry: this node's own commands and forwarded ones take turns.
    forwarded_first: bool,
}

struct Seen {
    number: u64,
    /// Why it was not taken; `None` when it was.
    refused: Option<ErrorCode>,
}

struct Waiting {
    part: Part,
    expires: Instant,
    ticket: Ticket,
}

/// What becomes of a part that arrives.
pub(crate) enum Received {
    /// It waits; the receiver learns more.
    Waits(oneshot::Receiver<Taken>),
    /// It was taken before.
    Before,
    /// It is not taken, and never will be.
    Refused(ErrorCode),
    /// This node does not know whether it took it.
    Unsure,
}

impl Inbox {
    pub(crate) fn new(born: u64) -> Self {
        let (seen, waiting) = (BTreeMap::new(), VecDeque::new());
        Self { born, term: born, seen, waiting, bytes: 0, forwarded_first: false }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// A part that is meant for `term`; `leads` says whether this node leads in it.
    pub(crate) fn receive(&mut self, term: u64, part: Part, leads: bool) -> Received {
        if term > self.term {
            self.refuse_all(ErrorCode::NotReady);
            (self.term, self.seen) = (term, BTreeMap::new());
        }
        if term < self.term || term <= self.born {
            return Received::Unsure;
        }
        let start = (part.proposer, part.boot);
        match self.seen.get(&start) {
            Some(seen) if seen.number == part.number => {
                return seen.refused.map_or(Received::Before, Received::Refused);
            }
            Some(seen) if seen.number > part.number => return Received::Unsure,
            Some(_) => {}
            None if self.seen.len() >= limits::FORWARDING_STARTS => return Received::Unsure,
            None => {}
        }
        let bytes = part.bytes();
        let full = self.waiting.len() >= limits::FORWARDED_PARTS || self.bytes + bytes > limits::QUEUE_BYTES;
        let refused = match (leads, full) {
            (false, _) => Some(ErrorCode::NotReady),
            (true, true) => Some(ErrorCode::Busy),
            (true, false) => None,
        };
        self.seen.insert(start, Seen { number: part.number, refused });
        if let Some(code) = refused {
            return Received::Refused(code);
        }
        let (sender, receiver) = oneshot::channel();
        self.bytes += bytes;
        let expires = <Instant as openraft::Instant>::now() + limits::FORWARDED_WAIT;
        self.waiting.push_back(Waiting { part, expires, ticket: Ticket(sender) });
        Received::Waits(receiver)
    }

    /// What goes into an entry before this node's own commands.
    pub(crate) fn take_turn(&mut self, room: &mut Room) -> Vec<(Part, Ticket)> {
        if self.waiting.is_empty() {
            return Vec::new();
        }
        self.forwarded_first = !self.forwarded_first;
        if self.forwarded_first { self.take(room) } else { Vec::new() }
    }

    /// As much as fits.
    pub(crate) fn take(&mut self, room: &mut Room) -> Vec<(Part, Ticket)> {
        let mut taken = Vec::new();
        while let Some(next) = self.waiting.front() {
            let bytes = next.part.bytes();
            if !room.take(bytes, next.part.commands.len()) {
                break;
            }
            self.bytes -= bytes;
            taken.extend(self.waiting.pop_front().map(|waiting| (waiting.part, waiting.ticket)));
        }
        taken
    }

    /// Refuses what waited too long; says when the next one has.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<Instant> {
        while self.waiting.front().is_some_and(|waiting| waiting.expires <= now) {
            self.refuse_first(ErrorCode::NotReady);
        }
        self.waiting.front().map(|waiting| waiting.expires)
    }

    /// Nothing that waits goes into the log.
    pub(crate) fn refuse_all(&mut self, code: ErrorCode) {
        while !self.waiting.is_empty() {
            self.refuse_first(code);
        }
    }

    fn refuse_first(&mut self, code: ErrorCode) {
        if let Some(Waiting { part, ticket, .. }) = self.waiting.pop_front() {
            self.bytes -= part.bytes();
            if let Some(seen) = self.seen.get_mut(&(part.proposer, part.boot))
                && seen.number == part.number
            {
                seen.refused = Some(code);
            }
            ticket.tell(Err(code));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::types::EncodedCommand;

    fn part(number: u64, bytes: usize) -> Part {
        Part { proposer: 2, boot: 9, number, commands: Arc::new([EncodedCommand(vec![0; bytes])]) }
    }

    fn room() -> Room {
        Room { bytes: 1000, commands: 10 }
    }

    #[test]
    fn a_part_that_comes_twice_is_taken_once() {
        let mut inbox = Inbox::new(4);
        assert!(matches!(inbox.receive(5, part(1, 10), true), Received::Waits(_)));
        assert!(matches!(inbox.receive(5, part(1, 10), true), Received::Before));
        assert_eq!(inbox.take(&mut room()).len(), 1);
        assert!(matches!(inbox.receive(5, part(1, 10), false), Received::Before), "also after it was proposed");
        assert!(matches!(inbox.receive(5, part(2, 10), true), Received::Waits(_)));
    }

    #[test]
    fn a_refused_part_stays_refused_and_the_next_number_is_taken() {
        let mut inbox = Inbox::new(4);
        let Received::Waits(mut told) = inbox.receive(5, part(1, 10), true) else { panic!("it waits") };
        inbox.refuse_all(ErrorCode::StorageFull);
        assert!(matches!(told.try_recv(), Ok(Err(ErrorCode::StorageFull))));
        assert!(matches!(inbox.receive(5, part(1, 10), true), Received::Refused(ErrorCode::StorageFull)));
        assert!(matches!(inbox.receive(5, part(2, 10), false), Received::Refused(ErrorCode::NotReady)));
        assert!(matches!(inbox.receive(5, part(2, 10), true), Received::Refused(ErrorCode::NotReady)));
        let Received::Waits(mut told) = inbox.receive(5, part(3, 10), true) else { panic!("it waits") };
        assert!(matches!(inbox.receive(6, part(1, 10), true), Received::Waits(_)));
        assert!(matches!(told.try_recv(), Ok(Err(ErrorCode::NotReady))), "a new term refuses what waits");
        assert_eq!(inbox.take(&mut room()).len(), 1);
    }

    #[test]
    fn a_node_that_started_since_then_does_not_say_that_it_took_nothing() {
        let mut inbox = Inbox::new(5);
        assert!(matches!(inbox.receive(5, part(1, 10), false), Received::Unsure));
        assert!(matches!(inbox.receive(6, part(1, 10), true), Received::Waits(_)));
        assert!(matches!(inbox.receive(5, part(1, 10), false), Received::Unsure), "an earlier term");
    }

    #[test]
    fn parts_are_taken_as_they_fit_and_the_inbox_has_bounds() {
        let mut inbox = Inbox::new(0);
        for number in 1..=3 {
            assert!(matches!(inbox.receive(1, part(number, 400), true), Received::Waits(_)));
        }
        assert_eq!(inbox.take(&mut room()).len(), 2);
        for number in 4..3 + limits::FORWARDED_PARTS as u64 {
            assert!(matches!(inbox.receive(1, part(number, 1), true), Received::Waits(_)));
        }
        assert!(matches!(inbox.receive(1, part(1_000_000, 1), true), Received::Refused(ErrorCode::Busy)));
    }
}
