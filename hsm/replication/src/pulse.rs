//! Once a second every member asks every other one how it does, and tells it how it does itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hsm_core::Index;
use openraft::{AsyncRuntime, ServerState};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteArray;

use crate::engine::Shared;
use crate::limits;
use crate::network::{Ask, Told};
use crate::runtime::Rt;
use crate::types::{LogId, NodeId, Vote};

/// How a member does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Pulse {
    /// Last applied command, and the chain of hashes up to it.
    pub(crate) applied: Index,
    pub(crate) hash: ByteArray<48>,
    /// Its vote, as it is on its disk.
    pub(crate) vote: Vote,
    /// The end of its log.
    pub(crate) last: Option<LogId>,
    /// It leads, and a majority said so a moment ago.
    pub(crate) leads: bool,
}

/// What one who is asked says.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct PulseTold {
    pub(crate) pulse: Pulse,
    /// Its hash at the command that the asker applied last, if it still knows.
    pub(crate) at_yours: Option<ByteArray<48>>,
    /// Whether the asker is in its roster.
    pub(crate) listed: bool,
}

/// What is known of one other member.
#[derive(Clone)]
pub(crate) struct Vital {
    /// When it was last heard of, by the steady clock, in milliseconds.
    pub(crate) heard: u64,
    pub(crate) pulse: Pulse,
    /// Commands by which this node was ahead.
    pub(crate) lag: u64,
    /// Whether hashes agreed when they were last compared.
    pub(crate) agrees: Option<bool>,
    /// When its state had last reached this node's with the same hash.
    pub(crate) level_at: Option<u64>,
}

/// What is known of all others.
#[derive(Default)]
pub(crate) struct Vitals(Mutex<BTreeMap<NodeId, Vital>>);

impl Vitals {
    pub(crate) fn all(&self) -> BTreeMap<NodeId, Vital> {
        self.0.lock().clone()
    }

    /// A member told how it does. `agrees` is `None` when hashes could not be compared.
    fn hear(&self, node: NodeId, now: u64, mine: Index, pulse: Pulse, agrees: Option<bool>, level: bool) {
        let mut vitals = self.0.lock();
        let before = vitals.get(&node);
        let agrees = agrees.or_else(|| before.and_then(|vital| vital.agrees));
        let level_at = if level { Some(now) } else { before.and_then(|vital| vital.level_at) };
        let lag = mine.0.saturating_sub(pulse.applied.0);
        vitals.insert(node, Vital { heard: now, pulse, lag, agrees, level_at });
    }

    /// Forgets those who are no members.
    fn keep(&self, members: &BTreeMap<NodeId, String>) {
        self.0.lock().retain(|node, _| members.contains_key(node));
    }
}

impl Shared {
    /// How this node does.
    pub(crate) fn pulse(&self) -> Pulse {
        let (applied, hash) = self.applied.with_hash();
        let leads = self.surely_leads();
        let last = self.raft.data_metrics().borrow().last_log;
        let vote = self.raft.server_metrics().borrow().vote;
        Pulse { applied, hash: ByteArray::new(hash), vote, last, leads }
    }

    /// Whether this node leads and a majority has said so within the last moments.
    pub(crate) fn surely_leads(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let sole = metrics.membership_config.membership().voter_ids().count() == 1;
        let acknowledged =
            metrics.millis_since_quorum_ack.is_some_and(|age| u128::from(age) < limits::PULSE.as_millis());
        metrics.state == ServerState::Leader && (sole || acknowledged)
    }

    /// Answers another member's pulse. A member that is not level with the leader gives itself a moment to become so.
    pub(crate) async fn answer_pulse(self: Arc<Self>, from: NodeId, theirs: Pulse) -> PulseTold {
        let tries =
            if theirs.leads { limits::PULSE_PATIENCE.as_millis() / limits::APPLIED_POLL.as_millis() } else { 0 };
        for _ in 0..tries {
            if self.applied.now() >= theirs.applied {
                break;
            }
            <Rt as AsyncRuntime>::sleep(limits::APPLIED_POLL).await;
        }
        let at_yours = self.applied.hash_at(theirs.applied);
        let agrees = at_yours.map(|hash| hash == *theirs.hash);
        let mine = self.applied.now();
        self.vitals.hear(from, self.clock.read().steady, mine, theirs, agrees, false);
        let listed = self.state.read().members().contains_key(&hsm_core::NodeId(from));
        PulseTold { pulse: self.pulse(), at_yours: at_yours.map(ByteArray::new), listed }
    }

    async fn ask_pulse(self: Arc<Self>, node: NodeId, address: String) {
        let mine = self.pulse();
        let told = self.link.ask(node, &address, &Ask::Pulse(mine.clone()), limits::PULSE).await;
        let Ok(Told::Pulse(told)) = told else {
            return;
        };
        let at_mine = told.at_yours.map(|hash| hash == mine.hash);
        let at_theirs = || self.applied.hash_at(told.pulse.applied).map(|hash| hash == *told.pulse.hash);
        let agrees = at_mine.or_else(at_theirs);
        let level = told.pulse.applied >= mine.applied && agrees == Some(true);
        self.vitals.hear(node, self.clock.read().steady, mine.applied, told.pulse, agrees, level);
    }
}

/// The asking task: runs until the node stops.
pub(crate) async fn run(shared: Arc<Shared>) {
    loop {
        let members = shared.addresses.all();
        shared.vitals.keep(&members);
        for (node, address) in members.into_iter().filter(|&(node, _)| node != shared.node) {
            drop(<Rt as AsyncRuntime>::spawn(shared.clone().ask_pulse(node, address)));
        }
        let pause: Duration = limits::PULSE;
        <Rt as AsyncRuntime>::sleep(pause).await;
    }
}
