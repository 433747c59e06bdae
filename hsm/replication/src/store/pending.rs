//! What commands changed and the store does not have yet.
//!
//! The log is the durable truth, so applying a command writes nothing by itself: its changes wait here, and the next
//! commit (of the next log entry, as a rule) takes them along. One entry thus costs one transaction and one fsync.
//! Until that commit is done they are found here.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::node::AuditEntry;
use crate::store::rows::Progress;

/// Rows changed, audit entries added, and how far that brings the state machine.
#[derive(Clone, Default)]
pub(crate) struct Changes {
    /// By key in the table of states; `None` removes.
    pub(crate) rows: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    pub(crate) audit: Vec<AuditEntry>,
    /// `None` when nothing was applied.
    pub(crate) progress: Option<Progress>,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Pending {
    slots: Mutex<Slots>,
}

#[derive(Default)]
struct Slots {
    gathering: Changes,
    writing: Option<Arc<Changes>>,
}

impl Pending {
    /// The changes of one log entry, all at once: a commit takes all of them or none.
    pub(crate) fn add(&self, changes: Changes) {
        let mut slots = self.slots.lock();
        slots.gathering.rows.extend(changes.rows);
        slots.gathering.audit.extend(changes.audit);
        slots.gathering.progress = changes.progress;
    }

    /// What a commit shall write now. It stays visible until [`Pending::written`]. One commit at a time.
    pub(crate) fn begin_writing(&self) -> Arc<Changes> {
        let mut slots = self.slots.lock();
        let changes = Arc::new(std::mem::take(&mut slots.gathering));
        slots.writing = Some(changes.clone());
        changes
    }

    /// The store has them.
    pub(crate) fn written(&self) {
        self.slots.lock().writing = None;
    }

    /// The value of a row that waits here: `Some(None)` when it is to be removed, `None` when the store knows best.
    pub(crate) fn row(&self, key: &[u8]) -> Option<Option<Vec<u8>>> {
        let slots = self.slots.lock();
        let writing = slots.writing.as_ref().and_then(|changes| changes.rows.get(key));
        slots.gathering.rows.get(key).or(writing).cloned()
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.lock().gathering.progress.is_none()
    }
}
