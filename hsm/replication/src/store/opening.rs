//! Opening a store: every row is verified before any is believed.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use hsm_core::Hsm;
use hsm_core::change::Row;
use hsm_crypto::{RowSum, StorageKey};
use parking_lot::{Mutex, RwLock};
use redb::{
    Builder, Database, DatabaseError, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata,
    StorageBackend,
};
use serde::{Deserialize, Serialize};

use crate::disk::{Backend, Disk};
use crate::fault::{Faults, OpenFault, StorageFault};
use crate::memory::Memories;
use crate::network::History;
use crate::stamp::Stamped;
use crate::store::pending::Pending;
use crate::store::rows::{AUDIT, FIRST_PAYLOAD, FORMAT, Identity, LOG, META, Progress, STATE, meta};
use crate::store::{Reached, Store, Work, Writer, mark, panic_text, rows};
use crate::types::{Entry, LogId, NodeId, Vote, decode};

/// How a redb file begins (redb's `docs/design.md`, "Database header").
const MAGIC: &[u8] = b"redb\x1A\x0A\xA9\x0D\x0A";

/// redb's header lies in the first page.
const FIRST_PAGE_BYTES: usize = 4096;

/// redb makes a file of about 1 MiB; what is longer was used.
const UNFINISHED_BYTES: u64 = 8 * 1024 * 1024;

/// A store that was found whole, and what it holds.
pub(crate) struct Opened {
    pub(crate) store: Arc<Store>,
    pub(crate) node: NodeId,
    pub(crate) hsm: Hsm,
    pub(crate) progress: Progress,
    pub(crate) log: LogBounds,
    pub(crate) vote: Option<Vote>,
    pub(crate) stamped: Option<Stamped>,
    /// It was made to join a cluster.
    pub(crate) joins: bool,
    /// Which history that was.
    pub(crate) joined: Option<History>,
    /// It was empty until now.
    pub(crate) new: bool,
    pub(crate) memories: Memories,
}

/// What an empty store becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beginning {
    /// Nothing: it must hold something.
    No,
    /// The store of a node that begins a history.
    Forms(NodeId),
    /// The store of a node that joins this one.
    Joins(NodeId, History),
}

/// What the log holds: everything after `purged` up to `last`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogBounds {
    pub(crate) purged: Option<LogId>,
    pub(crate) last: Option<LogId>,
}

impl LogBounds {
    /// The last entry that is, or was, in the log.
    pub(crate) fn end(self) -> Option<LogId> {
        self.last.max(self.purged)
    }
}

/// Opens and verifies the store. One that is new becomes what `beginning` says.
pub(crate) fn open(
    disk: &Arc<dyn Disk>,
    key: &StorageKey,
    cache_bytes: usize,
    faults: &Arc<Faults>,
    beginning: Beginning,
) -> Result<Opened, OpenFault> {
    let database = open_database(&**disk, cache_bytes, beginning != Beginning::No)?;
    let store = Store {
        disk: disk.clone(),
        key: key.clone(),
        database: RwLock::new(Some(database)),
        writer: Mutex::new(Writer { commit: 0, sum: RowSum::new(), reached: Reached::default() }),
        pending: Pending::default(),
        durable: Mutex::default(),
        faults: faults.clone(),
        flushes: AtomicU64::new(0),
    };
    let opened = store.load(beginning);
    if opened.is_err() {
        store.close();
    }
    let loaded = opened?;
    Ok(Opened {
        store: Arc::new(store),
        node: loaded.identity.node,
        hsm: loaded.hsm,
        progress: loaded.progress,
        log: loaded.log,
        vote: loaded.vote,
        stamped: loaded.stamped,
        joins: loaded.joins,
        joined: loaded.joined,
        new: loaded.new,
        memories: loaded.memories,
    })
}

struct Loaded {
    identity: Identity,
    hsm: Hsm,
    progress: Progress,
    log: LogBounds,
    vote: Option<Vote>,
    stamped: Option<Stamped>,
    joins: bool,
    joined: Option<History>,
    new: bool,
    memories: Memories,
}

fn open_database(disk: &dyn Disk, cache_bytes: usize, form: bool) -> Result<Database, OpenFault> {
    let backend = disk.open().map_err(StorageFault::from)?;
    if is_unfinished(&*backend).map_err(StorageFault::from)? {
        if !form {
            return Err(OpenFault::NotFormed(disk.name()));
        }
        backend.set_len(0).map_err(StorageFault::from)?;
    }
    let create = || {
        // The check reads every page; redb would trust, and might panic on, pages that were altered.
        let mut builder = Builder::new();
        builder.set_cache_size(cache_bytes).set_check_integrity_on_open(true);
        builder.create_with_backend(Backend(backend))
    };
    match catch_unwind(AssertUnwindSafe(create)) {
        Ok(Ok(database)) => Ok(database),
        Ok(Err(DatabaseError::DatabaseAlreadyOpen)) => Err(OpenFault::InUse(disk.name())),
        Ok(Err(error)) => Err(StorageFault::from(error).into()),
        Err(panic) => Err(StorageFault::Damaged(format!("opening it panicked: {}", panic_text(&*panic))).into()),
    }
}

