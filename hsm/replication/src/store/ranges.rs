//! A state cut into ranges of rows, and one such state read range by range.
//!
//! Where a range ends depends on the names of the rows alone, so two HSMs with nearly the same state cut it nearly alike,
//! and a range is what its content hashes to: who holds the rows of a range, from an earlier attempt or from before it
//! fell behind, need not be sent them. Nobody keeps a list of what was sent. [`incoming`](super::incoming) is the side
//! that receives, `sending.rs` the conversation. Only one range is in memory at a time.

use std::ops::Bound;
use std::sync::Arc;

use redb::{ReadTransaction, ReadableTable, ReadableTableMetadata};
use serde::{Deserialize, Serialize};
use serde_bytes::{ByteArray, ByteBuf};
use sha2::{Digest, Sha384};

use crate::fault::StorageFault;
use crate::limits;
use crate::store::Store;
use crate::store::rows::{AUDIT, Progress, STATE};
use crate::store::snapshot::{ChunkRow, Reader, digest_row};

/// Before the first row.
pub(crate) const START: &[u8] = &[];
/// Behind the last row.
pub(crate) const END: &[u8] = &[0xff];
/// What the places of rows of the state begin with; then follows their key.
const OF_STATE: u8 = 0;
/// What the places of audit rows begin with; then follows their number, 8 octets big-endian.
const OF_AUDIT: u8 = 1;

/// What the sender says of the next range.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Offer {
    /// Which transfer of this sender: never the same twice.
    pub(crate) transfer: u64,
    /// From 0.
    pub(crate) number: u64,
    /// Rows of the whole state.
    pub(crate) total: u64,
    /// Place behind which the range begins; [`START`] for the first one.
    pub(crate) after: ByteBuf,
    /// Place of its last row; [`END`] for the last range, and only for that.
    pub(crate) to: ByteBuf,
    /// Rows in it.
    pub(crate) rows: u64,
    /// Octets of their places and values.
    pub(crate) bytes: u64,
    /// SHA-384 over them.
    pub(crate) hash: ByteArray<48>,
    /// With the last range: how far the state is, and the chain over the hashes of all ranges.
    pub(crate) end: Option<(Progress, ByteArray<48>)>,
}

/// Why a range is not taken. Nothing that was received or installed before is lost by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub(crate) enum RangeRefusal {
    #[error("no such transfer is known here, or not as far: begin it again")]
    OutOfOrder,
    #[error("the range is larger than a range may be")]
    TooLarge,
    #[error("there are more rows, or fewer, than were stated")]
    OtherCount,
    #[error("its rows lie outside of the range, or not in their order")]
    Misplaced,
    #[error("its rows do not hash to what was offered")]
    OtherHash,
    #[error("the ranges together are not the state that was offered")]
    OtherState,
    #[error("the rows are no state that this HSM can load")]
    Unsound,
    #[error("the disk has no room for it")]
    NoRoom,
}

impl RangeRefusal {
    /// Whether the sender may begin again with the first range.
    pub(crate) fn begins_again(self) -> bool {
        self == Self::OutOfOrder
    }
}

/// What the receiver says.
#[derive(Serialize, Deserialize)]
pub(crate) enum RangeTold {
    /// These rows are here.
    Held,
    /// They are not: send them.
    Wanted,
    /// They are here now.
    Stored,
    /// All of them are here, and the state is being installed: offer the last range again to hear what came of it.
    Working,
    /// They are not taken.
    Refused(RangeRefusal),
}

/// Rows of a range with what they amount to.
pub(crate) struct Rows {
    pub(crate) rows: Vec<ChunkRow>,
    pub(crate) bytes: usize,
}

impl Rows {
    /// SHA-384 over all of them.
    pub(crate) fn hash(&self) -> [u8; 48] {
        hash_of(&self.rows)
    }
}

/// SHA-384 over rows in their order.
pub(crate) fn hash_of(rows: &[ChunkRow]) -> [u8; 48] {
    let mut hash = Sha384::new();
    rows.iter().for_each(|row| digest_row(&mut hash, row));
    hash.finalize().into()
}

/// The chain over the hashes of ranges.
pub(crate) fn chain(before: &[u8; 48], range: &[u8; 48]) -> [u8; 48] {
    Sha384::new().chain_update(before).chain_update(range).finalize().into()
}

/// Where a row lies among all rows of a state.
pub(crate) fn place_of(row: &ChunkRow) -> Vec<u8> {
    match row {
        ChunkRow::State(key, _) => [&[OF_STATE], key.as_slice()].concat(),
        ChunkRow::Audit(number, _) => [&[OF_AUDIT][..], &number.to_be_bytes()].concat(),
    }
}

/// Octets of a row's place and value.
pub(crate) fn size_of(row: &ChunkRow) -> usize {
    match row {
        ChunkRow::State(key, value) => 1 + key.len() + value.len(),
        ChunkRow::Audit(_, value) => 9 + value.len(),
    }
}

/// Bounds of a range in a table.
pub(crate) type Bounds<T> = (Bound<T>, Bound<T>);

/// Keys of the rows of the state in a range; `None` when it has none.
pub(crate) fn state_bounds<'a>(after: &'a [u8], to: &'a [u8]) -> Option<Bounds<&'a [u8]>> {
    let from = match after.split_first() {
        None => Bound::Unbounded,
        Some((&OF_STATE, key)) => Bound::Excluded(key),
        Some(_) => return None,
    };
    match to.split_first() {
        Some((&OF_STATE, key)) => Some((from, Bound::Included(key))),
        _ => Some((from, Bound::Unbounded)),
    }
}

