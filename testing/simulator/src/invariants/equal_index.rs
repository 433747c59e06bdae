//! Members at one index have one chain of hashes and one state.
//!
//! Looked at: chains at every look, states at every sixteenth and at the end. Fault budget: any crash; disks that forget on
//! a minority of the voters. A disk that rots at rest is refused at the start and joins anew.

use std::sync::Arc;

use super::Invariant;
use crate::cluster::Cluster;

/// The name.
pub const NAME: &str = "equal_index_means_equal_hash";

/// No difference.
pub const INVARIANT: Invariant = Invariant { name: NAME, step, end };

fn step(cluster: &Arc<Cluster>) -> Result<(), String> {
    cluster.ledger.with(|seen| seen.different.first().cloned()).map_or(Ok(()), Err)
}

fn end(cluster: &Arc<Cluster>) -> Result<(), String> {
    let mut first = None;
    for (place, node) in cluster.member_nodes() {
        let here = (node.applied(), node.read().state_hash());
        let (there, before) = *first.get_or_insert((place, here));
        if before.0 == here.0 && before.1 != here.1 {
            return Err(format!("machines {there} and {place} have different states at {}", here.0.0));
        }
    }
    Ok(())
}
