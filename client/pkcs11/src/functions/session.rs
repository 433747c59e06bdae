//! Session management: PKCS#11 3.2 §5.6.

#![expect(unsafe_code, reason = "the C border")]

use cryptoki_sys::*;
use hsm_protocol::Operation;
use zeroize::Zeroizing;

use crate::application::Application;
use crate::entry;
use crate::memory::{self, Input, Output};
use crate::operation::Active;
use crate::pin::{self, Credentials, DEFAULT_ADMIN};
use crate::return_value::{Outcome, ReturnValue, refuse};

/// # Safety
/// As PKCS#11 says.
unsafe fn open(application: &Application, slot: CK_SLOT_ID, flags: CK_FLAGS, place: *mut CK_SESSION_HANDLE) -> Outcome {
    let slot = application.slot(slot)?;
    if place.is_null() {
        return refuse(CKR_ARGUMENTS_BAD);
    }
    if flags & CKF_SERIAL_SESSION == 0 {
        return refuse(CKR_SESSION_PARALLEL_NOT_SUPPORTED);
    }
    if flags & CKF_ASYNC_SESSION != 0 {
        return refuse(CKR_SESSION_ASYNC_NOT_SUPPORTED);
    }
    let handle = slot.open_session(flags & CKF_RW_SESSION != 0)?;
    // SAFETY: promised by the caller.
    unsafe { memory::write(place, handle) }
}

fn info(application: &Application, session: CK_SESSION_HANDLE) -> Outcome<CK_SESSION_INFO> {
    let session = application.session(session)?;
    let read_write = if session.is_read_write() { CKF_RW_SESSION } else { 0 };
    Ok(CK_SESSION_INFO {
        slotID: session.slot().id,
        state: session.state(),
        flags: CKF_SERIAL_SESSION | read_write,
        ulDeviceError: 0,
    })
}

fn log_in(
    application: &Application,
    session: CK_SESSION_HANDLE,
    user_type: CK_USER_TYPE,
    pin: Outcome<Input>,
) -> Outcome {
    let session = application.session(session)?;
    let slot = session.slot();
    let pin = pin.and_then(pin::take);
    match user_type {
        CKU_USER => slot.log_in(user_type, &pin::credentials(&pin?, slot.default_user.as_deref())?),
        CKU_SO => slot.log_in(user_type, &pin::credentials(&pin?, Some(DEFAULT_ADMIN))?),
        CKU_CONTEXT_SPECIFIC => {
            let Some(login) = slot.login() else { return refuse(CKR_USER_NOT_LOGGED_IN) };
            let pin = pin?;
            let password = pin::context_password(&pin, login.name());
            let mut operations = session.operations()?;
            let mut taken = false;
            for active in operations.all_active().filter(|active| active.takes_context_password()) {
                active.set_context_password(password);
                taken = true;
            }
            if taken { Ok(()) } else { refuse(CKR_OPERATION_NOT_INITIALIZED) }
        }
        _ => refuse(CKR_USER_TYPE_INVALID),
    }
}

/// `C_LoginUser` of PKCS#11 3.0: the user's name comes by itself, so the PIN is the password, whatever it holds.
fn log_in_user(
    application: &Application,
    session: CK_SESSION_HANDLE,
    user_type: CK_USER_TYPE,
    pin: Outcome<Input>,
    name: Outcome<Input>,
) -> Outcome {
    if user_type == CKU_CONTEXT_SPECIFIC {
        return log_in(application, session, user_type, pin);
    }
    let session = application.session(session)?;
    if user_type != CKU_USER && user_type != CKU_SO {
        return refuse(CKR_USER_TYPE_INVALID);
    }
    let password = pin.and_then(pin::take)?;
    let user = String::from_utf8(name?.copy()?).map_err(|_| ReturnValue(CKR_PIN_INCORRECT))?;
    session.slot().log_in(user_type, &Credentials { user, password })
}

/// `C_SessionCancel`: which operation each flag stands for (§5.6.10).
const CANCELLED: [(CK_FLAGS, Operation); 7] = [
    (CKF_ENCRYPT, Operation::Encrypt),
    (CKF_DECRYPT, Operation::Decrypt),
    (CKF_DIGEST, Operation::Digest),
    (CKF_SIGN, Operation::Sign),
    (CKF_SIGN_RECOVER, Operation::SignRecover),
    (CKF_VERIFY, Operation::Verify),
    (CKF_VERIFY_RECOVER, Operation::VerifyRecover),
];

const CANCELLED_MESSAGES: [(CK_FLAGS, Operation); 4] = [
    (CKF_MESSAGE_ENCRYPT, Operation::Encrypt),
    (CKF_MESSAGE_DECRYPT, Operation::Decrypt),
    (CKF_MESSAGE_SIGN, Operation::Sign),
    (CKF_MESSAGE_VERIFY, Operation::Verify),
];

