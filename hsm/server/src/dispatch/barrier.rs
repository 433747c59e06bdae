//! What an HSM may do while it hears from no majority, and changes after which no HSM may act on the old state.
//!
//! A key that was destroyed, a user who was deleted, disabled or got another password, a login that was ended everywhere,
//! an HSM that was removed and another isolation window: the answer waits until every HSM that serves clients knows, or names those that may not,
//! with the time until which they may go on without knowing. Leases are `hsm-replication`'s.

use std::time::Duration;

use hsm_core::{Action, Index};
use hsm_protocol::wire::reply::Body;
use hsm_protocol::{ErrorCode, wire};
use hsm_replication::{Barrier, Serving};

use super::call::{Call, Result};
use super::failure::Failure;
use super::limits::BUSY_RETRY;
use super::service::Service;

/// How long a barrier may take: a new leader waits out the leases of the time before it, and then a silent HSM's.
const BARRIER_TIME: Duration = Duration::from_secs(12);

/// Whether the answer to a change waits for every HSM.
pub(super) fn follows(action: &Action) -> bool {
    matches!(
        action,
        Action::DestroyObject { .. }
            | Action::DeleteUser { .. }
            | Action::ChangePassword { .. }
            | Action::SetUserEnabled { enabled: false, .. }
            | Action::LogoutEverywhere { .. }
            | Action::RemoveMember { .. }
            | Action::SetIsolationWindow { .. }
    )
}

/// The methods of these changes, by their numbers in `client.proto`: a repeated one waits as well.
pub(super) fn follows_method(method: u16) -> bool {
    matches!(method, 23 | 34 | 71 | 73 | 74 | 96 | 97)
}

/// Runs `then` when the barrier at `index` has ended. Does not wait.
pub(super) fn after(service: &Service, index: Index, then: impl FnOnce(Barrier) + Send + 'static) {
    service.node().barrier_then(index, BARRIER_TIME, Box::new(then));
}

/// The answer to a change that was done, with those who may not know of it.
///
/// # Errors
/// [`ErrorCode::Unknown`] when nobody could say who knows: the change stands, and a repetition asks again.
pub(super) fn answer(body: Body, barrier: Barrier) -> Result<Body> {
    let unreached = barrier.map_err(|_| Failure::from(ErrorCode::Unknown))?;
    let hsm = |hsm: Option<hsm_core::HsmId>| hsm.map_or_else(Vec::new, |hsm| hsm.0.to_vec());
    let named = unreached.into_iter().map(|one| wire::Unreached { hsm: hsm(one.hsm), until: one.until.0 });
    Ok(match body {
        Body::Done(_) => Body::Done(wire::Done { unreached: named.collect() }),
        other => other,
    })
}

impl Call<'_> {
    /// Whether this HSM may still act on what it knows.
    ///
    /// # Errors
    /// [`ErrorCode::Isolated`] when its cluster's isolation window is over.
    pub(crate) fn check_serving(&self) -> Result<()> {
        match self.service.node().serving() {
            Serving::Leased | Serving::Isolated { .. } => Ok(()),
            Serving::Expired => Err(Failure { code: ErrorCode::Isolated, subject: 0, retry_after: BUSY_RETRY }),
        }
    }
}

#[cfg(test)]
mod tests {
    use hsm_core::{HsmId, Stamp};
    use hsm_replication::Unreached;

    use super::*;

    #[test]
    fn the_answer_names_who_may_not_know_and_until_when() {
        let silent = Unreached { node: 7, hsm: Some(HsmId([3; 16])), until: Stamp(99) };
        let Ok(Body::Done(done)) = answer(Body::Done(wire::Done::default()), Ok(vec![silent])) else {
            panic!("the change was done");
        };
        assert!(done.unreached == [wire::Unreached { hsm: vec![3; 16], until: 99 }]);
    }

    #[test]
    fn a_change_whose_barrier_nobody_knows_of_is_not_acknowledged() {
        let answered = answer(Body::Done(wire::Done::default()), Err(ErrorCode::NotReady));
        assert_eq!(answered.err().map(|failure| failure.code), Some(ErrorCode::Unknown));
    }
}
