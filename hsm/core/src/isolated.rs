//! Log-ins on an HSM while it is isolated: beside the replicated state, until the cluster is told of them.
//!
//! An isolated HSM has no log to count an attempt in. It counts here what failed since it was cut off, on top of what the
//! state has, so that it gives out the attempts that were left and no more; a success gives back its own attempt and resets
//! nothing. What stands here is no part of the state and of no hash. The caller journals [`Hsm::isolated_logins`] durably
//! after every change and before it acts on it (`hsm-server`, `isolated/`); one command tells the cluster
//! (`Action::MergeIsolated`, `apply/merges.rs`), and what the state knows to be merged counts here no more.

use std::collections::BTreeMap;

use hsm_protocol::{ErrorCode, Role, UserName};
use serde::{Deserialize, Serialize};

use crate::apply::{bounded_expiry, refuse_when_locked};
use crate::command::{NewSession, Verifier};
use crate::hsm::Hsm;
use crate::ids::{HsmId, Incarnation, SessionId, Stamp, UserId};
use crate::limits::{ISOLATED_NAMES, ISOLATED_PARTS, ISOLATED_SESSIONS};
use crate::records::Caller;
use crate::refusal::Refusal;
use crate::versions;

/// What happened on one HSM while it was isolated, as the cluster is told of it: in one command.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IsolatedLogins {
    /// Rises with each that this HSM begins, also when it has lost the ones before: the state remembers the last one.
    pub number: u64,
    /// The history in which the HSM was cut off: the sessions belong to no other one.
    pub incarnation: Incarnation,
    /// Attempts of crypto users that did not succeed.
    pub users: BTreeMap<UserId, WrongPasswords>,
    /// The same for names that belong to nobody. At most [`ISOLATED_NAMES`].
    pub nobody: BTreeMap<UserName, WrongPasswords>,
    /// The sessions that were opened. At most [`ISOLATED_SESSIONS`].
    pub sessions: BTreeMap<SessionId, IsolatedSession>,
}

/// Attempts that were counted.
#[derive(Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrongPasswords {
    /// How many, those under way included.
    pub attempts: u32,
    /// When the last one was counted, by this HSM's time.
    pub last_attempt: Stamp,
}

/// A session of a crypto user that only the HSM knows which opened it.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IsolatedSession {
    /// Whose.
    pub user: UserId,
    /// The user's generation that it belongs to.
    pub generation: u64,
    /// Ed25519 public key of the library that logged in.
    pub public_key: [u8; 32],
    /// When it was opened, by this HSM's time.
    pub opened_at: Stamp,
    /// Expiry.
    pub expires_at: Stamp,
}

/// An attempt that was counted and whose password was not yet looked at. Has one end: [`Hsm::finish_isolated`] or
/// [`Hsm::fail_isolated`].
pub struct IsolatedAttempt {
    name: UserName,
    user: Option<UserId>,
    generation: u64,
    /// What to compare with; `None` = nobody's: compare with a dummy, which costs the same time.
    pub verifier: Option<Verifier>,
}

/// What one HSM keeps beside its state.
#[derive(Default)]
pub(crate) struct Isolated {
    /// This HSM; `None` until a journal was opened: then nobody logs in here in isolation.
    hsm: Option<HsmId>,
    /// In the order of their numbers.
    parts: Vec<IsolatedLogins>,
    /// Whether the last one was told to the cluster, or may have been, and must not change any more.
    closed: bool,
    /// Attempts under way by name.
    open: BTreeMap<UserName, u32>,
}

/// How much waits to be told to the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IsolatedCounts {
    /// Sessions that only this HSM knows.
    pub sessions: u64,
    /// Attempts that did not succeed.
    pub attempts: u64,
}

impl Hsm {
    /// Takes over what the journal of this HSM holds. Whatever it holds may have been told to the cluster before.
    pub fn open_isolated(&mut self, hsm: HsmId, logins: Vec<IsolatedLogins>) {
        self.isolated = Isolated { hsm: Some(hsm), parts: logins, closed: true, open: BTreeMap::new() };
    }

    /// Nobody logs in here in isolation: the journal cannot be used.
    pub fn close_isolated(&mut self) {
        self.isolated = Isolated::default();
    }

    /// What the journal must hold, in the order of numbers.
    pub fn isolated_logins(&self) -> &[IsolatedLogins] {
        &self.isolated.parts
    }

    /// How much of it the cluster does not know.
    pub fn isolated_counts(&self) -> IsolatedCounts {
        let mut counts = IsolatedCounts::default();
        for part in self.unmerged() {
            counts.sessions += part.sessions.len() as u64;
            let wrong = part.users.values().chain(part.nobody.values());
            counts.attempts += wrong.map(|wrong| u64::from(wrong.attempts)).sum::<u64>();
        }
        counts
    }

    /// Whether every member's program knows of such log-ins.
    pub fn may_log_in_isolated(&self) -> bool {
        self.state.version() >= versions::ISOLATED_LOGINS
    }

