//! Nobody votes beside others before it has the state: a learner is promoted when it has come as far as the leader.
//!
//! Looked at: the voters as the member knows them that has applied most, at every look. Fault budget: any; a machine whose
//! disk was made to forget is left out.

use super::{Invariant, nothing};

/// The name.
pub const NAME: &str = "a_voter_has_the_state";

/// No empty voter.
pub const INVARIANT: Invariant = Invariant {
    name: NAME,
    step: |cluster| cluster.ledger.with(|seen| seen.empty_voters.first().cloned()).map_or(Ok(()), Err),
    end: nothing,
};
