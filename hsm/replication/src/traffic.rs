//! What this node sends and receives of snapshots, counted for whoever watches.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::types::NodeId;

/// How much of a state has been gone through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Rows that the receiver has.
    pub rows: u64,
    /// Rows of the whole state. A key is two rows.
    pub total: u64,
}

/// Snapshots between this node and others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshots {
    /// Octets of rows that were sent since this node started, each time that they were.
    pub sent_bytes: u64,
    /// Octets of rows that were not sent, because the receiver held them.
    pub spared_bytes: u64,
    /// Octets of rows that were received and stored.
    pub received_bytes: u64,
    /// Octets of rows that were offered and held here already.
    pub held_bytes: u64,
    /// States that were received as a whole and installed.
    pub installed: u64,
    /// Members that are being sent the state.
    pub sending: BTreeMap<u64, Share>,
    /// Of the state that is being received here.
    pub receiving: Option<Share>,
}

/// Counts [`Snapshots`].
#[derive(Default)]
pub(crate) struct Traffic {
    transfers: AtomicU64,
    told: Mutex<Snapshots>,
    /// Transfers for which the log is kept.
    holds: AtomicUsize,
    /// Octets appended to the log since the start.
    appended: AtomicU64,
}

impl Traffic {
    /// Numbers of transfers begin at a random one, so that none of an earlier start of this node comes again.
    pub(crate) fn number_from(&self, random: u64) {
        self.transfers.store(random, Ordering::Relaxed);
    }

    pub(crate) fn next_transfer(&self) -> u64 {
        self.transfers.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn now(&self) -> Snapshots {
        self.told.lock().clone()
    }

    pub(crate) fn sent(&self, bytes: u64) {
        self.told.lock().sent_bytes += bytes;
    }

    pub(crate) fn spared(&self, bytes: u64) {
        self.told.lock().spared_bytes += bytes;
    }

    pub(crate) fn sends(&self, to: NodeId, share: Share) {
        self.told.lock().sending.insert(to, share);
    }

    pub(crate) fn sends_no_more(&self, to: NodeId) {
        self.told.lock().sending.remove(&to);
    }

    pub(crate) fn received(&self, bytes: u64) {
        self.told.lock().received_bytes += bytes;
    }

    pub(crate) fn held(&self, bytes: u64) {
        self.told.lock().held_bytes += bytes;
    }

    pub(crate) fn receives(&self, share: Option<Share>) {
        self.told.lock().receiving = share;
    }

    pub(crate) fn installed(&self) {
        let mut told = self.told.lock();
        told.installed += 1;
        told.receiving = None;
    }

    /// Entries were written to the log.
    pub(crate) fn appended(&self, bytes: usize) {
        self.appended.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn log_bytes(&self) -> u64 {
        self.appended.load(Ordering::Relaxed)
    }

    pub(crate) fn hold_log(&self) {
        self.holds.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn let_log_go(&self) {
        self.holds.fetch_sub(1, Ordering::SeqCst);
    }

    pub(crate) fn holds_log(&self) -> bool {
        self.holds.load(Ordering::SeqCst) > 0
    }
}
