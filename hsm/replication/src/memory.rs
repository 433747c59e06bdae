//! What this node remembers of the others' votes and logs, so that one that was put back to an older disk is noticed.
//!
//! A member tells its vote and the end of its log once a second; the others keep the highest, on disk. A member that was
//! started again takes part only when a majority of the voters, itself included if it is one, has said what it remembers,
//! and none remembers more than it has. The last second before a stop, a sole HSM, and all disks put back together are
//! beyond this.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use openraft::AsyncRuntime;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::engine::Shared;
use crate::fault::StorageFault;
use crate::leases::milliseconds;
use crate::limits;
use crate::runtime::{Rt, wait_for_disk};
use crate::standing::Standing;
use crate::store::{Reached, Work};
use crate::types::{Lead, LogId, NodeId, Vote};

/// How far a member's disk was once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Remembered {
    /// For whom it voted last, and in which term.
    vote: Lead,
    /// The end of its log, if that is an entry of this very lead: such entries are only added until there is a later vote.
    /// Entries of leads before may still be cut, and count for nothing without one of this lead behind them.
    last: Option<LogId>,
}

impl Remembered {
    pub(crate) fn new(vote: &Vote, last: Option<LogId>) -> Self {
        Self { vote: vote.leader_id, last: last.filter(|last| last.leader_id == vote.leader_id) }
    }

    /// What the disk has for certain.
    pub(crate) fn on_disk(reached: &Reached) -> Self {
        Self::new(&reached.vote.unwrap_or_default(), reached.log.end())
    }
}

/// By member.
pub(crate) type Memories = BTreeMap<NodeId, Remembered>;

/// What is remembered, and who has said what it remembers of this node.
pub(crate) struct Memory {
    state: Mutex<Kept>,
}

struct Kept {
    memories: Memories,
    /// Whether the disk has all of it.
    stored: bool,
    /// Who has said that it remembers no more of this node than this node has, since it started.
    satisfied: BTreeSet<NodeId>,
    /// What this node had when it started.
    at_start: Remembered,
    /// Under which lead it went on by itself, if it voted alone: only what it tells since then has that or a later vote.
    alone: Option<Lead>,
    /// Somebody remembers more.
    exceeded: bool,
    /// Somebody who surely leads was satisfied.
    leader_satisfied: bool,
}

impl Memory {
    pub(crate) fn new(memories: Memories, at_start: Remembered) -> Self {
        let kept = Kept {
            memories,
            stored: true,
            satisfied: BTreeSet::new(),
            at_start,
            alone: None,
            exceeded: false,
            leader_satisfied: false,
        };
        Self { state: Mutex::new(kept) }
    }

    /// This node voted alone, and leads now.
    pub(crate) fn goes_on_alone(&self, lead: Lead) {
        self.state.lock().alone = Some(lead);
    }

    pub(crate) fn of(&self, node: NodeId) -> Option<Remembered> {
        self.state.lock().memories.get(&node).copied()
    }

    /// A member told how far it is.
    pub(crate) fn learn(&self, node: NodeId, told: Remembered) {
        let mut kept = self.state.lock();
        if kept.memories.len() < limits::MEMORIES && kept.memories.get(&node).is_none_or(|known| told > *known) {
            kept.memories.insert(node, told);
            kept.stored = false;
        }
    }

    /// A member said what it remembers of this node, which has `own`.
    pub(crate) fn compare(&self, node: NodeId, leads: bool, theirs: Option<Remembered>, own: Remembered) {
        let mut kept = self.state.lock();
        let more = |theirs: Remembered| {
            let from_before = kept.alone.is_some_and(|lead| theirs.vote < lead);
            theirs > own || (from_before && theirs > kept.at_start)
        };
        if theirs.is_some_and(more) {
            kept.exceeded = true;
        } else {
            kept.satisfied.insert(node);
            kept.leader_satisfied |= leads;
        }
    }

    pub(crate) fn is_exceeded(&self) -> bool {
        self.state.lock().exceeded
    }

    /// Forgets those who are no members; says what must be written.
    fn to_store(&self, members: &BTreeMap<NodeId, String>) -> Option<Memories> {
        let mut kept = self.state.lock();
        let before = kept.memories.len();
        kept.memories.retain(|node, _| members.contains_key(node));
        let write = !kept.stored || kept.memories.len() != before;
        kept.stored = true;
        write.then(|| kept.memories.clone())
    }
}

impl Shared {
    /// Writes what was learnt since the last time.
    pub(crate) fn store_memory(&self, members: &BTreeMap<NodeId, String>) -> Result<(), StorageFault> {
        match self.memory.to_store(members) {
            Some(memories) => {
                let work = Work { memories: Some(memories), durable: true, ..Work::default() };
                wait_for_disk(|| self.store.commit(&work))
            }
            None => Ok(()),
        }
    }

    /// Waits until it is clear whether this node may take part, which was started again: `false` when its disk is older
    /// than what another one remembers.
    ///
    /// It is clear when so many *others* have answered that at least one of them was there at any election or commit that
    /// this node took part in: with three voters both. One of them may be gone for good, so after a while a majority that
    /// includes this node is enough (`docs/adr/0041`: what that leaves open).
    pub(crate) async fn is_whole(self: &Arc<Self>) -> bool {
        let patient_until = self.clock.read().steady.saturating_add(milliseconds(limits::RESTART_PATIENCE));
        loop {
            if self.memory.is_exceeded() {
                return false;
            }
            let is_patient = self.clock.read().steady < patient_until;
            if self.is_satisfied(is_patient) {
                return true;
            }
            <Rt as AsyncRuntime>::sleep(limits::LEADER_POLL).await;
        }
    }

    fn is_satisfied(&self, by_others: bool) -> bool {
        // Who votes now must know, also where they are others than in this node's log.
        let configs = self.acquaintances.voters().unwrap_or_else(|| {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow();
            metrics.membership_config.membership().get_joint_config().clone()
        });
        let kept = self.memory.state.lock();
        if configs.is_empty() || !self.lease.is_listed() {
            // It has not learnt who votes, or only who did before it came; whoever leads knows whether it ever had more.
            return kept.leader_satisfied;
        }
        configs.iter().all(|voters| {
            let others = voters.iter().filter(|&voter| *voter != self.node && kept.satisfied.contains(voter)).count();
            let itself = usize::from(voters.contains(&self.node));
            if by_others {
                others >= (voters.len() - voters.len() / 2).min(voters.len() - itself)
            } else {
                2 * (others + itself) > voters.len()
            }
        })
    }

    /// Puts this node aside for good.
    pub(crate) fn put_aside(&self, standing: Standing) {
        self.standing.become_now(standing);
        self.raft.runtime_config().elect(false);
        self.lease.end();
        self.proposals.fail_all(hsm_protocol::ErrorCode::NotReady);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(term: u64, last: Option<(u64, u64)>) -> Remembered {
        let last = last.map(|(term, index)| LogId::new(Lead::new(term, 1), index));
        Remembered::new(&Vote::new(term, 1), last)
    }

    #[test]
    fn entries_that_a_new_lead_may_cut_are_not_remembered() {
        // It voted anew, told the end of its log, and then what the new leader lacks was cut.
        assert!(at(5, Some((3, 100))) <= at(5, Some((2, 89))));
        assert!(at(5, Some((2, 89))) < at(5, Some((5, 90))));
        assert!(at(5, Some((5, 91))) > at(5, Some((5, 90))));
        assert!(at(6, Some((5, 91))) > at(5, Some((5, 91))), "a later vote was not forgotten");
    }
}
