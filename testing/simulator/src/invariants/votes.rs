//! A node never goes back to a term before one that it was in: what it voted is on its disk before anybody learns of it.
//!
//! Looked at: the term of every node, at every look, over restarts. That two nodes lead in one term is no fault: openraft
//! 0.9 orders votes by term and node, so a node of a higher id may be elected after another one in the same term. Fault
//! budget: any crash, cut, pause and clock. A machine whose disk was made to forget is left out: `forgetful_voters` looks
//! at it.

use super::{Invariant, nothing};

/// The name.
pub const NAME: &str = "a_vote_is_never_forgotten";

/// No term goes back.
pub const INVARIANT: Invariant = Invariant {
    name: NAME,
    step: |cluster| cluster.ledger.with(|seen| seen.forgotten_votes.first().cloned()).map_or(Ok(()), Err),
    end: nothing,
};
