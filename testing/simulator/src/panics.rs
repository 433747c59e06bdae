//! What panicked on this thread. A panic of a task is caught by the runtime and would be missed.

use std::cell::RefCell;
use std::sync::Once;

thread_local! {
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Remembers panics of every thread from now on, for the thread that panics; prints nothing.
pub fn remember() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        std::panic::set_hook(Box::new(|panic| {
            // A damaged store may make redb panic; the store catches that and refuses.
            let in_redb = panic.location().is_some_and(|location| location.file().contains("redb"));
            if !in_redb {
                PANICS.with_borrow_mut(|panics| panics.push(panic.to_string()));
            }
        }));
    });
}

/// The first panic of this thread since the last call.
pub fn take() -> Option<String> {
    PANICS.with_borrow_mut(|panics| std::mem::take(panics).into_iter().next())
}

/// The first panic of this thread, which stays.
pub fn first() -> Option<String> {
    PANICS.with_borrow(|panics| panics.first().cloned())
}
