//! Once a second every member asks every other one how it does, and tells it how it does itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hsm_core::Index;
use hsm_protocol::ErrorCode;
use openraft::{AsyncRuntime, ServerState};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteArray;

use crate::engine::Shared;
use crate::fault::Fault;
use crate::leases::milliseconds;
use crate::limits;
use crate::memory::Remembered;
use crate::network::{Ask, Told};
use crate::roster::Introduction;
use crate::runtime::Rt;
use crate::standing::Standing;
use crate::types::{LogId, NodeId, Vote};

/// How a member does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Pulse {
    /// Last applied command, and the chain of hashes up to it.
    pub(crate) applied: Index,
    pub(crate) hash: ByteArray<48>,
    /// Its vote, as it is on its disk.
    pub(crate) vote: Vote,
    /// The end of its log, as it is on its disk: what a power cut may take is told to nobody.
    pub(crate) last: Option<LogId>,
    /// It leads, and a majority said so a moment ago.
    pub(crate) leads: bool,
    /// What it remembers of whom it tells this.
    pub(crate) yours: Option<Remembered>,
}

impl Pulse {
    /// How far its disk is.
    pub(crate) fn reached(&self) -> Remembered {
        Remembered::new(&self.vote, self.last)
    }
}

/// What one who is asked says.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct PulseTold {
    pub(crate) pulse: Pulse,
    /// Its hash at the command that the asker applied last, if it still knows.
    pub(crate) at_yours: Option<ByteArray<48>>,
    /// Whether the asker is in its roster, or still in Raft's membership.
    pub(crate) listed: bool,
    /// Its roster, when the asker's state is older than that.
    pub(crate) roster: Introduction,
}

/// What is known of one other member.
#[derive(Clone)]
pub(crate) struct Vital {
    /// When it was last heard of, by the steady clock, in milliseconds.
    pub(crate) heard: u64,
    /// When it last answered this node.
    pub(crate) answered: Option<u64>,
    pub(crate) pulse: Pulse,
    /// Commands by which this node was ahead.
    pub(crate) lag: u64,
    /// Whether hashes agreed when they were last compared.
    pub(crate) agrees: Option<bool>,
    /// When its state had last reached this node's with the same hash.
    pub(crate) level_at: Option<u64>,
}

/// What a member told.
struct Heard {
    pulse: Pulse,
    /// Whether its hash is this node's; `None` when they could not be compared.
    agrees: Option<bool>,
    /// Whether its state has reached this node's.
    level: bool,
    /// Whether this node had asked.
    answers: bool,
}

/// What is known of all others.
#[derive(Default)]
pub(crate) struct Vitals(Mutex<BTreeMap<NodeId, Vital>>);

impl Vitals {
    pub(crate) fn all(&self) -> BTreeMap<NodeId, Vital> {
        self.0.lock().clone()
    }

    /// Who said a moment ago that it leads, and in which term.
    pub(crate) fn leader(&self, now: u64) -> Option<(NodeId, u64)> {
        let vitals = self.0.lock();
        let fresh =
            |vital: &Vital| vital.pulse.leads && now.saturating_sub(vital.heard) < milliseconds(2 * limits::PULSE);
        let leaders = vitals.iter().filter(|(_, vital)| fresh(vital));
        leaders.map(|(&node, vital)| (node, vital.pulse.vote.leader_id.term)).max_by_key(|&(_, term)| term)
    }

    /// How many of these had another hash than this node when they were last compared.
    fn differing(&self, among: &BTreeSet<NodeId>) -> usize {
        let vitals = self.0.lock();
        among.iter().filter_map(|node| vitals.get(node)).filter(|vital| vital.agrees == Some(false)).count()
    }

    /// A member told how it does.
    fn hear(&self, node: NodeId, now: u64, mine: Index, heard: Heard) {
        let mut vitals = self.0.lock();
        let before = vitals.get(&node);
        let agrees = heard.agrees.or_else(|| before.and_then(|vital| vital.agrees));
        let level_at = if heard.level { Some(now) } else { before.and_then(|vital| vital.level_at) };
        let answered = if heard.answers { Some(now) } else { before.and_then(|vital| vital.answered) };
        let lag = mine.0.saturating_sub(heard.pulse.applied.0);
        vitals.insert(node, Vital { heard: now, answered, pulse: heard.pulse, lag, agrees, level_at });
    }

