//! What a node is opened with.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, SystemClock};
use crate::disk::{Disk, FileDisk};
use crate::fault::Fault;
use crate::limits;
use crate::network::{Network, NoPeers};
use crate::outcome::{EffectSink, NoEffects};
use crate::randomness::{Randomness, SystemRandomness};
use crate::standing::Standing;

/// Everything that a node gets from outside. [`Settings::at`] gives the product's choices; a simulation replaces them.
pub struct Settings {
    /// Where log and state lie.
    pub disk: Arc<dyn Disk>,
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
    /// Where random node ids come from.
    pub randomness: Arc<dyn Randomness>,
    /// How to reach other members.
    pub network: Arc<dyn Network>,
    /// Who carries out effects.
    pub effects: Arc<dyn EffectSink>,
    /// Called once, on any thread, when this node can not go on: the process must end (and may start again). Nothing is
    /// acknowledged after it.
    pub on_fault: Arc<dyn Fn(Fault) + Send + Sync>,
    /// Called on a thread of this crate whenever this node becomes something else to its cluster: hand over and return.
    pub on_standing: Arc<dyn Fn(Standing) + Send + Sync>,
    /// After this time the outcome of a command that is under way is [`crate::Outcome::Unknown`].
    pub propose_deadline: Duration,
    /// Memory for pages of the store, in bytes.
    pub cache_bytes: usize,
    /// Address under which other members reach this node; empty for a sole HSM.
    pub address: String,
    /// The newest version of commands that this program knows: [`hsm_core::versions::NEWEST`], but in tests of two
    /// versions.
    pub newest_state: u32,
    /// Whether this node holds no key: it votes, and leads only until an HSM can.
    pub witness: bool,
}

impl Settings {
    /// The product's settings with the store in this file, which is made with mode 0600 if it does not exist.
    pub fn at(store: impl AsRef<Path>) -> Self {
        Self {
            disk: Arc::new(FileDisk::new(store)),
            clock: Arc::new(SystemClock::start()),
            randomness: Arc::new(SystemRandomness),
            network: Arc::new(NoPeers),
            effects: Arc::new(NoEffects),
            on_fault: Arc::new(|fault| tracing::error!(%fault, "the node stops")),
            on_standing: Arc::new(|standing| tracing::info!(?standing, "the node's standing changed")),
            propose_deadline: limits::PROPOSE_DEADLINE,
            cache_bytes: limits::CACHE_BYTES,
            address: String::new(),
            newest_state: hsm_core::versions::NEWEST,
            witness: false,
        }
    }
}
