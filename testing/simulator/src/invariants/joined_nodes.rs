//! A member that joined, by snapshot or by log, has what its source has: every payload, and nothing else.
//!
//! Looked at: the payloads of all keys on all members at the end. Fault budget: any crash while it joins, of either side.

use std::sync::Arc;

use hsm_core::ObjectHandle;

use super::acknowledged_keys::highest_handle;
use super::{Invariant, nothing};
use crate::cluster::Cluster;

/// The name.
pub const NAME: &str = "a_joined_node_equals_its_source";

/// No member has other rows.
pub const INVARIANT: Invariant = Invariant { name: NAME, step: nothing, end };

fn end(cluster: &Arc<Cluster>) -> Result<(), String> {
    let nodes = cluster.member_nodes();
    let mut nodes = nodes.iter();
    let Some((source, first)) = nodes.next() else { return Ok(()) };
    for (place, node) in nodes {
        for handle in (1..=highest_handle(cluster) + 3).map(ObjectHandle) {
            let there = first.payload(handle).map_err(|fault| format!("machine {source}: {fault}"))?;
            let here = node.payload(handle).map_err(|fault| format!("machine {place}: {fault}"))?;
            if there != here {
                return Err(format!("machines {source} and {place} have different payloads of key {}", handle.0));
            }
        }
    }
    Ok(())
}
