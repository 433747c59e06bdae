//! From many callers to one log entry, and from its outcome back to each of them.
//!
//! openraft 0.9 waits for the flush of an entry before it takes the next, so the rate of entries is the disk's rate of
//! fsyncs. Commands that come while one entry is being flushed therefore wait for each other and make the next one.
//!
//! A caller learns `Done` only from this node's own state machine: whoever is told has it here too. A command that surely
//! never is in the log goes back into the queue, or is `Unavailable` at its deadline; one that may be, and is not applied
//! by its deadline or before this node stops, is `Unknown`. *Surely* is what the log says: once an entry of a later lead
//! was applied, what was meant for an earlier one and was not applied before will never be.
//!
//! `proposer.rs` is the task that takes from here; `forwarding.rs` holds what other members sent.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hsm_core::command::{Origin, Versioned};
use hsm_core::{Action, Command, Stamp};
use hsm_protocol::ErrorCode;
use hsm_protocol::trace::Trace;
use openraft::{AsyncRuntime, EntryPayload};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::forwarding::{Inbox, Ticket};
use crate::limits;
use crate::outcome::{Done, Outcome};
use crate::runtime::Rt;
use crate::types::{Batch, EncodedCommand, Entry, Lead, NodeId, Part};

type Instant = <Rt as AsyncRuntime>::Instant;

/// Commands on their way, shared by callers, the proposing task, the log and the state machine.
pub(crate) struct Proposals {
    node: NodeId,
    /// This start of the node: random.
    boot: u64,
    deadline: Duration,
    queue: Mutex<Queue>,
    flight: Mutex<Flight>,
    /// What other members forwarded to this one.
    pub(crate) inbox: Mutex<Inbox>,
    /// Something changed that the proposing task waits for.
    pub(crate) wake: Notify,
    commands: AtomicU64,
}

struct Queue {
    commands: VecDeque<Queued>,
    bytes: usize,
    /// Proposed once, and surely not in the log.
    returned: VecDeque<Parcel>,
    /// Why no command is taken; `None` when they are.
    closed: Option<ErrorCode>,
}

struct Queued {
    command: Command,
    trace: Trace,
    bytes: usize,
    expires: Instant,
    done: Done,
}

/// Commands that go together, and who waits for them.
struct Parcel {
    commands: Arc<[EncodedCommand]>,
    /// By which their callers know them, in the same order.
    traces: Arc<[Trace]>,
    expires: Instant,
    callers: Vec<Done>,
}

struct Flight {
    next_number: u64,
    /// Proposed and not yet applied, by number.
    entries: BTreeMap<u64, Flying>,
    /// Callers of the last entry: they may come again when they are answered.
    last_callers: usize,
    /// Commands that waited when it was flushed: others than those.
    queued_at_flush: usize,
}

struct Flying {
    stage: Stage,
    /// For which lead it is meant; under another one it is void.
    lead: Lead,
    parcel: Parcel,
    /// Members whose parts are in the same entry.
    tickets: Vec<Ticket>,
    /// Commands in the entry.
    count: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Given to openraft, or sent to the leader.
    Given,
    /// In our log, perhaps not on disk.
    Appending,
    /// In the leader's log and on its disk.
    Flushed,
}

/// How much still goes into an entry.
#[derive(Clone, Copy)]
pub(crate) struct Room {
    pub(crate) bytes: usize,
    pub(crate) commands: usize,
}

impl Room {
    const ENTRY: Self = Self { bytes: limits::ENTRY_BYTES, commands: limits::ENTRY_COMMANDS };

    /// Takes this much of it, if it is there.
    pub(crate) fn take(&mut self, bytes: usize, commands: usize) -> bool {
        let fits = bytes <= self.bytes && commands <= self.commands;
        if fits {
            self.bytes -= bytes;
            self.commands -= commands;
        }
        fits
    }
}