    /// Counts an attempt of a crypto user, or of a name that belongs to nobody, on this HSM alone. The caller journals it
    /// before it looks at the password.
    ///
    /// # Errors
    /// [`ErrorCode::Isolated`] when nobody may log in here in isolation (a member's program does not know it yet, there is
    /// no journal or no room in it), [`ErrorCode::UserLocked`], [`ErrorCode::LoginDelayed`],
    /// [`ErrorCode::LifecycleRefused`].
    pub fn reserve_isolated(&mut self, name: &UserName, now: Stamp) -> Result<IsolatedAttempt, Refusal> {
        self.state.require_active()?;
        if !self.may_log_in_isolated() {
            return Err(ErrorCode::Isolated.into());
        }
        let open = self.isolated.open.get(name).copied().unwrap_or(0);
        let found = self.state.user_of(name, Role::CryptoUser);
        let found = found.map(|(user, record)| (user, record.failures, record.generation, record.verifier.clone()));
        let attempt = match found {
            Some((user, failures, generation, verifier)) => {
                let here: u32 =
                    self.unmerged().filter_map(|part| part.users.get(&user)).map(|wrong| wrong.attempts).sum();
                refuse_when_locked(failures.saturating_add(here), open)?;
                self.changeable(now)?.users.entry(user).or_default().count(now);
                IsolatedAttempt { name: name.clone(), user: Some(user), generation, verifier }
            }
            None => {
                let known = self.state.unknown_names.get(&(name.clone(), Role::CryptoUser));
                let failures = known.map_or(0, |known| known.failures);
                let here: u32 =
                    self.unmerged().filter_map(|part| part.nobody.get(name)).map(|wrong| wrong.attempts).sum();
                refuse_when_locked(failures.saturating_add(here), open)?;
                self.changeable(now)?.count_for_nobody(name, now);
                IsolatedAttempt { name: name.clone(), user: None, generation: 0, verifier: None }
            }
        };
        *self.isolated.open.entry(name.clone()).or_default() += 1;
        Ok(attempt)
    }

    /// The password was right: gives back this attempt and no other one, and opens the session unless this was for one
    /// operation only. The caller journals it before it gives out the session.
    ///
    /// # Errors
    /// [`ErrorCode::UserDisabled`], [`ErrorCode::SessionLimit`]; [`ErrorCode::LoginRefused`] when the user is no more what
    /// he was when it was counted.
    pub fn finish_isolated(
        &mut self,
        attempt: IsolatedAttempt,
        session: Option<&NewSession>,
        now: Stamp,
    ) -> Result<UserId, Refusal> {
        let (user, generation) = (attempt.user, attempt.generation);
        self.end_attempt(attempt);
        let user = user.ok_or(ErrorCode::LoginRefused)?;
        let record = self.state.users.get(&user).filter(|record| record.generation == generation);
        if !record.ok_or(ErrorCode::LoginRefused)?.enabled {
            return Err(ErrorCode::UserDisabled.into());
        }
        let expires_at = session.map(|new| bounded_expiry(now, new.expires_at)).transpose()?;
        if session.is_some() && self.isolated_counts().sessions >= ISOLATED_SESSIONS as u64 {
            return Err(ErrorCode::SessionLimit.into());
        }
        let part = self.changeable(now)?;
        if let Some(wrong) = part.users.get_mut(&user) {
            wrong.attempts = wrong.attempts.saturating_sub(1);
        }
        part.users.retain(|_, wrong| wrong.attempts > 0);
        if let (Some(new), Some(expires_at)) = (session, expires_at) {
            let opened = IsolatedSession { user, generation, public_key: new.public_key, opened_at: now, expires_at };
            part.sessions.insert(new.session, opened);
        }
        Ok(user)
    }

    /// The password was wrong, nobody's, or not looked at: the attempt stays counted.
    pub fn fail_isolated(&mut self, attempt: IsolatedAttempt) {
        self.end_attempt(attempt);
    }

    #[expect(clippy::needless_pass_by_value, reason = "an attempt ends once")]
    fn end_attempt(&mut self, attempt: IsolatedAttempt) {
        if let Some(open) = self.isolated.open.get_mut(&attempt.name) {
            *open = open.saturating_sub(1);
        }
        self.isolated.open.retain(|_, open| *open > 0);
    }

    /// Ends a session that only this HSM knows; `false` when the cluster was told of it, or may have been, and must end it.
    pub fn log_out_isolated(&mut self, session: SessionId) -> bool {
        if self.isolated.closed {
            return false;
        }
        self.isolated.parts.last_mut().is_some_and(|part| part.sessions.remove(&session).is_some())
    }

    /// Whether this HSM alone knows the session.
    pub fn is_isolated_session(&self, session: SessionId) -> bool {
        !self.state.sessions.contains_key(&session) && self.isolated_session(session).is_some()
    }

