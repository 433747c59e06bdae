//! A witness that leads hands the lead to an HSM as soon as one has its whole log.
//!
//! openraft 0.9 has no transfer of a lead: the witness stops its heartbeats and asks the HSM to stand for election, which
//! it wins because its log is as long as any other. A witness stands itself only when no HSM did for long.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hsm_core::MemberKind;
use openraft::{AsyncRuntime, ServerState};

use crate::engine::Shared;
use crate::limits;
use crate::network::Ask;
use crate::runtime::Rt;
use crate::types::NodeId;

/// The witness's task: runs until the node stops.
pub(crate) async fn run(shared: Arc<Shared>) {
    loop {
        <Rt as AsyncRuntime>::sleep(limits::SUPERVISION).await;
        if let Some(heir) = shared.heir() {
            shared.hand_over(heir).await;
        }
    }
}

impl Shared {
    /// An HSM that votes and has all of this leader's log.
    fn heir(&self) -> Option<NodeId> {
        let last = self.raft.data_metrics().borrow().last_log;
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        if metrics.state != ServerState::Leader {
            return None;
        }
        let membership = metrics.membership_config.membership();
        let voters: Vec<NodeId> = membership.voter_ids().collect();
        let state = self.state.read();
        let is_hsm = |node: &NodeId| {
            state.members().get(&hsm_core::NodeId(*node)).is_some_and(|member| member.kind == MemberKind::Hsm)
        };
        let replication = metrics.replication.as_ref()?;
        let level = |node: &NodeId| replication.get(node).is_some_and(|matched| *matched == last);
        voters.into_iter().find(|node| is_hsm(node) && level(node))
    }

    async fn hand_over(&self, heir: NodeId) {
        tracing::info!(heir, "the witness hands the lead over");
        let runtime = self.raft.runtime_config();
        self.hands_over.store(true, Ordering::SeqCst);
        runtime.heartbeat(false);
        runtime.elect(false);
        let asked = self.link.ask(heir, &self.addresses.of(heir), &Ask::Elect, limits::HAND_OVER).await;
        if let Err(fault) = asked {
            tracing::info!(%fault, "it did not take it");
        }
        for _ in 0..limits::HAND_OVER.as_millis() / limits::LEADER_POLL.as_millis() {
            if self.raft.metrics().borrow().state != ServerState::Leader {
                break;
            }
            <Rt as AsyncRuntime>::sleep(limits::LEADER_POLL).await;
        }
        self.hands_over.store(false, Ordering::SeqCst);
        runtime.heartbeat(true);
        runtime.elect(self.standing.takes_part());
    }

    /// Stands for election until somebody leads who is no witness, a few times.
    pub(crate) async fn stand(self: Arc<Self>) {
        let tries = limits::HAND_OVER.as_millis() / limits::ELECTION_PAUSE.as_millis();
        for _ in 0..tries {
            let leads = self.raft.metrics().borrow().state == ServerState::Leader;
            if leads || self.raft.trigger().elect().await.is_err() {
                return;
            }
            <Rt as AsyncRuntime>::sleep(limits::ELECTION_PAUSE).await;
        }
    }
}
