//! A state on its way into this store, range by range, beside the one that the node goes on using.
//!
//! What was received lies in tables of its own, sealed as all rows are, and stays there over a cut, another sender and a
//! restart, until it is installed or nobody has sent for [`limits::INCOMING_KEPT`]. What is held is never believed from
//! memory or from a list: when a range is offered, the rows that lie there are opened and hashed, and only equal ones
//! count. So rows that were put back on the disk, or belong to an older state, are simply not the range that is wanted.

use hsm_core::Hsm;
use hsm_crypto::RowSum;
use parking_lot::Mutex;
use redb::{
    Durability, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTableMetadata, TableError, WriteTransaction,
};

use crate::fault::{OpenFault, StorageFault};
use crate::limits;
use crate::store::Store;
use crate::store::ranges::{
    self, END, Offer, RangeRefusal, Rows, START, audit_bounds, hash_of, place_of, size_of, state_bounds, walk,
};
use crate::store::rows::{AUDIT, INCOMING_AUDIT, INCOMING_STATE, META, Progress, STATE, meta};
use crate::store::snapshot::ChunkRow;
use crate::traffic::Share;
use crate::types::{NodeId, SnapshotMeta};

/// What came of a range.
pub(crate) enum Taken {
    /// The rows were here.
    Held,
    /// They must be sent.
    Wanted,
    /// They are here now.
    Stored,
    /// They are not taken.
    Refused(RangeRefusal),
    /// It was the last one, and the whole is what was offered: it can be installed.
    Whole(Progress),
}

/// A received state that was looked through and loaded, and is not in use yet.
pub(crate) struct Prepared {
    pub(crate) hsm: Hsm,
    /// Over the rows as they are sealed here.
    pub(crate) sum: RowSum,
}

/// The side of a transfer that receives.
#[derive(Default)]
pub(crate) struct Incoming(Mutex<Option<Transfer>>);

struct Transfer {
    from: NodeId,
    number: u64,
    snapshot: String,
    /// Number of the range that comes next, where it begins, and what was before it.
    next: u64,
    after: Vec<u8>,
    rows: u64,
    total: u64,
    chain: [u8; 48],
    /// The next one, when its rows are to come.
    wanted: Option<Offer>,
    /// Hash of the one before.
    last: [u8; 48],
    /// Ranges stored that the disk may lose.
    unflushed: u32,
    /// What came of all ranges together.
    outcome: Option<Result<Progress, RangeRefusal>>,
}

impl Incoming {
    /// Looks whether the rows of a range are here: of an earlier attempt, or in the state that is in use.
    pub(crate) fn offer(
        &self,
        store: &Store,
        from: NodeId,
        meta: &SnapshotMeta,
        offer: &Offer,
    ) -> Result<Taken, StorageFault> {
        if let Err(refusal) = is_possible(offer) {
            return Ok(Taken::Refused(refusal));
        }
        let mut slot = self.0.lock();
        if offer.number == 0 && !slot.as_ref().is_some_and(|transfer| transfer.repeats(from, meta, offer)) {
            store.forget_whole()?;
            *slot = Some(Transfer::begin(from, meta, offer));
        }
        let Some(transfer) = slot.as_mut().filter(|transfer| transfer.is(from, meta, offer.transfer)) else {
            return Ok(Taken::Refused(RangeRefusal::OutOfOrder));
        };
        if transfer.repeats(from, meta, offer) {
            return Ok(transfer.again(Taken::Held));
        }
        if offer.number != transfer.next || offer.after != transfer.after {
            return Ok(Taken::Refused(RangeRefusal::OutOfOrder));
        }
        if offer.total != transfer.total || transfer.rows + offer.rows > transfer.total {
            return Ok(Taken::Refused(RangeRefusal::OtherCount));
        }
        if store.holds(offer)? {
            store.traffic.held(offer.bytes);
            return Ok(transfer.advance(store, meta, offer, Taken::Held));
        }
        transfer.wanted = Some(offer.clone());
        Ok(Taken::Wanted)
    }

