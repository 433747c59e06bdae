//! Epochs of the cluster master key: who may open the next one, and how far payloads were moved to it.
//!
//! A removed HSM knows the master key of its time. So a removal is followed by a new epoch, whose master key travels in
//! the log, sealed for each HSM that is still there: the removed one opens nothing that is made in it. Data keys are
//! wrapped anew in the background, object by object in the order of handles.

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, NodeId, ObjectHandle, Stamp};

/// What the state remembers of an epoch after the first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// The epoch before.
    pub before: Epoch,
    /// When it began.
    pub begun_at: Stamp,
    /// Its master key, sealed for each HSM of that moment. One that joins later gets it from a member.
    pub masters: Vec<SealedMaster>,
    /// Payloads of objects up to this handle are under this epoch, or gone.
    pub moved_to: ObjectHandle,
    /// Objects that were made after it began have handles from here on, and need no moving.
    pub end: ObjectHandle,
    /// Payloads that there were when it began.
    pub keys: u64,
    /// How many of them were moved. Those that were destroyed before their turn are not counted.
    pub moved: u64,
}

impl EpochRecord {
    /// Whether every payload is under this epoch, so that the keys of the one before are needed no more.
    pub fn is_settled(&self) -> bool {
        self.moved_to.0.saturating_add(1) >= self.end.0
    }

    /// The same record without the master key of the epoch before, once that has no payload any more.
    pub(crate) fn forgetting_before(mut self) -> Self {
        if self.is_settled() {
            self.masters.iter_mut().for_each(|master| master.sealed_before.clear());
        }
        self
    }
}

/// The master key of an epoch on its way to one HSM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedMaster {
    /// For whom.
    pub node: NodeId,
    /// HPKE ciphertext under the HSM's sealing key.
    #[serde(with = "serde_bytes")]
    pub sealed: Vec<u8>,
    /// The master key of the epoch before, the same way: for an HSM that was away when that one began. Empty once every
    /// payload was moved.
    #[serde(with = "serde_bytes")]
    pub sealed_before: Vec<u8>,
}
