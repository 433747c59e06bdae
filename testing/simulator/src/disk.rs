//! A disk that remembers every operation, so that what a crash would leave can be made for any moment.
//!
//! The recording runs once. The recording then gives the store as it would be found had the machine stopped
//! after operation `k`: what was synced is there; what was not is lost, there, torn at 512 octets, or there in random
//! sectors out of order. An operation that failed was not done.

use std::io;
use std::ops::Bound;
use std::sync::Arc;

use hsm_replication::disk::{Disk, MARK_BYTES, MARK_SLOT_BYTES};
use parking_lot::Mutex;
use redb::{BackendError, StorageBackend};

use crate::random::Random;

/// What a disk writes at once or not at all.
const SECTOR: usize = 512;

/// A disk. Clones are the same disk.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

struct State {
    content: Vec<u8>,
    mark: [u8; MARK_BYTES],
    recording: Option<Recording>,
    /// Who has it open.
    locked_by: Option<u64>,
    opened: u64,
    /// Raised when the machine crashes: a backend of before can do nothing any more.
    generation: u64,
    capacity: u64,
    full_unseen: bool,
    fail_sync_in: Option<u64>,
    fail_write_in: Option<u64>,
    syncs: u64,
}

/// Everything that was done to a disk.
#[derive(Clone, Default, PartialEq)]
pub struct Recording {
    operations: Vec<Operation>,
    /// How many operations were done when the mark was written, and what it was then.
    marks: Vec<(usize, [u8; MARK_BYTES])>,
}

/// What is done to a disk.
#[derive(Clone, PartialEq)]
pub(crate) enum Operation {
    Write(u64, Vec<u8>),
    SetLength(u64),
    Sync,
}

/// What of the operations that were not synced a crash leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The process was killed: the system still writes everything.
    Kill,
    /// Power failed: nothing of it.
    Nothing,
    /// Power failed: some of it in order, the last write torn.
    Torn,
    /// Power failed: any sectors of it, in any order.
    Scattered,
}

impl Crash {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Kill, Self::Nothing, Self::Torn, Self::Scattered];
}

impl SimDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::holding(Vec::new(), [0; MARK_BYTES])
    }

    /// A disk with a store on it.
    pub fn holding(content: Vec<u8>, mark: [u8; MARK_BYTES]) -> Self {
        Self(Arc::new(Mutex::new(State {
            content,
            mark,
            recording: None,
            locked_by: None,
            opened: 0,
            generation: 0,
            capacity: u64::MAX,
            full_unseen: false,
            fail_sync_in: None,
            fail_write_in: None,
            syncs: 0,
        })))
    }

    /// Remembers every operation from now on.
    pub fn record(&self) {
        self.0.lock().recording = Some(Recording::default());
    }

    /// Operations remembered so far.
    pub fn position(&self) -> usize {
        self.0.lock().recording.as_ref().map_or(0, |recording| recording.operations.len())
    }

    /// What was remembered.
    pub fn recording(&self) -> Recording {
        self.0.lock().recording.clone().unwrap_or_default()
    }

    /// What is on the disk, and the mark beside it.
    pub fn content(&self) -> (Vec<u8>, [u8; MARK_BYTES]) {
        let state = self.0.lock();
        (state.content.clone(), state.mark)
    }

    /// How often something waited for the disk.
    pub fn syncs(&self) -> u64 {
        self.0.lock().syncs
    }

    /// The sync after `count` more fails with an input/output error.
    pub fn fail_sync_in(&self, count: u64) {
        self.0.lock().fail_sync_in = Some(count);
    }

    /// The write after `count` more fails with an input/output error.
    pub fn fail_write_in(&self, count: u64) {
        self.0.lock().fail_write_in = Some(count);
    }

    /// How much fits on the disk, in octets.
    pub fn set_capacity(&self, capacity: u64) {
        self.0.lock().capacity = capacity;
    }

    /// Every write fails from now on because the disk is full, which it does not admit when it is asked for room.
    pub fn fill_unseen(&self) {
        self.0.lock().full_unseen = true;
    }

    /// The process that had the disk open is gone.
    pub fn crash(&self) {
        let mut state = self.0.lock();
        state.generation += 1;
        state.locked_by = None;
        (state.fail_sync_in, state.fail_write_in) = (None, None);
    }
}

