//! Too many wrong passwords stop new logins of a user and end no session that runs: a stranger cannot stop production.
//!
//! Looked at: the session that the victim of all guesses had opened before, on every member at the end. Fault budget: any,
//! clocks that jump included.

use std::sync::Arc;

use super::{Invariant, nothing};
use crate::cluster::Cluster;

/// The name.
pub const NAME: &str = "guesses_end_no_running_session";

/// The session stands.
pub const INVARIANT: Invariant = Invariant { name: NAME, step: nothing, end };

fn end(cluster: &Arc<Cluster>) -> Result<(), String> {
    let victims = cluster.ledger.with(|seen| seen.victims.clone());
    for (place, node) in cluster.member_nodes() {
        for victim in &victims {
            if let Err(refusal) = node.read().session(victim.session, node.now()) {
                return Err(format!("machine {place} has ended the session of a user who was guessed: {refusal}"));
            }
        }
    }
    Ok(())
}
