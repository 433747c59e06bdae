//! Since when this node leads: what a leader must not yet say depends on it; and who stands for election when a rule of
//! openraft's would let nobody win.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use openraft::error::RaftError;
use openraft::raft::{VoteRequest, VoteResponse};
use openraft::{AsyncRuntime, ServerState};
use parking_lot::Mutex;

use crate::engine::Shared;
use crate::limits;
use crate::runtime::{Rt, wait_for_disk};
use crate::types::{Lead, LogId, NodeId};

type VoteTold = Result<VoteResponse<NodeId>, RaftError<NodeId>>;

/// Whether and since when this node leads.
#[derive(Default)]
pub(crate) struct Leadership {
    leading: Mutex<Option<Leading>>,
    /// It stands in the place of one whose log is shorter.
    stands: AtomicBool,
}

/// Where in the log a node loses its vote.
enum Taken {
    At(Option<LogId>),
    /// In the entry before.
    Before(Option<LogId>),
}

/// A time of leading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leading {
    pub(crate) term: u64,
    /// When it was first seen to lead with everything applied that was committed before, by the steady clock, in
    /// milliseconds.
    pub(crate) since: u64,
}

impl Shared {
    /// The present time of leading. `None` when this node does not lead, or has not yet applied what was committed before.
    pub(crate) fn leading(&self) -> Option<Leading> {
        let term = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow();
            let lead = Lead::new(metrics.current_term, self.node);
            let applied = metrics.last_applied.is_some_and(|last| last.leader_id == lead);
            (metrics.state == ServerState::Leader && applied).then_some(metrics.current_term)
        };
        let mut leading = self.leadership.leading.lock();
        match term {
            Some(term) if leading.is_none_or(|leading| leading.term != term) => {
                *leading = Some(Leading { term, since: self.clock.read().steady });
            }
            Some(_) => {}
            None => *leading = None,
        }
        *leading
    }

    /// Another node wants to lead.
    pub(crate) async fn vote(self: &Arc<Self>, request: VoteRequest<NodeId>) -> VoteTold {
        let told = self.raft.vote(request.clone()).await;
        let their_last = request.last_log_id;
        let refused = |response: &VoteResponse<NodeId>| !response.vote_granted && response.last_log_id > their_last;
        let Some(last_log_id) = told.as_ref().ok().filter(|&response| refused(response)).map(|told| told.last_log_id)
        else {
            return told;
        };
        match self.voted_until().await {
            Some(until) if their_last >= Some(until) => self.raft.vote(VoteRequest { last_log_id, ..request }).await,
            Some(_) => told,
            None => {
                self.errands.give(self.clone().stand_instead());
                told
            }
        }
    }

    /// The entry that began to take this node's vote away; `None` while it votes.
    ///
    /// Up to there its log speaks against a candidate whose log is shorter. What comes after is decided with a majority of
    /// the voters that come after, whom such a candidate must ask as well, and they refuse if anything of it is committed.
    /// Without that a node whose vote was being taken away when the leader stopped would refuse its vote to those who need
    /// it, and does not stand itself: openraft 0.9 lets only voters do that (Raft's dissertation, 4.2.2, has them stand).
    async fn voted_until(&self) -> Option<LogId> {
        let node = self.node;
        let taken = self.raft.with_raft_state(move |state| {
            let (before, after) = (state.membership_state.committed(), state.membership_state.effective());
            let votes = after.voter_ids().any(|voter| voter == node);
            // By both the old voters and the new ones, until the new ones decide alone.
            let (joint, new) = (before.membership().get_joint_config(), after.membership().get_joint_config());
            let passed = joint.len() == 2 && new.len() == 1 && joint.last() == new.last();
            let taken = if passed { Taken::At(*before.log_id()) } else { Taken::Before(*after.log_id()) };
            (!votes).then_some(taken)
        });
        match taken.await.ok()?? {
            Taken::At(entry) => entry,
            // A log that cannot be read speaks against the candidate; who reads it next finds the cause.
            Taken::Before(entry) => wait_for_disk(|| self.store.log_id_at(entry?.index.checked_sub(1)?).ok()?),
        }
    }

    /// Stands for election because a candidate came whose log is shorter than this node's.
    ///
    /// openraft 0.9 waits the same time before each attempt as long as a process lives, and a voter that refuses a shorter
    /// log does not take over its term. So the one that cannot win may stand first in each round, and the one that could is
    /// refused for its lower term, for ever: two voters of three did that in simulation when the third was gone.
    pub(crate) async fn stand_instead(self: Arc<Self>) {
        if self.leadership.stands.swap(true, Ordering::SeqCst) {
            return;
        }
        for _ in 0..limits::STANDING_TRIES {
            let knows_leader = self.surely_leads() || self.vitals.leader(self.clock.read().steady).is_some();
            if knows_leader || !self.standing.takes_part() || self.raft.trigger().elect().await.is_err() {
                break;
            }
            <Rt as AsyncRuntime>::sleep(limits::ELECTION_PAUSE).await;
        }
        self.leadership.stands.store(false, Ordering::SeqCst);
    }
}
