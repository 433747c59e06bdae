//! Slot and token management: PKCS#11 3.2 §5.5. One slot for each `[[cluster]]` of `client.toml`, in its order.
//!
//! A token is always present, also when its HSM cannot be reached: lists of slots are asked for often and must not cost
//! a connection, and "wrong label" would be the wrong message for a network that is down. What needs the HSM says so
//! when it is called. See `docs/compat/pkcs11.md`.

#![expect(unsafe_code, reason = "the C border")]

use cryptoki_sys::*;
use hsm_protocol::limits::{PASSWORD_CHARACTERS, PASSWORD_CHARACTERS_CHOSEN, USER_NAME_CHARACTERS};
use hsm_protocol::wire::{self, request};
use hsm_protocol::{Lifecycle, MechanismKind, Role};

use crate::application::Application;
use crate::entry;
use crate::functions::general::{MANUFACTURER, library_version, padded};
use crate::functions::not_supported;
use crate::limits::SESSIONS_PER_SLOT;
use crate::memory::{self, Input, UNAVAILABLE};
use crate::pin;
use crate::return_value::{About, Outcome, ReturnValue, refuse};
use crate::slot::Slot;

/// Shortest PIN in bytes: a password alone, of the fewest characters that a person may choose.
const PIN_BYTES_MIN: usize = PASSWORD_CHARACTERS_CHOSEN;

/// Longest PIN in bytes: user name, colon, password, in characters of up to four bytes.
const PIN_BYTES_MAX: usize = USER_NAME_CHARACTERS + 1 + 4 * *PASSWORD_CHARACTERS.end();

fn slot_info(slot: &Slot) -> CK_SLOT_INFO {
    CK_SLOT_INFO {
        slotDescription: padded(&format!("Kagimori cluster {}", slot.label)),
        manufacturerID: padded(MANUFACTURER),
        flags: CKF_TOKEN_PRESENT,
        hardwareVersion: CK_VERSION::default(),
        firmwareVersion: library_version(),
    }
}

fn token_info(slot: &Slot) -> CK_TOKEN_INFO {
    // Without an answer the token is shown as it should be; the line in the log says what is wrong with it.
    let hello = slot.hello().ok();
    let lifecycle = hello.as_ref().map_or(Some(Lifecycle::Active), |hello| Lifecycle::from_number(hello.lifecycle));
    let state = match lifecycle {
        Some(Lifecycle::Active) => CKF_TOKEN_INITIALIZED | CKF_USER_PIN_INITIALIZED,
        Some(Lifecycle::Initialized) => CKF_TOKEN_INITIALIZED,
        _ => 0,
    };
    let (sessions, read_write_sessions) = slot.session_counts();
    CK_TOKEN_INFO {
        label: padded(&slot.label),
        manufacturerID: padded(MANUFACTURER),
        model: padded("Kagimori HSM"),
        serialNumber: padded(hello.as_ref().map_or("", |hello| &hello.serial)),
        flags: CKF_RNG | CKF_LOGIN_REQUIRED | CKF_DUAL_CRYPTO_OPERATIONS | state,
        ulMaxSessionCount: SESSIONS_PER_SLOT as CK_ULONG,
        ulSessionCount: sessions as CK_ULONG,
        ulMaxRwSessionCount: SESSIONS_PER_SLOT as CK_ULONG,
        ulRwSessionCount: read_write_sessions as CK_ULONG,
        ulMaxPinLen: PIN_BYTES_MAX as CK_ULONG,
        ulMinPinLen: PIN_BYTES_MIN as CK_ULONG,
        ulTotalPublicMemory: UNAVAILABLE,
        ulFreePublicMemory: UNAVAILABLE,
        ulTotalPrivateMemory: UNAVAILABLE,
        ulFreePrivateMemory: UNAVAILABLE,
        hardwareVersion: CK_VERSION::default(),
        firmwareVersion: library_version(),
        utcTime: [b' '; 16],
    }
}

fn mechanism_list(slot: &Slot) -> Outcome<Vec<CK_MECHANISM_TYPE>> {
    Ok(slot.mechanisms()?.iter().map(|info| info.kind).collect())
}

fn mechanism_info(slot: &Slot, kind: CK_MECHANISM_TYPE) -> Outcome<CK_MECHANISM_INFO> {
    let info = slot.mechanism(MechanismKind(kind))?;
    let mut flags = info.flags;
    // What this library adds over the HSM's operations: functions over messages (PKCS#11 3.0).
    if kind == CKM_AES_GCM {
        flags |= CKF_MESSAGE_ENCRYPT | CKF_MESSAGE_DECRYPT;
    }
    for (single, messages) in [(CKF_SIGN, CKF_MESSAGE_SIGN), (CKF_VERIFY, CKF_MESSAGE_VERIFY)] {
        if flags & single != 0 {
            flags |= messages;
        }
    }
    Ok(CK_MECHANISM_INFO { ulMinKeySize: info.minimum, ulMaxKeySize: info.maximum, flags })
}

