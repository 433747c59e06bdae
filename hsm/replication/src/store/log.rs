//! openraft's view of the log and the vote.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use openraft::storage::{LogFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader, StorageIOError};
use parking_lot::Mutex;
use redb::ReadableDatabase;

use crate::fault::StorageFault;
use crate::limits;
use crate::proposals::Proposals;
use crate::runtime::wait_for_disk;
use crate::stamp::Stamper;
use crate::store::opening::LogBounds;
use crate::store::rows::LOG;
use crate::store::{Store, Work, encode};
use crate::types::{Entry, LogId, NodeId, RaftStorageError, Types, Vote};

/// The log of one node. Clones share it.
#[derive(Clone)]
pub(crate) struct LogStore {
    store: Arc<Store>,
    node: NodeId,
    proposals: Arc<Proposals>,
    stamper: Arc<Stamper>,
    memory: Arc<Mutex<Memory>>,
    stored_vote: Option<Vote>,
}

/// What need not be read from the store.
struct Memory {
    bounds: LogBounds,
    /// The last entries, without a gap.
    tail: VecDeque<Entry>,
}

impl LogStore {
    pub(crate) fn new(
        store: Arc<Store>,
        node: NodeId,
        bounds: LogBounds,
        stored_vote: Option<Vote>,
        proposals: Arc<Proposals>,
        stamper: Arc<Stamper>,
    ) -> Self {
        let memory = Arc::new(Mutex::new(Memory { bounds, tail: VecDeque::new() }));
        Self { store, node, proposals, stamper, memory, stored_vote }
    }

    fn append_entries(&self, entries: Vec<Entry>) -> Result<(), StorageFault> {
        let Some(last) = entries.last().map(|entry| entry.log_id) else {
            return Ok(());
        };
        let mut append = Vec::with_capacity(entries.len());
        for entry in &entries {
            let index = entry.log_id.index;
            append.push((index, encode("log", &index.to_be_bytes(), entry)?));
        }
        let bounds = {
            // Readable at once, before the disk has them: openraft may ask for them.
            let mut memory = self.memory.lock();
            memory.bounds.last = Some(last);
            memory.tail.extend(entries.iter().cloned());
            let surplus = memory.tail.len().saturating_sub(limits::TAIL_ENTRIES);
            memory.tail.drain(..surplus);
            memory.bounds
        };
        self.proposals.appending(&entries);
        let stamped = self.stamper.give();
        let work = Work { append, bounds: Some(bounds), stamped, durable: true, ..Work::default() };
        wait_for_disk(|| self.store.commit(&work))?;
        self.proposals.flushed();
        Ok(())
    }

    fn read(&self, first: u64, end: u64) -> Result<Vec<Entry>, StorageFault> {
        let from_tail: Vec<Entry> = {
            let memory = self.memory.lock();
            let inside = memory.tail.iter().filter(|entry| (first..end).contains(&entry.log_id.index));
            inside.cloned().collect()
        };
        let tail_starts = from_tail.first().map_or(end, |entry| entry.log_id.index);
        if tail_starts <= first {
            return Ok(from_tail);
        }
        let mut entries = wait_for_disk(|| {
            self.store.with_database(|database| {
                let table = database.begin_read()?.open_table(LOG)?;
                let rows = table.range(first..tail_starts)?;
                rows.map(|row| {
                    let (index, sealed) = row?;
                    self.store.log_entry(index.value(), sealed.value())
                })
                .collect::<Result<Vec<_>, StorageFault>>()
            })
        })?;
        entries.extend(from_tail);
        Ok(entries)
    }
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, RaftStorageError> {
        let first = match range.start_bound() {
            Bound::Included(&first) => first,
            Bound::Excluded(&before) => before + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&last) => last + 1,
            Bound::Excluded(&end) => end,
            Bound::Unbounded => u64::MAX,
        };
        self.read(first, end).map_err(|fault| StorageIOError::read_logs(&fault).into())
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, RaftStorageError> {
        let bounds = self.memory.lock().bounds;
        Ok(LogState { last_purged_log_id: bounds.purged, last_log_id: bounds.end() })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), RaftStorageError> {
        let work = Work { vote: Some(*vote), durable: true, ..Work::default() };
        wait_for_disk(|| self.store.commit(&work)).map_err(|fault| StorageIOError::write_vote(&fault))?;
        self.stored_vote = Some(*vote);
        Ok(())
    }

    /// Our own stored vote comes back as not committed, so that this node must win an election again. openraft 0.9 would
    /// go on as leader in its old term, with a commit position that may be older than what it has acknowledged, and
    /// serve reads from there.
    async fn read_vote(&mut self) -> Result<Option<Vote>, RaftStorageError> {
        Ok(self.stored_vote.map(|mut vote| {
            vote.committed &= vote.leader_id.node_id != self.node;
            vote
        }))
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Result<(), RaftStorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        match self.append_entries(entries.into_iter().collect()) {
            Ok(()) => {
                callback.log_io_completed(Ok(()));
                Ok(())
            }
            Err(fault) => {
                callback.log_io_completed(Err(std::io::Error::other(fault.to_string())));
                Err(StorageIOError::write_logs(&fault).into())
            }
        }
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), RaftStorageError> {
        let before = match log_id.index.checked_sub(1) {
            Some(index) => self.read(index, log_id.index).map_err(|fault| StorageIOError::read_logs(&fault))?,
            None => Vec::new(),
        };
        let bounds = {
            let mut memory = self.memory.lock();
            memory.tail.retain(|entry| entry.log_id.index < log_id.index);
            memory.bounds.last = before.first().map(|entry| entry.log_id).or(memory.bounds.purged);
            memory.bounds
        };
        let work = Work { truncate_from: Some(log_id.index), bounds: Some(bounds), durable: true, ..Work::default() };
        wait_for_disk(|| self.store.commit(&work)).map_err(|fault| StorageIOError::write_logs(&fault).into())
    }

    /// A purge and the state that makes it right go in commits that redb keeps in order, so it never outlives a crash
    /// that the state does not outlive.
    async fn purge(&mut self, log_id: LogId) -> Result<(), RaftStorageError> {
        let bounds = {
            let mut memory = self.memory.lock();
            memory.tail.retain(|entry| entry.log_id.index > log_id.index);
            memory.bounds.purged = Some(log_id);
            memory.bounds.last = memory.bounds.last.max(Some(log_id));
            memory.bounds
        };
        let work = Work { purge_to: Some(log_id.index), bounds: Some(bounds), ..Work::default() };
        wait_for_disk(|| self.store.commit(&work)).map_err(|fault| StorageIOError::write_logs(&fault).into())
    }
}
