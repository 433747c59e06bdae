//! The functions of PKCS#11, one file for each chapter of §5, with what their beginnings have in common.
//!
//! Each C function is a thin pair: an `extern "C"` shell made by [`entry!`](crate::entry), and a function with an
//! outcome. No state lives here.

#![expect(unsafe_code, reason = "the C border: a mechanism that the caller points to")]

pub mod decryption;
pub mod digest;
pub mod dual;
pub mod encryption;
pub mod general;
pub mod key;
pub mod later;
pub mod message;
pub mod object;
pub mod parallel;
pub mod random;
pub mod session;
pub mod signing;
pub mod slot_and_token;
pub mod verification;

use cryptoki_sys::*;
use hsm_protocol::{AttributeKind, KeyType, MechanismKind, ObjectClass, Operation};

use crate::application::Application;
use crate::memory::{Input, Output};
use crate::objects::Reference;
use crate::operation::{Active, Step};
use crate::parameters::{self, ReadMechanism};
use crate::return_value::{About, Outcome, ReturnValue, refuse};
use crate::session::Operations;
use crate::slot::Slot;

/// The mechanism flag, the key's flag and the classes of key that an operation needs.
fn needs(operation: Operation) -> (CK_FLAGS, AttributeKind, ObjectClass) {
    match operation {
        Operation::Sign => (CKF_SIGN, AttributeKind::Sign, ObjectClass::PrivateKey),
        Operation::Verify => (CKF_VERIFY, AttributeKind::Verify, ObjectClass::PublicKey),
        Operation::Encrypt => (CKF_ENCRYPT, AttributeKind::Encrypt, ObjectClass::PublicKey),
        Operation::Decrypt => (CKF_DECRYPT, AttributeKind::Decrypt, ObjectClass::PrivateKey),
        Operation::SignRecover => (CKF_SIGN_RECOVER, AttributeKind::SignRecover, ObjectClass::PrivateKey),
        Operation::VerifyRecover => (CKF_VERIFY_RECOVER, AttributeKind::VerifyRecover, ObjectClass::PublicKey),
        Operation::Digest => (CKF_DIGEST, AttributeKind::Class, ObjectClass::Data),
    }
}

/// Reads a mechanism and the key it is for, and checks what can be checked without a call.
///
/// # Safety
/// As PKCS#11 says of the mechanism.
unsafe fn prepare(
    slot: &Slot,
    mechanism: *const CK_MECHANISM,
    key: CK_OBJECT_HANDLE,
    operation: Operation,
) -> Outcome<(ReadMechanism, Reference)> {
    // SAFETY: promised by the caller.
    let mechanism = unsafe { parameters::read(mechanism, &|handle| slot.reference(handle, About::Key)) }?;
    check_mechanism(slot, mechanism.kind(), needs(operation).0)?;
    let key = slot.reference(key, About::Key)?;
    check_key(slot, &key, operation, mechanism.kind())?;
    Ok((mechanism, key))
}

/// `C_…Init` of an operation with a key. A NULL mechanism ends the operation under way (PKCS#11 3.0).
///
/// # Safety
/// As PKCS#11 says of the mechanism.
unsafe fn begin(
    application: &Application,
    session: CK_SESSION_HANDLE,
    mechanism: *const CK_MECHANISM,
    key: CK_OBJECT_HANDLE,
    operation: Operation,
) -> Outcome {
    let session = application.session(session)?;
    let mut operations = session.operations()?;
    if mechanism.is_null() && operations.place(operation).take().is_some() {
        return Ok(());
    }
    if operations.place(operation).is_some() {
        return refuse(CKR_OPERATION_ACTIVE);
    }
    // SAFETY: promised by the caller.
    let (mechanism, key) = unsafe { prepare(session.slot(), mechanism, key, operation) }?;
    *operations.place(operation) = Some(Active::new(operation, Some(key), mechanism));
    Ok(())
}

/// One step of the operation under way; takes it away when it is over.
fn step(
    application: &Application,
    session: CK_SESSION_HANDLE,
    operation: Operation,
    run: impl FnOnce(&mut Active, &Slot) -> Step,
) -> Outcome {
    let session = application.session(session)?;
    let mut operations = session.operations()?;
    run_step(&mut operations, session.slot(), operation, run)
}

fn run_step(
    operations: &mut Operations,
    slot: &Slot,
    operation: Operation,
    run: impl FnOnce(&mut Active, &Slot) -> Step,
) -> Outcome {
    let Step { outcome, over } = run(operations.active(operation)?, slot);
    if over {
        *operations.place(operation) = None;
    }
    outcome
}

/// A step that the caller's pointers made impossible: the operation ends, as after every error.
fn with_arguments<T>(arguments: Outcome<T>, run: impl FnOnce(T) -> Step) -> Step {
    match arguments {
        Ok(arguments) => run(arguments),
        Err(error) => Step::ends(Err(error)),
    }
}

/// Both sides of a call with input and output.
///
/// # Safety
/// As PKCS#11 says of the four pointers.
unsafe fn both(
    input: *const CK_BYTE,
    input_length: CK_ULONG,
    output: *mut CK_BYTE,
    output_length: *mut CK_ULONG,
) -> Outcome<(Input, Output)> {
    // SAFETY: promised by the caller.
    unsafe { Ok((Input::new(input, input_length)?, Output::new(output, output_length)?)) }
}

/// Whether the HSM has a mechanism for a use.
fn check_mechanism(slot: &Slot, kind: MechanismKind, flag: CK_FLAGS) -> Outcome {
    if slot.mechanism(kind)?.flags & flag == 0 { refuse(CKR_MECHANISM_INVALID) } else { Ok(()) }
}

/// Whether a key can be right for an operation, by what is known of it here. Nothing known = nothing to say.
fn check_key(slot: &Slot, key: &Reference, operation: Operation, kind: MechanismKind) -> Outcome {
    let Some(known) = slot.known_attributes(key) else { return Ok(()) };
    let (_, flag, class) = needs(operation);
    match known.number(AttributeKind::Class).and_then(ObjectClass::from_number) {
        Some(found) if !found.is_key() => return refuse(CKR_KEY_HANDLE_INVALID),
        Some(found) if found != class && found != ObjectClass::SecretKey => {
            return refuse(CKR_KEY_FUNCTION_NOT_PERMITTED);
        }
        _ => {}
    }
    let key_type = known.number(AttributeKind::KeyType).and_then(KeyType::from_number);
    if let (Some(found), Some(wanted)) = (key_type, key_type_of(kind))
        && found != wanted
    {
        return refuse(CKR_KEY_TYPE_INCONSISTENT);
    }
    // A session object's attributes are all here; a token object's may have been changed by somebody else.
    if !key.is_token() && known.flag(flag) == Some(false) {
        return refuse(CKR_KEY_FUNCTION_NOT_PERMITTED);
    }
    Ok(())
}

/// The one type of key that a mechanism takes, where there is only one.
fn key_type_of(kind: MechanismKind) -> Option<KeyType> {
    let name = kind.name()?;
    if name == "EDDSA" {
        Some(KeyType::EcEdwards)
    } else if name.starts_with("ECDSA") {
        Some(KeyType::Ec)
    } else if name.starts_with("AES_") {
        Some(KeyType::Aes)
    } else if name.contains("RSA_") {
        Some(KeyType::Rsa)
    } else {
        None
    }
}

/// The refusal of a function that this library does not have: `docs/compat/pkcs11.md` lists them.
fn not_supported() -> Outcome {
    Err(ReturnValue(CKR_FUNCTION_NOT_SUPPORTED))
}
