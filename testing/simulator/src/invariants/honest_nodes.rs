//! A node whose disk does what it says never stops by itself, and starts again after every crash.
//!
//! Looked at: faults that nodes tell, and starts that fail. Fault budget: crashes at any write, any cut and pause. A machine
//! whose disk was made to fail, to fill or to forget may stop; it must start again, or be refused and join anew.

use super::{Invariant, nothing};

/// The name.
pub const NAME: &str = "honest_nodes_keep_running";

/// No fault without a cause.
pub const INVARIANT: Invariant = Invariant {
    name: NAME,
    step: |cluster| {
        let fault = cluster.ledger.with(|seen| seen.faults.first().cloned());
        fault.map_or(Ok(()), |(place, text)| Err(format!("machine {place}: {text}")))
    },
    end: nothing,
};
