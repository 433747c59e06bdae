//! The state of one store on its way into another one.
//!
//! The state in redb *is* the snapshot: sending one reads a read transaction, which sees one moment for as long as it
//! lives, chunk by chunk, and nothing is ever serialized as a whole. Rows travel opened, because each node seals with a
//! key of its own; payloads are sealed under the cluster's keys all the same, and the way between members is theirs. The
//! last chunk carries a hash over all rows, without which nothing is installed.

use std::sync::Arc;

use hsm_core::Hsm;
use hsm_crypto::RowSum;
use parking_lot::Mutex;
use redb::{Durability, ReadTransaction, ReadableDatabase, ReadableTable, WriteTransaction};
use serde::{Deserialize, Serialize};
use serde_bytes::{ByteArray, ByteBuf};
use sha2::{Digest, Sha384};

use crate::fault::{OpenFault, StorageFault};
use crate::limits;
use crate::store::rows::{AUDIT, INCOMING_AUDIT, INCOMING_STATE, META, Progress, STATE, meta};
use crate::store::{Reached, Store, Writer, rows};
use crate::types::SnapshotMeta;

/// What openraft passes around as a snapshot.
pub(crate) struct SnapshotData(Source);

enum Source {
    /// Only says that the state up to some entry is stored.
    Mark,
    /// To be sent.
    Reader(Reader),
    /// Received as a whole and kept in the tables of incoming rows.
    Received(Progress),
}

impl SnapshotData {
    pub(crate) fn mark() -> Self {
        Self(Source::Mark)
    }

    pub(crate) fn received(progress: Progress) -> Self {
        Self(Source::Received(progress))
    }

    pub(crate) fn into_reader(self) -> Option<Reader> {
        match self.0 {
            Source::Reader(reader) => Some(reader),
            Source::Mark | Source::Received(_) => None,
        }
    }

    /// Makes sure that the whole of it lies among the incoming rows of `store`.
    pub(crate) fn receive(self, store: &Store, meta: &SnapshotMeta) -> Result<Progress, StorageFault> {
        let mut reader = match self.0 {
            Source::Received(progress) => return Ok(progress),
            Source::Mark => return Err(StorageFault::Damaged("a snapshot without rows".to_owned())),
            Source::Reader(reader) => reader,
        };
        let receiver = Receiver::new();
        loop {
            match receiver.take(store, meta, &reader.next_chunk()?)? {
                Received::Stored => {}
                Received::Whole(progress) => return Ok(progress),
                Received::OutOfOrder => return Err(StorageFault::Damaged("a snapshot that changed".to_owned())),
            }
        }
    }
}

/// Part of a snapshot.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Chunk {
    /// From 0.
    number: u64,
    rows: Vec<ChunkRow>,
    /// With the last chunk: how far the state is, and the hash over all rows of all chunks.
    end: Option<(Progress, ByteArray<48>)>,
}

impl Chunk {
    /// Whether the snapshot ends with it.
    pub(crate) fn is_last(&self) -> bool {
        self.end.is_some()
    }
}

#[derive(Clone, Serialize, Deserialize)]
enum ChunkRow {
    State(ByteBuf, ByteBuf),
    Audit(u64, ByteBuf),
}

/// Where a reader stands.
#[derive(Clone)]
enum Cursor {
    State(Option<Vec<u8>>),
    Audit(u64),
    End,
}

/// Reads a store as of one moment, chunk by chunk.
pub(crate) struct Reader {
    store: Arc<Store>,
    transaction: ReadTransaction,
    progress: Progress,
    cursor: Cursor,
    number: u64,
    hash: Sha384,
}

impl Reader {
    /// The next chunk; after the last one, the last one's empty successor never comes: the receiver has installed.
    pub(crate) fn next_chunk(&mut self) -> Result<Chunk, StorageFault> {
        super::without_panic(|| self.read_chunk())
    }

    /// Starts over with the first chunk.
    pub(crate) fn begin_again(&mut self) {
        (self.cursor, self.number, self.hash) = (Cursor::State(None), 0, Sha384::new());
    }

    fn read_chunk(&mut self) -> Result<Chunk, StorageFault> {
        let mut rows = Vec::new();
        let mut room = limits::SNAPSHOT_CHUNK_BYTES;
        while room > 0 {
            self.cursor = match self.cursor.clone() {
                Cursor::State(after) => self.read_state(after.as_deref(), &mut rows, &mut room)?,
                Cursor::Audit(from) => self.read_audit(from, &mut rows, &mut room)?,
                Cursor::End => break,
            };
        }
        rows.iter().for_each(|row| digest_row(&mut self.hash, row));
        let end = matches!(self.cursor, Cursor::End)
            .then(|| (self.progress.clone(), ByteArray::new(self.hash.clone().finalize().into())));
        let number = self.number;
        self.number += 1;
        Ok(Chunk { number, rows, end })
    }