/// Numbers of the audit rows in a range; `None` when it has none.
pub(crate) fn audit_bounds(after: &[u8], to: &[u8]) -> Option<Bounds<u64>> {
    let number = |place: &[u8]| place.get(1..).and_then(|number| number.try_into().ok()).map(u64::from_be_bytes);
    let from = match after.first() {
        Some(&OF_AUDIT) => Bound::Excluded(number(after)?),
        _ => Bound::Unbounded,
    };
    match to.first() {
        Some(&OF_AUDIT) => Some((from, Bound::Included(number(to)?))),
        Some(_) if to == END => Some((from, Bound::Unbounded)),
        _ => None,
    }
}

/// Whether a range ends behind this row: once in about [`limits::RANGE_ROWS`] rows. Multiplying by 2^64 over the golden
/// ratio spreads consecutive numbers evenly (Knuth, The Art of Computer Programming, volume 3, section 6.4).
fn ends_behind(place: &[u8]) -> bool {
    let tail = place.iter().rev().take(8).rev().fold(0_u64, |number, &octet| number << 8 | u64::from(octet));
    tail.wrapping_mul(0x9e37_79b9_7f4a_7c15) < u64::MAX / limits::RANGE_ROWS
}

/// Reads the rows behind `after` up to `to` from two tables of this store, until there is one after which `enough` says so.
/// Says whether all were read.
pub(crate) fn walk(
    store: &Store,
    state: Option<&impl ReadableTable<&'static [u8], &'static [u8]>>,
    audit: Option<&impl ReadableTable<u64, &'static [u8]>>,
    (after, to): (&[u8], &[u8]),
    mut enough: impl FnMut(&ChunkRow, &Rows) -> bool,
) -> Result<(Rows, bool), StorageFault> {
    let mut read = Rows { rows: Vec::new(), bytes: 0 };
    let mut take = |row: ChunkRow| {
        read.bytes += size_of(&row);
        let stops = enough(&row, &read);
        read.rows.push(row);
        stops
    };
    if let Some((table, bounds)) = state.zip(state_bounds(after, to)) {
        for row in table.range::<&[u8]>(bounds)? {
            let (key, sealed) = row?;
            let value = store.unseal("state", key.value(), sealed.value())?;
            if take(ChunkRow::State(ByteBuf::from(key.value()), ByteBuf::from(value))) {
                return Ok((read, false));
            }
        }
    }
    if let Some((table, bounds)) = audit.zip(audit_bounds(after, to)) {
        for row in table.range(bounds)? {
            let (number, sealed) = row?;
            let value = store.unseal("audit", &number.value().to_be_bytes(), sealed.value())?;
            if take(ChunkRow::Audit(number.value(), ByteBuf::from(value))) {
                return Ok((read, false));
            }
        }
    }
    Ok((read, true))
}

/// Reads a store as of one moment, range by range.
pub(crate) struct Ranges {
    store: Arc<Store>,
    transaction: ReadTransaction,
    progress: Progress,
    transfer: u64,
    total: u64,
    after: Vec<u8>,
    number: u64,
    chain: [u8; 48],
}

impl Ranges {
    /// The state that `reader` reads, to be sent under the next number of this store's transfers.
    pub(crate) fn new(reader: Reader) -> Result<Self, StorageFault> {
        let (store, transaction, progress) = reader.into_parts();
        let total =
            super::without_panic(|| Ok(transaction.open_table(STATE)?.len()? + transaction.open_table(AUDIT)?.len()?))?;
        let transfer = store.traffic.next_transfer();
        let (after, chain) = (START.to_vec(), [0; 48]);
        Ok(Self { store, transaction, progress, transfer, total, after, number: 0, chain })
    }

    /// Rows of the whole state.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// Starts over with the first range of the same moment.
    pub(crate) fn begin_again(&mut self) {
        (self.after, self.number, self.chain) = (START.to_vec(), 0, [0; 48]);
    }

    /// The next range with its rows. None follows the one that has an end.
    pub(crate) fn next_range(&mut self) -> Result<(Offer, Vec<ChunkRow>), StorageFault> {
        let (read, ended) = super::without_panic(|| {
            let (state, audit) = (self.transaction.open_table(STATE)?, self.transaction.open_table(AUDIT)?);
            walk(&self.store, Some(&state), Some(&audit), (&self.after, END), |row, read| {
                read.bytes >= limits::SNAPSHOT_CHUNK_BYTES || ends_behind(&place_of(row))
            })
        })?;
        let to = match read.rows.last() {
            Some(last) if !ended => place_of(last),
            _ => END.to_vec(),
        };
        let hash = read.hash();
        self.chain = chain(&self.chain, &hash);
        let end = ended.then(|| (self.progress.clone(), ByteArray::new(self.chain)));
        let offer = Offer {
            transfer: self.transfer,
            number: self.number,
            total: self.total,
            after: ByteBuf::from(std::mem::replace(&mut self.after, to.clone())),
            to: ByteBuf::from(to),
            rows: read.rows.len() as u64,
            bytes: read.bytes as u64,
            hash: ByteArray::new(hash),
            end,
        };
        self.number += 1;
        Ok((offer, read.rows))
    }
}