impl Proposals {
    /// Takes no command before [`Proposals::open`].
    pub(crate) fn new(node: NodeId, boot: u64, deadline: Duration, born: u64) -> Self {
        let queue =
            Queue { commands: VecDeque::new(), bytes: 0, returned: VecDeque::new(), closed: Some(ErrorCode::NotReady) };
        let flight = Flight { next_number: 1, entries: BTreeMap::new(), last_callers: 0, queued_at_flush: 0 };
        Self {
            node,
            boot,
            deadline,
            queue: Mutex::new(queue),
            flight: Mutex::new(flight),
            inbox: Mutex::new(Inbox::new(born)),
            wake: Notify::new(),
            commands: AtomicU64::new(0),
        }
    }

    /// Takes commands from now on.
    pub(crate) fn open(&self) {
        self.queue.lock().closed = None;
    }

    /// Takes no more commands. Those that wait are still proposed.
    pub(crate) fn close(&self, code: ErrorCode) {
        self.queue.lock().closed = Some(code);
    }

    /// Why no command is taken.
    pub(crate) fn closed(&self) -> Option<ErrorCode> {
        self.queue.lock().closed
    }

    /// Commands that wait for an entry.
    pub(crate) fn queued(&self) -> usize {
        self.queue.lock().commands.len()
    }

    /// Commands in entries that were flushed here.
    pub(crate) fn commands(&self) -> u64 {
        self.commands.load(Ordering::Relaxed)
    }

    /// Whether every caller has an outcome.
    pub(crate) fn is_idle(&self) -> bool {
        let waits = {
            let queue = self.queue.lock();
            !queue.commands.is_empty() || !queue.returned.is_empty()
        };
        !waits && self.flight.lock().entries.is_empty() && self.inbox.lock().is_empty()
    }

    /// Whether there is something to propose.
    pub(crate) fn has_work(&self) -> bool {
        let own = {
            let queue = self.queue.lock();
            !queue.commands.is_empty() || !queue.returned.is_empty()
        };
        own || !self.inbox.lock().is_empty()
    }

    /// Whether a part of a log entry is from this start of this node.
    pub(crate) fn owns(&self, part: &Part) -> bool {
        part.proposer == self.node && part.boot == self.boot
    }

    pub(crate) fn propose(&self, trace: Trace, origin: Origin, action: Action, done: Done) {
        let command = Command { stamp: Stamp(u64::MAX), origin, action };
        match self.enqueue(trace, command, done) {
            Ok(()) => self.wake.notify_one(),
            Err((code, done)) => done(Outcome::Unavailable(code)),
        }
    }

    fn enqueue(&self, trace: Trace, command: Command, done: Done) -> Result<(), (ErrorCode, Done)> {
        let command = Versioned::new(command);
        // Longest stamp, so that the real one never makes it longer.
        let Ok(bytes) = postcard::experimental::serialized_size(&command) else {
            return Err((ErrorCode::TooLarge, done));
        };
        let (_, command) = command.into_parts();
        if bytes > limits::ENTRY_BYTES {
            return Err((ErrorCode::TooLarge, done));
        }
        let expires = <Instant as openraft::Instant>::now() + self.deadline;
        let mut queue = self.queue.lock();
        if let Some(code) = queue.closed {
            return Err((code, done));
        }
        if queue.commands.len() >= limits::QUEUE_COMMANDS || queue.bytes + bytes > limits::QUEUE_BYTES {
            return Err((ErrorCode::Busy, done));
        }
        queue.bytes += bytes;
        queue.commands.push_back(Queued { command, trace, bytes, expires, done });
        Ok(())
    }

    /// The log is about to store these entries: from now on the outcome of ours is unknown until they are applied.
    pub(crate) fn appending(&self, entries: &[Entry]) {
        let mut flight = self.flight.lock();
        for number in entries.iter().filter_map(|entry| self.led(entry)) {
            if let Some(flying) = flight.entries.get_mut(&number) {
                flying.stage = Stage::Appending;
            }
        }
    }

