//! A member that can reach no majority of the voters acknowledges nothing.
//!
//! Looked at: answers of machines that were cut off, both ways, from before the call until the answer. Fault budget: any.

use super::{Invariant, nothing};

/// The name.
pub const NAME: &str = "a_minority_never_commits";

/// No acknowledgement out of a minority.
pub const INVARIANT: Invariant = Invariant {
    name: NAME,
    step: |cluster| {
        let alone = cluster.ledger.with(|seen| {
            seen.alone.first().map(|&number| format!("call {number} was done by machine {}", seen.calls[number].place))
        });
        alone.map_or(Ok(()), |line| Err(format!("{line}, which reached no majority")))
    },
    end: nothing,
};