    fn read_state(
        &self,
        after: Option<&[u8]>,
        rows: &mut Vec<ChunkRow>,
        room: &mut usize,
    ) -> Result<Cursor, StorageFault> {
        use std::ops::Bound::{Excluded, Unbounded};
        let table = self.transaction.open_table(STATE)?;
        for row in table.range::<&[u8]>((after.map_or(Unbounded, Excluded), Unbounded))? {
            let (key, sealed) = row?;
            let value = self.store.unseal("state", key.value(), sealed.value())?;
            *room = room.saturating_sub(key.value().len() + value.len());
            rows.push(ChunkRow::State(ByteBuf::from(key.value()), ByteBuf::from(value)));
            if *room == 0 {
                return Ok(Cursor::State(Some(key.value().to_vec())));
            }
        }
        Ok(Cursor::Audit(1))
    }

    fn read_audit(&self, from: u64, rows: &mut Vec<ChunkRow>, room: &mut usize) -> Result<Cursor, StorageFault> {
        let table = self.transaction.open_table(AUDIT)?;
        for row in table.range(from..)? {
            let (number, sealed) = row?;
            let value = self.store.unseal("audit", &number.value().to_be_bytes(), sealed.value())?;
            *room = room.saturating_sub(value.len());
            rows.push(ChunkRow::Audit(number.value(), ByteBuf::from(value)));
            if *room == 0 {
                return Ok(Cursor::Audit(number.value() + 1));
            }
        }
        Ok(Cursor::End)
    }
}

fn digest_row(hash: &mut Sha384, row: &ChunkRow) {
    let mut part = |octets: &[u8]| {
        hash.update((octets.len() as u64).to_be_bytes());
        hash.update(octets);
    };
    match row {
        ChunkRow::State(key, value) => {
            part(b"state");
            part(key);
            part(value);
        }
        ChunkRow::Audit(number, value) => {
            part(b"audit");
            part(&number.to_be_bytes());
            part(value);
        }
    }
}

/// A snapshot that is being received.
pub(crate) struct Receiver {
    state: Mutex<Receiving>,
    /// Whoever takes a chunk holds this, with the last one until it is installed: a chunk that comes twice, or from
    /// another sender, must not replace rows that are about to be installed.
    turn: tokio::sync::Mutex<()>,
}

struct Receiving {
    snapshot: String,
    next: u64,
    hash: Sha384,
    /// How far it goes, once all of it is there.
    whole: Option<Progress>,
}

/// What a chunk led to.
pub(crate) enum Received {
    /// It is stored; the next one is expected.
    Stored,
    /// It does not follow what was received: the sender must begin again.
    OutOfOrder,
    /// It was the last one and the whole is right.
    Whole(Progress),
}

impl Receiver {
    pub(crate) fn new() -> Self {
        let state = Receiving { snapshot: String::new(), next: 0, hash: Sha384::new(), whole: None };
        Self { state: Mutex::new(state), turn: tokio::sync::Mutex::default() }
    }

    /// Waits until no other chunk is being taken.
    pub(crate) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Stores a chunk among the incoming rows. The last one that was taken may come again: its answer was lost.
    pub(crate) fn take(&self, store: &Store, meta: &SnapshotMeta, chunk: &Chunk) -> Result<Received, StorageFault> {
        let mut state = self.state.lock();
        if chunk.number == 0 {
            *state = Receiving { snapshot: meta.snapshot_id.clone(), next: 0, hash: Sha384::new(), whole: None };
        }
        if state.snapshot != meta.snapshot_id || chunk.number > state.next || chunk.number + 1 < state.next {
            return Ok(Received::OutOfOrder);
        }
        if chunk.number < state.next {
            return Ok(state.whole.clone().map_or(Received::Stored, Received::Whole));
        }
        store.store_incoming(chunk)?;
        chunk.rows.iter().for_each(|row| digest_row(&mut state.hash, row));
        state.next += 1;
        match &chunk.end {
            None => Ok(Received::Stored),
            Some((progress, hash))
                if progress.last == meta.last_log_id && hash.as_slice() == state.hash.clone().finalize().as_slice() =>
            {
                store.note_incoming(progress)?;
                state.whole = Some(progress.clone());
                Ok(Received::Whole(progress.clone()))
            }
            Some(_) => Ok(Received::OutOfOrder),
        }
    }
}

impl Store {
    /// A snapshot of this moment, to be sent; `None` when nothing was applied yet.
    pub(crate) fn snapshot(self: &Arc<Self>) -> Result<Option<(SnapshotMeta, SnapshotData)>, StorageFault> {
        self.flush_pending()?;
        let transaction = self.with_database(|database| Ok(database.begin_read()?))?;
        let progress = super::without_panic(|| {
            let table = transaction.open_table(META)?;
            Ok(self.get_meta::<(Progress, [u8; 32])>(&table, meta::PROGRESS)?.map(|(progress, _)| progress))
        })?;
        let Some(progress) = progress.filter(|progress| progress.last.is_some()) else {
            return Ok(None);
        };
        let meta = meta_of(&progress);
        let (cursor, hash) = (Cursor::State(None), Sha384::new());
        let reader = Reader { store: self.clone(), transaction, progress, cursor, number: 0, hash };
        Ok(Some((meta, SnapshotData(Source::Reader(reader)))))
    }