fn cancel(application: &Application, session: CK_SESSION_HANDLE, flags: CK_FLAGS) -> Outcome {
    let session = application.session(session)?;
    let mut operations = session.operations()?;
    for (_, operation) in CANCELLED.iter().filter(|(flag, _)| flags & flag != 0) {
        *operations.place(*operation) = None;
    }
    for (_, operation) in CANCELLED_MESSAGES.iter().filter(|(flag, _)| flags & flag != 0) {
        *operations.message_place(*operation) = None;
    }
    if flags & CKF_FIND_OBJECTS != 0 {
        operations.search = None;
    }
    Ok(())
}

/// Only a digest that has not outgrown this process can be saved: everything else is under way in an HSM or needs its
/// key's permission at each step.
fn operation_state(application: &Application, session: CK_SESSION_HANDLE, output: Output) -> Outcome {
    let session = application.session(session)?;
    let mut operations = session.operations()?;
    let others =
        Operation::ALL.iter().any(|&operation| operation != Operation::Digest && operations.place(operation).is_some());
    let Some(digest) = operations.place(Operation::Digest) else {
        return refuse(if others { CKR_STATE_UNSAVEABLE } else { CKR_OPERATION_NOT_INITIALIZED });
    };
    match digest.save() {
        Some(state) if !others => output.give(&state),
        _ => refuse(CKR_STATE_UNSAVEABLE),
    }
}

fn set_operation_state(
    application: &Application,
    session: CK_SESSION_HANDLE,
    state: Input,
    keys: [CK_OBJECT_HANDLE; 2],
) -> Outcome {
    let session = application.session(session)?;
    let state = Zeroizing::new(state.copy()?);
    let digest = Active::restore(&state)?;
    if keys != [CK_INVALID_HANDLE; 2] {
        return refuse(CKR_KEY_NOT_NEEDED);
    }
    crate::functions::check_mechanism(session.slot(), digest.mechanism_kind(), CKF_DIGEST)
        .map_err(|_| ReturnValue(CKR_SAVED_STATE_INVALID))?;
    let mut operations = session.operations()?;
    *operations.place(Operation::Digest) = Some(digest);
    Ok(())
}

entry! {
    /// `C_OpenSession` (§5.6.1). The callback is never called: there is nothing to notify of.
    fn C_OpenSession(
        slot: CK_SLOT_ID,
        flags: CK_FLAGS,
        _application_pointer: *mut std::ffi::c_void,
        _notify: CK_NOTIFY,
        place: *mut CK_SESSION_HANDLE,
    ) = unsafe |application| open(application, slot, flags, place);
}

entry! {
    /// `C_CloseSession` (§5.6.2).
    fn C_CloseSession(session: CK_SESSION_HANDLE) = |application| {
        let session = application.session(session)?;
        session.slot().close_session(session.handle())
    };
}

entry! {
    /// `C_CloseAllSessions` (§5.6.3).
    fn C_CloseAllSessions(slot: CK_SLOT_ID) = |application| {
        application.slot(slot)?.close_all_sessions();
        Ok(())
    };
}

entry! {
    /// `C_GetSessionInfo` (§5.6.4).
    fn C_GetSessionInfo(session: CK_SESSION_HANDLE, place: *mut CK_SESSION_INFO) = unsafe |application| {
        memory::write(place, info(application, session)?)
    };
}

entry! {
    /// `C_SessionCancel` (§5.6.5, new in 3.0).
    fn C_SessionCancel(session: CK_SESSION_HANDLE, flags: CK_FLAGS) = |application| cancel(application, session, flags);
}

entry! {
    /// `C_GetOperationState` (§5.6.6): for digests that fit in this process.
    fn C_GetOperationState(session: CK_SESSION_HANDLE, state: *mut CK_BYTE, length: *mut CK_ULONG) = unsafe |application| {
        operation_state(application, session, Output::new(state, length)?)
    };
}

entry! {
    /// `C_SetOperationState` (§5.6.7).
    fn C_SetOperationState(
        session: CK_SESSION_HANDLE,
        state: *mut CK_BYTE,
        length: CK_ULONG,
        encryption_key: CK_OBJECT_HANDLE,
        authentication_key: CK_OBJECT_HANDLE,
    ) = unsafe |application| {
        set_operation_state(application, session, Input::new(state, length)?, [encryption_key, authentication_key])
    };
}

entry! {
    /// `C_Login` (§5.6.8). For the forms of a PIN see `docs/compat/pkcs11.md`.
    fn C_Login(session: CK_SESSION_HANDLE, user_type: CK_USER_TYPE, pin: *mut CK_UTF8CHAR, length: CK_ULONG) = unsafe |application| {
        log_in(application, session, user_type, Input::new(pin, length))
    };
}

entry! {
    /// `C_LoginUser` (§5.6.9, new in 3.0).
    fn C_LoginUser(
        session: CK_SESSION_HANDLE,
        user_type: CK_USER_TYPE,
        pin: *mut CK_UTF8CHAR,
        length: CK_ULONG,
        name: *mut CK_UTF8CHAR,
        name_length: CK_ULONG,
    ) = unsafe |application| {
        log_in_user(application, session, user_type, Input::new(pin, length), Input::new(name, name_length))
    };
}

entry! {
    /// `C_Logout` (§5.6.10).
    fn C_Logout(session: CK_SESSION_HANDLE) = |application| application.session(session)?.slot().log_out();
}
