//! How a leader gives the lead to another voter: a witness does as soon as it can, an HSM whose disk is full when it must.
//!
//! openraft 0.9 has no transfer of a lead: the leader stops its heartbeats and asks the other one to stand for election,
//! which it wins because its log is as long as any. Neither decides here when to do so: `witness.rs`, `fullness.rs`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hsm_core::MemberKind;
use openraft::{AsyncRuntime, ServerState};

use crate::engine::Shared;
use crate::limits;
use crate::network::{Ask, Told};
use crate::runtime::Rt;
use crate::types::NodeId;

impl Shared {
    /// Whether this node leads, or has led and not yet heard of another one.
    pub(crate) fn is_leader(&self) -> bool {
        self.raft.metrics().borrow().state == ServerState::Leader
    }

    /// HSMs that vote and have all of this leader's log; none on a node that does not lead.
    pub(crate) fn heirs(&self) -> Vec<NodeId> {
        let last = self.raft.data_metrics().borrow().last_log;
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let Some(replication) = metrics.replication.as_ref().filter(|_| metrics.state == ServerState::Leader) else {
            return Vec::new();
        };
        let voters = metrics.membership_config.membership().voter_ids().filter(|&node| node != self.node);
        let state = self.state.read();
        let is_hsm = |node: &NodeId| {
            state.members().get(&hsm_core::NodeId(*node)).is_some_and(|member| member.kind == MemberKind::Hsm)
        };
        let level = |node: &NodeId| replication.get(node).is_some_and(|matched| *matched == last);
        voters.filter(|node| is_hsm(node) && level(node)).collect()
    }

    /// Lets another voter lead, if it will. Whether it said that it stands for election; then this waits for the end of this
    /// node's lead, and no longer than [`limits::HAND_OVER`].
    pub(crate) async fn hand_over(&self, heir: NodeId) -> bool {
        let runtime = self.raft.runtime_config();
        self.hands_over.store(true, Ordering::SeqCst);
        runtime.heartbeat(false);
        runtime.elect(false);
        let asked = self.link.ask(heir, &self.addresses.of(heir), &Ask::Elect, limits::HAND_OVER).await;
        let stands = matches!(asked, Ok(Told::Done));
        if let Err(fault) = asked {
            tracing::info!(heir, %fault, "it does not take the lead");
        }
        let polls = limits::HAND_OVER.as_millis() / limits::LEADER_POLL.as_millis();
        for _ in 0..if stands { polls } else { 0 } {
            if !self.is_leader() {
                break;
            }
            <Rt as AsyncRuntime>::sleep(limits::LEADER_POLL).await;
        }
        self.hands_over.store(false, Ordering::SeqCst);
        runtime.heartbeat(true);
        runtime.elect(self.standing.takes_part());
        stands
    }

    /// A leader asks this node to lead. One whose disk is full does not: it would give the lead back.
    pub(crate) fn take_lead(self: &Arc<Self>) -> Told {
        if !self.store.has_room_to_lead() {
            return Told::Apart;
        }
        // It goes on after the answer.
        self.errands.give(self.clone().stand());
        Told::Done
    }

    /// Stands for election until this node leads, a few times.
    async fn stand(self: Arc<Self>) {
        let tries = limits::HAND_OVER.as_millis() / limits::ELECTION_PAUSE.as_millis();
        for _ in 0..tries {
            if self.is_leader() || self.raft.trigger().elect().await.is_err() {
                return;
            }
            <Rt as AsyncRuntime>::sleep(limits::ELECTION_PAUSE).await;
        }
    }
}