impl Default for SimDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl Disk for SimDisk {
    fn name(&self) -> String {
        "simulated".to_owned()
    }

    fn open(&self) -> io::Result<Box<dyn StorageBackend>> {
        let mut state = self.0.lock();
        state.opened += 1;
        Ok(Box::new(Opened { disk: self.clone(), generation: state.generation, number: state.opened }))
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let state = self.0.lock();
        Ok(state.capacity.saturating_sub(state.content.len() as u64))
    }

    fn read_mark(&self) -> io::Result<[u8; MARK_BYTES]> {
        Ok(self.0.lock().mark)
    }

    fn write_mark(&self, slot: usize, mark: &[u8; MARK_SLOT_BYTES]) -> io::Result<()> {
        let mut state = self.0.lock();
        state.mark[slot * MARK_SLOT_BYTES..(slot + 1) * MARK_SLOT_BYTES].copy_from_slice(mark);
        let mark = state.mark;
        if let Some(recording) = &mut state.recording {
            recording.marks.push((recording.operations.len(), mark));
        }
        Ok(())
    }
}

/// The disk as one process has it open.
struct Opened {
    disk: SimDisk,
    generation: u64,
    number: u64,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("simulated disk")
    }
}

impl Opened {
    fn with<T>(&self, run: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.disk.0.lock();
        if state.generation != self.generation {
            return Err(io::Error::other("this process is gone"));
        }
        run(&mut state)
    }
}

fn due(countdown: &mut Option<u64>) -> bool {
    match countdown {
        Some(0) => true,
        Some(count) => {
            *count -= 1;
            false
        }
        None => false,
    }
}

