//! Logging in and out, and binding a login to a connection.
//!
//! A login costs in this order: a token of the source's rate limit, an attempt counted in the log, one stretched password,
//! and a session in the log. The attempt is counted before the password is looked at, so neither a crash nor many guesses
//! at once get one for nothing. A name that belongs to nobody goes exactly the same way.

use std::time::Instant;

use hsm_core::command::{NewSession, Origin};
use hsm_core::ids::AttemptId;
use hsm_core::limits::{SESSION_IDLE_SHARE, SESSION_MILLISECONDS};
use hsm_core::{Action, Actor, Response, SessionId, Stamp, UserId};
use hsm_crypto::{TokenClaims, password};
use hsm_protocol::session::{SESSION_KEY_BYTES, attach_statement};
use hsm_protocol::wire::reply::Body;
use hsm_protocol::{ErrorCode, Role, UserName, wire};
use hsm_replication::Serving;

use super::call::{Answered, Call, Effort, Made, Result};
use super::caller::Attachment;
use super::failure::Failure;
use super::isolated;
use super::limits::{BUSY_RETRY, LOGIN_LOG_TIME};
use super::passwords::Password;
use crate::connection::facts;

/// Name of the unactivated admin, who becomes the first admin (`spec` of AWS CloudHSM: user name `admin`).
const FIRST_ADMIN: &str = "admin";

/// Commands of a login do not belong to a session yet.
const NO_SESSION: Origin = Origin { session: None, sequence: 0, lowest_unanswered: 0 };

pub(super) fn log_in(call: &Call<'_>, message: wire::Login) -> Result<Answered> {
    let password = Password::new(message.password);
    let public_key: [u8; SESSION_KEY_BYTES] =
        message.session_public_key.as_slice().try_into().map_err(|_| ErrorCode::Malformed)?;
    let role = Role::from_number(message.role).ok_or(ErrorCode::Malformed)?;
    if !matches!(role, Role::CryptoUser | Role::Admin) {
        return Err(ErrorCode::LoginRefused.into());
    }
    let alone = logs_in_alone(call, role, message.isolated)?;
    check_rate(call)?;
    // A name that breaks the rules belongs to nobody, which everybody may know.
    let name = UserName::new(&message.user).map_err(|_| ErrorCode::LoginRefused)?;
    call.with_password(move |call| {
        let session = SessionId(call.service.module().random_bytes()?);
        let expires_at = Stamp(call.service.node().now().0 + SESSION_MILLISECONDS);
        let new = NewSession { session, public_key, expires_at };
        let user = match alone {
            true => isolated::prove_password(call, &name, &password, Some(new))?,
            false => prove_password(call, &name, role, &password, Some(new))?,
        };
        let incarnation =
            call.service.node().read().cluster().map(|cluster| cluster.incarnation).ok_or(ErrorCode::NotReady)?;
        let claims = TokenClaims { incarnation, session, user, role };
        // A token of the epoch before would be void before its session is: the log has that session as one of this epoch.
        call.wait_for_epoch()?;
        let token = call.service.keys().seal_token(call.service.module(), &claims)?;
        let session = session.0.to_vec();
        let isolated_at = if alone { call.service.hsm().to_vec() } else { Vec::new() };
        Ok(Body::Login(wire::LoginReply { token, session, expires_at: expires_at.0, isolated_at }))
    })
}

/// Whether the log-in is to be counted on this HSM alone, because it is isolated. `is_last`: the library has asked the
/// others before.
///
/// # Errors
/// [`ErrorCode::Isolated`] for a library that has not.
pub(super) fn logs_in_alone(call: &Call<'_>, role: Role, is_last: bool) -> Result<bool> {
    let node = call.service.node();
    let is_isolated = matches!(node.serving(), Serving::Isolated { .. });
    let may = role == Role::CryptoUser && call.service.desk().is_usable() && node.read().may_log_in_isolated();
    match is_isolated && may {
        true if is_last => Ok(true),
        true => Err(Failure { code: ErrorCode::Isolated, subject: 0, retry_after: BUSY_RETRY }),
        false => Ok(false),
    }
}

