//! The cluster master keys that this HSM holds, in memory and on its disk: the present one, and while something is still
//! sealed under it the one of the epoch before.
//!
//! A crash between any two writes loses no key: the one before has its seal before `master.seal` is replaced, and the state
//! holds the share of the present epoch until the next one begins. When to go on is for `epochs` to say.

use std::sync::Arc;

use hsm_core::Epoch;
use hsm_crypto::{MasterKey, RootOfTrust};
use parking_lot::RwLock;

use crate::data_folder::DataFolder;
use crate::exit::Fault;
use crate::member::{Surroundings, stopped};
use crate::root_of_trust;

/// The master keys of one or two epochs. A witness's is keyless.
pub struct Masters {
    held: RwLock<Held>,
}

/// The master keys as they are at one moment.
#[derive(Clone)]
pub struct Held {
    /// Of the present epoch.
    pub present: Arc<MasterKey>,
    /// Of the epoch before it.
    pub before: Option<Arc<MasterKey>>,
}

impl Masters {
    /// The master key of a cluster that has no epoch before, or what is read for a new member.
    pub fn new(present: MasterKey, before: Option<MasterKey>) -> Arc<Self> {
        let held = Held { present: Arc::new(present), before: before.map(Arc::new) };
        Arc::new(Self { held: RwLock::new(held) })
    }

    /// Reads what is on the disk; `present` was read already.
    ///
    /// # Errors
    /// [`Fault::RootOfTrust`], [`Fault::Disk`].
    pub(crate) fn read(folder: &DataFolder, root: &RootOfTrust, present: MasterKey) -> Result<Arc<Self>, Fault> {
        let file = folder.seal_before();
        let before = if file.exists() { Some(root_of_trust::unseal(folder, root, file)?) } else { None };
        // The process ended between the two writes of `advance`: the state still has the share of the next epoch.
        let before = before.filter(|before| before.epoch() < present.epoch());
        Ok(Self::new(present, before))
    }

    /// Both keys.
    pub fn held(&self) -> Held {
        self.held.read().clone()
    }

    /// The present epoch; 0 in a witness.
    pub fn epoch(&self) -> Epoch {
        self.held.read().present.epoch()
    }

    /// Goes on to the next epoch: on the disk first, the key of the epoch before it before anything is replaced.
    ///
    /// # Errors
    /// [`Fault::RootOfTrust`], [`Fault::Disk`]. It may be tried again.
    pub(crate) fn advance(
        &self,
        surroundings: &Surroundings,
        next: MasterKey,
        before: Option<Arc<MasterKey>>,
    ) -> Result<(), Fault> {
        let Surroundings { settings, folder, module, .. } = surroundings;
        let root = root_of_trust::open(module, folder, settings.root_of_trust(), false)?;
        let seal = |master: &MasterKey| master.seal(module, &root).map_err(|fault| stopped(&fault));
        match &before {
            Some(before) => folder.replace(&folder.seal_before(), &seal(before)?)?,
            None => folder.destroy(&folder.seal_before())?,
        }
        folder.replace(&folder.seal(), &seal(&next)?)?;
        *self.held.write() = Held { present: Arc::new(next), before };
        Ok(())
    }

    /// Destroys the key of the epoch before.
    ///
    /// # Errors
    /// [`Fault::Disk`].
    pub(crate) fn forget_before(&self, folder: &DataFolder) -> Result<(), Fault> {
        folder.destroy(&folder.seal_before())?;
        self.held.write().before = None;
        Ok(())
    }
}
