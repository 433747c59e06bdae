//! After a delete was acknowledged, no member that has come as far has the key; with leases: none that serves, but those
//! that the answer named.
//!
//! Looked at: the stores of all members, at each look, for every key whose destruction was acknowledged. Fault budget: any
//! crash, cut, pause and drift within 2 %; disks that forget on a minority of the voters.

use super::{Invariant, first_stale, nothing};

/// The name.
pub const NAME: &str = "a_deleted_key_is_gone";

/// No member has a deleted key.
pub const INVARIANT: Invariant = Invariant { name: NAME, step: |cluster| first_stale(cluster, NAME), end: nothing };
