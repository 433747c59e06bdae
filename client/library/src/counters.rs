//! What the connections of a cluster did, counted. Frames per write is the figure that batching stands or falls with.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts since the [`crate::Cluster`] was made, over all its connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames sent.
    pub frames_written: u64,
    /// `send` calls that moved bytes.
    pub writes: u64,
    /// Frames received.
    pub frames_read: u64,
    /// `recv` calls that moved bytes.
    pub reads: u64,
    /// Times that a thread slept until another one handed it its answer or a role.
    pub sleeps: u64,
    /// Connections opened.
    pub connections: u64,
    /// Calls that were sent more than once.
    pub repeats: u64,
}

#[derive(Default)]
pub(crate) struct LiveCounters {
    pub(crate) frames_written: AtomicU64,
    pub(crate) writes: AtomicU64,
    pub(crate) frames_read: AtomicU64,
    pub(crate) reads: AtomicU64,
    pub(crate) sleeps: AtomicU64,
    pub(crate) connections: AtomicU64,
    pub(crate) repeats: AtomicU64,
}

impl LiveCounters {
    pub(crate) fn snapshot(&self) -> Counters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            frames_written: read(&self.frames_written),
            writes: read(&self.writes),
            frames_read: read(&self.frames_read),
            reads: read(&self.reads),
            sleeps: read(&self.sleeps),
            connections: read(&self.connections),
            repeats: read(&self.repeats),
        }
    }
}

/// Adds without ordering: these are figures and guard nothing.
pub(crate) fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}