/// Takes a token of the source's rate limit.
pub(super) fn check_rate(call: &Call<'_>) -> Result<()> {
    call.service.guesses().take(login_origin(call), Instant::now()).map_err(|wait| {
        Failure::after(ErrorCode::LoginDelayed, u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1))
    })
}

pub(super) fn login_origin(call: &Call<'_>) -> facts::Origin {
    facts::Origin::of(call.connection.link().peer().source())
}

/// Counts an attempt, compares the password, and tells the log which it was. Blocks: for password threads only.
///
/// With `session` a login begins; without it the password was right for one operation.
///
/// # Errors
/// [`ErrorCode::LoginRefused`] for a wrong password and an unknown user alike, and the refusals of the state machine.
pub(super) fn prove_password(
    call: &Call<'_>,
    name: &UserName,
    role: Role,
    password: &Password,
    session: Option<NewSession>,
) -> Result<UserId> {
    let attempt = AttemptId(call.service.module().random_bytes()?);
    let reserve = Action::ReserveAttempt { attempt, name: name.clone(), role };
    let Response::Attempt { verifier, .. } = command(call, reserve)? else {
        return Err(broken(call, "an attempt was answered with another response"));
    };
    let fips = call.service.node().read().is_fips();
    let octets = if password.is_possible() { password.octets() } else { &[] };
    let fits = match verifier {
        Some(verifier) => password::confirm(&verifier, octets)?,
        None => password::confirm_nobody(fips, octets)?,
    };
    let action = if fits && password.is_possible() {
        Action::FinishLogin { attempt, session }
    } else {
        call.service.guesses().punish(login_origin(call), Instant::now());
        Action::FailLogin { attempt }
    };
    match command(call, action)? {
        Response::LoggedIn { user } => Ok(user),
        _ => Err(broken(call, "a login was answered with another response")),
    }
}

fn command(call: &Call<'_>, action: Action) -> Result<Response> {
    call.service.metrics().proposal();
    let outcome = call.service.node().propose_and_wait(NO_SESSION, action, LOGIN_LOG_TIME);
    Ok(outcome.into_result()?.1)
}

/// The state machine answered what it never answers: the state is broken.
fn broken(call: &Call<'_>, what: &'static str) -> Failure {
    tracing::error!(request = call.header.request_id, what, "the state machine contradicts itself");
    ErrorCode::Broken.into()
}

/// Gives the unactivated admin a password of his own; the one that the cluster was formed with is void from then on.
pub(super) fn activate(call: &Call<'_>, message: wire::Activate) -> Result<Answered> {
    let activation_password = Password::new(message.activation_password);
    let password = Password::new(message.password);
    let name = UserName::new(FIRST_ADMIN)?;
    password.check_rules(&name)?;
    check_rate(call)?;
    call.with_password(move |call| {
        prove_password(call, &name, Role::UnactivatedAdmin, &activation_password, None)?;
        let fips = call.service.node().read().is_fips();
        let verifier = password::make(call.service.module(), password.octets(), fips)?;
        command(call, Action::Activate { verifier })?;
        Ok(Body::Done(wire::Done::default()))
    })
}

