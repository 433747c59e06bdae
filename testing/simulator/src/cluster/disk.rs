//! The disk of one machine of a cluster: it forgets in a crash what was not synced, and can be made to fail.
//!
//! Beside what is written it keeps what is durable and the operations between the two. A crash makes of these what
//! [`crate::disk::Crash`] says. A disk can lose power in the middle of a commit, lie about its syncs, stall, fail once,
//! be full, rot while it is off, be wiped, and be replaced by an older copy of itself.

use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use hsm_replication::disk::{Disk, MARK_BYTES, MARK_SLOT_BYTES};
use hsm_replication::runtime::NodeContext;
use parking_lot::Mutex;
use redb::{BackendError, StorageBackend};
use tokio::sync::Notify;

use crate::cluster::trace::Trace;
use crate::disk::{Crash, Operation, apply, leave};
use crate::random::Random;

/// A disk. Clones are the same disk.
#[derive(Clone)]
pub struct ClusterDisk {
    state: Arc<Mutex<State>>,
    trace: Arc<Trace>,
    /// Raised when the power goes in the middle of a commit.
    pub power: Arc<Notify>,
}

struct State {
    place: usize,
    content: Vec<u8>,
    durable: Vec<u8>,
    /// Done since the last sync that was no lie.
    unsynced: Vec<Operation>,
    mark: [u8; MARK_BYTES],
    /// Raised when the machine crashes: a backend of before can do nothing any more.
    generation: u64,
    opened: u64,
    locked_by: Option<u64>,
    /// The power goes after so many more operations.
    cut_in: Option<u64>,
    is_cut: bool,
    fail_in: Option<u64>,
    lies: bool,
    full: bool,
    /// How long a sync takes at most, and the boot that waits for it.
    sync_time: u64,
    boot: Option<NodeContext>,
}

/// A disk as it was at some moment, to be put back later.
#[derive(Clone)]
pub struct Copy {
    content: Vec<u8>,
    mark: [u8; MARK_BYTES],
}

impl ClusterDisk {
    /// An empty disk of the machine at this place.
    pub fn new(place: usize, sync_time: u64, trace: Arc<Trace>) -> Self {
        let state = State {
            place,
            content: Vec::new(),
            durable: Vec::new(),
            unsynced: Vec::new(),
            mark: [0; MARK_BYTES],
            generation: 0,
            opened: 0,
            locked_by: None,
            cut_in: None,
            is_cut: false,
            fail_in: None,
            lies: false,
            full: false,
            sync_time,
            boot: None,
        };
        Self { state: Arc::new(Mutex::new(state)), trace, power: Arc::new(Notify::new()) }
    }

    /// The boot that uses the disk from now on: it is what a slow sync holds up.
    pub fn serve(&self, boot: NodeContext) {
        self.state.lock().boot = Some(boot);
    }

    /// The machine is off. What was not synced is as the crash leaves it. First thing to do in a crash: what the old
    /// process still writes must reach nothing.
    pub fn crash(&self, crash: Crash, random: &Random) {
        let mut state = self.state.lock();
        state.generation += 1;
        state.locked_by = None;
        (state.cut_in, state.fail_in, state.is_cut, state.boot) = (None, None, false, None);
        let unsynced = std::mem::take(&mut state.unsynced);
        leave(&mut state.durable, &unsynced, crash, random);
        state.content = state.durable.clone();
    }

    /// Whether the power has gone in the middle of a commit.
    pub fn is_cut(&self) -> bool {
        self.state.lock().is_cut
    }

    /// The power goes after so many more operations.
    pub fn cut_power_in(&self, operations: u64) {
        self.state.lock().cut_in = Some(operations);
    }

    /// The operation after so many more fails with an input/output error.
    pub fn fail_in(&self, operations: u64) {
        self.state.lock().fail_in = Some(operations);
    }

    /// From now on syncs are told and not done, or are honest again.
    pub fn lie(&self, lies: bool) {
        self.state.lock().lies = lies;
    }

    /// Whether what is durable is less than what was told.
    pub fn is_lying(&self) -> bool {
        self.state.lock().lies
    }

    /// No octet more can be written, or there is room again.
    pub fn fill(&self, full: bool) {
        self.state.lock().full = full;
    }

    /// The disk is as good as new: fast, honest and with room.
    pub fn heal(&self) {
        let mut state = self.state.lock();
        (state.cut_in, state.fail_in, state.lies, state.full, state.sync_time) = (None, None, false, false, 0);
        let unsynced = std::mem::take(&mut state.unsynced);
        for operation in &unsynced {
            apply(&mut state.durable, operation);
        }
    }

