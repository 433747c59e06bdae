//! Judges commands: the last word on everything that was asked before.
//!
//! Total and deterministic: a command becomes changes and effects, or a refusal, which is an answer too and changes
//! nothing but what is counted. Each kind of command has its file below; repetitions are settled here.

mod anchors;
mod epochs;
mod lifecycle;
mod logins;
mod merges;
mod objects;
mod reissue;
mod roster;
mod sessions;
mod users;

use hsm_protocol::{ErrorCode, Party};

use crate::audit::Event;
use crate::change::Response;
use crate::command::{Action, Command, Origin};
use crate::hsm::Applied;
use crate::ids::{Index, Stamp};
use crate::limits::RESULTS_PER_SESSION;
use crate::records::{Caller, SessionRecord};
use crate::refusal::Refusal;
use crate::state::State;
use crate::versions;
use crate::work::{Entry, Work};

pub(crate) use logins::refuse_when_locked;
pub(crate) use sessions::bounded_expiry;

pub(crate) use anchors::{judge_client_certificates, judge_deregistration, judge_registration};
pub(crate) use objects::{judge_destruction, judge_room};
pub(crate) use reissue::{judge as judge_reissue, judge_waiting as judge_waiting_reissue};
pub(crate) use roster::{judge_admission, judge_approval, judge_release_rule, judge_removal, judge_rule, judge_window};
pub(crate) use users::{judge_creation, judge_deletion, judge_enabling, judge_logout_everywhere, judge_password};

/// What a command yields when it is done, or why it is not.
type Answer = Result<Response, Refusal>;

/// Judges one command.
pub(crate) fn apply(state: &State, index: Index, command: &Command) -> Applied {
    let mut work = Work::new(state, index, command.stamp);
    let caller = match command.origin.session {
        None => Caller::NOBODY,
        Some(session) => match state.caller(session, Some(command.stamp)) {
            Ok(caller) => caller,
            Err(refusal) => return refuse_dead_session(work, command, refusal),
        },
    };
    if let Some(answer) = first_answer(state, &command.origin) {
        return work.finish(answer);
    }
    let answer = act(&mut work, caller, &command.action);
    if answer.is_err() && !keeps_changes_when_refused(&command.action) {
        work.undo();
    }
    if let Some(entry) = entry(&work, &command.action, &answer) {
        let user = audited_caller(&work, caller, &command.action, &answer);
        work.audit(&entry, user, answer.as_ref().map(|_| ()).map_err(|&refusal| refusal));
    }
    remember(&mut work, &command.origin, &answer);
    work.finish(answer)
}

fn act(work: &mut Work<'_>, caller: Caller, action: &Action) -> Answer {
    if versions::since(action) > work.state.version() {
        return Err(ErrorCode::ClusterTooOld.into());
    }
    match action {
        Action::Form(form) => lifecycle::form(work, form),
        Action::InstallCertificate { certificate, trust_anchor } => {
            lifecycle::install_certificate(work, certificate, trust_anchor)
        }
        Action::Activate { verifier } => lifecycle::activate(work, verifier),
        Action::Zeroize => lifecycle::zeroize(work, caller),
        Action::BeginReissue { epoch, sealed_cluster_key } => reissue::begin(work, caller, *epoch, sealed_cluster_key),
        Action::FinishReissue { certificate, trust_anchor } => reissue::finish(work, caller, certificate, trust_anchor),
        Action::ReserveAttempt { attempt, name, role } => logins::reserve(work, *attempt, name, *role),
        Action::FinishLogin { attempt, session } => logins::finish(work, *attempt, session.as_ref()),
        Action::FailLogin { attempt } => logins::fail(work, *attempt),
        Action::Logout { session } => sessions::logout(work, caller, *session),
        Action::RenewSession { session, expires_at } => sessions::renew(work, *session, *expires_at),
        Action::ExpireSessions => Ok(sessions::expire(work)),
        Action::AdmitMember { node, member } => roster::admit(work, *node, member),
        Action::UpdateMember { node, member } => roster::update(work, *node, member),
        Action::BeginEpoch(start) => epochs::begin(work, start),
        Action::MovePayloads { epoch, after, through, moved } => {
            epochs::move_payloads(work, *epoch, *after, *through, moved)
        }
        Action::BeginIncarnation { incarnation, node, member } => {
            epochs::begin_incarnation(work, *incarnation, *node, member)
        }
        Action::RemoveMember { hsm } => roster::remove(work, caller, *hsm),
        Action::RaiseVersion { version } => roster::raise_version(work, *version),
        Action::MergeIsolated { hsm, logins } => merges::merge(work, *hsm, logins),
        in_service => {
            work.state.require_active()?;
            act_in_service(work, caller, in_service)
        }
    }
}