/// Whether a crash interrupted redb while it made the file: then its first page has no magic number yet, and there is
/// nothing but zeros behind it. Nothing was ever stored in such a file.
fn is_unfinished(backend: &dyn StorageBackend) -> io::Result<bool> {
    let length = backend.len()?;
    if length == 0 || length > UNFINISHED_BYTES {
        return Ok(false);
    }
    let mut content = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    backend.read(0, &mut content)?;
    let behind = content.get(FIRST_PAGE_BYTES..).unwrap_or_default();
    Ok(!content.starts_with(MAGIC) && behind.iter().all(|&octet| octet == 0))
}

impl Store {
    fn load(&self, beginning: Beginning) -> Result<Loaded, OpenFault> {
        let transaction = self.with_database(|database| Ok(database.begin_read()?))?;
        let Some(identity) = super::without_panic_opening(|| self.identity(&transaction))? else {
            drop(transaction);
            return self.begin(beginning);
        };
        super::without_panic_opening(|| self.load_verified(&transaction, identity))
    }

    /// A store without rows: new, or emptied.
    fn begin(&self, beginning: Beginning) -> Result<Loaded, OpenFault> {
        self.compare_with_mark(0)?;
        let (node, joined) = match beginning {
            Beginning::No => return Err(OpenFault::NotFormed(self.disk.name())),
            Beginning::Forms(node) => (node, None),
            Beginning::Joins(node, history) => (node, Some(history)),
        };
        let joins = joined.is_some();
        let identity = Identity { format: FORMAT, node };
        self.with_database(|database| {
            let transaction = database.begin_write()?;
            transaction.open_table(LOG)?;
            transaction.open_table(STATE)?;
            transaction.open_table(AUDIT)?;
            let mut table = transaction.open_table(META)?;
            table.insert(meta::FORMAT, FORMAT.to_le_bytes().as_slice())?;
            self.put_meta(&mut table, meta::IDENTITY, &identity)?;
            self.put_meta(&mut table, meta::PROGRESS, &(Progress::default(), RowSum::new().to_bytes()))?;
            if let Some(history) = joined {
                self.put_meta(&mut table, meta::JOINS, &())?;
                self.put_meta(&mut table, meta::HISTORY, &history)?;
            }
            drop(table);
            Ok(transaction.commit()?)
        })?;
        self.commit(&Work { durable: true, ..Work::default() })?;
        let (hsm, progress, log) = (Hsm::empty(), Progress::default(), LogBounds::default());
        let memories = Memories::new();
        Ok(Loaded { identity, hsm, progress, log, vote: None, stamped: None, joins, joined, new: true, memories })
    }