/// `C_InitPIN`: the security officer gives a user a password, which also unlocks him; one who does not exist is made.
fn init_pin(application: &Application, session: CK_SESSION_HANDLE, pin: Outcome<Input>) -> Outcome {
    let session = application.session(session)?;
    let slot = session.slot();
    if session.state() != CKS_RW_SO_FUNCTIONS {
        return refuse(CKR_USER_NOT_LOGGED_IN);
    }
    let pin = pin::take(pin?)?;
    let user = pin::credentials(&pin, slot.default_user.as_deref()).map_err(|_| ReturnValue(CKR_PIN_INVALID))?;
    let role = Role::CryptoUser as u32;
    let change = |_| {
        let (name, password) = (user.user.clone(), user.password.to_vec());
        request::Body::ChangePassword(wire::ChangePassword { name, role, password })
    };
    match slot.change(About::Token, &change) {
        Err(ReturnValue(CKR_PIN_INVALID)) => {
            let create = |_| {
                let (name, password) = (user.user.clone(), user.password.to_vec());
                request::Body::CreateUser(wire::CreateUser { name, role, password })
            };
            slot.change(About::Token, &create).map(|_| ())
        }
        changed => changed.map(|_| ()),
    }
}

/// `C_SetPIN`: a user, or in the security officer's session he, changes his own password.
fn set_pin(
    application: &Application,
    session: CK_SESSION_HANDLE,
    old_pin: Outcome<Input>,
    new_pin: Outcome<Input>,
) -> Outcome {
    let session = application.session(session)?;
    session.may_write()?;
    let slot = session.slot();
    let (old_pin, new_pin) = (pin::take(old_pin?)?, pin::take(new_pin?)?);
    let login = slot.login();
    let user_type = login.as_ref().map_or(CKU_USER, |login| login.user_type);
    let default_user = match &login {
        Some(login) => Some(login.name().to_owned()),
        None => slot.default_user.clone(),
    };
    let old = pin::credentials(&old_pin, default_user.as_deref())?;
    let new_password = pin::new_password(&new_pin, &old.user)?;
    slot.change_password(user_type, &old, new_password)
}

fn wait_for_slot_event(flags: CK_FLAGS, reserved: *mut std::ffi::c_void) -> Outcome {
    if !reserved.is_null() {
        return refuse(CKR_ARGUMENTS_BAD);
    }
    // Clusters come and go with the configuration, which is read once: there will never be an event to wait for.
    if flags & CKF_DONT_BLOCK != 0 { refuse(CKR_NO_EVENT) } else { not_supported() }
}

entry! {
    /// `C_GetSlotList` (§5.5.1).
    fn C_GetSlotList(_token_present: CK_BBOOL, list: *mut CK_SLOT_ID, count: *mut CK_ULONG) = unsafe |application| {
        let ids: Vec<CK_SLOT_ID> = application.slots().iter().map(|slot| slot.id).collect();
        memory::write_list(list, count, &ids)
    };
}

entry! {
    /// `C_GetSlotInfo` (§5.5.2).
    fn C_GetSlotInfo(slot: CK_SLOT_ID, place: *mut CK_SLOT_INFO) = unsafe |application| {
        memory::write(place, slot_info(application.slot(slot)?))
    };
}

entry! {
    /// `C_GetTokenInfo` (§5.5.3). Asks an HSM once in a process, for the serial number.
    fn C_GetTokenInfo(slot: CK_SLOT_ID, place: *mut CK_TOKEN_INFO) = unsafe |application| {
        let slot = application.slot(slot)?;
        if place.is_null() { refuse(CKR_ARGUMENTS_BAD) } else { memory::write(place, token_info(slot)) }
    };
}

entry! {
    /// `C_WaitForSlotEvent` (§5.5.4): there are no events.
    fn C_WaitForSlotEvent(flags: CK_FLAGS, _slot: *mut CK_SLOT_ID, reserved: *mut std::ffi::c_void) = |_application| {
        wait_for_slot_event(flags, reserved)
    };
}

entry! {
    /// `C_GetMechanismList` (§5.5.5).
    fn C_GetMechanismList(slot: CK_SLOT_ID, list: *mut CK_MECHANISM_TYPE, count: *mut CK_ULONG) = unsafe |application| {
        let slot = application.slot(slot)?;
        if count.is_null() { refuse(CKR_ARGUMENTS_BAD) } else { memory::write_list(list, count, &mechanism_list(slot)?) }
    };
}

entry! {
    /// `C_GetMechanismInfo` (§5.5.6).
    fn C_GetMechanismInfo(slot: CK_SLOT_ID, kind: CK_MECHANISM_TYPE, place: *mut CK_MECHANISM_INFO) = unsafe |application| {
        let slot = application.slot(slot)?;
        if place.is_null() { refuse(CKR_ARGUMENTS_BAD) } else { memory::write(place, mechanism_info(slot, kind)?) }
    };
}

entry! {
    /// `C_InitToken` (§5.5.7): not supported. A cluster is initialised by its owner's certificate (`kagimori cluster`).
    fn C_InitToken(slot: CK_SLOT_ID, _pin: *mut CK_UTF8CHAR, _length: CK_ULONG, _label: *mut CK_UTF8CHAR) = |application| {
        application.slot(slot).and_then(|_| not_supported())
    };
}

entry! {
    /// `C_InitPIN` (§5.5.8).
    fn C_InitPIN(session: CK_SESSION_HANDLE, pin: *mut CK_UTF8CHAR, length: CK_ULONG) = unsafe |application| {
        init_pin(application, session, Input::new(pin, length))
    };
}

entry! {
    /// `C_SetPIN` (§5.5.9).
    fn C_SetPIN(
        session: CK_SESSION_HANDLE,
        old_pin: *mut CK_UTF8CHAR,
        old_length: CK_ULONG,
        new_pin: *mut CK_UTF8CHAR,
        new_length: CK_ULONG,
    ) = unsafe |application| {
        set_pin(application, session, Input::new(old_pin, old_length), Input::new(new_pin, new_length))
    };
}
