//! Waits until no HSM acts on a state before a command, but those that are named.
//!
//! The leader asks every HSM that holds a lease, or may hold one, whether it has applied the command, and gives none a new
//! lease before. One that stays silent has none any more when [`limits::LEASE_PASSED`] went by since its last ask. Without
//! a lease an HSM may still go on for the isolation window: the answer names it, and until when. The window is the largest
//! that it may believe in, and an HSM that was removed counts until it has heard of that, or can serve no more: the state
//! remembers both (`hsm_core::lingering`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hsm_core::{HsmId, Index, MemberKind, Stamp};
use hsm_protocol::ErrorCode;
use openraft::AsyncRuntime;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::engine::Shared;
use crate::leadership::Leading;
use crate::leases::milliseconds;
use crate::limits;
use crate::network::{Ask, Told};
use crate::runtime::Rt;
use crate::types::NodeId;

/// An HSM that may not know of the command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreached {
    /// Its node.
    pub node: u64,
    /// The HSM, if it is still in the roster.
    pub hsm: Option<HsmId>,
    /// Until when at most it goes on without knowing, in the cluster's time.
    pub until: Stamp,
}

/// An HSM that may act on its state.
struct Holder {
    /// If it is known.
    hsm: Option<HsmId>,
    /// What it must have applied.
    needs: Index,
    /// Until when at most it can serve.
    at_most: Stamp,
}

/// What a barrier came to: everybody knows, but these. `Err`: nobody could say (there is no leader, or it changed).
pub type Barrier = Result<Vec<Unreached>, ErrorCode>;

impl Shared {
    /// Waits for the barrier at `index`, at most so long.
    pub(crate) async fn barrier(self: Arc<Self>, index: Index, at_most: Duration) -> Barrier {
        let deadline = self.clock.read().steady.saturating_add(milliseconds(at_most));
        loop {
            let left = deadline.saturating_sub(self.clock.read().steady);
            if left == 0 {
                return Err(ErrorCode::QuorumLoss);
            }
            let leader = self.raft.metrics().borrow().current_leader;
            let outcome = match leader {
                Some(leader) if leader == self.node => self.clone().lead_barrier(index, left).await,
                Some(leader) => self.ask_barrier(leader, index, left).await,
                None => Err(ErrorCode::NotReady),
            };
            if outcome.is_ok() {
                return outcome;
            }
            <Rt as AsyncRuntime>::sleep(limits::LEADER_POLL).await;
        }
    }

    async fn ask_barrier(&self, leader: NodeId, index: Index, left: u64) -> Barrier {
        let ask = Ask::Barrier { index, at_most: left };
        let at_most = Duration::from_millis(left) + limits::LEADER_POLL;
        match self.link.ask(leader, &self.addresses.of(leader), &ask, at_most).await {
            Ok(Told::Barrier(outcome)) => outcome,
            Ok(_) | Err(_) => Err(ErrorCode::NotReady),
        }
    }

    /// The leader's part. `Err` when it does not lead, or not to the end.
    pub(crate) async fn lead_barrier(self: Arc<Self>, index: Index, left: u64) -> Barrier {
        let leading = self.leading().ok_or(ErrorCode::NotReady)?;
        let deadline = self.clock.read().steady.saturating_add(left);
        let asked = self.raise_fence(leading, index);
        let members = self.holders(index, &asked);
        let acknowledged: Arc<Mutex<BTreeSet<NodeId>>> = Arc::default();
        for (&node, holder) in &members {
            let task = self.clone().collect(node, holder.needs, deadline, acknowledged.clone());
            drop(<Rt as AsyncRuntime>::spawn(task));
        }
        // Who has no lease any more, and when the others have none.
        let lapse = |node: NodeId| {
            let last = asked.get(&node).copied().unwrap_or(0).max(leading.since);
            last.saturating_add(milliseconds(limits::LEASE_PASSED))
        };
        loop {
            if self.leading() != Some(leading) {
                return Err(ErrorCode::NotReady);
            }
            let now = self.clock.read().steady;
            let silent: Vec<NodeId> = {
                let acknowledged = acknowledged.lock();
                members.keys().copied().filter(|node| !acknowledged.contains(node)).collect()
            };
            let leased = silent.iter().any(|&node| lapse(node) > now) || self.applied.now() < index;
            if !leased || now >= deadline {
                return self.confirm(leading, &members, silent, lapse, now).await;
            }
            <Rt as AsyncRuntime>::sleep(limits::APPLIED_POLL).await;
        }
    }

    /// Names who may not know, if this node still leads.
    async fn confirm(
        &self,
        leading: Leading,
        members: &BTreeMap<NodeId, Holder>,
        silent: Vec<NodeId>,
        lapse: impl Fn(NodeId) -> u64,
        now: u64,
    ) -> Barrier {
        if self.leading() != Some(leading) {
            return Err(ErrorCode::NotReady);
        }
        let stamp = self.stamper.now();
        let unreached = silent.into_iter().filter_map(|node| {
            let holder = members.get(&node)?;
            let no_lease = lapse(node).saturating_sub(now);
            let until = self.alone_until(node, no_lease, stamp).min(holder.at_most);
            (until > stamp).then_some(Unreached { node, hsm: holder.hsm, until })
        });
        Ok(unreached.collect())
    }

