//! One-shot cryptography: the hot path. A request asks the state for a permit, takes the parsed key from the cache, and
//! calls the module; nothing here waits, unless the operation is long or a password must be looked at.

use std::sync::Arc;

use hsm_core::permit::{Decrypt, Encrypt, KeyUse, Sign, SignRecover, Verify, VerifyRecover};
use hsm_core::{Confirmation, Permit};
use hsm_crypto::{Encrypted, Key, Module};
use hsm_protocol::wire::reply::Body;
use hsm_protocol::{ErrorCode, Mechanism, Operation, convert, limits, wire};

use super::call::{Answered, Call, Result};
use super::found::Found;
use super::passwords::Password;
use super::{isolated, login, users};

/// An operation that policy has allowed, with all that it needs: can be sent to another thread.
struct Ready<U: KeyUse> {
    permit: Permit<U>,
    key: Arc<Key>,
    mechanism: Mechanism,
    data: Vec<u8>,
    signature: Vec<u8>,
}

/// What the module does with it.
type Run<U> = fn(&Module, Ready<U>) -> Result<Body>;

/// Which thread a request is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Thread {
    /// The connection's: long operations must leave it.
    Connection,
    /// One where a long operation holds up nobody.
    Apart,
}

pub(super) fn operate(call: &Call<'_>, mut message: wire::Operate) -> Result<Answered> {
    let operation = Operation::from_number(message.operation).ok_or(ErrorCode::Malformed)?;
    check_length(&message.data)?;
    if message.context_password.is_empty() {
        return dispatch(call, operation, message, Confirmation::None, Thread::Connection);
    }
    let password = Password::new(std::mem::take(&mut message.context_password));
    call.with_password(move |call| {
        confirm(call, &password)?;
        match dispatch(call, operation, message, Confirmation::Given, Thread::Apart)? {
            Answered::Now(body) => Ok(body),
            Answered::Later => unreachable!("a thread apart keeps what it was given"),
        }
    })
}

/// Longer input goes in parts.
pub(super) fn check_length(data: &[u8]) -> Result<()> {
    if data.len() > limits::PART_LIMIT { Err(ErrorCode::TooLarge.into()) } else { Ok(()) }
}

/// Looks at the user's password for one operation, on the same counter as a login. Blocks: for password threads only.
pub(super) fn confirm(call: &Call<'_>, password: &Password) -> Result<()> {
    let (name, role) = users::caller(call)?;
    login::check_rate(call)?;
    // An HSM that is isolated and has this login counts alone, without being asked for that.
    match login::logs_in_alone(call, role, true)? {
        true => isolated::prove_password(call, &name, password, None)?,
        false => login::prove_password(call, &name, role, password, None)?,
    };
    Ok(())
}

fn dispatch(
    call: &Call<'_>,
    operation: Operation,
    message: wire::Operate,
    confirmation: Confirmation,
    thread: Thread,
) -> Result<Answered> {
    match operation {
        Operation::Sign => run::<Sign>(call, message, confirmation, thread, sign),
        Operation::Verify => run::<Verify>(call, message, confirmation, thread, verify),
        Operation::Encrypt => run::<Encrypt>(call, message, confirmation, thread, encrypt),
        Operation::Decrypt => run::<Decrypt>(call, message, confirmation, thread, decrypt),
        Operation::SignRecover => run::<SignRecover>(call, message, confirmation, thread, sign_recover),
        Operation::VerifyRecover => run::<VerifyRecover>(call, message, confirmation, thread, verify_recover),
        Operation::Digest => digest(call, message),
    }
}

fn run<U: KeyUse + Send + 'static>(
    call: &Call<'_>,
    message: wire::Operate,
    confirmation: Confirmation,
    thread: Thread,
    run: Run<U>,
) -> Result<Answered> {
    let mechanism = convert::mechanism(message.mechanism)?;
    let found = Found::find(call, &convert::object(message.key)?)?;
    let permit = call.service.node().read().authorize::<U>(&call.actor, &found.object, &mechanism, confirmation)?;
    let key = found.key(call)?;
    let long = thread == Thread::Connection && key.is_slow();
    let ready = Ready { permit, key, mechanism, data: message.data, signature: message.signature };
    if long {
        return call.compute(move |call| run(call.service.module(), ready));
    }
    Ok(Answered::Now(run(call.service.module(), ready)?))
}

fn bytes(data: Vec<u8>) -> Body {
    Body::Bytes(wire::BytesReply { data, iv: Vec::new() })
}

fn sign(module: &Module, ready: Ready<Sign>) -> Result<Body> {
    Ok(bytes(hsm_crypto::sign(module, ready.permit, &ready.key, &ready.mechanism, &ready.data)?))
}

fn verify(module: &Module, ready: Ready<Verify>) -> Result<Body> {
    hsm_crypto::verify(module, ready.permit, &ready.key, &ready.mechanism, &ready.data, &ready.signature)?;
    Ok(Body::Done(wire::Done::default()))
}

fn encrypt(module: &Module, ready: Ready<Encrypt>) -> Result<Body> {
    Ok(encrypted(hsm_crypto::encrypt(module, ready.permit, &ready.key, &ready.mechanism, &ready.data)?))
}

/// Ciphertext, and the IV when the HSM made it.
pub(super) fn encrypted(encrypted: Encrypted) -> Body {
    Body::Bytes(wire::BytesReply { data: encrypted.data, iv: encrypted.iv.unwrap_or_default() })
}

fn decrypt(module: &Module, ready: Ready<Decrypt>) -> Result<Body> {
    let mut plain = hsm_crypto::decrypt(module, ready.permit, &ready.key, &ready.mechanism, &ready.data)?;
    Ok(bytes(std::mem::take(&mut *plain)))
}

fn sign_recover(module: &Module, ready: Ready<SignRecover>) -> Result<Body> {
    Ok(bytes(hsm_crypto::sign_recover(module, ready.permit, &ready.key, &ready.mechanism, &ready.data)?))
}

fn verify_recover(module: &Module, ready: Ready<VerifyRecover>) -> Result<Body> {
    Ok(bytes(hsm_crypto::verify_recover(module, ready.permit, &ready.key, &ready.mechanism, &ready.signature)?))
}

fn digest(call: &Call<'_>, message: wire::Operate) -> Result<Answered> {
    let mechanism = convert::mechanism(message.mechanism)?;
    call.service.node().read().authorize_digest(&mechanism)?;
    Ok(Answered::Now(bytes(hsm_crypto::digest(&mechanism, &message.data)?)))
}