fn act_in_service(work: &mut Work<'_>, caller: Caller, action: &Action) -> Answer {
    match action {
        Action::CreateUser { name, role, verifier } => users::create(work, caller, name, *role, verifier),
        Action::DeleteUser { name, role } => users::delete(work, caller, name, *role),
        Action::ChangePassword { name, role, verifier } => users::change_password(work, caller, name, *role, verifier),
        Action::SetUserEnabled { name, role, enabled } => users::set_enabled(work, caller, name, *role, *enabled),
        Action::LogoutEverywhere { name, role } => users::logout_everywhere(work, caller, name, *role),
        Action::CreateObjects { objects } => objects::create(work, caller, objects),
        Action::ReplaceObject { handle, object, payload } => {
            objects::replace(work, caller, *handle, object, payload.as_ref())
        }
        Action::DestroyObject { handle } => objects::destroy(work, caller, *handle),
        Action::RegisterTrustAnchor { certificate } => anchors::register(work, caller, certificate),
        Action::DeregisterTrustAnchor { reference } => anchors::deregister(work, caller, *reference),
        Action::SetClientCertificates { required } => anchors::set_required(work, caller, *required),
        Action::ApproveMember { hsm } => roster::approve(work, caller, *hsm),
        Action::SetAdmissionRule { rule } => roster::set_rule(work, caller, *rule),
        Action::SetIsolationWindow { seconds } => roster::set_window(work, caller, *seconds),
        Action::SetReleaseRule { rule } => roster::set_release_rule(work, caller, rule),
        _ => unreachable!("the other actions were taken before"),
    }
}

/// The answer that a repeated call had, or why it gets none (Raft dissertation §6.3). `None` = the call is new.
pub(crate) fn first_answer(state: &State, origin: &Origin) -> Option<Answer> {
    let session = state.sessions.get(&origin.session?)?;
    if origin.sequence == 0 {
        return None;
    }
    if let Some(result) = session.results.get(&origin.sequence) {
        return Some(result.clone());
    }
    if origin.sequence < session.lowest_unanswered {
        return Some(Err(ErrorCode::SequencePassed.into()));
    }
    let lowest = lowest_unanswered(session, origin);
    let remain = session.results.range(lowest..).count();
    // The lowest one is never refused for this: until it is answered, no result can go and none of the others is taken.
    (remain >= RESULTS_PER_SESSION && origin.sequence > lowest).then(|| Err(ErrorCode::Busy.into()))
}

/// Numbers below this one were answered. The call itself was not, whatever it says.
fn lowest_unanswered(session: &SessionRecord, origin: &Origin) -> u64 {
    session.lowest_unanswered.max(origin.lowest_unanswered.min(origin.sequence))
}

/// Keeps the result for a repetition, and drops those that were answered. A refusal that means "not now" is not kept:
/// the HSM tries again under the same number.
fn remember(work: &mut Work<'_>, origin: &Origin, answer: &Answer) {
    let Some(id) = origin.session.filter(|_| origin.sequence != 0) else { return };
    let again = answer.as_ref().is_err_and(|refusal| refusal.code.party() == Party::Unavailable);
    let Some(mut session) = work.session(id).filter(|_| !again) else { return };
    session.lowest_unanswered = lowest_unanswered(&session, origin);
    session.results = session.results.split_off(&session.lowest_unanswered);
    session.results.insert(origin.sequence, answer.clone());
    work.put_session(id, session);
}

fn refuse_dead_session(mut work: Work<'_>, command: &Command, refusal: Refusal) -> Applied {
    let session = command.origin.session;
    let record = session.and_then(|session| work.state.sessions.get(&session));
    let user = record.map_or(Caller::NOBODY.user, |record| record.user);
    if let Some(entry) = entry(&work, &command.action, &Err(refusal)) {
        work.audit(&entry, Caller { session, user, role: None }, Err(refusal));
    }
    work.finish(Err(refusal))
}

/// A wrong password is refused and stays counted.
fn keeps_changes_when_refused(action: &Action) -> bool {
    matches!(action, Action::ReserveAttempt { .. } | Action::FinishLogin { .. } | Action::FailLogin { .. })
}

