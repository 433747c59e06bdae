//! Since when this node leads: what a leader must not yet say depends on it.

use openraft::ServerState;
use parking_lot::Mutex;

use crate::engine::Shared;
use crate::types::Lead;

/// Whether and since when this node leads.
#[derive(Default)]
pub(crate) struct Leadership(Mutex<Option<Leading>>);

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
        let mut leading = self.leadership.0.lock();
        match term {
            Some(term) if leading.is_none_or(|leading| leading.term != term) => {
                *leading = Some(Leading { term, since: self.clock.read().steady });
            }
            Some(_) => {}
            None => *leading = None,
        }
        *leading
    }
}