    /// Forgets those who are no members.
    fn keep(&self, members: &BTreeMap<NodeId, String>) {
        self.0.lock().retain(|node, _| members.contains_key(node));
    }
}

impl Shared {
    /// How this node does, as it is told to `to`.
    pub(crate) fn pulse(&self, to: NodeId) -> Pulse {
        let (applied, hash) = self.applied.with_hash();
        let leads = self.surely_leads();
        let reached = self.store.durable();
        let (vote, last) = (reached.vote.unwrap_or_default(), reached.log.end());
        Pulse { applied, hash: ByteArray::new(hash), vote, last, leads, yours: self.memory.of(to) }
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
        let asker = theirs.applied;
        let at_yours = self.applied.hash_at(asker);
        let agrees = at_yours.map(|hash| hash == *theirs.hash);
        self.hear(from, self.applied.now(), Heard { pulse: theirs, agrees, level: false, answers: false });
        let listed = self.is_member(from);
        let roster = if asker < self.applied.roster() { self.introduction() } else { Introduction::default() };
        PulseTold { pulse: self.pulse(from), at_yours: at_yours.map(ByteArray::new), listed, roster }
    }

    async fn ask_pulse(self: Arc<Self>, node: NodeId, address: String) {
        let mine = self.pulse(node);
        let told = self.link.ask(node, &address, &Ask::Pulse(mine.clone()), limits::PULSE).await;
        let Ok(Told::Pulse(told)) = told else {
            return;
        };
        let at_mine = told.at_yours.map(|hash| hash == mine.hash);
        let at_theirs = || self.applied.hash_at(told.pulse.applied).map(|hash| hash == *told.pulse.hash);
        let agrees = at_mine.or_else(at_theirs);
        let level = told.pulse.applied >= mine.applied && agrees == Some(true);
        self.acquaintances.learn(told.pulse.applied, self.applied.now(), told.roster);
        if told.pulse.leads {
            self.note_listed(told.listed, told.pulse.applied);
        }
        self.hear(node, mine.applied, Heard { pulse: told.pulse, agrees, level, answers: true });
    }

    fn hear(&self, node: NodeId, mine: Index, heard: Heard) {
        let pulse = &heard.pulse;
        let own = Remembered::on_disk(&self.store.durable());
        self.memory.compare(node, pulse.leads, pulse.yours, own);
        if self.memory.is_exceeded() && self.standing.takes_part() {
            // It was put back to a disk of a time when it had no others to ask.
            self.put_aside(Standing::RolledBack);
        }
        // A disk of a time when this node was alone knows none of the others: what they remember counts all the same.
        if !self.may_order(node) {
            return;
        }
        self.memory.learn(node, pulse.reached());
        self.vitals.hear(node, self.clock.read().steady, mine, heard);
    }

    /// Whoever leads said whether this node is a member.
    fn note_listed(&self, listed: bool, applied: Index) {
        let unlisted = if listed || applied < self.applied.now() {
            self.unlisted.store(0, Ordering::SeqCst);
            0
        } else {
            self.unlisted.fetch_add(1, Ordering::SeqCst) + 1
        };
        if unlisted >= limits::TIMES_UNLISTED {
            self.put_aside(Standing::Removed);
        }
    }

    /// Stops this node if most voters have another state than it has.
    fn look_for_divergence(&self) {
        let voters: BTreeSet<NodeId> =
            self.raft.metrics().borrow().membership_config.membership().voter_ids().collect();
        if 2 * self.vitals.differing(&voters) > voters.len() && !self.faults.is_raised() {
            self.faults.raise(Fault::Diverged);
            self.lease.end();
            self.proposals.fail_all(ErrorCode::Broken);
        }
    }
}

/// The asking task: runs until the node stops.
pub(crate) async fn run(shared: Arc<Shared>) {
    // Who stops says nothing more: it may believe of its disk what is not there.
    while !shared.faults.is_raised() {
        let members = shared.addresses.all();
        shared.vitals.keep(&members);
        for (node, address) in members.clone().into_iter().filter(|&(node, _)| node != shared.node) {
            drop(<Rt as AsyncRuntime>::spawn(shared.clone().ask_pulse(node, address)));
        }
        <Rt as AsyncRuntime>::sleep(limits::PULSE).await;
        shared.look_for_divergence();
        if shared.store_memory(&members).is_err() {
            // The store has told it: the node stops.
            return;
        }
    }
}
