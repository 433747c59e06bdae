//! Versions of what members say to each other, and what each brought.
//!
//! Two members speak the newest version that both know; who has none in common with the other is refused at the beginning
//! of a connection, by name (`hsm-server`'s `peers`). A new kind of message is sent to those only who know it, and no kind
//! ever changes its meaning: see `docs/operations/upgrade.md`.

/// The oldest version that this program speaks.
pub const OLDEST: u32 = 1;

/// From this version on a member that forwards commands tells the numbers by which their callers know them.
pub(crate) const TRACES: u32 = 2;

/// The newest version that this program speaks.
pub const NEWEST: u32 = TRACES;

const _: () = assert!(OLDEST <= NEWEST);
