//! Whether this node takes part: what it is to the cluster, as far as it knows.

use std::sync::Arc;

use parking_lot::Mutex;

/// What a node is to its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its store was empty: it waits for the state of the cluster that it joins, or makes one.
    Joining,
    /// It was started again and asks the others whether they remember more of it than it has. Until a majority has
    /// answered it neither votes nor takes entries.
    Checking,
    /// It belongs to the cluster and takes part.
    Member,
    /// It was removed from the roster. It gets nothing any more.
    Removed,
    /// Another member remembers more of it than it has: its disk was replaced by an older one. It must never take part
    /// again under this node id; under a new one it may join with an empty store.
    RolledBack,
}

/// The standing, and who is told when it changes.
pub(crate) struct Standings {
    current: Mutex<Standing>,
    tell: Arc<dyn Fn(Standing) + Send + Sync>,
}

impl Standings {
    pub(crate) fn new(first: Standing, tell: Arc<dyn Fn(Standing) + Send + Sync>) -> Self {
        Self { current: Mutex::new(first), tell }
    }

    pub(crate) fn now(&self) -> Standing {
        *self.current.lock()
    }

    /// Changes it. What is final stays.
    pub(crate) fn become_now(&self, next: Standing) {
        let changed = {
            let mut current = self.current.lock();
            let is_final = matches!(*current, Standing::Removed | Standing::RolledBack);
            let changed = !is_final && *current != next;
            if changed {
                *current = next;
            }
            changed
        };
        if changed {
            (self.tell)(next);
        }
    }

    /// Whether other members' entries and votes are answered.
    pub(crate) fn takes_part(&self) -> bool {
        matches!(self.now(), Standing::Joining | Standing::Member)
    }
}
