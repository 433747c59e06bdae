//! The audit log has no gap: numbers from 1 without a hole, each link made of the one before, and the same records on every
//! member; every acknowledged change of a key is in it.
//!
//! Looked at: the whole audit log of every member at the end. Fault budget: any crash; disks that forget on a minority of
//! the voters.

use std::collections::BTreeSet;
use std::sync::Arc;

use hsm_core::{Action, audit};

use super::{Invariant, nothing};
use crate::cluster::Cluster;
use crate::workload;

/// The name.
pub const NAME: &str = "the_audit_chain_has_no_gap";

/// One whole chain.
pub const INVARIANT: Invariant = Invariant { name: NAME, step: nothing, end };

fn end(cluster: &Arc<Cluster>) -> Result<(), String> {
    let mut longest = Vec::new();
    for (place, node) in cluster.member_nodes() {
        let entries = workload::audit_of(&node);
        let mut link = audit::FIRST_LINK;
        for (number, entry) in (1..).zip(&entries) {
            link = audit::link(&link, &entry.record);
            if entry.number != number || entry.link != link {
                return Err(format!("machine {place}: the chain breaks at record {number}"));
            }
        }
        let common = entries.len().min(longest.len());
        if entries[..common] != longest[..common] {
            return Err(format!("machine {place} has another audit log"));
        }
        if entries.len() > longest.len() {
            longest = entries;
        }
    }
    let recorded: BTreeSet<_> = longest.iter().map(|entry| entry.record.index).collect();
    cluster.ledger.with(|seen| {
        for (number, call) in seen.calls.iter().enumerate() {
            let audited = matches!(call.action, Action::CreateObjects { .. } | Action::DestroyObject { .. });
            let Some((index, Ok(_))) = call.done().filter(|_| audited) else { continue };
            // A repetition is answered with the first result and recorded once.
            let first = seen.decided.values().filter(|decided| {
                let (origin, made) = (decided.command.origin, call.origin);
                origin.session == made.session && origin.sequence == made.sequence
            });
            if first.count() == 1 && !recorded.contains(&index) {
                return Err(format!("call {number} was done at {} and is not in the audit log", index.0));
            }
        }
        Ok(())
    })
}