/// Binds a login to this connection: the token says which, the proof that its owner asks, and here.
pub(super) fn attach(call: &Call<'_>, message: &wire::Attach) -> Result<Answered> {
    let node = call.service.node();
    if !call.has_epoch() {
        return Err(call.unless_behind(ErrorCode::NotReady));
    }
    let opened = call.service.keys().open_token(&message.token).map_err(|_| ErrorCode::TokenRefused)?;
    let claims = opened.content;
    let (view, alone) = {
        let state = node.read();
        let cluster = state.cluster().ok_or(ErrorCode::NotReady)?;
        if cluster.incarnation != claims.incarnation {
            return Err(ErrorCode::OtherIncarnation.into());
        }
        (state.session(claims.session, node.now())?, state.is_isolated_session(claims.session))
    };
    let Actor::Session { session, user, role } = view.actor else {
        return Err(ErrorCode::TokenRefused.into());
    };
    if (session, user, role) != (claims.session, claims.user, claims.role) {
        return Err(ErrorCode::TokenRefused.into());
    }
    let binding = call.connection.binding().ok_or(ErrorCode::NotReady)?;
    let statement = attach_statement(binding, &message.token);
    if !hsm_crypto::verify_session_proof(&view.public_key, &statement, &message.proof) {
        tracing::warn!(
            connection = call.connection.link().number(),
            peer = %call.connection.link().peer(),
            request = call.header.request_id,
            "a login token came with a wrong proof"
        );
        return Err(ErrorCode::TokenRefused.into());
    }
    let index = call.connection.attach(Attachment { session, actor: view.actor })?;
    if alone {
        // The log knows of no session that could be renewed.
        return Ok(Answered::Now(attached(index, view.expires_at, Vec::new(), true)));
    }
    if !opened.is_present && message.holds_objects {
        // The session objects first: the key that opens them may go once the login holds no token of its epoch.
        let reply =
            wire::AttachReply { session: index, expires_at: view.expires_at.0, exchange: true, ..Default::default() };
        return Ok(Answered::Now(Body::Attach(reply)));
    }
    let left = view.expires_at.0.saturating_sub(node.now().0);
    if opened.is_present && left > SESSION_MILLISECONDS / SESSION_IDLE_SHARE {
        return Ok(Answered::Now(attached(index, view.expires_at, Vec::new(), false)));
    }
    renew(call, claims, move |expires_at, token| attached(index, expires_at, token, false))
}

fn attached(index: u32, expires_at: Stamp, token: Vec<u8>, isolated: bool) -> Body {
    Body::Attach(wire::AttachReply { session: index, expires_at: expires_at.0, token, exchange: false, isolated })
}

/// Moves the expiry of a session that its owner has just proven to use, and exchanges its token: only the present epoch's
/// keys are unknown to HSMs that were removed. The log remembers the renewal, and so that the session holds no token of an
/// epoch before.
pub(super) fn renew(
    call: &Call<'_>,
    claims: TokenClaims,
    reply: impl FnOnce(Stamp, Vec<u8>) -> Body + Clone + Send + 'static,
) -> Result<Answered> {
    let outside = Call { actor: Actor::Nobody, sequence: 0, lowest_unanswered: 0, ..*call };
    outside.change(
        Effort::Short,
        Box::new(move |call| {
            let expires_at = Stamp(call.service.node().now().0 + SESSION_MILLISECONDS);
            let action = Action::RenewSession { session: claims.session, expires_at };
            let reply = reply.clone();
            let exchange = move |call: &Call<'_>, _| {
                // An epoch that began just now: the library attaches again, and gets the token then.
                if !call.has_epoch() {
                    return Err(call.unless_behind(ErrorCode::NotReady));
                }
                let token = call.service.keys().seal_token(call.service.module(), &claims)?;
                Ok(reply(expires_at, token))
            };
            Ok(Made::Action(action, Box::new(exchange)))
        }),
    )
}

/// Ends the login of this request: everywhere, and for ever.
pub(super) fn log_out(call: &Call<'_>) -> Result<Answered> {
    let session = call.session()?;
    if let Some(ended) = isolated::log_out(call, session) {
        return ended.map(|()| Answered::Now(Body::Done(wire::Done::default())));
    }
    call.change(
        Effort::Short,
        Box::new(move |_| {
            let action = Action::Logout { session };
            Ok(Made::Action(action, Box::new(|_, _| Ok(Body::Done(wire::Done::default())))))
        }),
    )
}
