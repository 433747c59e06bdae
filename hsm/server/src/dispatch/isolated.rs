//! Log-ins while this HSM is isolated: counted and journalled here, told to the cluster when it is heard again.
//!
//! Every change of what `hsm_core::isolated` keeps goes through [`Desk`], which writes the journal before anybody acts on
//! it: an attempt is durable before its password is looked at, a session before its token is given out. `login` comes here
//! when it finds this HSM isolated; the process has [`Service::settle_isolated`] called every few seconds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use hsm_core::command::{NewSession, Origin};
use hsm_core::{Action, Hsm, HsmId, IsolatedAttempt, IsolatedLogins, SessionId, UserId};
use hsm_crypto::password;
use hsm_protocol::{ErrorCode, UserName};
use hsm_replication::{Node, Outcome, Serving};
use parking_lot::Mutex;

use super::call::{Call, Result};
use super::failure::Failure;
use super::limits::BUSY_RETRY;
use super::login;
use super::passwords::Password;
use super::service::Service;
use crate::exit::Fault;
use crate::isolated_journal::Journal;

/// What nobody's session proposes.
const NOBODY: Origin = Origin { session: None, sequence: 0, lowest_unanswered: 0 };

/// What this HSM keeps beside the state, and its journal.
pub(crate) struct Desk {
    /// `None`: it cannot be used, so nobody logs in. Whoever holds it waits for the state: nobody may wait for it who reads that.
    journal: Mutex<Option<Journal>>,
    is_usable: bool,
    bytes: AtomicU64,
}

impl Desk {
    pub(crate) fn new(journal: Option<Journal>) -> Self {
        let bytes = AtomicU64::new(journal.as_ref().map_or(0, Journal::bytes));
        Self { is_usable: journal.is_some(), bytes, journal: Mutex::new(journal) }
    }

    /// Whether crypto users may log in here in isolation, as far as the journal goes.
    pub(super) fn is_usable(&self) -> bool {
        self.is_usable
    }

    /// Size of the journal, in bytes.
    pub(crate) fn journal_bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Changes what this HSM keeps, and makes that durable before it returns.
    fn change<T>(&self, node: &Node, change: impl FnOnce(&mut Hsm) -> T) -> std::result::Result<T, (T, Failure)> {
        let mut journal = self.journal.lock();
        let (changed, before, logins) = node.alone(|hsm| {
            let before = hsm.isolated_logins().to_vec();
            (change(hsm), before, hsm.isolated_logins().to_vec())
        });
        if before == logins {
            return Ok(changed);
        }
        let Some(journal) = journal.as_mut() else { return Err((changed, ErrorCode::Isolated.into())) };
        let written = journal.write(&logins);
        self.bytes.store(journal.bytes(), Ordering::Relaxed);
        match written {
            Ok(()) => Ok(changed),
            Err(fault) => {
                tracing::error!(%fault, "the journal of log-ins while this HSM is isolated cannot be written");
                Err((changed, write_failure(&fault)))
            }
        }
    }
}

fn write_failure(fault: &Fault) -> Failure {
    match fault {
        Fault::Disk { .. } => ErrorCode::StorageFull.into(),
        _ => ErrorCode::Broken.into(),
    }
}

/// Counts an attempt here, compares the password, and opens the session. Blocks: for password threads only.
///
/// # Errors
/// As [`login::prove_password`]; [`ErrorCode::Isolated`] and [`ErrorCode::StorageFull`] when nothing was counted, or
/// nothing was given out.
pub(super) fn prove_password(
    call: &Call<'_>,
    name: &UserName,
    password: &Password,
    session: Option<NewSession>,
) -> Result<UserId> {
    let (service, node) = (call.service, call.service.node());
    let (desk, now) = (service.desk(), node.now());
    let attempt = match desk.change(node, |hsm| hsm.reserve_isolated(name, now)) {
        Ok(attempt) => attempt?,
        Err((attempt, failure)) => {
            // It stays counted: it may be on the disk.
            attempt.into_iter().for_each(|attempt| node.alone(|hsm| hsm.fail_isolated(attempt)));
            return Err(failure);
        }
    };
    let fits = match compare(node, &attempt, password) {
        Ok(fits) => fits,
        Err(failure) => {
            node.alone(|hsm| hsm.fail_isolated(attempt));
            return Err(failure);
        }
    };
    if !fits {
        service.guesses().punish(login::login_origin(call), Instant::now());
        service.metrics().isolated_failure();
        node.alone(|hsm| hsm.fail_isolated(attempt));
        return Err(ErrorCode::LoginRefused.into());
    }
    let finished = desk.change(node, |hsm| hsm.finish_isolated(attempt, session.as_ref(), now));
    let user = finished.map_err(|(_, failure)| failure)??;
    service.metrics().isolated_login();
    Ok(user)
}