    /// Who the store belongs to; `None` when it has no rows at all.
    fn identity(&self, transaction: &ReadTransaction) -> Result<Option<Identity>, OpenFault> {
        let table = match transaction.open_table(META) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(error) => return Err(StorageFault::from(error).into()),
        };
        let format = table.get(meta::FORMAT).map_err(StorageFault::from)?;
        let format = format.and_then(|format| format.value().try_into().ok().map(u32::from_le_bytes));
        let missing = |row: &str| StorageFault::broken("meta", row.as_bytes(), "the row is missing");
        let format = format.ok_or_else(|| missing(meta::FORMAT))?;
        if format > FORMAT {
            return Err(OpenFault::NewerFormat { found: format, known: FORMAT });
        }
        match self.get_meta::<Identity>(&table, meta::IDENTITY) {
            Ok(Some(identity)) if identity.format == format => Ok(Some(identity)),
            Ok(Some(_)) => Err(StorageFault::broken("meta", meta::FORMAT.as_bytes(), "the format was altered").into()),
            Ok(None) => Err(missing(meta::IDENTITY).into()),
            // One broken row is damage; when no row opens it is the key.
            Err(fault) => match self.get_meta::<(Progress, [u8; 32])>(&table, meta::PROGRESS) {
                Err(StorageFault::Broken { .. }) => Err(OpenFault::OtherKey),
                _ => Err(fault.into()),
            },
        }
    }

    fn load_verified(&self, transaction: &ReadTransaction, identity: Identity) -> Result<Loaded, OpenFault> {
        let table = transaction.open_table(META).map_err(StorageFault::from)?;
        let commit = self.get_meta(&table, meta::COMMIT)?.unwrap_or(0);
        self.compare_with_mark(commit)?;
        let (progress, stored_sum) = self
            .get_meta::<(Progress, [u8; 32])>(&table, meta::PROGRESS)?
            .ok_or_else(|| StorageFault::broken("meta", meta::PROGRESS.as_bytes(), "the row is missing"))?;
        let mut sum = RowSum::new();
        let hsm = self.load_state(transaction, &mut sum)?;
        self.verify_audit(transaction, &progress, &mut sum)?;
        if sum.to_bytes() != stored_sum {
            return Err(StorageFault::Damaged("a row was removed, added or replaced by an older one".to_owned()).into());
        }
        let log = self.get_meta(&table, meta::BOUNDS)?.unwrap_or_default();
        self.verify_log(transaction, log)?;
        let vote = self.get_meta(&table, meta::VOTE)?;
        let stamped = self.get_meta(&table, meta::STAMPED)?;
        let joins = self.get_meta::<()>(&table, meta::JOINS)?.is_some();
        let reached = Reached { progress: progress.clone(), vote, log };
        *self.durable.lock() = reached.clone();
        *self.writer.lock() = Writer { commit, sum, reached };
        let memories = self.get_meta(&table, meta::MEMORIES)?.unwrap_or_default();
        let joined = self.get_meta(&table, meta::HISTORY)?;
        Ok(Loaded { identity, hsm, progress, log, vote, stamped, joins, joined, new: false, memories })
    }

    fn compare_with_mark(&self, found: u64) -> Result<(), OpenFault> {
        let durable = mark::read(&*self.disk, &self.key)?;
        if found < durable { Err(OpenFault::RolledBack { found, durable }) } else { Ok(()) }
    }

    /// The state machine's rows: those in memory are opened and loaded, the others only counted in the sum; each of them
    /// is opened when it is needed.
    pub(super) fn load_state(&self, transaction: &ReadTransaction, sum: &mut RowSum) -> Result<Hsm, OpenFault> {
        let table = transaction.open_table(STATE).map_err(StorageFault::from)?;
        let mut range = table.range::<&[u8]>(..).map_err(StorageFault::from)?;
        let mut fault = None;
        let in_memory = std::iter::from_fn(|| {
            loop {
                let row = range.next()?.map_err(StorageFault::from).and_then(|(key, sealed)| {
                    sum.add(&self.key.row_tag("state", key.value(), sealed.value())?);
                    if key.value() >= FIRST_PAYLOAD {
                        Ok(None)
                    } else {
                        self.state_row(key.value(), sealed.value()).map(Some)
                    }
                });
                match row {
                    Ok(Some(row)) => return Some(row),
                    Ok(None) => {}
                    Err(broken) => {
                        fault = Some(broken);
                        return None;
                    }
                }
            }
        });
        let hsm = Hsm::load(in_memory);
        match fault {
            Some(fault) => Err(fault.into()),
            None => hsm.map_err(|broken| OpenFault::State(broken.to_string())),
        }
    }

    fn state_row(&self, key: &[u8], sealed: &[u8]) -> Result<(Row, Vec<u8>), StorageFault> {
        let value = self.unseal("state", key, sealed)?;
        let row = rows::state_row(key).ok_or_else(|| StorageFault::broken("state", key, "the key names no row"))?;
        Ok((row, value))
    }

    fn verify_audit(
        &self,
        transaction: &ReadTransaction,
        progress: &Progress,
        sum: &mut RowSum,
    ) -> Result<(), StorageFault> {
        let table = transaction.open_table(AUDIT)?;
        let mut expected = 0;
        for row in table.iter()? {
            let (number, sealed) = row?;
            expected += 1;
            let key = number.value().to_be_bytes();
            if number.value() != expected {
                return Err(StorageFault::broken("audit", &key, "a record before this one is missing"));
            }
            sum.add(&self.key.row_tag("audit", &key, sealed.value())?);
        }
        let last =
            table.last()?.map(|(number, sealed)| self.audit_entry(number.value(), sealed.value())).transpose()?;
        let link = last.map_or(hsm_core::audit::FIRST_LINK, |last| last.link);
        if expected == progress.audit_count && link == *progress.audit_link {
            Ok(())
        } else {
            Err(StorageFault::broken("audit", &expected.to_be_bytes(), "the chain of records does not end here"))
        }
    }

    fn verify_log(&self, transaction: &ReadTransaction, log: LogBounds) -> Result<(), StorageFault> {
        let table = transaction.open_table(LOG)?;
        let mut expected = log.purged.map_or(0, |purged| purged.index + 1);
        let mut last = log.purged;
        for row in table.iter()? {
            let (index, sealed) = row?;
            let key = index.value().to_be_bytes();
            let entry = self.log_entry(index.value(), sealed.value())?;
            if index.value() != expected || entry.log_id.index != expected {
                return Err(StorageFault::broken("log", &key, "an entry before this one is missing"));
            }
            last = Some(entry.log_id);
            expected += 1;
        }
        if last == log.end() && table.len()? == expected - log.purged.map_or(0, |purged| purged.index + 1) {
            Ok(())
        } else {
            Err(StorageFault::broken("log", &expected.to_be_bytes(), "the log does not end where it should"))
        }
    }

    /// An entry of the log.
    pub(crate) fn log_entry(&self, index: u64, sealed: &[u8]) -> Result<Entry, StorageFault> {
        let key = index.to_be_bytes();
        let value = self.unseal("log", &key, sealed)?;
        decode(&value).map_err(|error| StorageFault::broken("log", &key, error))
    }
}
