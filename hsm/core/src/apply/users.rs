//! Users: create, delete, enable, change passwords, log out everywhere. AWS CloudHSM's table of who may do what.

use hsm_protocol::{ErrorCode, Role, UserName};

use super::Answer;
use crate::change::Response;
use crate::command::Verifier;
use crate::ids::{Stamp, UserId};
use crate::records::{Caller, UserRecord};
use crate::refusal::Refusal;
use crate::rows::AttemptKey;
use crate::state::State;
use crate::work::Work;

type Verdict = Result<(), Refusal>;

pub(crate) fn judge_creation(state: &State, caller: Caller, name: &UserName, role: Role) -> Verdict {
    require_admin(caller)?;
    if !matches!(role, Role::Admin | Role::CryptoUser) {
        return Err(ErrorCode::RoleRefused.into());
    }
    if state.user_of(name, role).is_some() {
        return Err(ErrorCode::UserExists.into());
    }
    let people = state.users.values().filter(|user| user.role != Role::Appliance).count() as u64;
    if people >= state.quotas().users { Err(ErrorCode::UserLimit.into()) } else { Ok(()) }
}

pub(super) fn create(work: &mut Work<'_>, caller: Caller, name: &UserName, role: Role, verifier: &Verifier) -> Answer {
    judge_creation(work.state, caller, name, role)?;
    let user = work.counters().next_user;
    work.counters().next_user = UserId(user.0 + 1);
    let record = UserRecord {
        name: name.clone(),
        role,
        verifier: Some(verifier.clone()),
        generation: 0,
        failures: 0,
        last_attempt: Stamp(0),
        enabled: true,
        created_at: work.stamp,
    };
    work.put_user(user, Some(record));
    if work.state.unknown_names.contains_key(&(name.clone(), role)) {
        work.put_unknown_name(&AttemptKey::UnknownName(name.clone(), role), None);
    }
    Ok(Response::Done)
}

/// Refused while the user owns objects, is logged in (`now` = `None`: has a session at all), or is the last usable admin.
pub(crate) fn judge_deletion(
    state: &State,
    caller: Caller,
    name: &UserName,
    role: Role,
    now: Option<Stamp>,
) -> Result<UserId, Refusal> {
    require_admin(caller)?;
    let (user, record) = person(state, name, role)?;
    require_another_admin(state, user, record)?;
    let sessions = state.sessions_of.get(&user);
    let is_logged_in = sessions.into_iter().flatten().any(|&session| state.caller(session, now).is_ok());
    if is_logged_in || state.objects.owned_by(user) > 0 { Err(ErrorCode::UserInUse.into()) } else { Ok(user) }
}

pub(super) fn delete(work: &mut Work<'_>, caller: Caller, name: &UserName, role: Role) -> Answer {
    let user = judge_deletion(work.state, caller, name, role, Some(work.stamp))?;
    work.end_sessions_of(user, None);
    work.put_user(user, None);
    Ok(Response::Done)
}

/// For oneself, or by an admin for anybody but the appliance user.
pub(crate) fn judge_password(
    state: &State,
    caller: Caller,
    name: &UserName,
    role: Role,
) -> Result<(UserId, UserRecord), Refusal> {
    require_login(caller)?;
    let (user, record) = own_or_any_as_admin(state, caller, name, role)?;
    Ok((user, record.clone()))
}

/// Unlocks when an admin does it, and ends the user's sessions but the one that asked.
pub(super) fn change_password(
    work: &mut Work<'_>,
    caller: Caller,
    name: &UserName,
    role: Role,
    verifier: &Verifier,
) -> Answer {
    let (user, mut record) = judge_password(work.state, caller, name, role)?;
    record.verifier = Some(verifier.clone());
    record.generation += 1;
    if caller.role == Some(Role::Admin) {
        record.failures = 0;
    }
    let own_session = caller.session.filter(|_| user == caller.user);
    work.end_sessions_of(user, own_session);
    if let Some(session) = own_session
        && let Some(mut kept) = work.session(session)
    {
        kept.generation = record.generation;
        work.put_session(session, kept);
    }
    work.put_user(user, Some(record));
    Ok(Response::Done)
}

pub(crate) fn judge_enabling(
    state: &State,
    caller: Caller,
    name: &UserName,
    role: Role,
    enabled: bool,
) -> Result<(UserId, UserRecord), Refusal> {
    require_admin(caller)?;
    let (user, record) = person(state, name, role)?;
    if !enabled {
        require_another_admin(state, user, record)?;
    }
    Ok((user, record.clone()))
}

pub(super) fn set_enabled(work: &mut Work<'_>, caller: Caller, name: &UserName, role: Role, enabled: bool) -> Answer {
    let (user, mut record) = judge_enabling(work.state, caller, name, role, enabled)?;
    if record.enabled && !enabled {
        record.generation += 1;
        work.end_sessions_of(user, None);
    }
    record.enabled = enabled;
    work.put_user(user, Some(record));
    Ok(Response::Done)
}

/// For oneself, or by an admin for anybody.
pub(crate) fn judge_logout_everywhere(
    state: &State,
    caller: Caller,
    name: &UserName,
    role: Role,
) -> Result<(UserId, UserRecord), Refusal> {
    judge_password(state, caller, name, role)
}

pub(super) fn logout_everywhere(work: &mut Work<'_>, caller: Caller, name: &UserName, role: Role) -> Answer {
    let (user, mut record) = judge_logout_everywhere(work.state, caller, name, role)?;
    record.generation += 1;
    work.put_user(user, Some(record));
    work.end_sessions_of(user, None);
    Ok(Response::Done)
}

fn require_login(caller: Caller) -> Verdict {
    if caller.role.is_some() { Ok(()) } else { Err(ErrorCode::NotLoggedIn.into()) }
}

/// Refuses everybody but an admin.
pub(super) fn require_admin(caller: Caller) -> Verdict {
    require_login(caller)?;
    if caller.role == Some(Role::Admin) { Ok(()) } else { Err(ErrorCode::RoleRefused.into()) }
}

/// The user of that name and role, who is a person and not the appliance.
fn person<'a>(state: &'a State, name: &UserName, role: Role) -> Result<(UserId, &'a UserRecord), Refusal> {
    let found = state.user_of(name, role).filter(|(_, record)| record.role != Role::Appliance);
    found.ok_or(ErrorCode::UserUnknown.into())
}

fn own_or_any_as_admin<'a>(
    state: &'a State,
    caller: Caller,
    name: &UserName,
    role: Role,
) -> Result<(UserId, &'a UserRecord), Refusal> {
    let found = person(state, name, role);
    if caller.role == Some(Role::Admin) {
        return found;
    }
    // Others learn nothing of who exists.
    found.ok().filter(|(user, _)| *user == caller.user).ok_or(ErrorCode::RoleRefused.into())
}

/// Refuses to take away the last admin who can still log in.
fn require_another_admin(state: &State, user: UserId, record: &UserRecord) -> Verdict {
    let other = |(&id, other): (&UserId, &UserRecord)| id != user && other.is_usable_admin();
    if record.role != Role::Admin || state.users.iter().any(other) { Ok(()) } else { Err(ErrorCode::LastAdmin.into()) }
}