    /// What is durable now.
    pub fn copy(&self) -> Copy {
        let state = self.state.lock();
        Copy { content: state.durable.clone(), mark: state.mark }
    }

    /// Puts an older copy in the place of the disk. The machine must be off.
    pub fn put_back(&self, copy: &Copy) {
        let mut state = self.state.lock();
        state.durable.clone_from(&copy.content);
        state.content.clone_from(&copy.content);
        state.mark = copy.mark;
    }

    /// An empty, honest disk in the place of this one. The machine must be off.
    pub fn wipe(&self) {
        self.lie(false);
        self.put_back(&Copy { content: Vec::new(), mark: [0; MARK_BYTES] });
    }

    /// Alters octets that are at rest. The machine must be off.
    pub fn rot(&self, flips: usize, random: &Random) {
        let mut state = self.state.lock();
        let length = state.durable.len();
        for _ in 0..if length == 0 { 0 } else { flips } {
            let at = random.place_below(length);
            state.durable[at] ^= 1 << random.below(8);
        }
        state.content = state.durable.clone();
    }
}

impl Disk for ClusterDisk {
    fn name(&self) -> String {
        format!("the disk of machine {}", self.state.lock().place)
    }

    fn open(&self) -> io::Result<Box<dyn StorageBackend>> {
        let mut state = self.state.lock();
        state.opened += 1;
        Ok(Box::new(Opened { disk: self.clone(), generation: state.generation, number: state.opened }))
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(if self.state.lock().full { 0 } else { u64::MAX })
    }

    fn read_mark(&self) -> io::Result<[u8; MARK_BYTES]> {
        Ok(self.state.lock().mark)
    }

    fn write_mark(&self, slot: usize, mark: &[u8; MARK_SLOT_BYTES]) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.is_cut {
            return Err(io::Error::other("the power is gone"));
        }
        state.mark[slot * MARK_SLOT_BYTES..(slot + 1) * MARK_SLOT_BYTES].copy_from_slice(mark);
        Ok(())
    }
}

/// The disk as one process has it open.
struct Opened {
    disk: ClusterDisk,
    generation: u64,
    number: u64,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("simulated disk")
    }
}

/// Counts down to a fault; true when it is due, and not again.
fn due(countdown: &mut Option<u64>) -> bool {
    let is_due = *countdown == Some(0);
    *countdown = if is_due { None } else { countdown.map(|count| count - 1) };
    is_due
}

impl Opened {
    fn with<T>(&self, run: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.disk.state.lock();
        if state.generation != self.generation {
            return Err(io::Error::other("this process is gone"));
        }
        if state.is_cut {
            return Err(io::Error::other("the power is gone"));
        }
        run(&mut state)
    }

    /// An operation that changes the disk.
    fn change(&self, run: impl FnOnce(&mut State) -> io::Result<()>) -> io::Result<()> {
        self.with(|state| {
            if due(&mut state.cut_in) {
                state.is_cut = true;
                self.disk.power.notify_one();
                return Err(io::Error::other("the power is gone"));
            }
            if due(&mut state.fail_in) {
                return Err(io::Error::other("the disk reports an input/output error"));
            }
            run(state)
        })
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
        self.change(|state| {
            if state.full && len > state.content.len() as u64 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let operation = Operation::SetLength(len);
            apply(&mut state.content, &operation);
            state.unsynced.push(operation);
            self.disk.trace.note(&len.to_le_bytes(), || format!("{} disk: length {len}", state.place));
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.change(|state| {
            self.disk.trace.note(&[1], || format!("{} disk: sync", state.place));
            if !state.lies {
                for operation in std::mem::take(&mut state.unsynced) {
                    apply(&mut state.durable, &operation);
                }
            }
            if let Some(boot) = state.boot.clone().filter(|_| state.sync_time > 0) {
                hold_up(boot, Duration::from_micros(state.sync_time));
            }
            Ok(())
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(|state| {
            if state.full && offset + data.len() as u64 > state.content.len() as u64 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let operation = Operation::Write(offset, data.to_vec());
            apply(&mut state.content, &operation);
            state.unsynced.push(operation);
            let line = || format!("{} disk: {} octets at {offset}", state.place, data.len());
            self.disk.trace.note(data, line);
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

/// A process whose only thread waits for its disk does nothing else.
fn hold_up(boot: NodeContext, time: Duration) {
    boot.freeze();
    drop(tokio::spawn(async move {
        tokio::time::sleep(time).await;
        boot.thaw();
    }));
}
