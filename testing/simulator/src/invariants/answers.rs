//! What a client is told is what the log says: the same answer, at that index, for that command.
//!
//! Looked at: every acknowledgement against the commands that members applied. Fault budget: as for
//! `committed_entries_never_change`.

use std::sync::Arc;

use super::{Invariant, nothing};
use crate::cluster::Cluster;

/// The name.
pub const NAME: &str = "an_answer_is_what_was_decided";

/// No other answer than the log's.
pub const INVARIANT: Invariant = Invariant { name: NAME, step: nothing, end };

fn end(cluster: &Arc<Cluster>) -> Result<(), String> {
    cluster.ledger.with(|seen| {
        for (number, call) in seen.calls.iter().enumerate() {
            let Some((index, answer)) = call.done() else { continue };
            let Some(decided) = seen.decided.get(&index.0) else {
                return Err(format!("call {number} was done at {}, which no member has applied", index.0));
            };
            let same_call = decided.command.origin.session == call.origin.session
                && decided.command.origin.sequence == call.origin.sequence;
            if !same_call || decided.answer != *answer {
                return Err(format!("call {number} was told another answer than the one at {}", index.0));
            }
        }
        Ok(())
    })
}
