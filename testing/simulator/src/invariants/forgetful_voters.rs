//! A node whose disk was wiped or replaced by an older copy does not take part under its old name.
//!
//! Looked at: machines whose disk was put back behind what the node had voted or written. Fault budget: one machine at a
//! time, with a majority of the voters left that remember it; what it did in the last second before may be unknown to
//! them.

use super::{Invariant, nothing};

/// The name.
pub const NAME: &str = "a_forgetful_node_never_votes";

/// No forgetful voter.
pub const INVARIANT: Invariant = Invariant {
    name: NAME,
    step: |cluster| cluster.ledger.with(|seen| seen.forgetful.first().cloned()).map_or(Ok(()), Err),
    end: nothing,
};