    fn store_incoming(&self, chunk: &Chunk) -> Result<(), StorageFault> {
        self.with_database(|database| {
            let mut transaction = database.begin_write()?;
            transaction.set_durability(Durability::None)?;
            if chunk.number == 0 {
                transaction.delete_table(INCOMING_STATE)?;
                transaction.delete_table(INCOMING_AUDIT)?;
                transaction.open_table(META)?.remove(meta::INCOMING)?;
            }
            let mut state = transaction.open_table(INCOMING_STATE)?;
            let mut audit = transaction.open_table(INCOMING_AUDIT)?;
            for row in &chunk.rows {
                match row {
                    ChunkRow::State(key, value) => {
                        state.insert(key.as_slice(), self.seal("state", key, value)?.as_slice())?;
                    }
                    ChunkRow::Audit(number, value) => {
                        audit.insert(number, self.seal("audit", &number.to_be_bytes(), value)?.as_slice())?;
                    }
                }
            }
            drop((state, audit));
            Ok(transaction.commit()?)
        })
    }

    /// The incoming rows are a whole snapshot that goes as far as this.
    fn note_incoming(&self, progress: &Progress) -> Result<(), StorageFault> {
        self.with_database(|database| {
            let mut transaction = database.begin_write()?;
            transaction.set_durability(Durability::None)?;
            self.put_meta(&mut transaction.open_table(META)?, meta::INCOMING, progress)?;
            Ok(transaction.commit()?)
        })
    }

    /// Makes sure that the incoming rows are what was received as a whole, and nothing that came after it.
    fn take_incoming(&self, transaction: &WriteTransaction, progress: &Progress) -> Result<(), StorageFault> {
        let mut table = transaction.open_table(META)?;
        if self.get_meta::<Progress>(&table, meta::INCOMING)?.as_ref() != Some(progress) {
            return Err(StorageFault::Damaged(
                "the rows of a snapshot were replaced before it was installed".to_owned(),
            ));
        }
        table.remove(meta::INCOMING)?;
        Ok(())
    }

    /// Replaces the whole state by the received rows, durably, and loads it.
    pub(crate) fn install(&self, progress: &Progress) -> Result<Hsm, OpenFault> {
        let mut writer = self.writer.lock();
        // What commands changed before belongs to the state that goes.
        self.pending.begin_writing();
        let installed = self.with_database(|database| self.replace_state(database, &writer, progress));
        if let Err(fault) = &installed {
            self.faults.raise(crate::fault::Fault::Storage(fault.to_string()));
        }
        *writer = installed?;
        self.pending.written();
        *self.durable.lock() = writer.reached.clone();
        self.note_durable(writer.commit);
        let transaction = self.with_database(|database| Ok(database.begin_read()?))?;
        super::without_panic_opening(|| self.load_state(&transaction, &mut RowSum::new()))
    }

    fn replace_state(
        &self,
        database: &redb::Database,
        writer: &Writer,
        progress: &Progress,
    ) -> Result<Writer, StorageFault> {
        let transaction = database.begin_write()?;
        self.take_incoming(&transaction, progress)?;
        transaction.delete_table(STATE)?;
        transaction.delete_table(AUDIT)?;
        transaction.rename_table(INCOMING_STATE, STATE)?;
        transaction.rename_table(INCOMING_AUDIT, AUDIT)?;
        let mut sum = RowSum::new();
        {
            let table = transaction.open_table(STATE)?;
            for row in table.range::<&[u8]>(..)? {
                let (key, sealed) = row?;
                sum.add(&self.key.row_tag("state", key.value(), sealed.value())?);
            }
            let table = transaction.open_table(AUDIT)?;
            for row in table.iter()? {
                let (number, sealed) = row?;
                sum.add(&self.key.row_tag("audit", &number.value().to_be_bytes(), sealed.value())?);
            }
            let mut table = transaction.open_table(META)?;
            self.put_meta(&mut table, meta::PROGRESS, &(progress, sum.to_bytes()))?;
            self.put_meta(&mut table, meta::COMMIT, &(writer.commit + 1))?;
        }
        transaction.commit()?;
        let reached = Reached { progress: progress.clone(), ..writer.reached.clone() };
        Ok(Writer { commit: writer.commit + 1, sum, reached })
    }
}

/// What openraft is told of a snapshot.
pub(crate) fn meta_of(progress: &Progress) -> SnapshotMeta {
    let (term, index) = progress.last.map_or((0, 0), |last| (last.leader_id.term, last.index));
    SnapshotMeta {
        last_log_id: progress.last,
        last_membership: progress.membership.clone(),
        snapshot_id: format!("{term}-{index}-{}", rows::hexadecimal(&progress.hash[..8])),
    }
}