    /// Until when an HSM goes on that holds no lease after so many milliseconds and has heard nothing since it last told
    /// what it has applied.
    fn alone_until(&self, node: NodeId, no_lease: u64, now: Stamp) -> Stamp {
        let applied = self.grants.applied(node);
        let ends = |milliseconds: u64| Stamp(now.0.saturating_add(no_lease).saturating_add(milliseconds));
        let believed = self.state.read().lingering().windows.into_iter().filter(|past| past.lowered_at > applied);
        let believed = believed.map(|past| ends(u64::from(past.seconds) * 1000).min(past.until));
        believed.fold(ends(self.isolation_window()), Stamp::max)
    }

    /// The HSMs of the roster, those that asked for a lease and have left it since, and those that were removed and may not
    /// know it; but this one.
    fn holders(&self, index: Index, asked: &BTreeMap<NodeId, u64>) -> BTreeMap<NodeId, Holder> {
        let now = self.stamper.now();
        let state = self.state.read();
        let listed = state.members().iter().filter(|(_, member)| member.kind == MemberKind::Hsm);
        let departed = state.lingering().members.into_iter().filter(|departed| departed.until > now);
        let witness = |node: &NodeId| {
            let member = state.members().get(&hsm_core::NodeId(*node));
            member.is_some_and(|member| member.kind == MemberKind::Witness)
        };
        let known = asked.keys().copied().chain(self.addresses.nodes(&state)).filter(|node| !witness(node));
        let holder = |hsm: Option<HsmId>| Holder { hsm, needs: index, at_most: Stamp(u64::MAX) };
        let mut holders: BTreeMap<NodeId, Holder> = known.map(|node| (node, holder(None))).collect();
        holders.extend(departed.map(|departed| {
            let needs = index.min(departed.removed_at);
            (departed.node.0, Holder { hsm: Some(departed.hsm), needs, at_most: departed.until })
        }));
        holders.extend(listed.map(|(node, member)| (node.0, holder(Some(member.hsm)))));
        holders.retain(|node, holder| *node != self.node && self.grants.applied(*node) < holder.needs);
        holders
    }

    /// Asks one member until it has applied `index`.
    async fn collect(
        self: Arc<Self>,
        node: NodeId,
        index: Index,
        deadline: u64,
        acknowledged: Arc<Mutex<BTreeSet<NodeId>>>,
    ) {
        let address = self.addresses.of(node);
        while self.clock.read().steady < deadline && Arc::strong_count(&acknowledged) > 1 {
            match self.link.ask(node, &address, &Ask::Acknowledge { index }, limits::PULSE).await {
                Ok(Told::Acknowledged(applied)) if applied >= index => {
                    self.grants.note_applied(node, applied);
                    acknowledged.lock().insert(node);
                    return;
                }
                _ => <Rt as AsyncRuntime>::sleep(limits::APPLIED_POLL).await,
            }
        }
    }

    /// Says what this node has applied; waits a moment for `index`.
    pub(crate) async fn acknowledge(self: Arc<Self>, index: Index) -> Index {
        let tries = limits::PULSE_PATIENCE.as_millis() / limits::APPLIED_POLL.as_millis();
        for _ in 0..tries {
            if self.applied.now() >= index {
                break;
            }
            <Rt as AsyncRuntime>::sleep(limits::APPLIED_POLL).await;
        }
        self.applied.now()
    }

    /// An index that a read must have applied to see everything that was acknowledged before this call.
    pub(crate) async fn read_index(self: Arc<Self>, at_most: Duration) -> Option<Index> {
        let deadline = self.clock.read().steady.saturating_add(milliseconds(at_most));
        while self.clock.read().steady < deadline {
            let leader = self.raft.metrics().borrow().current_leader;
            let index = match leader {
                Some(leader) if leader == self.node => self.lead_read_index().await,
                Some(leader) => {
                    let address = self.addresses.of(leader);
                    match self.link.ask(leader, &address, &Ask::ReadIndex, limits::PULSE).await {
                        Ok(Told::ReadIndex(index)) => index,
                        Ok(_) | Err(_) => None,
                    }
                }
                None => None,
            };
            if let Some(index) = index {
                while self.applied.now() < index && self.clock.read().steady < deadline {
                    <Rt as AsyncRuntime>::sleep(limits::APPLIED_POLL).await;
                }
                return (self.applied.now() >= index).then_some(index);
            }
            <Rt as AsyncRuntime>::sleep(limits::LEADER_POLL).await;
        }
        None
    }

    /// The leader's part of a read: all that is committed is applied here, and a majority says that this node leads.
    pub(crate) async fn lead_read_index(&self) -> Option<Index> {
        let read = <Rt as AsyncRuntime>::timeout(limits::PULSE, self.raft.ensure_linearizable()).await;
        matches!(read, Ok(Ok(_))).then(|| self.applied.now())
    }
}
