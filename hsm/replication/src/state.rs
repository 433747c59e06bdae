//! The state machine's state behind its lock: many read, one thread writes.
//!
//! Locks that let a waiting writer go first stand still when a thread that reads already asks to read again: the second
//! read waits for the writer, the writer for the first. Here a thread that reads already reads on.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};

use hsm_core::Hsm;
use parking_lot::{RwLock, RwLockReadGuard};

thread_local! {
    /// How many readings this thread holds, of whatever node.
    static HELD: Cell<usize> = const { Cell::new(0) };
}

/// The state of one node.
pub(crate) struct State(RwLock<Hsm>);

impl State {
    pub(crate) fn new(hsm: Hsm) -> Self {
        Self(RwLock::new(hsm))
    }

    /// Waits for a writer that came first, unless this thread reads already.
    pub(crate) fn read(&self) -> Reading<'_> {
        let held = HELD.get();
        let guard = if held == 0 { self.0.read() } else { self.0.read_recursive() };
        HELD.set(held + 1);
        Reading(guard)
    }

    /// Waits for every reader. Must not be asked for by a thread that reads.
    pub(crate) fn write(&self) -> impl DerefMut<Target = Hsm> + '_ {
        self.0.write()
    }
}

/// The state as of the last applied command. Commands wait while it is held: look and let go.
pub struct Reading<'state>(RwLockReadGuard<'state, Hsm>);

impl Deref for Reading<'_> {
    type Target = Hsm;

    fn deref(&self) -> &Hsm {
        &self.0
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        HELD.set(HELD.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::sync_channel;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_thread_that_reads_reads_on_while_a_writer_waits() {
        let state = Arc::new(State::new(Hsm::empty()));
        let (tell, told) = sync_channel(1);
        let of = Arc::clone(&state);
        std::thread::spawn(move || {
            let first = of.read();
            let writer = Arc::clone(&of);
            let writer = std::thread::spawn(move || drop(writer.write()));
            // Until the writer waits, which no lock tells: a read of another thread fails from then on.
            while of.0.try_read().is_some() {
                std::thread::yield_now();
            }
            drop(of.read());
            drop(first);
            writer.join().unwrap();
            tell.send(()).unwrap();
        });
        assert!(told.recv_timeout(Duration::from_secs(10)).is_ok(), "the second read waits for the writer");
    }
}
