//! An allocator for the tests that looks at what is freed: a secret must not be in it.
//!
//! While a thread watches, every block that it gives back is searched for a canary before it goes. This catches not only
//! a forgotten wipe, but also the copies that growing vectors leave behind.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// What is searched for. Sixteen bytes that nothing else has.
pub(crate) const CANARY: [u8; 16] = *b"\xC5canary \xA9secret\xE7";

struct Watch;

#[global_allocator]
static WATCH: Watch = Watch;

thread_local! {
    static WATCHING: Cell<bool> = const { Cell::new(false) };
    static FOUND: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: everything is passed on to the system's allocator; growing by `realloc` takes the trait's own way through
// `alloc`, a copy and `dealloc`, so that the old block is looked at.
unsafe impl GlobalAlloc for Watch {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise. Zeroed, so that every byte may be read later.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if WATCHING.try_with(Cell::get).unwrap_or(false) {
            // SAFETY: the block is live, has that size and was initialized when it was made.
            let bytes = unsafe { std::slice::from_raw_parts(block, layout.size()) };
            if bytes.windows(CANARY.len()).any(|window| window == CANARY) {
                FOUND.with(|found| found.set(found.get() + 1));
            }
        }
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(block, layout) }
    }
}

/// How many blocks with the canary in them the work gave back.
pub(crate) fn freed_with_canary(work: impl FnOnce()) -> usize {
    FOUND.with(|found| found.set(0));
    WATCHING.with(|watching| watching.set(true));
    work();
    WATCHING.with(|watching| watching.set(false));
    FOUND.with(Cell::get)
}

#[test]
fn the_watch_sees_a_secret_that_is_not_wiped() {
    assert_eq!(freed_with_canary(|| drop(CANARY.to_vec())), 1);
    let growing = freed_with_canary(|| {
        let mut bytes = CANARY.to_vec();
        bytes.extend_from_slice(&[0; 1000]);
        bytes.fill(0);
    });
    assert_eq!(growing, 1, "the copy that growing leaves behind");
}
