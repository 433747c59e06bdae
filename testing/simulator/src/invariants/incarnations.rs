//! A node of another history of the same cluster is refused: nobody follows it, stores what it sends, or lets it vote.
//!
//! Looked at: what members answer it (a refusal is one octet), whom they follow and whose votes they count, at each look, while such a node takes them for its own and
//! sends them its entries. Fault budget: any; the stranger knows every member's address and node id.

use super::{Invariant, nothing};

/// The name.
pub const NAME: &str = "another_incarnation_is_refused";

/// No member follows a stranger.
pub const INVARIANT: Invariant = Invariant {
    name: NAME,
    step: |cluster| cluster.ledger.with(|seen| seen.strangers.first().cloned()).map_or(Ok(()), Err),
    end: nothing,
};
