//! Which logins are attached to a connection, and under which index. Each is attached once, by one thread.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hsm_protocol::wire;

use super::{NoAnswer, Stumble};

/// A login is attached again, which renews it, after half of the time that it has left; but not more often than this.
const RENEWAL_MINIMUM: Duration = Duration::from_secs(1);

/// When the clocks of the two sides are so far apart that the time left makes no sense. A login that ends before is
/// noticed by the HSM's answer.
const RENEWAL_BLIND: Duration = Duration::from_secs(60);

/// The logins of one connection.
#[derive(Default)]
pub(super) struct Attachments {
    table: Mutex<Vec<Attachment>>,
    changed: Condvar,
}

struct Attachment {
    login: u64,
    state: State,
}

#[derive(Clone, Copy)]
enum State {
    /// A thread is attaching it.
    Attaching,
    Attached {
        index: u32,
        renew_at: Instant,
    },
}

impl Attachments {
    /// The index of a login; `attach` is called when there is none, or it should be renewed. Other threads wait for it.
    pub(super) fn session(
        &self,
        login: u64,
        deadline: Instant,
        attach: impl FnOnce() -> Result<wire::AttachReply, Stumble>,
    ) -> Result<u32, Stumble> {
        let mut table = self.table();
        loop {
            let now = Instant::now();
            match table.iter_mut().find(|entry| entry.login == login) {
                Some(Attachment { state: State::Attached { index, renew_at }, .. }) if now < *renew_at => {
                    return Ok(*index);
                }
                Some(Attachment { state: State::Attaching, .. }) => {
                    let left = deadline.saturating_duration_since(now);
                    if left.is_zero() {
                        return Err(Stumble::NoAnswer(NoAnswer::TimedOut));
                    }
                    table = self.changed.wait_timeout(table, left).unwrap_or_else(PoisonError::into_inner).0;
                }
                Some(entry) => {
                    entry.state = State::Attaching;
                    break;
                }
                None => {
                    table.push(Attachment { login, state: State::Attaching });
                    break;
                }
            }
        }
        drop(table);
        let attempt = Attempt { attachments: self, login };
        let reply = attach()?;
        let renew_at = Instant::now() + renewal(reply.expires_at);
        if let Some(entry) = self.table().iter_mut().find(|entry| entry.login == login) {
            entry.state = State::Attached { index: reply.session, renew_at };
        }
        drop(attempt);
        Ok(reply.session)
    }

    /// Forgets a login's index, unless a thread is attaching it at this moment.
    pub(super) fn forget(&self, login: u64) {
        self.table().retain(|entry| entry.login != login || matches!(entry.state, State::Attaching));
    }

    fn table(&self) -> MutexGuard<'_, Vec<Attachment>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the entry away when attaching failed, and tells those who wait in any case.
struct Attempt<'a> {
    attachments: &'a Attachments,
    login: u64,
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let failed = |entry: &Attachment| entry.login == self.login && matches!(entry.state, State::Attaching);
        self.attachments.table().retain(|entry| !failed(entry));
        self.attachments.changed.notify_all();
    }
}

/// How long to wait before attaching again. `expires_at` in milliseconds since 1970-01-01 UTC.
fn renewal(expires_at: u64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    match Duration::from_millis(expires_at).checked_sub(now) {
        Some(left) => (left / 2).clamp(RENEWAL_MINIMUM, RENEWAL_BLIND * 60 * 24),
        None => RENEWAL_BLIND,
    }
}
