//! What a forked child may do with the cluster of its parent: nothing but close its copies of the sockets.
//!
//! The child owns copies of TLS keys and sequence numbers, so that one byte written would use a nonce twice; and any
//! lock may have been held at the moment of the fork, for ever. So nothing here takes a lock: the sockets stand in a
//! table of atomics, and the rest of the parent's state is leaked in the child.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use crate::system::{ForkPage, close_inherited, inode};

/// Sockets whose copies a child can close: 28 HSMs with as many connections each as can be configured. One past it is left
/// open in the child, which costs it a descriptor only.
const SOCKETS: usize = 28 * crate::configuration::CONNECTIONS_MAX;

/// Tells child from parent, and knows the sockets that are open.
pub(crate) struct ForkGuard {
    page: ForkPage,
    sockets: [Place; SOCKETS],
}

struct Place {
    descriptor: AtomicI32,
    inode: AtomicU64,
}

const EMPTY: RawFd = -1;
const TAKEN: RawFd = -2;

impl ForkGuard {
    pub(crate) fn new() -> Self {
        let sockets = std::array::from_fn(|_| Place { descriptor: AtomicI32::new(EMPTY), inode: AtomicU64::new(0) });
        Self { page: ForkPage::new(), sockets }
    }

    /// Whether this process is a child of the one that made the guard.
    pub(crate) fn is_child(&self) -> bool {
        self.page.is_child()
    }

    /// Notes an open socket until the registration is dropped, which must come before it is closed.
    pub(crate) fn register(self: &Arc<Self>, socket: &impl AsRawFd) -> Registration {
        let descriptor = socket.as_raw_fd();
        let identity = inode(descriptor).unwrap_or(0);
        let place = self.sockets.iter().position(|place| {
            let taken = place.descriptor.compare_exchange(EMPTY, TAKEN, Ordering::AcqRel, Ordering::Relaxed).is_ok();
            if taken {
                place.inode.store(identity, Ordering::Relaxed);
                place.descriptor.store(descriptor, Ordering::Release);
            }
            taken
        });
        Registration { guard: Arc::clone(self), place }
    }

    /// In a child: closes the inherited sockets, each once, without a byte written. A descriptor that means something
    /// else by now (the child closed all and opened others) is left alone.
    pub(crate) fn abandon_sockets(&self) {
        if !self.is_child() {
            return;
        }
        for place in &self.sockets {
            let descriptor = place.descriptor.swap(EMPTY, Ordering::AcqRel);
            if descriptor < 0 {
                continue;
            }
            if inode(descriptor) == Some(place.inode.load(Ordering::Relaxed)) {
                close_inherited(descriptor);
            }
        }
    }
}

/// A socket's entry in the guard.
pub(crate) struct Registration {
    guard: Arc<ForkGuard>,
    place: Option<usize>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(place) = self.place.and_then(|place| self.guard.sockets.get(place)) {
            place.descriptor.store(EMPTY, Ordering::Release);
        }
    }
}
