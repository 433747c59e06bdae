//! Attempts to log in. An attempt is counted before the password is looked at: a crash or a lost answer cannot give a
//! guess for free, and guesses at many HSMs draw on one counter.
//!
//! `ReserveAttempt` counts, and hands out what to compare with; `FinishLogin` (right) starts the count again;
//! `FailLogin` (wrong) writes the audit record. A name that belongs to nobody goes the same way to the same answers.

use hsm_protocol::{ErrorCode, Lifecycle, Role, UserName};

use super::{Answer, is_older, sessions};
use crate::change::Response;
use crate::command::NewSession;
use crate::ids::{AttemptId, Stamp, UserId};
use crate::limits::{
    ATTEMPT_MILLISECONDS, ATTEMPTS_OPEN, LAST_ADMIN_DELAY_MAXIMUM_MILLISECONDS, LAST_ADMIN_DELAY_MILLISECONDS,
    LOGIN_RETRY_MILLISECONDS, UNKNOWN_NAMES, WRONG_PASSWORDS,
};
use crate::records::{AttemptRecord, UnknownName, UserRecord};
use crate::refusal::Refusal;
use crate::rows::AttemptKey;
use crate::state::State;
use crate::work::Work;

pub(super) fn reserve(work: &mut Work<'_>, attempt: AttemptId, name: &UserName, role: Role) -> Answer {
    require_lifecycle(work.state, role)?;
    if work.state.attempts.contains_key(&attempt) {
        return Err(ErrorCode::LoginRefused.into());
    }
    forget_old_attempts(work);
    let open = open_attempts(work.state, name, role, work.stamp);
    let (user, generation, verifier) = match work.state.user_of(name, role) {
        Some((user, record)) => {
            count_for_user(work, user, record.clone(), open)?;
            (Some(user), record.generation, record.verifier.clone())
        }
        None => {
            count_for_nobody(work, name, role, open)?;
            (None, 0, None)
        }
    };
    let record = AttemptRecord { name: name.clone(), role, user, generation, reserved_at: work.stamp };
    work.put_attempt(attempt, Some(&record));
    Ok(Response::Attempt { verifier, user: user.unwrap_or(UserId::NOBODY), role })
}

/// The password was right.
pub(super) fn finish(work: &mut Work<'_>, attempt: AttemptId, session: Option<&NewSession>) -> Answer {
    let record = work.state.attempts.get(&attempt).cloned().ok_or(ErrorCode::LoginRefused)?;
    work.put_attempt(attempt, None);
    let in_time = !is_older(record.reserved_at, work.stamp, ATTEMPT_MILLISECONDS);
    let user = record.user.filter(|_| in_time).ok_or(ErrorCode::LoginRefused)?;
    let current = work.user(user).filter(|now| now.generation == record.generation && now.role == record.role);
    let mut current = current.ok_or(ErrorCode::LoginRefused)?;
    if !current.enabled {
        return Err(ErrorCode::UserDisabled.into());
    }
    if let Some(new) = session {
        // The first admin confirms the activation password; he opens no session with it.
        if current.role != Role::Admin && current.role != Role::CryptoUser {
            return Err(ErrorCode::RoleRefused.into());
        }
        sessions::open(work, user, &current, new)?;
    }
    // Attempts that are still under way were counted and stay so.
    current.failures = open_attempts(work.state, &record.name, record.role, work.stamp).saturating_sub(1);
    work.put_user(user, Some(current));
    Ok(Response::LoggedIn { user })
}

/// The password was wrong, or the name nobody's.
pub(super) fn fail(work: &mut Work<'_>, attempt: AttemptId) -> Answer {
    if work.state.attempts.contains_key(&attempt) {
        work.put_attempt(attempt, None);
    }
    Err(ErrorCode::LoginRefused.into())
}

fn require_lifecycle(state: &State, role: Role) -> Result<(), Refusal> {
    match (state.lifecycle(), role) {
        (Some(Lifecycle::Active), Role::Admin | Role::CryptoUser)
        | (Some(Lifecycle::Initialized), Role::UnactivatedAdmin) => Ok(()),
        (Some(Lifecycle::Active), _) => Err(ErrorCode::LoginRefused.into()),
        _ => Err(ErrorCode::LifecycleRefused.into()),
    }
}

