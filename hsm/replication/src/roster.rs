//! Who the other members are and where they are reached: the roster in the state, and before it is known what Raft says;
//! and who is said to be one by members whose state is newer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hsm_core::{Hsm, Index};
use openraft::RaftMetrics;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::engine::Shared;
use crate::limits;
use crate::state::State;
use crate::types::{Member, NodeId};

/// What a member tells one whose roster is older.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct Introduction {
    members: Vec<Acquaintance>,
    /// Who votes now; two sets while that changes.
    voters: Vec<BTreeSet<NodeId>>,
}

/// A member as another one introduces it.
#[derive(Clone, Serialize, Deserialize)]
struct Acquaintance {
    node: NodeId,
    #[serde(with = "serde_bytes")]
    certificate: Vec<u8>,
}

/// Nodes that this node's own roster may lack.
#[derive(Default)]
pub(crate) struct Acquaintances(Mutex<Introduced>);

#[derive(Default)]
struct Introduced {
    /// What whoever said it had applied.
    at: Index,
    nodes: BTreeMap<NodeId, Vec<u8>>,
    voters: Vec<BTreeSet<NodeId>>,
}

impl Acquaintances {
    /// A member that has applied `theirs` told its roster; this node has applied `ours`.
    pub(crate) fn learn(&self, theirs: Index, ours: Index, introduction: Introduction) {
        let Introduction { members, voters } = introduction;
        let mut introduced = self.0.lock();
        if ours >= introduced.at {
            // Its own roster is as new.
            introduced.nodes.clear();
            introduced.voters.clear();
        }
        if theirs > ours && theirs >= introduced.at && !members.is_empty() {
            let nodes = members.into_iter().take(limits::MEMORIES).map(|one| (one.node, one.certificate));
            *introduced = Introduced { at: theirs, nodes: nodes.collect(), voters };
        }
    }

    /// Who votes now, if that is newer than what this node's log tells.
    pub(crate) fn voters(&self) -> Option<Vec<BTreeSet<NodeId>>> {
        let introduced = self.0.lock();
        (!introduced.voters.is_empty()).then(|| introduced.voters.clone())
    }

    /// Whether somebody introduced this node.
    pub(crate) fn know(&self, node: NodeId) -> bool {
        self.0.lock().nodes.contains_key(&node)
    }

    /// Its certificate.
    pub(crate) fn certificate(&self, node: NodeId) -> Option<Vec<u8>> {
        self.0.lock().nodes.get(&node).cloned()
    }
}

impl Shared {
    /// The roster, for a member whose own is older.
    pub(crate) fn introduction(&self) -> Introduction {
        let voters = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow();
            metrics.membership_config.membership().get_joint_config().clone()
        };
        let state = self.state.read();
        let members = state.members().iter();
        let members = members.map(|(node, member)| (node.0, member.certificate.clone()));
        let members = members.map(|(node, certificate)| Acquaintance { node, certificate });
        Introduction { members: members.collect(), voters }
    }
}

/// Finds members.
#[derive(Clone)]
pub(crate) struct Addresses {
    pub(crate) state: Arc<State>,
    pub(crate) metrics: watch::Receiver<RaftMetrics<NodeId, Member>>,
}

impl Addresses {
    /// Where a member is reached; empty when nobody said.
    pub(crate) fn of(&self, node: NodeId) -> String {
        let listed = self.state.read().members().get(&hsm_core::NodeId(node)).map(|member| member.peer_address.clone());
        let listed = listed.filter(|address| !address.is_empty());
        let metrics = self.metrics.borrow();
        let in_raft = || metrics.membership_config.membership().get_node(&node).map(|member| member.address.clone());
        listed.or_else(in_raft).unwrap_or_default()
    }

    /// The nodes of the roster or of Raft's membership.
    pub(crate) fn nodes(&self, state: &Hsm) -> BTreeSet<NodeId> {
        let metrics = self.metrics.borrow();
        let in_raft = metrics.membership_config.membership().nodes().map(|(&node, _)| node);
        in_raft.chain(state.members().keys().map(|node| node.0)).collect()
    }

    /// All members of the roster or of Raft's membership, with their addresses.
    pub(crate) fn all(&self) -> BTreeMap<NodeId, String> {
        let mut all: BTreeMap<NodeId, String> = {
            let metrics = self.metrics.borrow();
            let membership = metrics.membership_config.membership();
            membership.nodes().map(|(&node, member)| (node, member.address.clone())).collect()
        };
        for (node, member) in self.state.read().members() {
            let address = all.entry(node.0).or_default();
            if !member.peer_address.is_empty() {
                address.clone_from(&member.peer_address);
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(node: NodeId) -> Introduction {
        let members = vec![Acquaintance { node, certificate: vec![7] }];
        Introduction { members, voters: vec![BTreeSet::from([node])] }
    }

    #[test]
    fn who_was_introduced_is_known_until_the_own_roster_is_as_new() {
        let known = Acquaintances::default();
        known.learn(Index(9), Index(3), one(5));
        assert!(known.know(5) && known.certificate(5) == Some(vec![7]));
        known.learn(Index(8), Index(3), one(6));
        assert!(known.know(5) && !known.know(6), "an older word than the one before");
        assert_eq!(known.voters(), Some(vec![BTreeSet::from([5])]));
        known.learn(Index(9), Index(4), Introduction::default());
        assert!(known.know(5), "nothing to say is no new word");
        known.learn(Index(9), Index(9), Introduction::default());
        assert!(!known.know(5) && known.voters().is_none());
        known.learn(Index(9), Index(9), one(6));
        assert!(!known.know(6), "whoever is not ahead introduces nobody");
    }
}
