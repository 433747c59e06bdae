//! The mark beside the store: the number of the last durable commit, sealed, in two slots that are written in turn.

use hsm_crypto::StorageKey;

use crate::disk::{Disk, MARK_SLOT_BYTES};
use crate::fault::StorageFault;

const TABLE: &str = "mark";

/// Number of the last commit that the mark says was durable; 0 when it says nothing.
///
/// A slot that does not open is a torn write, or damage that cannot make the mark newer than it was; it counts as empty.
pub(crate) fn read(disk: &dyn Disk, key: &StorageKey) -> Result<u64, StorageFault> {
    let octets = disk.read_mark()?;
    let numbers = octets.chunks_exact(MARK_SLOT_BYTES).enumerate().map(|(slot, octets)| open(key, slot, octets));
    Ok(numbers.flatten().max().unwrap_or(0))
}

/// Notes that commit `number` is durable.
pub(crate) fn write(disk: &dyn Disk, key: &StorageKey, number: u64) -> Result<(), StorageFault> {
    let slot = usize::from(number % 2 == 1);
    let sealed = key.seal_row(TABLE, &[u8::from(slot == 1)], &number.to_be_bytes())?;
    let mut octets = [0; MARK_SLOT_BYTES];
    octets[0] = u8::try_from(sealed.len()).unwrap_or(0);
    octets[1..=sealed.len()].copy_from_slice(&sealed);
    disk.write_mark(slot, &octets)?;
    Ok(())
}

fn open(key: &StorageKey, slot: usize, octets: &[u8]) -> Option<u64> {
    let sealed = octets.get(1..=usize::from(*octets.first()?))?;
    let number = key.open_row(TABLE, &[u8::from(slot == 1)], sealed).ok()?;
    number.try_into().ok().map(u64::from_be_bytes)
}
