//! A command that one member has applied is the same on every other, for ever, with the same answer.
//!
//! Looked at: every command that any member applies, also again after a restart: the chain of hashes takes in index, term,
//! time and octets. Fault budget: any crash, cut, pause and clock; disks that
//! forget on a minority of the voters.

use super::{Invariant, nothing};

/// The name.
pub const NAME: &str = "committed_entries_never_change";

/// No member has applied something else.
pub const INVARIANT: Invariant = Invariant {
    name: NAME,
    step: |cluster| {
        let conflict = cluster.ledger.with(|seen| seen.conflicts.first().copied());
        conflict.map_or(Ok(()), |(index, place)| Err(format!("machine {place} decided something else at {index}")))
    },
    end: nothing,
};
