//! Attempts of a user fall only by a success or an admin's word: guesses at all members, in parallel and over crashes,
//! draw on one counter.
//!
//! Looked at: attempts that were granted for a user for whom only wrong passwords are tried: six at most, and none after
//! somebody was told that the user is locked. Fault budget: any crash, cut and loss; disks that forget on a minority of
//! the voters.

use std::sync::Arc;

use hsm_core::limits::WRONG_PASSWORDS;
use hsm_core::{Action, Response};
use hsm_protocol::ErrorCode;

use super::Invariant;
use crate::cluster::Cluster;
use crate::cluster::clients::guesser::VICTIM;
use crate::cluster::history::Call;

/// The name.
pub const NAME: &str = "attempts_never_fall_by_themselves";

/// No guess too many.
pub const INVARIANT: Invariant = Invariant { name: NAME, step: check, end: check };

fn check(cluster: &Arc<Cluster>) -> Result<(), String> {
    cluster.ledger.with(|seen| {
        for victim in &seen.victims {
            let granted = |call: &Call| match call.done() {
                Some((index, Ok(Response::Attempt { user, .. }))) => *user == victim.user && index > victim.since,
                _ => false,
            };
            let count = seen.calls.iter().filter(|call| granted(call)).count();
            if count > WRONG_PASSWORDS as usize + 1 {
                return Err(format!("{count} guesses were granted for one user"));
            }
            let locked = seen.calls.iter().filter(|call| is_locked(call)).filter_map(|call| call.told.as_ref()).next();
            let Some((locked_at, _)) = locked else { continue };
            if let Some(call) = seen.calls.iter().find(|call| granted(call) && call.asked > *locked_at) {
                return Err(format!("machine {} grants a guess for a user who is locked", call.place));
            }
        }
        Ok(())
    })
}

/// Somebody was told that the victim is locked.
fn is_locked(call: &Call) -> bool {
    let of_victim = matches!(&call.action, Action::ReserveAttempt { name, .. } if name.as_str() == VICTIM);
    of_victim && matches!(call.done(), Some((_, Err(refusal))) if refusal.code == ErrorCode::UserLocked)
}
