//! No task of the product panics.
//!
//! Fault budget: any. Panics of redb while it reads a damaged disk do not count: the store catches them and refuses.

use super::{Invariant, nothing};
use crate::panics;

/// The name.
pub const NAME: &str = "nothing_panics";

/// No panic on this thread.
pub const INVARIANT: Invariant = Invariant { name: NAME, step: |_| panics::first().map_or(Ok(()), Err), end: nothing };
