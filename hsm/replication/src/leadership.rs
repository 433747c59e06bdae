//! Since when this node leads: what a leader must not yet say depends on it; and who stands for election when a rule of
//! openraft's would let nobody win.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use openraft::{AsyncRuntime, ServerState};
use parking_lot::Mutex;

use crate::engine::Shared;
use crate::limits;
use crate::runtime::Rt;
use crate::types::Lead;

/// Whether and since when this node leads.
#[derive(Default)]
pub(crate) struct Leadership {
    leading: Mutex<Option<Leading>>,
    /// It stands in the place of one whose log is shorter.
    stands: AtomicBool,
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
