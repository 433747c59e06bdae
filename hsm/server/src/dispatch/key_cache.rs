//! Parsed keys of token objects, kept hot: parsing an RSA key costs more than signing with it.
//!
//! A key is found by its object's random name and version, so one that was changed is never used in its old form. The
//! cache decides nothing: every use asks the state first. Bounded by count and by estimated bytes; what was not used
//! since the clock's hand last passed goes first.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hsm_core::{Object, ObjectUid};
use hsm_crypto::Key;
use hsm_protocol::{AttributeKind, KeyType};
use parking_lot::RwLock;

use super::limits::{KEY_CACHE_BYTES, KEY_CACHE_KEYS};

/// Shards, so that threads that load keys do not hold up threads that use others.
const SHARDS: usize = 32;

/// The cache.
pub(crate) struct KeyCache {
    shards: [RwLock<Shard>; SHARDS],
    /// Limits of each shard.
    keys: usize,
    bytes: usize,
}

impl Default for KeyCache {
    fn default() -> Self {
        Self::with_limits(KEY_CACHE_KEYS, KEY_CACHE_BYTES)
    }
}

#[derive(Default)]
struct Shard {
    keys: HashMap<ObjectUid, Entry>,
    /// Names in the order in which the clock's hand visits them.
    order: Vec<ObjectUid>,
    hand: usize,
    bytes: usize,
}

struct Entry {
    version: u32,
    key: Arc<Key>,
    bytes: usize,
    used: AtomicBool,
}

impl KeyCache {
    /// A cache for so many keys of so many bytes in all.
    pub(crate) fn with_limits(keys: usize, bytes: usize) -> Self {
        Self { shards: Default::default(), keys: keys / SHARDS, bytes: bytes / SHARDS }
    }

    /// The parsed key of exactly this version of an object.
    pub(crate) fn get(&self, object: &Object) -> Option<Arc<Key>> {
        let shard = self.shard(object.uid()).read();
        let entry = shard.keys.get(&object.uid()).filter(|entry| entry.version == object.version())?;
        // Stored only when it changes: the flag shares its cache line with other readers.
        if !entry.used.load(Ordering::Relaxed) {
            entry.used.store(true, Ordering::Relaxed);
        }
        Some(Arc::clone(&entry.key))
    }

    /// Keeps a parsed key.
    pub(crate) fn put(&self, object: &Object, key: Arc<Key>) {
        let bytes = estimate(object);
        let evicted = {
            let shard = &mut *self.shard(object.uid()).write();
            let old = shard.remove(object.uid());
            let mut evicted = shard.make_room(bytes, self.keys, self.bytes);
            evicted.extend(old);
            shard.order.push(object.uid());
            shard.bytes += bytes;
            let entry = Entry { version: object.version(), key, bytes, used: AtomicBool::new(true) };
            shard.keys.insert(object.uid(), entry);
            evicted
        };
        // Wiping keys takes time, which nobody needs to wait for.
        drop(evicted);
    }

    /// Drops the key of an object.
    pub(crate) fn forget(&self, uid: ObjectUid) {
        let entry = self.shard(uid).write().remove(uid);
        drop(entry);
    }

    /// Drops every key.
    pub(crate) fn clear(&self) {
        for shard in &self.shards {
            let whole = std::mem::take(&mut *shard.write());
            drop(whole);
        }
    }

    fn shard(&self, uid: ObjectUid) -> &RwLock<Shard> {
        // The name is random.
        &self.shards[usize::from(uid.0[0]) % SHARDS]
    }
}

impl Shard {
    fn remove(&mut self, uid: ObjectUid) -> Option<Entry> {
        let entry = self.keys.remove(&uid)?;
        self.bytes -= entry.bytes;
        if let Some(position) = self.order.iter().position(|&known| known == uid) {
            self.order.swap_remove(position);
        }
        Some(entry)
    }

    fn make_room(&mut self, bytes: usize, most_keys: usize, most_bytes: usize) -> Vec<Entry> {
        let mut evicted = Vec::new();
        while !self.order.is_empty() && (self.bytes + bytes > most_bytes || self.order.len() >= most_keys) {
            self.hand %= self.order.len();
            let uid = self.order[self.hand];
            let spared = self.keys.get(&uid).is_some_and(|entry| entry.used.swap(false, Ordering::Relaxed));
            if spared {
                self.hand += 1;
            } else {
                evicted.extend(self.keys.remove(&uid).inspect(|entry| self.bytes -= entry.bytes));
                self.order.swap_remove(self.hand);
            }
        }
        evicted
    }
}

/// Bytes that a parsed key takes, roughly: the provider does not say. An RSA key holds its numbers about four times over
/// (values, Montgomery forms, blinding).
fn estimate(object: &Object) -> usize {
    const OTHER: usize = 2048;
    match object.key_type() {
        Some(KeyType::Rsa) => object
            .attribute(AttributeKind::Modulus)
            .and_then(|value| value.as_octets())
            .map_or(OTHER, |modulus| OTHER + modulus.len() * 16),
        _ => OTHER,
    }
}

#[cfg(test)]
impl KeyCache {
    /// Keys in the cache, and their bytes.
    pub(crate) fn size(&self) -> (usize, usize) {
        let sum = |(keys, bytes): (usize, usize), shard: &RwLock<Shard>| {
            let shard = shard.read();
            assert_eq!(shard.keys.len(), shard.order.len());
            (keys + shard.keys.len(), bytes + shard.bytes)
        };
        self.shards.iter().fold((0, 0), sum)
    }
}
