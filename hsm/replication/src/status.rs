//! How a node does, and what it knows of the others.

use std::collections::BTreeMap;

use hsm_core::{Index, MemberKind};
use hsm_protocol::ErrorCode;

use crate::engine::Shared;
use crate::leases::Serving;
use crate::standing::Standing;
use crate::traffic::Snapshots;
use crate::types::NodeId;

/// How a node does, for health, metrics and comparison between members.
#[derive(Clone, Debug)]
pub struct Status {
    /// This node.
    pub node: u64,
    /// What it is to the cluster.
    pub standing: Standing,
    /// Who leads, as far as this node knows.
    pub leader: Option<u64>,
    /// Who votes, as this node's log says.
    pub voters: Vec<u64>,
    /// The sets of voters of which a majority of each decides: two while who votes is being changed.
    pub deciding: Vec<Vec<u64>>,
    /// Raft term.
    pub term: u64,
    /// Last applied command.
    pub applied: Index,
    /// Chain of hashes through all applied commands: equal index means equal hash.
    pub hash: [u8; 48],
    /// Last entry of the log (entries hold batches of commands).
    pub last_entry: u64,
    /// Entries up to this one are no more in the log: the stored state holds what they did.
    pub purged_entry: Option<u64>,
    /// Commands that wait for an entry.
    pub queued: usize,
    /// Entries flushed to disk since the start.
    pub flushes: u64,
    /// Commands in these entries.
    pub flushed_commands: u64,
    /// Whether this HSM may act on what it knows.
    pub serving: Serving,
    /// What is left of this HSM's own lease, in milliseconds; `None` when it never ends, because this node votes alone.
    pub lease_milliseconds_left: Option<u64>,
    /// Entry up to which the last snapshot goes.
    pub snapshot_entry: Option<u64>,
    /// States on their way to other members and from them.
    pub snapshots: Snapshots,
    /// The other members, by their nodes.
    pub members: BTreeMap<u64, MemberStatus>,
    /// Whether this node takes commands: `Err` says why not.
    pub ready: Result<(), ErrorCode>,
}

/// What a member is in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It orders commands.
    Leader,
    /// It votes.
    Voter,
    /// It has all state and does not vote.
    Learner,
    /// It votes without keys.
    Witness,
    /// It is in the roster, and not yet in the replication.
    Newcomer,
}

/// What this node knows of another member.
#[derive(Clone, Debug)]
pub struct MemberStatus {
    /// What it is.
    pub role: Role,
    /// The last command that it was heard to have applied.
    pub applied: Option<Index>,
    /// Commands by which this node was ahead of it when it was last heard of.
    pub lag: Option<u64>,
    /// How long ago it was heard of, in milliseconds; `None` when it never was since this node started.
    pub heard_milliseconds_ago: Option<u64>,
    /// What is left of its lease, in milliseconds; only whoever leads knows it.
    pub lease_milliseconds_left: Option<u64>,
    /// Whether the hashes agreed when they were last compared; `None` when they never were.
    pub hashes_agree: Option<bool>,
}

impl Shared {
    /// Whether that node votes, by the newest membership in this node's log.
    pub(crate) fn votes(&self, node: NodeId) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        metrics.membership_config.membership().voter_ids().any(|voter| voter == node)
    }

    /// Whether this node votes, or is not sure that the entry after which it does not is committed.
    pub(crate) fn is_vote_needed(&self) -> bool {
        let applied = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow();
            metrics.last_applied >= *metrics.membership_config.log_id()
        };
        self.votes(self.node) || !applied
    }

    pub(crate) fn status(&self) -> Status {
        let metrics = self.raft.metrics().borrow().clone();
        let (applied, hash) = self.applied.with_hash();
        Status {
            node: self.node,
            standing: self.standing.now(),
            leader: metrics.current_leader,
            voters: metrics.membership_config.membership().voter_ids().collect(),
            deciding: {
                let sets = metrics.membership_config.membership().get_joint_config();
                sets.iter().map(|voters| voters.iter().copied().collect()).collect()
            },
            term: metrics.current_term,
            applied,
            hash,
            last_entry: metrics.last_log_index.unwrap_or(0),
            purged_entry: metrics.purged.map(|purged| purged.index),
            queued: self.proposals.queued(),
            flushes: self.store.flushes(),
            flushed_commands: self.proposals.commands(),
            serving: self.serving(),
            lease_milliseconds_left: self.lease.left(self.clock.read().steady),
            snapshot_entry: metrics.snapshot.map(|snapshot| snapshot.index),
            snapshots: self.store.traffic.now(),
            members: self.members(),
            ready: self.proposals.closed().map_or(Ok(()), Err),
        }
    }

    fn members(&self) -> BTreeMap<u64, MemberStatus> {
        let now = self.clock.read().steady;
        let vitals = self.vitals.all();
        let (leader, membership) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow();
            (metrics.current_leader, metrics.membership_config.membership().clone())
        };
        let voters: Vec<u64> = membership.voter_ids().collect();
        let state = self.state.read();
        let kind = |node| state.members().get(&hsm_core::NodeId(node)).map(|member| member.kind);
        let mut others = self.addresses.nodes(&state);
        others.remove(&self.node);
        let member = |node| {
            let vital = vitals.get(&node);
            let role = match () {
                () if leader == Some(node) => Role::Leader,
                () if voters.contains(&node) && kind(node) == Some(MemberKind::Witness) => Role::Witness,
                () if voters.contains(&node) => Role::Voter,
                () if membership.get_node(&node).is_some() => Role::Learner,
                () => Role::Newcomer,
            };
            let status = MemberStatus {
                role,
                applied: vital.map(|vital| vital.pulse.applied),
                lag: vital.map(|vital| vital.lag),
                heard_milliseconds_ago: vital.map(|vital| now.saturating_sub(vital.heard)),
                lease_milliseconds_left: self.lease_left(node, now),
                hashes_agree: vital.and_then(|vital| vital.agrees),
            };
            (node, status)
        };
        others.into_iter().map(member).collect()
    }
}