    /// Takes the rows of the range that was offered last.
    pub(crate) fn rows(
        &self,
        store: &Store,
        from: NodeId,
        meta: &SnapshotMeta,
        (transfer, number): (u64, u64),
        rows: &[ChunkRow],
    ) -> Result<Taken, StorageFault> {
        let mut slot = self.0.lock();
        let Some(transfer) = slot.as_mut().filter(|known| known.is(from, meta, transfer)) else {
            return Ok(Taken::Refused(RangeRefusal::OutOfOrder));
        };
        if number + 1 == transfer.next && hash_of(rows) == transfer.last {
            // It came before, and the answer was lost.
            return Ok(transfer.again(Taken::Stored));
        }
        let Some(offer) = transfer.wanted.clone().filter(|offer| offer.number == number) else {
            return Ok(Taken::Refused(RangeRefusal::OutOfOrder));
        };
        if let Err(refusal) = are_offered(&offer, rows) {
            return Ok(Taken::Refused(refusal));
        }
        if !store.has_room_for(offer.bytes) {
            return Ok(Taken::Refused(RangeRefusal::NoRoom));
        }
        transfer.unflushed += 1;
        let durable = transfer.unflushed >= limits::RANGES_PER_FLUSH;
        store.store_range((&offer.after, &offer.to), rows, durable)?;
        if durable {
            transfer.unflushed = 0;
        }
        store.traffic.received(offer.bytes);
        Ok(transfer.advance(store, meta, &offer, Taken::Stored))
    }

    /// Looks through a state that was received as a whole and loads it; `None` when it is none that can be installed.
    pub(crate) fn prepare(&self, store: &Store, progress: &Progress) -> Result<Option<Box<Prepared>>, StorageFault> {
        match store.prepare(progress) {
            Ok(prepared) => {
                store.note_incoming(progress)?;
                Ok(Some(Box::new(prepared)))
            }
            Err(fault) => {
                tracing::warn!(%fault, "a state that was received cannot be installed");
                if let Some(transfer) = self.0.lock().as_mut() {
                    transfer.outcome = Some(Err(RangeRefusal::Unsound));
                }
                Ok(None)
            }
        }
    }

    /// Removes some of what was received when nobody goes on with it; `false` when there is nothing left to remove.
    pub(crate) fn give_up(&self, store: &Store) -> Result<bool, StorageFault> {
        *self.0.lock() = None;
        store.traffic.receives(None);
        store.discard_incoming()
    }
}

impl Transfer {
    fn begin(from: NodeId, meta: &SnapshotMeta, offer: &Offer) -> Self {
        Self {
            from,
            number: offer.transfer,
            snapshot: meta.snapshot_id.clone(),
            next: 0,
            after: START.to_vec(),
            rows: 0,
            total: offer.total,
            chain: [0; 48],
            wanted: None,
            last: [0; 48],
            unflushed: 0,
            outcome: None,
        }
    }

    fn is(&self, from: NodeId, meta: &SnapshotMeta, number: u64) -> bool {
        self.from == from && self.number == number && self.snapshot == meta.snapshot_id
    }

    /// Whether this range was taken, and its answer lost.
    fn repeats(&self, from: NodeId, meta: &SnapshotMeta, offer: &Offer) -> bool {
        self.is(from, meta, offer.transfer) && offer.number + 1 == self.next && self.last == *offer.hash
    }

    /// What to say of the last range that was taken when it comes again.
    fn again(&self, taken: Taken) -> Taken {
        self.outcome.clone().map_or(taken, |outcome| outcome.map_or_else(Taken::Refused, Taken::Whole))
    }

    /// The range is here.
    fn advance(&mut self, store: &Store, meta: &SnapshotMeta, offer: &Offer, taken: Taken) -> Taken {
        self.next += 1;
        self.after = offer.to.to_vec();
        self.rows += offer.rows;
        self.last = *offer.hash;
        self.chain = ranges::chain(&self.chain, &offer.hash);
        self.wanted = None;
        store.traffic.receives(Some(Share { rows: self.rows, total: self.total }));
        if let Some((progress, chain)) = &offer.end {
            self.outcome = Some(match () {
                () if self.rows != self.total => Err(RangeRefusal::OtherCount),
                () if self.chain != **chain || progress.last != meta.last_log_id => Err(RangeRefusal::OtherState),
                () => Ok(progress.clone()),
            });
        }
        self.again(taken)
    }
}

