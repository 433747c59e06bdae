//! The cluster master key and the node's storage key.

use std::sync::Arc;

use hsm_core::Epoch;

use super::row::StorageKey;
use crate::fault::CryptoFault;
use crate::module::Module;
use crate::secret::MemoryKind;
use crate::secret::pages::Pages;

/// Bytes of each of the two keys.
pub(super) const KEY: usize = 32;

/// The cluster master key (AWS's *masking key*) of one epoch, which all HSMs of a cluster share, and beside it the
/// storage key, which each node has for itself. In secret memory; wiped on drop; sealed by
/// [`RootOfTrust`](super::RootOfTrust).
pub struct MasterKey {
    epoch: Epoch,
    /// Master key, then storage secret.
    keys: Pages,
}

impl MasterKey {
    /// New random keys. The first epoch of a cluster is 1.
    ///
    /// # Errors
    /// [`CryptoFault::ModuleFailed`] when the system gives no randomness or no memory for secrets.
    pub fn generate(module: &Module, epoch: Epoch) -> Result<Self, CryptoFault> {
        let mut keys = Pages::new(2 * KEY)?;
        module.random(keys.bytes_mut())?;
        Ok(Self { epoch, keys })
    }

    /// Keys for a node that gets no master key, a witness: its storage key alone is used. The epoch is 0, which no cluster
    /// has.
    ///
    /// # Errors
    /// As [`MasterKey::generate`].
    pub fn for_witness(module: &Module) -> Result<Self, CryptoFault> {
        let mut keys = Pages::new(2 * KEY)?;
        module.random(&mut keys.bytes_mut()[KEY..])?;
        Ok(Self { epoch: Epoch(0), keys })
    }

    /// Whether this is a witness's, which holds no master key.
    pub fn is_keyless(&self) -> bool {
        self.epoch == Epoch(0)
    }

    /// A master key that another HSM handed over, with a new storage key: a store is never shared.
    pub(super) fn received(module: &Module, epoch: Epoch, master: &[u8; KEY]) -> Result<Self, CryptoFault> {
        let mut keys = Pages::new(2 * KEY)?;
        keys.bytes_mut()[..KEY].copy_from_slice(master);
        module.random(&mut keys.bytes_mut()[KEY..])?;
        Ok(Self { epoch, keys })
    }

    /// A master key of another epoch for the node that this one belongs to: its store keeps its storage key.
    pub(super) fn succeeded_by(&self, epoch: Epoch, master: &[u8; KEY]) -> Result<Self, CryptoFault> {
        let mut keys = Pages::new(2 * KEY)?;
        keys.bytes_mut()[..KEY].copy_from_slice(master);
        keys.bytes_mut()[KEY..].copy_from_slice(&self.both()[KEY..]);
        Ok(Self { epoch, keys })
    }

    /// Keys that were unsealed.
    pub(super) fn from_parts(epoch: Epoch, keys: Pages) -> Self {
        Self { epoch, keys }
    }

    /// Its epoch.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The key that the node's own store is sealed with. It needs no cluster, because the store says which that is.
    ///
    /// # Errors
    /// [`CryptoFault::ModuleFailed`].
    pub fn storage_key(&self, module: &Arc<Module>) -> Result<StorageKey, CryptoFault> {
        StorageKey::derive(module, &self.keys.bytes()[KEY..])
    }

    /// What kind of memory holds it, for status and logs.
    pub fn memory(&self) -> MemoryKind {
        self.keys.kind()
    }

    /// The master key.
    pub(super) fn master(&self) -> &[u8] {
        &self.keys.bytes()[..KEY]
    }

    /// Both keys, for sealing.
    pub(super) fn both(&self) -> &[u8] {
        self.keys.bytes()
    }
}
