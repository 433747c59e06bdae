//! From many callers to one log entry, and from its outcome back to each of them.
//!
//! openraft 0.9 waits for the flush of an entry before it takes the next, so the rate of entries is the disk's rate of
//! fsyncs. Commands that come while one entry is being flushed therefore wait for each other and make the next one.
//!
//! A caller learns `Done` only from the state machine. A command that never reached the log is `Unavailable`; one that
//! did, and is not applied by its deadline or before this node stops, is `Unknown`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hsm_core::command::{Origin, Versioned};
use hsm_core::{Action, Command, Stamp};
use hsm_protocol::ErrorCode;
use openraft::{AsyncRuntime, EntryPayload};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::limits;
use crate::outcome::{Done, Outcome};
use crate::runtime::Rt;
use crate::stamp::Stamper;
use crate::store::Store;
use crate::types::{Batch, EncodedCommand, Entry, NodeId, Raft};

type Instant = <Rt as AsyncRuntime>::Instant;

/// Commands on their way, shared by callers, the proposing task, the log and the state machine.
pub(crate) struct Proposals {
    node: NodeId,
    deadline: Duration,
    queue: Mutex<Queue>,
    flight: Mutex<Flight>,
    /// Something changed that the proposing task waits for.
    wake: Notify,
    commands: AtomicU64,
}

struct Queue {
    commands: VecDeque<Queued>,
    bytes: usize,
    /// Why no command is taken; `None` when they are.
    closed: Option<ErrorCode>,
}

struct Queued {
    command: Command,
    bytes: usize,
    expires: Instant,
    done: Done,
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
    expires: Instant,
    callers: Vec<Done>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Given to openraft.
    Given,
    /// In our log, perhaps not on disk.
    Appending,
    /// In our log and on our disk.
    Flushed,
}

impl Proposals {
    /// Takes no command before [`Proposals::open`].
    pub(crate) fn new(node: NodeId, first_number: u64, deadline: Duration) -> Self {
        let queue = Queue { commands: VecDeque::new(), bytes: 0, closed: Some(ErrorCode::NotReady) };
        let flight =
            Flight { next_number: first_number, entries: BTreeMap::new(), last_callers: 0, queued_at_flush: 0 };
        Self {
            node,
            deadline,
            queue: Mutex::new(queue),
            flight: Mutex::new(flight),
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
        self.queue.lock().commands.is_empty() && self.flight.lock().entries.is_empty()
    }

    pub(crate) fn propose(&self, origin: Origin, action: Action, done: Done) {
        let command = Command { stamp: Stamp(u64::MAX), origin, action };
        match self.enqueue(command, done) {
            Ok(()) => self.wake.notify_one(),
            Err((code, done)) => done(Outcome::Unavailable(code)),
        }
    }

    fn enqueue(&self, command: Command, done: Done) -> Result<(), (ErrorCode, Done)> {
        let command = Versioned::V1(command);
        // Longest stamp, so that the real one never makes it longer.
        let Ok(bytes) = postcard::experimental::serialized_size(&command) else {
            return Err((ErrorCode::TooLarge, done));
        };
        let Versioned::V1(command) = command;
        if bytes > limits::ENTRY_BYTES {
            return Err((ErrorCode::TooLarge, done));
        }
        let expires = Instant::now() + self.deadline;
        let mut queue = self.queue.lock();
        if let Some(code) = queue.closed {
            return Err((code, done));
        }
        if queue.commands.len() >= limits::QUEUE_COMMANDS || queue.bytes + bytes > limits::QUEUE_BYTES {
            return Err((ErrorCode::Busy, done));
        }
        queue.bytes += bytes;
        queue.commands.push_back(Queued { command, bytes, expires, done });
        Ok(())
    }

    /// The log is about to store these entries: from now on the outcome of ours is unknown until they are applied.
    pub(crate) fn appending(&self, entries: &[Entry]) {
        let mut flight = self.flight.lock();
        for batch in entries.iter().filter_map(|entry| self.own(entry)) {
            if let Some(flying) = flight.entries.get_mut(&batch.number) {
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
            self.commands.fetch_add(flying.callers.len() as u64, Ordering::Relaxed);
        }
        drop(flight);
        self.wake.notify_one();
    }

    /// The state machine has applied a batch; tells its callers if they are here.
    pub(crate) fn applied(&self, batch: &Batch, outcomes: Vec<Outcome>) {
        if batch.proposer != self.node {
            return;
        }
        let flying = self.flight.lock().entries.remove(&batch.number);
        if let Some(flying) = flying {
            flying.callers.into_iter().zip(outcomes).for_each(|(done, outcome)| done(outcome));
            self.wake.notify_one();
        }
    }

    /// Ends everything: what was given to openraft is unknown, the rest was not done.
    pub(crate) fn fail_all(&self, code: ErrorCode) {
        self.close(code);
        let entries = std::mem::take(&mut self.flight.lock().entries);
        entries.into_values().for_each(|flying| flying.answer(&Outcome::Unknown));
        let queued = {
            let mut queue = self.queue.lock();
            queue.bytes = 0;
            std::mem::take(&mut queue.commands)
        };
        queued.into_iter().for_each(|queued| (queued.done)(Outcome::Unavailable(code)));
        self.wake.notify_one();
    }

    fn own<'entry>(&self, entry: &'entry Entry) -> Option<&'entry Batch> {
        match &entry.payload {
            EntryPayload::Normal(batch) if batch.proposer == self.node => Some(batch),
            _ => None,
        }
    }

