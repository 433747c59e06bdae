//! Log-ins of an HSM that was isolated: its wrong passwords are added to the cluster's count, its sessions become the
//! cluster's, each with an audit record that names the HSM and the time. Once, however often it is proposed.

use hsm_protocol::{ErrorCode, Role, UserName};

use super::{Answer, sessions};
use crate::audit::{Event, IsolatedEvent};
use crate::change::Response;
use crate::ids::{HsmId, Stamp, UserId};
use crate::isolated::{IsolatedLogins, WrongPasswords};
use crate::limits::{ISOLATED_NAMES, ISOLATED_SESSIONS, UNKNOWN_NAMES};
use crate::records::{Caller, UnknownName};
use crate::refusal::Refusal;
use crate::roster::MemberKind;
use crate::rows::AttemptKey;
use crate::work::{Entry, Work};

pub(super) fn merge(work: &mut Work<'_>, hsm: HsmId, logins: &IsolatedLogins) -> Answer {
    let is_member = |member: &crate::roster::MemberRecord| member.hsm == hsm && member.kind == MemberKind::Hsm;
    if !work.state.members.values().any(is_member) {
        return Err(ErrorCode::MemberUnknown.into());
    }
    if logins.sessions.len() > ISOLATED_SESSIONS || logins.nobody.len() > ISOLATED_NAMES {
        return Err(ErrorCode::TooLarge.into());
    }
    if work.state.merges.number(hsm) >= logins.number {
        return Ok(Response::Done);
    }
    work.state.require_active()?;
    for (&user, wrong) in &logins.users {
        count_for_user(work, hsm, user, *wrong);
    }
    count_for_nobody(work, hsm, logins);
    open_sessions(work, hsm, logins);
    work.merge(|merges| merges.note(hsm, logins.number));
    Ok(Response::Done)
}

/// Whoever is beyond the limit now is locked; his running sessions go on. A password that was changed meanwhile makes no
/// difference: an attempt that was counted stays counted.
fn count_for_user(work: &mut Work<'_>, hsm: HsmId, user: UserId, wrong: WrongPasswords) {
    let known = work.user(user).filter(|record| record.role == Role::CryptoUser);
    if let Some(mut record) = known {
        record.failures = record.failures.saturating_add(wrong.attempts);
        record.last_attempt = record.last_attempt.max(wrong.last_attempt.min(work.stamp));
        work.put_user(user, Some(record));
    }
    let caller = Caller { session: None, user, role: None };
    audit(work, Event::IsolatedFailures(event(hsm, wrong)), caller, Err(ErrorCode::LoginRefused.into()));
}

/// One audit record for all of them: there may be many, and none says more than the others.
fn count_for_nobody(work: &mut Work<'_>, hsm: HsmId, logins: &IsolatedLogins) {
    let mut known = work.state.unknown_names.len();
    let mut all = WrongPasswords::default();
    for (name, wrong) in &logins.nobody {
        let before = work.state.unknown_names.get(&(name.clone(), Role::CryptoUser)).copied();
        // Those that find no room are of a flood of names.
        if before.is_some() || known < UNKNOWN_NAMES {
            known += usize::from(before.is_none());
            put_nobody(work, name, before, *wrong);
        }
        all.attempts = all.attempts.saturating_add(wrong.attempts);
        all.last_attempt = all.last_attempt.max(wrong.last_attempt);
    }
    if all.attempts > 0 {
        let refusal = Err(ErrorCode::LoginRefused.into());
        audit(work, Event::IsolatedFailures(event(hsm, all)), Caller::NOBODY, refusal);
    }
}

fn put_nobody(work: &mut Work<'_>, name: &UserName, before: Option<UnknownName>, wrong: WrongPasswords) {
    let failures = before.map_or(0, |before| before.failures).saturating_add(wrong.attempts);
    let last = before.map_or(Stamp(0), |before| before.last_attempt).max(wrong.last_attempt.min(work.stamp));
    let entry = UnknownName { failures, last_attempt: last };
    work.put_unknown_name(&AttemptKey::UnknownName(name.clone(), Role::CryptoUser), Some(&entry));
}

/// Sessions of this history, of users who are enabled and of the same generation. The others have ended.
fn open_sessions(work: &mut Work<'_>, hsm: HsmId, logins: &IsolatedLogins) {
    let is_present = work.state.cluster.as_ref().is_some_and(|cluster| cluster.incarnation == logins.incarnation);
    let mut opened = 0;
    for (&session, record) in &logins.sessions {
        let result = match work.user(record.user) {
            Some(user) if is_present && user.role == Role::CryptoUser && user.generation == record.generation => {
                sessions::adopt(work, &user, session, record, opened)
            }
            _ => Err(ErrorCode::NotLoggedIn.into()),
        };
        opened += usize::from(result.is_ok());
        let at = IsolatedEvent { hsm, at: record.opened_at, attempts: 1 };
        let caller = Caller { session: Some(session), user: record.user, role: None };
        audit(work, Event::IsolatedLogin(at), caller, result);
    }
}

fn event(hsm: HsmId, wrong: WrongPasswords) -> IsolatedEvent {
    IsolatedEvent { hsm, at: wrong.last_attempt, attempts: wrong.attempts }
}

fn audit(work: &mut Work<'_>, event: Event, caller: Caller, result: Result<(), Refusal>) {
    work.audit(&Entry::new(event), caller, result);
}
