//! An HSM whose disk is full does not lead when another voter could: it gives the lead away, and does not stand for election
//! before the others had time to.
//!
//! Changes wait meanwhile and go to the new leader. They are refused with `StorageFull` only when no voter with room takes the
//! lead: then the leader stays, and nobody elects anybody.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use openraft::AsyncRuntime;

use crate::engine::Shared;
use crate::leases::milliseconds;
use crate::limits;
use crate::runtime::Rt;
use crate::types::NodeId;

/// What a leader without room knows of the others.
pub(crate) struct Fullness {
    nobody_takes_it: AtomicBool,
}

impl Fullness {
    /// A witness gives the lead away in any case, and asks nobody for this reason.
    pub(crate) fn new(witness: bool) -> Self {
        Self { nobody_takes_it: AtomicBool::new(witness) }
    }

    /// Whether changes must be refused, and do not only wait for a leader with room.
    pub(crate) fn is_everywhere(&self) -> bool {
        self.nobody_takes_it.load(Ordering::SeqCst)
    }

    fn set(&self, everywhere: bool) {
        if self.nobody_takes_it.swap(everywhere, Ordering::SeqCst) != everywhere && everywhere {
            tracing::warn!("the disk is full and no other voter takes the lead: changes are refused");
        }
    }
}

/// Since when something holds, by the steady clock, in milliseconds.
type Since = u64;

/// The task of an HSM: runs until the node stops.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut seeks: Option<Since> = None;
    let (mut led_at, mut holds_back) = (shared.clock.read().steady, false);
    while !shared.faults.is_raised() {
        <Rt as AsyncRuntime>::sleep(limits::SUPERVISION).await;
        let now = shared.clock.read().steady;
        if shared.vitals.leader(now).is_some() {
            led_at = now;
        }
        let full = !shared.store.has_room();
        let patient = now.saturating_sub(led_at) < milliseconds(limits::ELECTION_MAXIMUM * limits::WITNESS_PATIENCE);
        let hold_back = full && patient && shared.others_could_decide();
        if hold_back != holds_back && shared.standing.takes_part() {
            holds_back = hold_back;
            shared.raft.runtime_config().elect(!hold_back);
        }
        if full && shared.is_leader() {
            let since = *seeks.get_or_insert(now);
            shared.give_lead_away(now.saturating_sub(since)).await;
        } else {
            seeks = None;
            shared.fullness.set(false);
        }
    }
}

impl Shared {
    /// Looks for a voter that takes the lead, as this node has done for so many milliseconds.
    async fn give_lead_away(&self, sought_for: u64) {
        let everywhere = if self.others_could_decide() {
            let heirs = self.heirs();
            for &heir in &heirs {
                tracing::warn!(heir, "the disk is full: another voter is asked to lead");
                if self.hand_over(heir).await && !self.is_leader() {
                    return;
                }
            }
            // One that has not all of the log will have it in a moment, or is gone.
            let asked = self.other_voters().iter().all(|node| heirs.contains(node));
            asked || sought_for > milliseconds(limits::ROOM_SOUGHT)
        } else {
            true
        };
        self.fullness.set(everywhere);
    }

    /// Whether the other voters that were just heard of are a majority: without them a change needs this disk.
    fn others_could_decide(&self) -> bool {
        let (now, vitals) = (self.clock.read().steady, self.vitals.all());
        let lives = |node: &&NodeId| {
            let heard = vitals.get(node).map(|vital| vital.heard);
            heard.is_some_and(|heard| now.saturating_sub(heard) < milliseconds(limits::ALIVE))
        };
        let others = self.other_voters();
        2 * others.iter().filter(lives).count() > others.len() + 1
    }

    fn other_voters(&self) -> BTreeSet<NodeId> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        metrics.membership_config.membership().voter_ids().filter(|&node| node != self.node).collect()
    }
}