/// Whether there can be such a range at all.
fn is_possible(offer: &Offer) -> Result<(), RangeRefusal> {
    if offer.bytes > limits::RANGE_BYTES_MAXIMUM as u64 || offer.rows > offer.bytes {
        return Err(RangeRefusal::TooLarge);
    }
    let orderly = offer.after < offer.to && (offer.number == 0) == offer.after.is_empty();
    let ends = offer.end.is_some() == (offer.to == END);
    if orderly && ends { Ok(()) } else { Err(RangeRefusal::Misplaced) }
}

/// Whether these are the rows of that range.
fn are_offered(offer: &Offer, rows: &[ChunkRow]) -> Result<(), RangeRefusal> {
    let bytes: usize = rows.iter().map(size_of).sum();
    if bytes > limits::RANGE_BYTES_MAXIMUM {
        return Err(RangeRefusal::TooLarge);
    }
    if rows.len() as u64 != offer.rows || bytes as u64 != offer.bytes {
        return Err(RangeRefusal::OtherCount);
    }
    let mut before = offer.after.to_vec();
    for row in rows {
        let place = place_of(row);
        if place <= before || place.as_slice() > offer.to.as_slice() {
            return Err(RangeRefusal::Misplaced);
        }
        before = place;
    }
    if hash_of(rows) == *offer.hash { Ok(()) } else { Err(RangeRefusal::OtherHash) }
}

