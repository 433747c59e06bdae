//! Rows of the node's own store, sealed so that a stolen disk shows nothing and a moved row does not open.

use std::sync::Arc;

use super::{derive_key, envelope, label};
use crate::fault::{CryptoFault, SealBroken};
use crate::module::Module;
use crate::secret::pages::Pages;
use crate::wide::{Hash, Hmac};

/// Bytes of a row's tag and of a sum of tags.
const TAG: usize = 32;

/// Seals and opens rows. One per node; cheap to share (`Arc` inside).
#[derive(Clone)]
pub struct StorageKey(Arc<Inner>);

struct Inner {
    module: Arc<Module>,
    /// Row key, then sum key.
    keys: Pages,
}

impl StorageKey {
    /// Bytes that a sealed row is longer than its value.
    pub const OVERHEAD: usize = envelope::OVERHEAD;

    /// The storage key of a node, from its 32 random bytes.
    pub(super) fn derive(module: &Arc<Module>, secret: &[u8]) -> Result<Self, CryptoFault> {
        let mut keys = Pages::new(2 * envelope::KEY)?;
        let (row, sum) = keys.bytes_mut().split_at_mut(envelope::KEY);
        derive_key(secret, label::ROW, row)?;
        derive_key(secret, label::ROW_SUM, sum)?;
        Ok(Self(Arc::new(Inner { module: module.clone(), keys })))
    }

    /// Seals the value of the row `key` of `table`. It opens for that table and key only.
    ///
    /// # Errors
    /// [`CryptoFault::ModuleFailed`]: stop the node.
    pub fn seal_row(&self, table: &str, key: &[u8], value: &[u8]) -> Result<Vec<u8>, CryptoFault> {
        envelope::seal(&self.0.module, self.row_key(), &place(table, key), value)
    }

    /// Opens a row.
    ///
    /// # Errors
    /// [`SealBroken`] when the row is altered, or stood elsewhere, or belongs to another node.
    pub fn open_row(&self, table: &str, key: &[u8], sealed: &[u8]) -> Result<Vec<u8>, SealBroken> {
        let mut opened = envelope::open(self.row_key(), &place(table, key), sealed)?;
        Ok(std::mem::take(&mut *opened))
    }

    /// The tag of a row for a [`RowSum`]. `value` is whatever the store holds, sealed or not; always the same of both.
    ///
    /// # Errors
    /// [`CryptoFault::ModuleFailed`]: stop the node.
    pub fn row_tag(&self, table: &str, key: &[u8], value: &[u8]) -> Result<[u8; TAG], CryptoFault> {
        let mut hmac = Hmac::new(Hash::Sha256, &self.0.keys.bytes()[envelope::KEY..])?;
        hmac.update(&place(table, key))?;
        hmac.update(value)?;
        let mut tag = [0; TAG];
        tag.copy_from_slice(&hmac.finish()?);
        Ok(tag)
    }

    fn row_key(&self) -> &[u8] {
        &self.0.keys.bytes()[..envelope::KEY]
    }
}

/// Where a row stands, unambiguous: length of the table's name, name, length of the key, key.
fn place(table: &str, key: &[u8]) -> Vec<u8> {
    let mut place = Vec::with_capacity(table.len() + key.len() + 16);
    place.extend_from_slice(&(table.len() as u64).to_be_bytes());
    place.extend_from_slice(table.as_bytes());
    place.extend_from_slice(&(key.len() as u64).to_be_bytes());
    place.extend_from_slice(key);
    place
}

/// A sum over all rows of a store that does not depend on their order: when a row is put, its tag is added, when one is
/// removed, subtracted. Kept beside the rows, it shows at the next start whether a row was removed, put back or replaced
/// by an older version of itself: each row opens by itself, the sum ties them together.
///
/// The tags come from a keyed function, and sum and tags are compared inside the HSM only; so 256 bits of wrapping
/// addition suffice, where a sum of unkeyed hashes could be forged by solving for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowSum([u64; 4]);

impl RowSum {
    /// The sum over no rows.
    pub fn new() -> Self {
        Self::default()
    }

    /// A row was put.
    pub fn add(&mut self, tag: &[u8; TAG]) {
        self.combine(tag, u64::overflowing_add);
    }

    /// A row was removed.
    pub fn remove(&mut self, tag: &[u8; TAG]) {
        self.combine(tag, u64::overflowing_sub);
    }

    /// The sum as it is stored: 32 bytes, little-endian.
    pub fn to_bytes(self) -> [u8; TAG] {
        let mut bytes = [0; TAG];
        bytes.chunks_mut(8).zip(self.0).for_each(|(bytes, limb)| bytes.copy_from_slice(&limb.to_le_bytes()));
        bytes
    }

    /// A stored sum.
    pub fn from_bytes(bytes: &[u8; TAG]) -> Self {
        Self(limbs(bytes))
    }

    fn combine(&mut self, tag: &[u8; TAG], step: fn(u64, u64) -> (u64, bool)) {
        let mut carry = false;
        for (limb, other) in self.0.iter_mut().zip(limbs(tag)) {
            let (value, first) = step(*limb, other);
            let (value, second) = step(value, u64::from(carry));
            *limb = value;
            carry = first || second;
        }
    }
}

fn limbs(bytes: &[u8; TAG]) -> [u64; 4] {
    let mut limbs = [0; 4];
    for (limb, chunk) in limbs.iter_mut().zip(bytes.chunks(8)) {
        *limb = chunk.iter().rev().fold(0, |value, &byte| (value << 8) | u64::from(byte));
    }
    limbs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> StorageKey {
        StorageKey::derive(&Module::start().unwrap(), &[9; 32]).unwrap()
    }

    #[test]
    fn a_row_opens_where_it_stands_and_nowhere_else() {
        let key = key();
        let sealed = key.seal_row("object", b"1", b"value").unwrap();
        assert_eq!(sealed.len(), 5 + StorageKey::OVERHEAD);
        assert_eq!(key.open_row("object", b"1", &sealed).unwrap(), b"value");
        assert_eq!(key.open_row("object", b"2", &sealed), Err(SealBroken::Authentication));
        assert_eq!(key.open_row("objec", b"t1", &sealed), Err(SealBroken::Authentication));
        let other = StorageKey::derive(&Module::start().unwrap(), &[8; 32]).unwrap();
        assert_eq!(other.open_row("object", b"1", &sealed), Err(SealBroken::Authentication));
    }

    #[test]
    fn the_sum_does_not_depend_on_order_and_comes_back() {
        let key = key();
        let tags: Vec<_> = (0..50_u8).map(|row| key.row_tag("t", &[row], b"v").unwrap()).collect();
        let mut forward = RowSum::new();
        tags.iter().for_each(|tag| forward.add(tag));
        let mut backward = RowSum::new();
        tags.iter().rev().for_each(|tag| backward.add(tag));
        assert_eq!(forward, backward);
        assert_eq!(RowSum::from_bytes(&forward.to_bytes()), forward);
        tags.iter().for_each(|tag| forward.remove(tag));
        assert_eq!(forward, RowSum::new());
        assert_ne!(key.row_tag("t", b"a", b"v").unwrap(), key.row_tag("t", b"a", b"w").unwrap());
    }

    #[test]
    fn the_sum_carries_over_all_limbs() {
        let mut sum = RowSum::from_bytes(&[0xFF; 32]);
        let mut one = [0; 32];
        one[0] = 1;
        sum.add(&one);
        assert_eq!(sum, RowSum::new());
        sum.remove(&one);
        assert_eq!(sum.to_bytes(), [0xFF; 32]);
    }
}