fn count_for_user(work: &mut Work<'_>, user: UserId, mut record: UserRecord, open: u32) -> Result<(), Refusal> {
    if is_last_usable_admin(work.state, user, &record) {
        delay(&record, work.stamp)?;
    } else {
        refuse_when_locked(record.failures, open)?;
    }
    record.failures = record.failures.saturating_add(1);
    record.last_attempt = work.stamp;
    work.put_user(user, Some(record));
    Ok(())
}

fn count_for_nobody(work: &mut Work<'_>, name: &UserName, role: Role, open: u32) -> Result<(), Refusal> {
    let before = work.state.unknown_names.get(&(name.clone(), role)).copied();
    let failures = before.map_or(0, |before| before.failures);
    refuse_when_locked(failures, open)?;
    if before.is_none() && work.state.unknown_names.len() >= UNKNOWN_NAMES {
        let oldest = work.state.unknown_names.iter().min_by_key(|(key, entry)| (entry.last_attempt, *key));
        if let Some(((name, role), _)) = oldest {
            work.put_unknown_name(&AttemptKey::UnknownName(name.clone(), *role), None);
        }
    }
    let entry = UnknownName { failures: failures.saturating_add(1), last_attempt: work.stamp };
    work.put_unknown_name(&AttemptKey::UnknownName(name.clone(), role), Some(&entry));
    Ok(())
}

/// Locked once more than [`WRONG_PASSWORDS`] failed. While that hangs on attempts under way, which may all be right (many
/// processes that start at once), the answer is to come again.
pub(crate) fn refuse_when_locked(failures: u32, open: u32) -> Result<(), Refusal> {
    if failures <= WRONG_PASSWORDS {
        return Ok(());
    }
    if failures.saturating_sub(open) <= WRONG_PASSWORDS {
        return Err(Refusal { code: ErrorCode::LoginDelayed, subject: LOGIN_RETRY_MILLISECONDS });
    }
    Err(ErrorCode::UserLocked.into())
}

/// The admin without whom nobody could unlock anybody is slowed down and not locked. So is the first admin before
/// activation.
fn is_last_usable_admin(state: &State, user: UserId, record: &UserRecord) -> bool {
    let other = |(&id, other): (&UserId, &UserRecord)| id != user && other.is_usable_admin();
    match record.role {
        Role::UnactivatedAdmin => true,
        Role::Admin => record.enabled && !state.users.iter().any(other),
        Role::CryptoUser | Role::Appliance => false,
    }
}

/// Refuses until the wait since the last attempt is over. It doubles with each wrong password beyond the limit.
fn delay(record: &UserRecord, now: Stamp) -> Result<(), Refusal> {
    let Some(beyond) = record.failures.checked_sub(WRONG_PASSWORDS + 1) else { return Ok(()) };
    let doubled = LAST_ADMIN_DELAY_MILLISECONDS.checked_shl(beyond.min(32)).unwrap_or(u64::MAX);
    let until = record.last_attempt.0.saturating_add(doubled.min(LAST_ADMIN_DELAY_MAXIMUM_MILLISECONDS));
    match until.checked_sub(now.0) {
        None | Some(0) => Ok(()),
        Some(subject) => Err(Refusal { code: ErrorCode::LoginDelayed, subject }),
    }
}

/// Attempts of a name that were reserved and not finished, and still may be.
fn open_attempts(state: &State, name: &UserName, role: Role, now: Stamp) -> u32 {
    let of_name = |attempt: &&AttemptRecord| attempt.role == role && attempt.name == *name;
    let open = |attempt: &&AttemptRecord| !is_older(attempt.reserved_at, now, ATTEMPT_MILLISECONDS);
    u32::try_from(state.attempts.values().filter(of_name).filter(open).count()).unwrap_or(u32::MAX)
}

/// Removes reservations that can no longer be finished, and the oldest when there are too many. They stay counted.
fn forget_old_attempts(work: &mut Work<'_>) {
    let attempts = &work.state.attempts;
    let is_over = |record: &AttemptRecord| is_older(record.reserved_at, work.stamp, ATTEMPT_MILLISECONDS);
    let mut forgotten: Vec<_> = attempts.iter().filter(|(_, record)| is_over(record)).map(|(&id, _)| id).collect();
    if forgotten.is_empty() && attempts.len() >= ATTEMPTS_OPEN {
        forgotten.extend(attempts.iter().min_by_key(|(id, record)| (record.reserved_at, **id)).map(|(&id, _)| id));
    }
    forgotten.into_iter().for_each(|attempt| work.put_attempt(attempt, None));
}
