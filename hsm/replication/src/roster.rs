//! Who the other members are and where they are reached: the roster in the state, and before it is known what Raft says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hsm_core::Hsm;
use openraft::RaftMetrics;
use tokio::sync::watch;

use crate::state::State;
use crate::types::{Member, NodeId};

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
