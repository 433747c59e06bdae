//! The store: log, vote, state and audit rows of one node in one redb database, every row sealed.
//!
//! A commit takes what commands changed ([`pending`]) together with the next log entry: one transaction, one fsync. A
//! row that was altered does not open; a row that was removed, or replaced by an older self, breaks the sum over all
//! rows; a last commit that was lost is missed by the [`mark`]. Whatever is found is named and refused, never repaired.
//!
//! [`opening`] verifies and loads, [`log`] is openraft's view of the log. The state moves to another member by [`ranges`] and
//! [`incoming`], or by [`snapshot`] to one whose program is older.

#[cfg(test)]
mod fixtures;
pub(crate) mod incoming;
pub(crate) mod log;
mod mark;
pub(crate) mod opening;
pub(crate) mod pending;
pub(crate) mod ranges;
pub(crate) mod rows;
pub(crate) mod snapshot;
#[cfg(test)]
mod streaming;
#[cfg(test)]
mod tests;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hsm_core::ObjectHandle;
use hsm_core::change::Row;
use hsm_core::command::SealedPayload;
use hsm_crypto::{RowSum, StorageKey};
use parking_lot::{Mutex, RwLock};
use redb::{Database, Durability, ReadableDatabase, ReadableTable, Table, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::disk::Disk;
use crate::fault::{Fault, Faults, OpenFault, StorageFault};
use crate::limits;
use crate::memory::Memories;
use crate::node::AuditEntry;
use crate::stamp::Stamped;
use crate::store::opening::LogBounds;
use crate::store::pending::{Changes, Pending};
use crate::store::rows::{AUDIT, FORMAT, Identity, LOG, META, Progress, STATE, meta};
use crate::traffic::Traffic;
use crate::types::{LogId, NodeId, Vote, decode};

/// One node's store.
pub(crate) struct Store {
    disk: Arc<dyn Disk>,
    key: StorageKey,
    /// `None` once closed.
    database: RwLock<Option<Database>>,
    writer: Mutex<Writer>,
    pending: Pending,
    /// What is on disk for certain.
    durable: Mutex<Reached>,
    faults: Arc<Faults>,
    flushes: AtomicU64,
    /// Snapshots that go out and come in.
    pub(crate) traffic: Traffic,
}

/// What only one commit at a time may touch.
struct Writer {
    /// Number of the last durable commit.
    commit: u64,
    /// Over all rows of the tables of states and audit.
    sum: RowSum,
    /// How far the database is.
    reached: Reached,
}

/// How far a store is.
#[derive(Clone, Default)]
pub(crate) struct Reached {
    /// The state machine.
    pub(crate) progress: Progress,
    /// The last vote.
    pub(crate) vote: Option<Vote>,
    /// The log.
    pub(crate) log: LogBounds,
}

impl Reached {
    /// What a commit of these brings.
    fn advance(&mut self, work: &Work, changes: &Changes) {
        if let Some(progress) = &changes.progress {
            self.progress = progress.clone();
        }
        self.vote = work.vote.or(self.vote);
        self.log = work.bounds.unwrap_or(self.log);
    }
}

/// What a commit writes besides what is pending.
#[derive(Default)]
pub(crate) struct Work {
    /// Log entries by position, in postcard.
    pub(crate) append: Vec<(u64, Vec<u8>)>,
    /// Entries from this position on go first.
    pub(crate) truncate_from: Option<u64>,
    /// Entries up to this position go.
    pub(crate) purge_to: Option<u64>,
    /// What the log holds after all that.
    pub(crate) bounds: Option<LogBounds>,
    pub(crate) vote: Option<Vote>,
    pub(crate) stamped: Option<Stamped>,
    /// What is remembered of the other members.
    pub(crate) memories: Option<Memories>,
    /// The node that the store belongs to from now on.
    pub(crate) node: Option<NodeId>,
    /// Wait until the disk has it.
    pub(crate) durable: bool,
}

impl Store {
    /// Writes all of it, or nothing. The first failure stops the node: after a failed fsync nothing may be assumed.
    pub(crate) fn commit(&self, work: &Work) -> Result<(), StorageFault> {
        let mut writer = self.writer.lock();
        if self.faults.is_raised() {
            return Err(StorageFault::Stopped);
        }
        let changes = self.pending.begin_writing();
        let written = self.with_database(|database| self.write(database, &writer, work, &changes));
        match written {
            Ok(next) => {
                *writer = next;
                self.pending.written();
                if work.durable {
                    self.flushes.fetch_add(1, Ordering::Relaxed);
                    *self.durable.lock() = writer.reached.clone();
                    self.note_durable(writer.commit);
                }
                Ok(())
            }
            Err(fault) => {
                self.faults.raise(if fault.is_full() { Fault::StorageFull } else { Fault::Storage(fault.to_string()) });
                Err(fault)
            }
        }
    }

    /// Makes what is pending readable in the database, without waiting for the disk.
    pub(crate) fn flush_pending(&self) -> Result<(), StorageFault> {
        if self.pending.is_empty() { Ok(()) } else { self.commit(&Work::default()) }
    }

    /// Takes the changes of an applied entry; the next commit writes them.
    pub(crate) fn pend(&self, changes: Changes) {
        self.pending.add(changes);
    }

    /// How far the disk is for certain: what was written since, and what is being written, is not in it.
    pub(crate) fn durable(&self) -> Reached {
        self.durable.lock().clone()
    }

    /// Durable commits since the start.
    pub(crate) fn flushes(&self) -> u64 {
        self.flushes.load(Ordering::Relaxed)
    }

    /// The position of an entry of the log, if it is there or was the last one that went.
    pub(crate) fn log_id_at(&self, index: u64) -> Result<Option<LogId>, StorageFault> {
        let purged = self.writer.lock().reached.log.purged.filter(|purged| purged.index == index);
        if purged.is_some() {
            return Ok(purged);
        }
        self.with_database(|database| {
            let table = database.begin_read()?.open_table(LOG)?;
            table.get(index)?.map(|sealed| Ok(self.log_entry(index, sealed.value())?.log_id)).transpose()
        })
    }

    /// Whether there is room for what is proposed next.
    pub(crate) fn has_room(&self) -> bool {
        // A disk that cannot be asked is found full, or not, by writing.
        self.disk.free_bytes().is_ok_and(|free| free >= limits::FREE_BYTES)
    }

    /// Whether there is room for so many octets of incoming rows, and for what is proposed meanwhile.
    pub(crate) fn has_room_for(&self, bytes: u64) -> bool {
        // Pages are written anew when rows are, so one octet takes up to two.
        self.disk.free_bytes().is_ok_and(|free| free >= 2 * (limits::FREE_BYTES + bytes))
    }

    /// Whether there is so much room that a node which takes the lead does not give it away again at once.
    pub(crate) fn has_room_to_lead(&self) -> bool {
        self.disk.free_bytes().is_ok_and(|free| free >= limits::FREE_BYTES_TO_LEAD)
    }

    /// The payload of a token object.
    pub(crate) fn payload(&self, handle: ObjectHandle) -> Result<Option<SealedPayload>, StorageFault> {
        let row = Row::Payload(handle);
        let key = rows::state_key(&row);
        let value = match self.pending.row(&key) {
            Some(value) => value,
            None => self.with_database(|database| {
                let table = database.begin_read()?.open_table(STATE)?;
                table.get(key.as_slice())?.map(|sealed| self.unseal("state", &key, sealed.value())).transpose()
            })?,
        };
        let payload = value.map(|value| hsm_core::rows::payload(&row, &value)).transpose();
        payload.map_err(|error| StorageFault::broken("state", &key, error))
    }

    /// Audit entries from a number on, verified against the chain.
    pub(crate) fn audit(&self, from: u64, limit: usize) -> Result<Vec<AuditEntry>, StorageFault> {
        self.flush_pending()?;
        let from = from.max(1);
        let limit = limit.min(limits::AUDIT_PAGE);
        self.with_database(|database| {
            let table = database.begin_read()?.open_table(AUDIT)?;
            let mut before = match table.get(from - 1)? {
                Some(sealed) => self.audit_entry(from - 1, sealed.value())?.link,
                None => hsm_core::audit::FIRST_LINK,
            };
            let mut entries = Vec::new();
            for row in table.range(from..)?.take(limit) {
                let (number, sealed) = row?;
                let entry = self.audit_entry(number.value(), sealed.value())?;
                if entry.number != from + entries.len() as u64
                    || hsm_core::audit::link(&before, &entry.record) != entry.link
                {
                    return Err(StorageFault::broken(
                        "audit",
                        &entry.number.to_be_bytes(),
                        "the chain of records is cut",
                    ));
                }
                before = entry.link;
                entries.push(entry);
            }
            Ok(entries)
        })
    }

    /// Whether [`Store::close`] was called.
    pub(crate) fn is_closed(&self) -> bool {
        self.database.read().is_none()
    }

    /// Closes the database. Everything after fails with [`StorageFault::Stopped`].
    pub(crate) fn close(&self) {
        let database = self.database.write().take();
        // redb writes its own tables while closing; a panic there must not take the process's stop along.
        if catch_unwind(AssertUnwindSafe(|| drop(database))).is_err() {
            tracing::error!("the store did not close cleanly; it is verified at the next start");
        }
    }

    /// Runs something on the database; a panic inside redb, which damaged pages can cause, becomes a fault.
    pub(crate) fn with_database<T>(
        &self,
        run: impl FnOnce(&Database) -> Result<T, StorageFault>,
    ) -> Result<T, StorageFault> {
        let database = self.database.read();
        let database = database.as_ref().ok_or(StorageFault::Stopped)?;
        without_panic(|| run(database))
    }

    fn write(
        &self,
        database: &Database,
        writer: &Writer,
        work: &Work,
        changes: &Changes,
    ) -> Result<Writer, StorageFault> {
        let mut transaction = database.begin_write()?;
        transaction.set_durability(if work.durable { Durability::Immediate } else { Durability::None })?;
        self.write_log(&transaction, work)?;
        let mut next = Writer {
            commit: writer.commit + u64::from(work.durable),
            sum: writer.sum,
            reached: writer.reached.clone(),
        };
        next.reached.advance(work, changes);
        self.write_changes(&transaction, changes, &mut next.sum)?;
        let mut table = transaction.open_table(META)?;
        if let Some(progress) = &changes.progress {
            self.put_meta(&mut table, meta::PROGRESS, &(progress, next.sum.to_bytes()))?;
        }
        if work.durable {
            self.put_meta(&mut table, meta::COMMIT, &next.commit)?;
        }
        if let Some(vote) = &work.vote {
            self.put_meta(&mut table, meta::VOTE, vote)?;
        }
        if let Some(stamped) = &work.stamped {
            self.put_meta(&mut table, meta::STAMPED, stamped)?;
        }
        if let Some(memories) = &work.memories {
            self.put_meta(&mut table, meta::MEMORIES, memories)?;
        }
        if let Some(node) = work.node {
            self.put_meta(&mut table, meta::IDENTITY, &Identity { format: FORMAT, node })?;
        }
        if let Some(bounds) = &work.bounds {
            self.put_meta(&mut table, meta::BOUNDS, bounds)?;
        }
        drop(table);
        transaction.commit()?;
        Ok(next)
    }

    fn write_log(&self, transaction: &WriteTransaction, work: &Work) -> Result<(), StorageFault> {
        if work.append.is_empty() && work.truncate_from.is_none() && work.purge_to.is_none() {
            return Ok(());
        }
        let mut table = transaction.open_table(LOG)?;
        if let Some(from) = work.truncate_from {
            table.retain_in(from.., |_, _| false)?;
        }
        if let Some(purged) = work.purge_to {
            table.retain_in(..=purged, |_, _| false)?;
        }
        for (index, entry) in &work.append {
            table.insert(index, self.seal("log", &index.to_be_bytes(), entry)?.as_slice())?;
        }
        Ok(())
    }

    fn write_changes(
        &self,
        transaction: &WriteTransaction,
        changes: &Changes,
        sum: &mut RowSum,
    ) -> Result<(), StorageFault> {
        if !changes.rows.is_empty() {
            let mut table = transaction.open_table(STATE)?;
            for (key, value) in &changes.rows {
                self.put_state(&mut table, "state", key, value.as_deref(), sum)?;
            }
        }
        if !changes.audit.is_empty() {
            let mut table = transaction.open_table(AUDIT)?;
            for entry in &changes.audit {
                self.put_audit(&mut table, entry, sum)?;
            }
        }
        Ok(())
    }

    fn put_state(
        &self,
        table: &mut Table<'_, &[u8], &[u8]>,
        name: &'static str,
        key: &[u8],
        value: Option<&[u8]>,
        sum: &mut RowSum,
    ) -> Result<(), StorageFault> {
        let before = match value {
            Some(value) => {
                let sealed = self.seal(name, key, value)?;
                sum.add(&self.key.row_tag(name, key, &sealed)?);
                table.insert(key, sealed.as_slice())?
            }
            None => table.remove(key)?,
        };
        if let Some(before) = before {
            sum.remove(&self.key.row_tag(name, key, before.value())?);
        }
        Ok(())
    }

    fn put_audit(
        &self,
        table: &mut Table<'_, u64, &[u8]>,
        entry: &AuditEntry,
        sum: &mut RowSum,
    ) -> Result<(), StorageFault> {
        let key = entry.number.to_be_bytes();
        let link = serde_bytes::Bytes::new(&entry.link);
        let sealed = self.seal("audit", &key, &encode("audit", &key, &(&entry.record, link))?)?;
        sum.add(&self.key.row_tag("audit", &key, &sealed)?);
        match table.insert(entry.number, sealed.as_slice())? {
            None => Ok(()),
            Some(_) => Err(StorageFault::broken("audit", &key, "the number is taken")),
        }
    }

    fn audit_entry(&self, number: u64, sealed: &[u8]) -> Result<AuditEntry, StorageFault> {
        let key = number.to_be_bytes();
        let (record, link): (_, serde_bytes::ByteArray<48>) = self.open_as("audit", &key, sealed)?;
        Ok(AuditEntry { number, record, link: link.into_array() })
    }

    fn put_meta(
        &self,
        table: &mut Table<'_, &str, &[u8]>,
        row: &str,
        value: &impl Serialize,
    ) -> Result<(), StorageFault> {
        let sealed = self.seal("meta", row.as_bytes(), &encode("meta", row.as_bytes(), value)?)?;
        table.insert(row, sealed.as_slice())?;
        Ok(())
    }

    fn get_meta<T: DeserializeOwned>(
        &self,
        table: &impl ReadableTable<&'static str, &'static [u8]>,
        row: &str,
    ) -> Result<Option<T>, StorageFault> {
        let sealed = table.get(row)?;
        sealed.map(|sealed| self.open_as("meta", row.as_bytes(), sealed.value())).transpose()
    }

    fn seal(&self, table: &'static str, key: &[u8], value: &[u8]) -> Result<Vec<u8>, StorageFault> {
        Ok(self.key.seal_row(table, key, value)?)
    }

    fn unseal(&self, table: &'static str, key: &[u8], sealed: &[u8]) -> Result<Vec<u8>, StorageFault> {
        self.key.open_row(table, key, sealed).map_err(|broken| StorageFault::broken(table, key, broken))
    }

    fn open_as<T: DeserializeOwned>(&self, table: &'static str, key: &[u8], sealed: &[u8]) -> Result<T, StorageFault> {
        let value = self.unseal(table, key, sealed)?;
        decode(&value).map_err(|error| StorageFault::broken(table, key, error))
    }

    /// The commit stands whether the mark is written or not, so a failure is only told.
    fn note_durable(&self, commit: u64) {
        if let Err(fault) = mark::write(&*self.disk, &self.key, commit) {
            tracing::warn!(%fault, "the mark beside the store was not written");
        }
    }
}

pub(crate) fn encode(table: &'static str, key: &[u8], value: &impl Serialize) -> Result<Vec<u8>, StorageFault> {
    postcard::to_stdvec(value).map_err(|error| StorageFault::broken(table, key, error))
}

/// Runs something in redb; its panics, which damaged pages can cause, become faults.
fn without_panic<T>(run: impl FnOnce() -> Result<T, StorageFault>) -> Result<T, StorageFault> {
    catch_unwind(AssertUnwindSafe(run))
        .unwrap_or_else(|panic| Err(StorageFault::Damaged(format!("reading it panicked: {}", panic_text(&*panic)))))
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a word".to_owned())
}

/// [`without_panic`] while a store is opened.
fn without_panic_opening<T>(run: impl FnOnce() -> Result<T, OpenFault>) -> Result<T, OpenFault> {
    without_panic(|| Ok(run()))?
}