fn compare(node: &Node, attempt: &IsolatedAttempt, password: &Password) -> Result<bool> {
    let fips = node.read().is_fips();
    let octets = if password.is_possible() { password.octets() } else { &[] };
    let fits = match &attempt.verifier {
        Some(verifier) => password::confirm(verifier, octets)?,
        None => password::confirm_nobody(fips, octets)?,
    };
    Ok(fits && password.is_possible())
}

/// Ends a session that only this HSM knows; `None` when the cluster must end it.
pub(super) fn log_out(call: &Call<'_>, session: SessionId) -> Option<Result<()>> {
    let node = call.service.node();
    if !node.read().is_isolated_session(session) {
        return None;
    }
    let ended = call.service.desk().change(node, |hsm| hsm.log_out_isolated(session));
    match ended {
        Ok(true) => {
            call.service.close_sessions(&[session]);
            Some(Ok(()))
        }
        Ok(false) => None,
        Err((_, failure)) => Some(Err(failure)),
    }
}

impl Call<'_> {
    /// Refuses changes in the name of a session that only this HSM knows: the log would know of no such session.
    ///
    /// # Errors
    /// [`ErrorCode::LoginNotMerged`].
    pub(crate) fn check_merged(&self) -> Result<()> {
        match self.session() {
            Ok(session) if self.service.node().read().is_isolated_session(session) => {
                Err(Failure::after(ErrorCode::LoginNotMerged, u64::from(BUSY_RETRY)))
            }
            _ => Ok(()),
        }
    }
}

impl Service {
    /// Tells the cluster what happened here in isolation, as soon as it is heard, and forgets what it knows. Does not wait
    /// for the log.
    pub fn settle_isolated(self: &Arc<Self>) {
        let node = self.node();
        if node.read().isolated_logins().is_empty() {
            return;
        }
        self.forget_merged();
        if node.serving() != Serving::Leased {
            return;
        }
        let Some(logins) = node.alone(Hsm::next_merge) else { return };
        tracing::info!(
            sessions = logins.sessions.len(),
            users = logins.users.len(),
            "the cluster is heard again, and told who logged in here meanwhile"
        );
        self.metrics().proposal();
        let done = |outcome| match outcome {
            Outcome::Done { result: Ok(_), .. } => {}
            Outcome::Done { result: Err(refusal), .. } => tracing::warn!(%refusal, "log-ins were not merged"),
            Outcome::Unavailable(_) | Outcome::Unknown => tracing::debug!("log-ins are merged in the next round"),
        };
        // Proposed again in the next round if it was lost: the state takes it once, by its number.
        node.propose(NOBODY, Action::MergeIsolated { hsm: HsmId(self.hsm()), logins }, Box::new(done));
    }

    fn forget_merged(&self) {
        let node = self.node();
        let merged = node.read().isolated_logins().first().is_some_and(|first| !node.read().is_unmerged(first));
        if !merged {
            return;
        }
        let known = match self.desk().change(node, Hsm::forget_merged) {
            // What stays on the disk is known to be merged when it is read again.
            Ok(known) | Err((known, _)) => known,
        };
        let ended = self.follow_merge(&known);
        tracing::info!(ended, "the cluster knows who logged in here while this HSM was isolated");
    }

    /// Ends on the connections what the cluster did not take over, and has libraries attach the rest again: that tells them
    /// that the session is good everywhere. Gives the number of ended ones.
    fn follow_merge(&self, known: &[IsolatedLogins]) -> usize {
        let sessions = known.iter().flat_map(|logins| logins.sessions.keys().copied());
        let now = self.node().now();
        let (_, ended): (Vec<_>, Vec<_>) = {
            let state = self.node().read();
            sessions.partition(|&session| state.session(session, now).is_ok())
        };
        self.close_sessions(&ended);
        self.ask_for_attaching();
        ended.len()
    }
}
