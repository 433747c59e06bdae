//! What an HSM that nobody hears may still act on: an isolation window that is no more, a place that it has lost.
//!
//! A barrier names whoever may not know of a change, and until when. For that it must count with the largest window that a
//! silent HSM may believe in, and with HSMs that the roster has no more: both stand here for as long as they matter, so
//! that every leader knows them. Nothing here decides anything; `hsm-replication` looks.

use serde::{Deserialize, Serialize};

use crate::ids::{HsmId, Index, NodeId, Stamp};
use crate::limits::{DEPARTED_MEMBERS, PAST_WINDOWS, SILENCE_MILLISECONDS};

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lingering {
    /// Windows that were lowered, in the order in which they were. At most [`PAST_WINDOWS`].
    pub windows: Vec<PastWindow>,
    /// HSMs that were removed, in that order. At most [`DEPARTED_MEMBERS`].
    pub members: Vec<DepartedMember>,
}

/// A window that was lowered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastWindow {
    /// How long an HSM goes on that believes in it.
    pub seconds: u32,
    /// The command that lowered it: who has applied that does not believe in it.
    pub lowered_at: Index,
    /// After this time nobody goes on by it.
    pub until: Stamp,
}

/// An HSM that was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DepartedMember {
    /// Its node.
    pub node: NodeId,
    /// The HSM.
    pub hsm: HsmId,
    /// The command that removed it: when it has applied that, it serves nobody.
    pub removed_at: Index,
    /// After this time it serves nobody, whatever it has heard.
    pub until: Stamp,
}

impl Lingering {
    /// The window was lowered from so many seconds.
    pub(crate) fn lower(&mut self, seconds: u32, lowered_at: Index, now: Stamp) {
        self.forget(now);
        let past = PastWindow { seconds, lowered_at, until: end_of(seconds, now) };
        // Whoever believes in one of these may believe in this one, which is longer.
        self.windows.retain(|other| other.seconds > past.seconds || other.until > past.until);
        self.windows.push(past);
        if self.windows.len() > PAST_WINDOWS {
            let first = self.windows.remove(0);
            let next = &mut self.windows[0];
            next.seconds = next.seconds.max(first.seconds);
            next.until = next.until.max(first.until);
        }
    }

    /// An HSM was removed while the window was so many seconds.
    pub(crate) fn depart(&mut self, node: NodeId, hsm: HsmId, removed_at: Index, seconds: u32, now: Stamp) {
        self.forget(now);
        let longest = self.windows.iter().map(|past| past.seconds).fold(seconds, u32::max);
        self.members.push(DepartedMember { node, hsm, removed_at, until: end_of(longest, now) });
        if self.members.len() > DEPARTED_MEMBERS {
            self.members.remove(0);
        }
    }

    /// Drops what is over.
    fn forget(&mut self, now: Stamp) {
        self.windows.retain(|past| past.until > now);
        self.members.retain(|member| member.until > now);
    }

    /// The last command that lowered the window, of those that still matter.
    pub fn last_lowering(&self) -> Index {
        self.windows.last().map_or(Index(0), |past| past.lowered_at)
    }
}

/// When an HSM that hears nothing from now on has stopped for certain. Stamps advance by at most 9/8 of the time that goes
/// by.
fn end_of(seconds: u32, now: Stamp) -> Stamp {
    let longest = u64::from(seconds) * 1000 + SILENCE_MILLISECONDS;
    Stamp(now.0.saturating_add(longest + longest.div_ceil(8)))
}