    /// The log has stored what it was about to.
    pub(crate) fn flushed(&self) {
        let queued = self.queued();
        let mut flight = self.flight.lock();
        flight.queued_at_flush = queued;
        for flying in flight.entries.values_mut().filter(|flying| flying.stage == Stage::Appending) {
            flying.stage = Stage::Flushed;
            self.commands.fetch_add(flying.count, Ordering::Relaxed);
            flying.tickets.drain(..).for_each(|ticket| ticket.tell(Ok(())));
        }
        drop(flight);
        self.wake.notify_one();
    }

    /// The leader has a forwarded parcel in its log and on its disk.
    pub(crate) fn acknowledged(&self, number: u64) {
        if let Some(flying) = self.flight.lock().entries.get_mut(&number) {
            flying.stage = Stage::Flushed;
        }
        self.wake.notify_one();
    }

    /// Whether the outcome of a parcel is still open.
    pub(crate) fn is_flying(&self, number: u64) -> bool {
        self.flight.lock().entries.contains_key(&number)
    }

    /// The state machine has applied a parcel of ours; tells its callers.
    pub(crate) fn applied(&self, number: u64, outcomes: Vec<Outcome>) {
        let flying = self.flight.lock().entries.remove(&number);
        if let Some(flying) = flying {
            // Applied, so it is in the log of a majority, whatever the flush here is doing.
            flying.tickets.into_iter().for_each(|ticket| ticket.tell(Ok(())));
            flying.parcel.callers.into_iter().zip(outcomes).for_each(|(done, outcome)| done(outcome));
            self.wake.notify_one();
        }
    }

    /// The state machine has applied an entry of this lead: what was meant for an earlier one will never be applied.
    pub(crate) fn passed(&self, lead: Lead) {
        let void: Vec<u64> = {
            let flight = self.flight.lock();
            if flight.entries.values().all(|flying| flying.lead >= lead) {
                return;
            }
            let void = flight.entries.iter().filter(|(_, flying)| flying.lead < lead);
            void.map(|(&number, _)| number).collect()
        };
        void.into_iter().rev().for_each(|number| self.not_done(number));
    }

    /// A snapshot took the place of entries, among which ours may have been.
    pub(crate) fn skipped(&self) {
        let entries = std::mem::take(&mut self.flight.lock().entries);
        entries.into_values().for_each(|flying| flying.parcel.answer(&Outcome::Unknown));
        self.wake.notify_one();
    }

    /// openraft does not take an entry, or gives it up. It is surely in no log if it did not get as far as ours.
    pub(crate) fn given_up(&self, number: u64) {
        let begun = self.flight.lock().entries.get(&number).is_some_and(|flying| flying.stage == Stage::Given);
        if begun {
            self.not_done(number);
        }
    }

    /// A parcel is surely not in the log: it goes back into the queue.
    pub(crate) fn not_done(&self, number: u64) {
        let flying = self.flight.lock().entries.remove(&number);
        let Some(flying) = flying else {
            return;
        };
        flying.tickets.into_iter().for_each(|ticket| ticket.tell(Err(ErrorCode::NotReady)));
        let parcel = flying.parcel;
        if !parcel.callers.is_empty() {
            let closed = {
                let mut queue = self.queue.lock();
                match queue.closed {
                    None => {
                        queue.returned.push_front(parcel);
                        None
                    }
                    Some(code) => Some((parcel, code)),
                }
            };
            if let Some((parcel, code)) = closed {
                parcel.answer(&Outcome::Unavailable(code));
            }
        }
        self.wake.notify_one();
    }

    /// A parcel is surely not in the log, and another attempt would not help.
    pub(crate) fn refused(&self, number: u64, code: ErrorCode) {
        let flying = self.flight.lock().entries.remove(&number);
        if let Some(flying) = flying {
            flying.parcel.answer(&Outcome::Unavailable(code));
            self.wake.notify_one();
        }
    }