/// The audit record of an action; `None` for what is housekeeping, not yet decided, or not to be decided now.
fn entry(work: &Work<'_>, action: &Action, answer: &Answer) -> Option<Entry> {
    if answer.as_ref().is_err_and(|refusal| refusal.code.party() == Party::Unavailable) {
        return None;
    }
    let subject = |name, role: &_| work.state.user_of(name, *role).map(|(user, _)| user);
    Some(match action {
        Action::Form(_) => Entry::new(Event::Form),
        Action::InstallCertificate { .. } => Entry::new(Event::InstallCertificate),
        Action::Activate { .. } => Entry::new(Event::Activate),
        Action::Zeroize => Entry::new(Event::Zeroize),
        Action::CreateUser { name, role, .. } => {
            let created = answer.is_ok().then(|| work.state.counters.unwrap_or_default().next_user);
            Entry::about(Event::CreateUser, created.or_else(|| subject(name, role)))
        }
        Action::DeleteUser { name, role } => Entry::about(Event::DeleteUser, subject(name, role)),
        Action::ChangePassword { name, role, .. } => Entry::about(Event::ChangePassword, subject(name, role)),
        Action::SetUserEnabled { name, role, .. } => Entry::about(Event::SetUserEnabled, subject(name, role)),
        Action::LogoutEverywhere { name, role } => Entry::about(Event::LogoutEverywhere, subject(name, role)),
        Action::ReserveAttempt { name, role, .. } if answer.is_err() => Entry::about(Event::Login, subject(name, role)),
        Action::FinishLogin { .. } | Action::FailLogin { .. } => Entry::new(Event::Login),
        Action::Logout { .. } => Entry::new(Event::Logout),
        Action::CreateObjects { objects } => {
            let event = if objects.len() > 1 { Event::CreatePair } else { Event::CreateObject };
            let created = if let Ok(Response::Created(handles)) = answer { handles.clone() } else { Vec::new() };
            Entry::of_objects(event, created)
        }
        Action::ReplaceObject { handle, .. } => Entry::of_objects(Event::ModifyObject, vec![*handle]),
        Action::DestroyObject { handle } => Entry::of_objects(Event::DestroyObject, vec![*handle]),
        Action::RegisterTrustAnchor { .. } => Entry::new(Event::RegisterTrustAnchor),
        Action::DeregisterTrustAnchor { .. } => Entry::new(Event::DeregisterTrustAnchor),
        Action::SetClientCertificates { .. } => Entry::new(Event::SetClientCertificates),
        Action::BeginEpoch(_) => Entry::new(Event::BeginEpoch),
        Action::BeginIncarnation { .. } => Entry::new(Event::BeginIncarnation),
        Action::BeginReissue { .. } => Entry::new(Event::BeginReissue),
        Action::FinishReissue { .. } => Entry::new(Event::FinishReissue),
        Action::MovePayloads { .. } => return None,
        Action::AdmitMember { .. } => Entry::new(Event::AdmitMember),
        Action::RemoveMember { .. } => Entry::new(Event::RemoveMember),
        Action::ApproveMember { .. } => Entry::new(Event::ApproveMember),
        Action::SetAdmissionRule { .. } => Entry::new(Event::SetAdmissionRule),
        Action::SetIsolationWindow { .. } => Entry::new(Event::SetIsolationWindow),
        Action::UpdateMember { .. } => Entry::new(Event::UpdateMember),
        Action::RaiseVersion { .. } => Entry::new(Event::RaiseVersion),
        Action::SetReleaseRule { .. } => Entry::new(Event::SetReleaseRule),
        // Each of the log-ins has a record of its own.
        Action::MergeIsolated { .. } => return None,
        Action::ReserveAttempt { .. } | Action::RenewSession { .. } | Action::ExpireSessions => return None,
    })
}

/// Who the audit record names: for logins whose attempt it was, for activation the first admin.
fn audited_caller(work: &Work<'_>, caller: Caller, action: &Action, answer: &Answer) -> Caller {
    let user = match (action, answer) {
        (_, Ok(Response::LoggedIn { user })) => Some(*user),
        (Action::FinishLogin { attempt, .. } | Action::FailLogin { attempt }, _) => {
            work.state.attempts.get(attempt).and_then(|record| record.user)
        }
        (Action::Activate { .. }, Ok(_)) => Some(lifecycle::FIRST_ADMIN),
        _ => None,
    };
    let session = match action {
        Action::FinishLogin { session: Some(new), .. } if answer.is_ok() => Some(new.session),
        Action::Logout { session } => Some(*session),
        _ => caller.session,
    };
    let logged_out = if let Action::Logout { session } = action { work.state.sessions.get(session) } else { None };
    let user = user.or(logged_out.map(|record| record.user));
    Caller { session, user: user.unwrap_or(caller.user), ..caller }
}

/// Whether a time lies so many milliseconds or more before another.
fn is_older(then: Stamp, now: Stamp, milliseconds: u64) -> bool {
    now.0.saturating_sub(then.0) >= milliseconds
}
