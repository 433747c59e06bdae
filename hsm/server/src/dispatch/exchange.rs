//! Session objects of the epoch before, which libraries hold sealed, are exchanged for such of the present epoch.
//!
//! The key of an epoch is destroyed when no payload and no login needs it (`docs/adr/0051`). A library that is told to attach
//! again brings its session objects first, and the token last: as long as it has not, its login keeps the key alive.

use hsm_core::{Actor, SessionId};
use hsm_crypto::TokenClaims;
use hsm_protocol::limits::EXCHANGED_OBJECTS;
use hsm_protocol::wire::reply::Body;
use hsm_protocol::{ErrorCode, ObjectReference, convert, wire};

use super::call::{Answered, Call, Result};
use super::failure::Failure;
use super::login;

/// Seals session objects anew, and with the last of them exchanges the token.
///
/// # Errors
/// [`ErrorCode::NotLoggedIn`], [`ErrorCode::TooLarge`] with more than [`EXCHANGED_OBJECTS`], [`ErrorCode::NotReady`] while
/// this HSM has not got the key of the present epoch. An object that does not open is no error: it is answered by nothing.
pub(super) fn exchange(call: &Call<'_>, message: wire::ExchangeObjects) -> Result<Answered> {
    let session = call.session()?;
    if message.objects.len() > EXCHANGED_OBJECTS {
        return Err(Failure { code: ErrorCode::TooLarge, subject: EXCHANGED_OBJECTS as u64, retry_after: 0 });
    }
    if !call.has_epoch() {
        return Err(call.unless_behind(ErrorCode::NotReady));
    }
    let sealed =
        message.objects.into_iter().map(|object| seal_anew(call, session, object).unwrap_or_default()).collect();
    if !message.last {
        return Ok(Answered::Now(answer(sealed, 0, Vec::new())));
    }
    let claims = claims(call, session)?;
    login::renew(call, claims, move |expires_at, token| answer(sealed, expires_at.0, token))
}

fn answer(sealed: Vec<Vec<u8>>, expires_at: u64, token: Vec<u8>) -> Body {
    Body::ExchangeObjects(wire::ExchangeObjectsReply { sealed, token, expires_at })
}

/// The object as the library holds it, which may be newer than what is open here.
fn seal_anew(call: &Call<'_>, session: SessionId, object: wire::ObjectReference) -> Option<Vec<u8>> {
    let Ok(ObjectReference::Session { id, sealed, .. }) = convert::object(Some(object)) else { return None };
    let (keys, module) = (call.service.keys(), call.service.module());
    let (object, payload) = keys.open_session_object(Some(session), &sealed).ok()?;
    if object.uid().0 != id.0 {
        return None;
    }
    keys.seal_session_object(module, Some(session), &object, payload.as_ref()).ok()
}

/// What the login's token says.
fn claims(call: &Call<'_>, session: SessionId) -> Result<TokenClaims> {
    let Actor::Session { user, role, .. } = call.actor else { return Err(ErrorCode::NotLoggedIn.into()) };
    let incarnation = call.service.node().read().cluster().ok_or(ErrorCode::NotReady)?.incarnation;
    Ok(TokenClaims { incarnation, session, user, role })
}
