//! A member whose state differs from that of most voters stops by itself.
//!
//! Looked at: a machine whose memory fails at one command, so that its chain of hashes is another one from there on. Fault
//! budget: one machine that does not lead, of three voters or more, while nothing else breaks: the others have ten seconds
//! to tell it.

use super::{Invariant, nothing};

/// The name.
pub const NAME: &str = "a_member_that_differs_stops";

/// Nobody goes on with a state of his own.
pub const INVARIANT: Invariant = Invariant {
    name: NAME,
    step: |cluster| cluster.ledger.with(|seen| seen.differing.first().cloned()).map_or(Ok(()), Err),
    end: nothing,
};
