//! Login sessions: opened by a login, renewed, ended by a logout or by time.

use hsm_protocol::{ErrorCode, Role};

use super::Answer;
use crate::audit::Event;
use crate::change::Response;
use crate::command::NewSession;
use crate::ids::{SessionId, Stamp, UserId};
use crate::isolated::IsolatedSession;
use crate::limits::{EXPIRIES_PER_COMMAND, SESSION_IDLE_SHARE, SESSION_MILLISECONDS, SESSIONS, SESSIONS_PER_USER};
use crate::records::{Caller, SessionRecord, UserRecord};
use crate::refusal::Refusal;
use crate::work::{Entry, Work};

/// Opens a session. When the user has as many as he may, the one that is idle longest makes room: a library renews its
/// session before half of its life is over, so one that did not is left behind by a process that is gone.
pub(super) fn open(work: &mut Work<'_>, user: UserId, record: &UserRecord, new: &NewSession) -> Result<(), Refusal> {
    let state = work.state;
    if state.sessions.contains_key(&new.session) {
        return Err(ErrorCode::TokenRefused.into());
    }
    let expires_at = bounded_expiry(work.stamp, new.expires_at)?;
    let mut total = state.sessions.len();
    let own = state.sessions_of.get(&user);
    if own.is_some_and(|own| own.len() >= SESSIONS_PER_USER) {
        let own = own.into_iter().flatten().filter_map(|id| Some((*id, state.sessions.get(id)?)));
        let idle = own.filter(|(_, session)| is_idle(session, work.stamp));
        let longest = idle.min_by_key(|(id, session)| (session.expires_at, *id));
        let (longest, _) = longest.ok_or(ErrorCode::SessionLimit)?;
        work.end_session(longest);
        total -= 1;
    }
    if total >= SESSIONS {
        return Err(ErrorCode::SessionLimit.into());
    }
    let session = SessionRecord {
        user,
        role: record.role,
        generation: record.generation,
        public_key: new.public_key,
        renewed_at: work.stamp,
        expires_at,
        lowest_unanswered: 0,
        results: Default::default(),
    };
    work.put_session(new.session, session);
    Ok(())
}

/// Takes over a session that an isolated HSM opened, after so many of the same command. It counts as renewed when it was
/// opened: its token is of that time's epoch.
pub(super) fn adopt(
    work: &mut Work<'_>,
    user: &UserRecord,
    session: SessionId,
    isolated: &IsolatedSession,
    opened: usize,
) -> Result<(), Refusal> {
    let state = work.state;
    if !user.enabled {
        return Err(ErrorCode::UserDisabled.into());
    }
    if state.sessions.contains_key(&session) {
        return Err(ErrorCode::TokenRefused.into());
    }
    let own = state.sessions_of.get(&isolated.user).map_or(0, |own| own.len());
    if own + opened >= SESSIONS_PER_USER || state.sessions.len() + opened >= SESSIONS {
        return Err(ErrorCode::SessionLimit.into());
    }
    if isolated.expires_at <= work.stamp {
        return Err(ErrorCode::NotLoggedIn.into());
    }
    let record = SessionRecord {
        user: isolated.user,
        role: user.role,
        generation: user.generation,
        public_key: isolated.public_key,
        renewed_at: isolated.opened_at.min(work.stamp),
        expires_at: bounded_expiry(work.stamp, isolated.expires_at)?,
        lowest_unanswered: 0,
        results: Default::default(),
    };
    work.put_session(session, record);
    Ok(())
}

/// Moves the expiry; never to an earlier time, and never beyond the longest life from now.
pub(super) fn renew(work: &mut Work<'_>, session: SessionId, expires_at: Stamp) -> Answer {
    work.state.caller(session, Some(work.stamp))?;
    let mut record = work.session(session).ok_or(ErrorCode::NotLoggedIn)?;
    record.expires_at = bounded_expiry(work.stamp, expires_at)?.max(record.expires_at);
    record.renewed_at = work.stamp;
    work.put_session(session, record);
    Ok(Response::Done)
}

/// Ends one's own session, another of the same user, or as an admin any; without a session: the server's housekeeping.
pub(super) fn logout(work: &mut Work<'_>, caller: Caller, session: SessionId) -> Answer {
    let record = work.session(session).ok_or(ErrorCode::NotLoggedIn)?;
    let may = caller.session.is_none() || caller.user == record.user || caller.role == Some(Role::Admin);
    if !may {
        return Err(ErrorCode::NotLoggedIn.into());
    }
    work.end_session(session);
    Ok(Response::Done)
}

/// Ends the sessions whose time is over; at most [`EXPIRIES_PER_COMMAND`], the rest next time.
pub(super) fn expire(work: &mut Work<'_>) -> Response {
    let over = work.state.sessions.iter().filter(|(_, record)| record.expires_at <= work.stamp);
    let over: Vec<_> = over.take(EXPIRIES_PER_COMMAND).map(|(&session, record)| (session, record.user)).collect();
    for (session, user) in over {
        work.end_session(session);
        let caller = Caller { session: Some(session), user, role: None };
        work.audit(&Entry::new(Event::SessionExpired), caller, Ok(()));
    }
    Response::Done
}

pub(crate) fn bounded_expiry(now: Stamp, wanted: Stamp) -> Result<Stamp, Refusal> {
    if wanted <= now {
        return Err(ErrorCode::Malformed.into());
    }
    Ok(wanted.min(Stamp(now.0.saturating_add(SESSION_MILLISECONDS))))
}

fn is_idle(session: &SessionRecord, now: Stamp) -> bool {
    let life = session.expires_at.0.saturating_sub(session.renewed_at.0);
    now.0.saturating_sub(session.renewed_at.0) > life / SESSION_IDLE_SHARE
}