    /// Ends everything: what was given to openraft is unknown, the rest was not done.
    pub(crate) fn fail_all(&self, code: ErrorCode) {
        self.close(code);
        let entries = std::mem::take(&mut self.flight.lock().entries);
        entries.into_values().for_each(|flying| flying.parcel.answer(&Outcome::Unknown));
        self.refuse_waiting(code);
        self.wake.notify_one();
    }

    /// Nothing that waits is proposed.
    pub(crate) fn refuse_waiting(&self, code: ErrorCode) {
        let (queued, returned) = {
            let mut queue = self.queue.lock();
            queue.bytes = 0;
            (std::mem::take(&mut queue.commands), std::mem::take(&mut queue.returned))
        };
        queued.into_iter().for_each(|queued| (queued.done)(Outcome::Unavailable(code)));
        returned.into_iter().for_each(|parcel| parcel.answer(&Outcome::Unavailable(code)));
        self.inbox.lock().refuse_all(code);
    }

    /// The number of our part in an entry that this node leads.
    fn led(&self, entry: &Entry) -> Option<u64> {
        match &entry.payload {
            EntryPayload::Normal(batch) => batch.parts.first().filter(|part| self.owns(part)).map(|part| part.number),
            _ => None,
        }
    }

    /// Tells everybody whose deadline has passed; says when the next one does.
    pub(crate) fn expire(&self) -> Option<Instant> {
        let now = <Instant as openraft::Instant>::now();
        let (late, next) = {
            let mut flight = self.flight.lock();
            let late: Vec<u64> = flight
                .entries
                .iter()
                .filter(|(_, flying)| flying.parcel.expires <= now)
                .map(|(&number, _)| number)
                .collect();
            let late: Vec<_> = late.into_iter().filter_map(|number| flight.entries.remove(&number)).collect();
            (late, flight.entries.values().map(|flying| flying.parcel.expires).min())
        };
        late.into_iter().for_each(|flying| flying.parcel.answer(&Outcome::Unknown));
        let (late, next_queued) = {
            let mut queue = self.queue.lock();
            let mut late = Vec::new();
            while queue.commands.front().is_some_and(|queued| queued.expires <= now) {
                let queued = queue.commands.pop_front();
                queue.bytes -= queued.as_ref().map_or(0, |queued| queued.bytes);
                late.extend(queued.map(|queued| queued.done));
            }
            while queue.returned.front().is_some_and(|parcel| parcel.expires <= now) {
                late.extend(queue.returned.pop_front().into_iter().flat_map(|parcel| parcel.callers));
            }
            let first = queue.commands.front().map(|queued| queued.expires);
            (late, first.into_iter().chain(queue.returned.front().map(|parcel| parcel.expires)).min())
        };
        late.into_iter().for_each(|done| done(Outcome::Unavailable(ErrorCode::NotReady)));
        let next_forwarded = self.inbox.lock().expire(now);
        [next, next_queued, next_forwarded].into_iter().flatten().min()
    }

    /// Whether another entry may be made now.
    pub(crate) fn may_fly(&self) -> bool {
        let flight = self.flight.lock();
        flight.entries.len() < limits::ENTRIES_IN_FLIGHT
            && flight.entries.values().all(|flying| flying.stage == Stage::Flushed)
    }

    /// Gives the callers of the last entry, who were just answered or are about to be, a moment to come again: else the
    /// first of them would fly alone, and all others wait for its flush. Bounded by [`limits::GATHER_YIELDS`].
    pub(crate) async fn gather(&self) {
        let expected = {
            let flight = self.flight.lock();
            flight.last_callers + flight.queued_at_flush
        };
        for _ in 0..limits::GATHER_YIELDS {
            if self.queued() >= expected {
                break;
            }
            std::thread::yield_now();
            tokio::task::yield_now().await;
        }
    }