    /// openraft has said that it does not take a batch, or gives it up.
    fn given_up(&self, number: u64) {
        let flying = self.flight.lock().entries.remove(&number);
        if let Some(flying) = flying {
            let in_log = flying.stage != Stage::Given;
            flying.answer(&if in_log { Outcome::Unknown } else { Outcome::Unavailable(ErrorCode::NotReady) });
            self.wake.notify_one();
        }
    }

    /// Tells everybody whose deadline has passed; says when the next one does.
    fn expire(&self) -> Option<Instant> {
        let now = Instant::now();
        let (late, next) = {
            let mut flight = self.flight.lock();
            let (late, going): (BTreeMap<_, _>, _) =
                std::mem::take(&mut flight.entries).into_iter().partition(|(_, flying)| flying.expires <= now);
            flight.entries = going;
            (late, flight.entries.values().map(|flying| flying.expires).min())
        };
        late.into_values().for_each(|flying| flying.answer(&Outcome::Unknown));
        let (late, next_queued) = {
            let mut queue = self.queue.lock();
            let mut late = Vec::new();
            while queue.commands.front().is_some_and(|queued| queued.expires <= now) {
                let queued = queue.commands.pop_front();
                queue.bytes -= queued.as_ref().map_or(0, |queued| queued.bytes);
                late.extend(queued);
            }
            (late, queue.commands.front().map(|queued| queued.expires))
        };
        late.into_iter().for_each(|queued| (queued.done)(Outcome::Unavailable(ErrorCode::NotReady)));
        [next, next_queued].into_iter().flatten().min()
    }

    /// Whether another entry may be made now.
    fn may_fly(&self) -> bool {
        let flight = self.flight.lock();
        flight.entries.len() < limits::ENTRIES_IN_FLIGHT
            && flight.entries.values().all(|flying| flying.stage == Stage::Flushed)
    }

    /// Gives the callers of the last entry, who were just answered or are about to be, a moment to come again: else the
    /// first of them would fly alone, and all others wait for its flush. Bounded by [`limits::GATHER_YIELDS`].
    async fn gather(&self) {
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

    /// The commands of the next entry, as many as fit.
    fn take_commands(&self) -> Vec<Queued> {
        let mut queue = self.queue.lock();
        let mut taken = Vec::new();
        let mut bytes = 0;
        while let Some(next) = queue.commands.front() {
            if taken.len() == limits::ENTRY_COMMANDS || bytes + next.bytes > limits::ENTRY_BYTES {
                break;
            }
            bytes += next.bytes;
            taken.extend(queue.commands.pop_front());
        }
        queue.bytes -= bytes;
        taken
    }

    /// Makes one entry of what waits, and registers its callers.
    fn next_batch(&self, stamper: &Stamper) -> Option<Batch> {
        let taken = self.take_commands();
        let expires = taken.iter().map(|queued| queued.expires).max()?;
        let stamp = stamper.now();
        let mut callers = Vec::with_capacity(taken.len());
        let mut commands = Vec::with_capacity(taken.len());
        for queued in taken {
            match EncodedCommand::new(&Versioned::V1(Command { stamp, ..queued.command })) {
                Ok(encoded) => {
                    commands.push(encoded);
                    callers.push(queued.done);
                }
                Err(_) => (queued.done)(Outcome::Unavailable(ErrorCode::TooLarge)),
            }
        }
        let mut flight = self.flight.lock();
        let number = flight.next_number;
        flight.last_callers = callers.len();
        flight.next_number = number.wrapping_add(1);
        flight.entries.insert(number, Flying { stage: Stage::Given, expires, callers });
        Some(Batch { proposer: self.node, number, stamp, commands: commands.into() })
    }
}

impl Flying {
    fn answer(self, outcome: &Outcome) {
        self.callers.into_iter().for_each(|done| done(outcome.clone()));
    }
}

/// The proposing task: runs until the node stops.
pub(crate) async fn run(proposals: Arc<Proposals>, raft: Raft, store: Arc<Store>, stamper: Arc<Stamper>) {
    loop {
        let next = proposals.expire();
        if proposals.may_fly() && proposals.queued() > 0 {
            proposals.gather().await;
            if store.has_room() {
                fly(&proposals, &raft, &stamper).await;
            } else {
                refuse(&proposals, ErrorCode::StorageFull);
            }
            continue;
        }
        let woken = proposals.wake.notified();
        match next {
            // Either way the loop looks again at everything.
            Some(at) => drop(<Rt as AsyncRuntime>::timeout_at(at, woken).await),
            None => woken.await,
        }
    }
}

async fn fly(proposals: &Arc<Proposals>, raft: &Raft, stamper: &Stamper) {
    let Some(batch) = proposals.next_batch(stamper) else {
        return;
    };
    let number = batch.number;
    match raft.client_write_ff(batch).await {
        Ok(answer) => {
            let proposals = proposals.clone();
            drop(<Rt as AsyncRuntime>::spawn(async move {
                // Success was told by the state machine; what is left is a leader that is none any more, or a stop.
                if !matches!(answer.await, Ok(Ok(_))) {
                    proposals.given_up(number);
                }
            }));
        }
        Err(_) => proposals.given_up(number),
    }
}

fn refuse(proposals: &Proposals, code: ErrorCode) {
    let taken = proposals.take_commands();
    taken.into_iter().for_each(|queued| (queued.done)(Outcome::Unavailable(code)));
}