impl StorageBackend for Opened {
    fn len(&self) -> io::Result<u64> {
        self.with(|state| Ok(state.content.len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.with(|state| {
            let start = usize::try_from(offset).map_err(io::Error::other)?;
            let found = state.content.get(start..start + out.len());
            out.copy_from_slice(found.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(|state| {
            if len > state.capacity {
                return Err(io::ErrorKind::StorageFull.into());
            }
            apply(&mut state.content, &Operation::SetLength(len));
            if let Some(recording) = &mut state.recording {
                recording.operations.push(Operation::SetLength(len));
            }
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|state| {
            if due(&mut state.fail_sync_in) {
                return Err(io::Error::other("the disk reports an input/output error"));
            }
            state.syncs += 1;
            if let Some(recording) = &mut state.recording {
                recording.operations.push(Operation::Sync);
            }
            Ok(())
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.with(|state| {
            if due(&mut state.fail_write_in) {
                return Err(io::Error::other("the disk reports an input/output error"));
            }
            if state.full_unseen {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let operation = Operation::Write(offset, data.to_vec());
            apply(&mut state.content, &operation);
            if let Some(recording) = &mut state.recording {
                recording.operations.push(operation);
            }
            Ok(())
        })
    }

    fn close(&self) -> io::Result<()> {
        self.with(|state| {
            if state.locked_by == Some(self.number) {
                state.locked_by = None;
            }
            Ok(())
        })
    }

    fn try_lock_range(&self, _start: Bound<u64>, _end: Bound<u64>) -> Result<bool, BackendError> {
        let owner = self.with(|state| Ok(*state.locked_by.get_or_insert(self.number)));
        Ok(owner? == self.number)
    }

    fn unlock_range(&self, _start: Bound<u64>, _end: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }
}

/// Does an operation.
pub(crate) fn apply(content: &mut Vec<u8>, operation: &Operation) {
    match operation {
        Operation::Write(offset, data) => write_at(content, place(*offset), data),
        Operation::SetLength(length) => content.resize(place(*length), 0),
        Operation::Sync => {}
    }
}

/// A position on the disk as one in memory.
fn place(offset: u64) -> usize {
    usize::try_from(offset).expect("a simulated disk fits into memory")
}

fn write_at(content: &mut Vec<u8>, offset: usize, data: &[u8]) {
    if content.len() < offset + data.len() {
        content.resize(offset + data.len(), 0);
    }
    content[offset..offset + data.len()].copy_from_slice(data);
}

/// Walks through a recording, keeping what is on the disk for certain, so that each next crash costs little.
pub struct Crashes<'recording> {
    recording: &'recording Recording,
    durable: Vec<u8>,
    synced: usize,
}

impl Recording {
    /// How many operations there are.
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Crashes at rising positions.
    pub fn crashes(&self) -> Crashes<'_> {
        Crashes { recording: self, durable: Vec::new(), synced: 0 }
    }

    fn mark_at(&self, position: usize, crash: Crash, random: &Random) -> [u8; MARK_BYTES] {
        let before = self.marks.partition_point(|(at, _)| *at <= position);
        // The mark is never synced: after a power failure any earlier one may be found.
        let lost = if crash == Crash::Kill || before == 0 { 0 } else { random.place_below(before.min(5)) };
        self.marks[..before - lost].last().map_or([0; MARK_BYTES], |(_, mark)| *mark)
    }
}

impl Crashes<'_> {
    /// The disk as it is found after the machine stopped when `position` operations were done. Positions must not fall.
    pub fn at(&mut self, position: usize, crash: Crash, random: &Random) -> SimDisk {
        let operations = &self.recording.operations[..position];
        let synced =
            operations.iter().rposition(|operation| matches!(operation, Operation::Sync)).map_or(0, |at| at + 1);
        for operation in &operations[self.synced.min(synced)..synced] {
            apply(&mut self.durable, operation);
        }
        self.synced = self.synced.max(synced);
        let mut content = self.durable.clone();
        leave(&mut content, &operations[synced..], crash, random);
        SimDisk::holding(content, self.recording.mark_at(position, crash, random))
    }
}

impl Crashes<'_> {
    /// The disk after a power failure at `position`, when it had told of `lies` syncs, the last ones, that it never did.
    /// `None` when there were not as many. The mark beside the store was on another, honest disk.
    pub fn of_liar(&self, position: usize, lies: usize) -> Option<SimDisk> {
        let operations = &self.recording.operations[..position];
        let syncs = operations.iter().enumerate().filter(|(_, operation)| matches!(operation, Operation::Sync));
        let (kept, _) = syncs.rev().nth(lies)?;
        let mut content = Vec::new();
        operations[..kept].iter().for_each(|operation| apply(&mut content, operation));
        let marks = self.recording.marks.partition_point(|(at, _)| *at <= position);
        let (_, mark) = self.recording.marks[..marks].last()?;
        Some(SimDisk::holding(content, *mark))
    }
}

/// What a crash makes of operations that were not synced.
pub(crate) fn leave(content: &mut Vec<u8>, operations: &[Operation], crash: Crash, random: &Random) {
    match crash {
        Crash::Nothing => {}
        Crash::Kill => operations.iter().for_each(|operation| apply(content, operation)),
        Crash::Torn => {
            let whole = random.place_below(operations.len() + 1);
            operations[..whole].iter().for_each(|operation| apply(content, operation));
            if let Some(Operation::Write(offset, data)) = operations.get(whole) {
                let sectors = random.place_below(data.len().div_ceil(SECTOR) + 1);
                write_at(content, place(*offset), &data[..(sectors * SECTOR).min(data.len())]);
            }
        }
        Crash::Scattered => {
            for operation in operations {
                match operation {
                    Operation::Write(offset, data) => {
                        for (number, sector) in data.chunks(SECTOR).enumerate() {
                            if random.once_in(2) {
                                write_at(content, place(*offset) + number * SECTOR, sector);
                            }
                        }
                    }
                    _ if random.once_in(2) => apply(content, operation),
                    _ => {}
                }
            }
        }
    }
}