    /// What the cluster is to be told next, which does not change any more; `None` when it knows everything, or an attempt is
    /// under way.
    pub fn next_merge(&mut self) -> Option<IsolatedLogins> {
        if !self.isolated.open.is_empty() {
            return None;
        }
        let next = self.unmerged().next().cloned()?;
        self.isolated.closed = true;
        Some(next)
    }

    /// Whether the cluster was not told of these yet, as far as this HSM knows.
    pub fn is_unmerged(&self, logins: &IsolatedLogins) -> bool {
        logins.number > self.merged_number()
    }

    /// Drops what the cluster knows, and says what that was: the journal must forget it too.
    pub fn forget_merged(&mut self) -> Vec<IsolatedLogins> {
        let merged = self.merged_number();
        let (known, left) =
            std::mem::take(&mut self.isolated.parts).into_iter().partition(|part| part.number <= merged);
        self.isolated.parts = left;
        known
    }

    /// Who acts in a session: as the state has it, or as only this HSM knows it.
    pub(crate) fn caller_in(&self, session: SessionId, now: Option<Stamp>) -> Result<Caller, Refusal> {
        let known = self.state.caller(session, now);
        if known.is_ok() || self.state.sessions.contains_key(&session) {
            return known;
        }
        let alone = || {
            let record = self.isolated_session(session)?;
            let user = self.state.users.get(&record.user)?;
            let stands = user.enabled && user.generation == record.generation && user.role == Role::CryptoUser;
            let in_time = now.is_none_or(|now| now < record.expires_at);
            let caller = Caller { session: Some(session), user: record.user, role: Some(user.role) };
            (stands && in_time).then_some(caller)
        };
        alone().ok_or(ErrorCode::NotLoggedIn.into())
    }

    /// The record of a session that only this HSM knows, if it is of this history.
    pub(crate) fn isolated_session(&self, session: SessionId) -> Option<&IsolatedSession> {
        let incarnation = self.state.cluster.as_ref()?.incarnation;
        let here = self.unmerged().filter(|part| part.incarnation == incarnation);
        here.filter_map(|part| part.sessions.get(&session)).next()
    }

    fn merged_number(&self) -> u64 {
        self.isolated.hsm.map_or(0, |hsm| self.state.merges.number(hsm))
    }

    fn unmerged(&self) -> impl Iterator<Item = &IsolatedLogins> {
        let merged = self.merged_number();
        self.isolated.parts.iter().filter(move |part| part.number > merged)
    }

    /// The part that may change; a new one after one that was told, and after another history.
    fn changeable(&mut self, now: Stamp) -> Result<&mut IsolatedLogins, Refusal> {
        let merged = self.merged_number();
        let incarnation = self.state.cluster.as_ref().map(|cluster| cluster.incarnation);
        let incarnation = incarnation.filter(|_| self.isolated.hsm.is_some()).ok_or(ErrorCode::Isolated)?;
        let Isolated { parts, closed, .. } = &mut self.isolated;
        let last = parts.last().map(|part| (part.number, part.incarnation));
        if *closed || last.is_none_or(|(number, of)| number <= merged || of != incarnation) {
            if parts.len() >= ISOLATED_PARTS {
                return Err(ErrorCode::Isolated.into());
            }
            // Above every number that was used, also by a journal that is lost: time does not go back.
            let number = last.map_or(0, |(number, _)| number).max(merged).saturating_add(1).max(now.0);
            let (users, nobody, sessions) = Default::default();
            parts.push(IsolatedLogins { number, incarnation, users, nobody, sessions });
            *closed = false;
        }
        parts.last_mut().ok_or(ErrorCode::Isolated.into())
    }
}

impl IsolatedLogins {
    /// Counts for a name that belongs to nobody; the one that was tried longest ago makes room.
    fn count_for_nobody(&mut self, name: &UserName, now: Stamp) {
        if self.nobody.len() >= ISOLATED_NAMES && !self.nobody.contains_key(name) {
            let oldest = self.nobody.iter().min_by_key(|(name, wrong)| (wrong.last_attempt, *name));
            if let Some(oldest) = oldest.map(|(name, _)| name.clone()) {
                self.nobody.remove(&oldest);
            }
        }
        self.nobody.entry(name.clone()).or_default().count(now);
    }
}

impl WrongPasswords {
    fn count(&mut self, now: Stamp) {
        self.attempts = self.attempts.saturating_add(1);
        self.last_attempt = self.last_attempt.max(now);
    }
}

/// Which log-ins of isolated HSMs the state knows: the number of the last ones of each member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Merges(BTreeMap<HsmId, u64>);

impl Merges {
    /// 0 = it never told of any.
    pub(crate) fn number(&self, hsm: HsmId) -> u64 {
        self.0.get(&hsm).copied().unwrap_or(0)
    }

    pub(crate) fn note(&mut self, hsm: HsmId, number: u64) {
        self.0.insert(hsm, number);
    }

    /// Only these HSMs can come back.
    pub(crate) fn keep(&mut self, keep: impl Fn(HsmId) -> bool) {
        self.0.retain(|&hsm, _| keep(hsm));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
