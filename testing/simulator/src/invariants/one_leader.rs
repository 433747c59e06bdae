//! In one term at most one node leads.
//!
//! Looked at: who says of himself that he leads, at every look of the observer. Fault budget: any crash, cut, pause and
//! clock; disks that forget on a minority of the voters.

use super::{Invariant, nothing};

/// The name.
pub const NAME: &str = "one_leader_per_term";

/// No two leaders of one term.
pub const INVARIANT: Invariant = Invariant {
    name: NAME,
    step: |cluster| {
        let two = cluster.ledger.with(|seen| {
            let two = seen.leaders.iter().find(|(_, nodes)| nodes.len() > 1);
            two.map(|(term, nodes)| format!("{nodes:x?} all lead in term {term}"))
        });
        two.map_or(Ok(()), Err)
    },
    end: nothing,
};
