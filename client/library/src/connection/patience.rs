//! How long a call waits on a connection, who judges the silence of its HSM, and what came of it.

use std::sync::Arc;
use std::time::Instant;

use super::lost::Lost;

/// How long a call waits for its answer.
#[derive(Clone, Copy)]
pub(crate) struct Patience<'a> {
    /// Until when at most.
    pub(crate) deadline: Instant,
    /// Judges the HSM's silence; `None` for a call that cannot be made elsewhere, which waits until the deadline.
    pub(crate) watch: Option<&'a dyn Watch>,
}

/// Judges an HSM that owes an answer and says nothing at all. Called without a lock or a role held; may take time.
pub(crate) trait Watch {
    /// Nothing has come since that moment.
    fn judge(&self, silent_since: Instant, deadline: Instant) -> Verdict;
}

/// What a call does about silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Goes on waiting, and asks again then.
    WaitUntil(Instant),
    /// Leaves: the HSM is dead as far as anybody can tell.
    Leave,
}

/// An answer.
pub(crate) struct Answer {
    /// Request id of the call on its connection, as the HSM's log shows it.
    pub(crate) id: u64,
    pub(crate) body: Vec<u8>,
}

/// Why an exchange gave no answer.
#[derive(Debug)]
pub(crate) enum NoAnswer {
    /// The connection is lost. `sent` = the HSM may have seen the request.
    Lost { reason: Arc<Lost>, sent: bool },
    /// The time is over.
    TimedOut,
    /// Too many calls are in flight on this connection.
    Full,
}
