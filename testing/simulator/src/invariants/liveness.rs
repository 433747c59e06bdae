//! After the faults the cluster comes together by itself: every member runs, all are at one index, one leads, and a write
//! is taken at each member.
//!
//! Fault budget: everything that the other invariants allow, healed. See `cluster/liveness.rs`, which looks.

use super::{Invariant, nothing};

/// The name.
pub const NAME: &str = "the_cluster_comes_together";

/// The observer must have looked, or the run has shown nothing.
pub const INVARIANT: Invariant = Invariant {
    name: NAME,
    step: nothing,
    end: |cluster| {
        let (steps, done) =
            cluster.ledger.with(|seen| (seen.steps, seen.calls.iter().filter(|call| call.is_success()).count()));
        if steps > 100 && done > 20 { Ok(()) } else { Err(format!("{steps} looks and {done} calls show nothing")) }
    },
};
