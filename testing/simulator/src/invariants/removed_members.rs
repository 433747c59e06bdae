//! After a member was removed and this was acknowledged, it serves nobody any more; unless the answer named it, and then
//! until the time named there.
//!
//! Looked at: whether removed members, which run on as if nothing had happened, take themselves for serving. Fault budget:
//! as for `a_deleted_key_is_gone`.

use super::{Invariant, first_stale, nothing};

/// The name.
pub const NAME: &str = "a_removed_member_stops";

/// No removed member serves.
pub const INVARIANT: Invariant = Invariant { name: NAME, step: |cluster| first_stale(cluster, NAME), end: nothing };