    /// Makes one entry of what waits here and of what was forwarded, and registers its callers.
    pub(crate) fn next_batch(&self, stamp: Stamp, lead: Lead) -> Option<(u64, Batch)> {
        let mut room = Room::ENTRY;
        let first = self.inbox.lock().take_turn(&mut room);
        let parcel = self.take_parcel(&mut room, stamp);
        let mut forwarded = first;
        forwarded.extend(self.inbox.lock().take(&mut room));
        let (parts, tickets): (Vec<Part>, Vec<Ticket>) = forwarded.into_iter().unzip();
        if parcel.is_none() && parts.is_empty() {
            return None;
        }
        let parcel = parcel.unwrap_or_else(|| Parcel {
            commands: Arc::default(),
            traces: Arc::default(),
            expires: <Instant as openraft::Instant>::now() + self.deadline,
            callers: Vec::new(),
        });
        let (number, own) = self.launch(parcel, lead, tickets, &parts);
        let parts = std::iter::once(own).chain(parts).collect();
        Some((number, Batch { stamp, lead, parts }))
    }

    /// Makes one part of what waits here, to be sent to the leader, and registers its callers. Gives also by which numbers
    /// they know their commands.
    pub(crate) fn next_part(&self, lead: Lead) -> Option<(Part, Arc<[Trace]>)> {
        let parcel = self.take_parcel(&mut Room::ENTRY.clone(), Stamp(0))?;
        let traces = Arc::clone(&parcel.traces);
        Some((self.launch(parcel, lead, Vec::new(), &[]).1, traces))
    }

    fn launch(&self, parcel: Parcel, lead: Lead, tickets: Vec<Ticket>, others: &[Part]) -> (u64, Part) {
        let others: usize = others.iter().map(|part| part.commands.len()).sum();
        let count = (parcel.commands.len() + others) as u64;
        let mut flight = self.flight.lock();
        let number = flight.next_number;
        flight.last_callers = parcel.callers.len();
        flight.next_number = number + 1;
        let part = Part { proposer: self.node, boot: self.boot, number, commands: parcel.commands.clone() };
        flight.entries.insert(number, Flying { stage: Stage::Given, lead, parcel, tickets, count });
        (number, part)
    }

    /// The commands of the next entry, as many as fit; what was returned goes first.
    fn take_parcel(&self, room: &mut Room, stamp: Stamp) -> Option<Parcel> {
        let taken = {
            let mut queue = self.queue.lock();
            if let Some(parcel) = queue.returned.front() {
                let fits = room.take(parcel.bytes(), parcel.commands.len());
                return if fits { queue.returned.pop_front() } else { None };
            }
            let mut taken = Vec::new();
            let mut bytes = 0;
            while let Some(next) = queue.commands.front() {
                if !room.take(next.bytes, 1) {
                    break;
                }
                bytes += next.bytes;
                taken.extend(queue.commands.pop_front());
            }
            queue.bytes -= bytes;
            taken
        };
        let expires = taken.iter().map(|queued| queued.expires).max()?;
        let mut callers = Vec::with_capacity(taken.len());
        let mut commands = Vec::with_capacity(taken.len());
        let mut traces = Vec::with_capacity(taken.len());
        for queued in taken {
            match EncodedCommand::new(&Versioned::new(Command { stamp, ..queued.command })) {
                Ok(encoded) => {
                    commands.push(encoded);
                    traces.push(queued.trace);
                    callers.push(queued.done);
                }
                Err(_) => (queued.done)(Outcome::Unavailable(ErrorCode::TooLarge)),
            }
        }
        Some(Parcel { commands: commands.into(), traces: traces.into(), expires, callers })
    }
}

impl Parcel {
    fn answer(self, outcome: &Outcome) {
        self.callers.into_iter().for_each(|done| done(outcome.clone()));
    }

    fn bytes(&self) -> usize {
        self.commands.iter().map(|command| command.0.len()).sum()
    }
}
