//! Makes Raft's membership what the roster in the log says: runs everywhere, acts only on the node that leads.
//!
//! A node of the roster becomes a learner at once; a learner whose state has reached the leader's with the same hash may
//! become a voter (`voters.rs`); a node that left the roster loses its vote first, then its place.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hsm_core::{MemberKind, MemberRecord};
use openraft::{AsyncRuntime, ChangeMembers};

use crate::engine::Shared;
use crate::leadership::Leading;
use crate::limits;
use crate::runtime::Rt;
use crate::types::{Member, NodeId};
use crate::voters::{Candidate, next_voters};

type RaftMembership = openraft::Membership<NodeId, Member>;

/// One change of Raft's membership.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// A node becomes a learner, or is reached elsewhere.
    Place(NodeId, String),
    /// These vote; the others learn.
    Voters(BTreeSet<NodeId>),
    /// A learner goes.
    Remove(NodeId),
}

/// The supervising task: runs until the node stops.
pub(crate) async fn run(shared: Arc<Shared>) {
    loop {
        <Rt as AsyncRuntime>::sleep(limits::SUPERVISION).await;
        if let Some(step) = shared.next_step() {
            tracing::info!(?step, "membership changes");
            let change = shared.raft.change_membership(step.clone().into_change(), true);
            match <Rt as AsyncRuntime>::timeout(limits::MEMBERSHIP_TIMEOUT, change).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::warn!(?step, %error, "membership did not change; it is tried again"),
                Err(_) => tracing::warn!(?step, "membership did not change in time; it is looked at again"),
            }
        }
    }
}

impl Step {
    fn into_change(self) -> ChangeMembers<NodeId, Member> {
        match self {
            Self::Place(node, address) => ChangeMembers::SetNodes(BTreeMap::from([(node, Member { address })])),
            Self::Voters(voters) => ChangeMembers::ReplaceAllVoters(voters),
            Self::Remove(node) => ChangeMembers::RemoveNodes(BTreeSet::from([node])),
        }
    }
}

impl Shared {
    /// What to do now; `None` on a node that does not lead, or has not yet applied what was committed before it did.
    fn next_step(&self) -> Option<Step> {
        let leading = self.leading()?;
        let membership = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow();
            metrics.membership_config.membership().clone()
        };
        let roster: BTreeMap<NodeId, MemberRecord> = {
            let state = self.state.read();
            state.members().iter().map(|(node, member)| (node.0, member.clone())).collect()
        };
        step(&membership, &roster, &self.candidates(leading, &membership, &roster))
    }

    fn candidates(
        &self,
        leading: Leading,
        membership: &RaftMembership,
        roster: &BTreeMap<NodeId, MemberRecord>,
    ) -> Vec<Candidate> {
        let now = self.clock.read().steady;
        let vitals = self.vitals.all();
        let voters: BTreeSet<NodeId> = membership.voter_ids().collect();
        let since = |then: u64| u128::from(now.saturating_sub(then));
        let candidate = |(&node, _): (&NodeId, &Member)| {
            let own = node == self.node;
            let vital = vitals.get(&node);
            let silence = vital.and_then(|vital| vital.answered).map(since);
            let level = vital.and_then(|vital| vital.level_at).map(since);
            let agrees = vital.is_some_and(|vital| vital.agrees == Some(true));
            Candidate {
                node,
                kind: roster.get(&node).map_or(MemberKind::Hsm, |member| member.kind),
                zone: roster.get(&node).map(|member| member.zone.clone()).unwrap_or_default(),
                listed: roster.contains_key(&node),
                voter: voters.contains(&node),
                leader: own,
                alive: own || silence.is_some_and(|silence| silence < limits::ALIVE.as_millis()),
                lost: !own
                    && since(leading.since) > limits::LOST.as_millis()
                    && silence.is_none_or(|silence| silence > limits::LOST.as_millis()),
                ready: own || (agrees && level.is_some_and(|level| level < limits::LEVEL.as_millis())),
            }
        };
        membership.nodes().map(candidate).collect()
    }
}

fn step(
    membership: &RaftMembership,
    roster: &BTreeMap<NodeId, MemberRecord>,
    candidates: &[Candidate],
) -> Option<Step> {
    if roster.is_empty() {
        return None;
    }
    let configs = membership.get_joint_config();
    if let [_, .., last] = configs.as_slice() {
        // A leader was lost in the middle of a change: it is finished.
        return Some(Step::Voters(last.clone()));
    }
    let foreign_voter = candidates.iter().any(|one| one.voter && !one.listed);
    let voters = || next_voters(candidates).map(Step::Voters);
    if foreign_voter && let Some(change) = voters() {
        return Some(change);
    }
    let gone = candidates.iter().find(|one| !one.voter && !one.listed);
    let gone = || gone.map(|one| Step::Remove(one.node));
    let placed = || {
        roster.iter().find_map(|(&node, member)| {
            let placed = membership.get_node(&node);
            let elsewhere =
                placed.is_none_or(|placed| !member.peer_address.is_empty() && placed.address != member.peer_address);
            elsewhere.then(|| Step::Place(node, member.peer_address.clone()))
        })
    };
    gone().or_else(placed).or_else(voters)
}
