//! After a user was disabled and this was acknowledged, no member that has come as far has a session of his; with leases:
//! none that serves, but those that the answer named.
//!
//! Looked at: the sessions of the user whom the admin disables, on all members, at each look. Fault budget: as for
//! `a_deleted_key_is_gone`.

use super::{Invariant, first_stale, nothing};

/// The name.
pub const NAME: &str = "a_disabled_user_has_no_session";

/// No member has such a session.
pub const INVARIANT: Invariant = Invariant { name: NAME, step: |cluster| first_stale(cluster, NAME), end: nothing };