/// A table that may not be there yet.
fn open<K: redb::Key + 'static, V: redb::Value + 'static>(
    transaction: &ReadTransaction,
    table: redb::TableDefinition<'_, K, V>,
) -> Result<Option<ReadOnlyTable<K, V>>, StorageFault> {
    match transaction.open_table(table) {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl Store {
    /// Whether the rows of a range lie among the incoming ones, or in the state in use, from where they are copied.
    fn holds(&self, offer: &Offer) -> Result<bool, StorageFault> {
        let range = (offer.after.as_slice(), offer.to.as_slice());
        let same = |read: &Rows| read.rows.len() as u64 == offer.rows && read.hash() == *offer.hash;
        let more = |_: &ChunkRow, read: &Rows| read.bytes as u64 > offer.bytes;
        let (incoming, used) = self.with_database(|database| {
            let transaction = database.begin_read()?;
            let (state, audit) = (open(&transaction, INCOMING_STATE)?, open(&transaction, INCOMING_AUDIT)?);
            let incoming = walk(self, state.as_ref(), audit.as_ref(), range, more);
            // A broken row is none of the state that was offered: it is received anew.
            if incoming.is_ok_and(|(read, _)| same(&read)) {
                return Ok((true, None));
            }
            let (state, audit) = (open(&transaction, STATE)?, open(&transaction, AUDIT)?);
            let used = walk(self, state.as_ref(), audit.as_ref(), range, more);
            Ok((false, used.ok().map(|(read, _)| read).filter(same)))
        })?;
        match used {
            Some(used) => self.store_range(range, &used.rows, false).map(|()| true),
            None => Ok(incoming),
        }
    }

    /// Puts rows among the incoming ones, instead of what lies there in that range.
    fn store_range(&self, range: (&[u8], &[u8]), rows: &[ChunkRow], durable: bool) -> Result<(), StorageFault> {
        // Sealed before the database is asked for: it has one writer, and others wait.
        let sealed = rows.iter().map(|row| self.seal_incoming(row)).collect::<Result<Vec<_>, _>>()?;
        self.with_database(|database| {
            let mut transaction = database.begin_write()?;
            transaction.set_durability(if durable { Durability::Immediate } else { Durability::None })?;
            self.replace_range(&transaction, range, rows, &sealed)?;
            Ok(transaction.commit()?)
        })
    }

    fn seal_incoming(&self, row: &ChunkRow) -> Result<Vec<u8>, StorageFault> {
        match row {
            ChunkRow::State(key, value) => self.seal("state", key, value),
            ChunkRow::Audit(number, value) => self.seal("audit", &number.to_be_bytes(), value),
        }
    }

    fn replace_range(
        &self,
        transaction: &WriteTransaction,
        (after, to): (&[u8], &[u8]),
        rows: &[ChunkRow],
        sealed: &[Vec<u8>],
    ) -> Result<(), StorageFault> {
        let mut state = transaction.open_table(INCOMING_STATE)?;
        let mut audit = transaction.open_table(INCOMING_AUDIT)?;
        if let Some(bounds) = state_bounds(after, to).filter(|_| !state.is_empty().unwrap_or(false)) {
            state.retain_in::<&[u8], _>(bounds, |_, _| false)?;
        }
        if let Some(bounds) = audit_bounds(after, to).filter(|_| !audit.is_empty().unwrap_or(false)) {
            audit.retain_in(bounds, |_, _| false)?;
        }
        for (row, sealed) in rows.iter().zip(sealed) {
            match row {
                ChunkRow::State(key, _) => drop(state.insert(key.as_slice(), sealed.as_slice())?),
                ChunkRow::Audit(number, _) => drop(audit.insert(number, sealed.as_slice())?),
            }
        }
        Ok(())
    }

    /// The incoming rows are no whole state any more.
    fn forget_whole(&self) -> Result<(), StorageFault> {
        self.with_database(|database| {
            let mut transaction = database.begin_write()?;
            transaction.set_durability(Durability::None)?;
            transaction.open_table(META)?.remove(meta::INCOMING)?;
            Ok(transaction.commit()?)
        })
    }

    /// Looks through the incoming rows and loads what they say, without touching what is in use.
    pub(crate) fn prepare(&self, progress: &Progress) -> Result<Prepared, OpenFault> {
        // A state that lacks audit records has no table of them yet.
        self.with_database(|database| {
            let mut transaction = database.begin_write()?;
            transaction.set_durability(Durability::None)?;
            drop((transaction.open_table(INCOMING_STATE)?, transaction.open_table(INCOMING_AUDIT)?));
            Ok(transaction.commit()?)
        })?;
        let transaction = self.with_database(|database| Ok(database.begin_read()?))?;
        super::without_panic_opening(|| {
            let mut sum = RowSum::new();
            let hsm = self.load_state(&transaction, INCOMING_STATE, &mut sum)?;
            self.verify_audit(&transaction, INCOMING_AUDIT, progress, &mut sum)?;
            Ok(Prepared { hsm, sum })
        })
    }

    /// Removes a few of the incoming rows, so that no writer waits long; `false` when there are none.
    fn discard_incoming(&self) -> Result<bool, StorageFault> {
        let some = self.with_database(|database| {
            let transaction = database.begin_read()?;
            let state = open(&transaction, INCOMING_STATE)?.map_or(Ok(0), |table| table.len())?;
            let audit = open(&transaction, INCOMING_AUDIT)?.map_or(Ok(0), |table| table.len())?;
            Ok(state + audit > 0)
        })?;
        if !some {
            return Ok(false);
        }
        self.with_database(|database| {
            let mut transaction = database.begin_write()?;
            transaction.set_durability(Durability::None)?;
            transaction.open_table(META)?.remove(meta::INCOMING)?;
            let mut left = limits::DISCARDED_ROWS;
            let mut table = transaction.open_table(INCOMING_STATE)?;
            while left > 0 && table.pop_first()?.is_some() {
                left -= 1;
            }
            drop(table);
            let mut table = transaction.open_table(INCOMING_AUDIT)?;
            while left > 0 && table.pop_first()?.is_some() {
                left -= 1;
            }
            drop(table);
            Ok(transaction.commit()?)
        })?;
        Ok(true)
    }
}
