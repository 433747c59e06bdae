//! Versions of commands, and which one the cluster uses.
//!
//! A program knows all versions up to its newest. The cluster uses the lowest that its members know: a command that came
//! with a later version is refused until every member's program knows it. The step up is a command itself
//! ([`Action::RaiseVersion`]), which whoever leads proposes as soon as it may; it never goes back, and from then on nobody
//! is admitted or comes back who knows less. So no member ever meets a command that it would have to guess at.
//!
//! A new action gets the version of the release that brings it in [`since`], and an old one keeps its meaning for ever.

use crate::command::Action;

/// The first version.
pub const OLDEST: u32 = 1;

/// With it came rules for releases ([`Action::SetReleaseRule`]).
pub(crate) const RELEASES: u32 = 2;

/// With it came log-ins of isolated HSMs ([`Action::MergeIsolated`]).
pub(crate) const ISOLATED_LOGINS: u32 = 3;

/// The newest version that this program knows.
pub const NEWEST: u32 = ISOLATED_LOGINS;

/// The version that an action came with.
pub fn since(action: &Action) -> u32 {
    match action {
        Action::SetReleaseRule { .. } => RELEASES,
        Action::MergeIsolated { .. } => ISOLATED_LOGINS,
        _ => OLDEST,
    }
}

const _: () = assert!(OLDEST <= NEWEST);
