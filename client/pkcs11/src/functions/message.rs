//! Functions over messages, new in PKCS#11 3.0: §5.9 (encryption), §5.11 (decryption), §5.14 and §5.16 (signatures).
//!
//! Encryption and decryption are for AES-GCM, a whole message at a time; signatures are for every signature mechanism,
//! whole or in parts. Each message is an operation of its own: the HSM asks the key's permission every time.

#![expect(unsafe_code, reason = "the C border")]

use cryptoki_sys::*;
use hsm_client::With;
use hsm_protocol::limits::PART_LIMIT;
use hsm_protocol::wire::{self, request};
use hsm_protocol::{MechanismKind, Operation};

use crate::application::Application;
use crate::entry;
use crate::functions::{check_key, check_mechanism, needs};
use crate::memory::{Input, Output};
use crate::message::MessageOperation;
use crate::operation::Step;
use crate::parameters::{self, GcmMessage, ReadMechanism};
use crate::return_value::{About, Outcome, ReturnValue, refuse};
use crate::session::Session;
use crate::slot::Slot;

const NOT_BEGUN: ReturnValue = ReturnValue(CKR_OPERATION_NOT_INITIALIZED);

/// `C_Message…Init`. For AES-GCM the parameters come with each message and those of the mechanism are not looked at.
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
    let slot = session.slot();
    if mechanism.is_null() && operations.message_place(operation).take().is_some() {
        return Ok(());
    }
    if operations.message_place(operation).is_some() {
        return refuse(CKR_OPERATION_ACTIVE);
    }
    let mechanism = if matches!(operation, Operation::Encrypt | Operation::Decrypt) {
        // SAFETY: promised by the caller.
        let kind = MechanismKind(unsafe { crate::memory::read(mechanism) }?.mechanism);
        if kind != MechanismKind::AES_GCM {
            return refuse(CKR_MECHANISM_INVALID);
        }
        ReadMechanism::new(hsm_protocol::Mechanism::plain(kind))
    } else {
        // SAFETY: promised by the caller.
        unsafe { parameters::read(mechanism, &|handle| slot.reference(handle, About::Key)) }?
    };
    check_mechanism(slot, mechanism.kind(), needs(operation).0)?;
    let key = slot.reference(key, About::Key)?;
    check_key(slot, &key, operation, mechanism.kind())?;
    *operations.message_place(operation) = Some(MessageOperation::new(operation, key, mechanism));
    Ok(())
}

fn end(application: &Application, session: CK_SESSION_HANDLE, operation: Operation) -> Outcome {
    let session = application.session(session)?;
    let ended = session.operations()?.message_place(operation).take();
    ended.map(|_| ()).ok_or(NOT_BEGUN)
}

/// What one GCM message is made of.
struct Sealing {
    parameters: GcmMessage,
    additional_data: Input,
    input: Input,
    output: Output,
}

/// # Safety
/// As PKCS#11 says of the nine arguments.
#[expect(clippy::too_many_arguments, reason = "the arguments of C_EncryptMessage")]
unsafe fn sealing(
    parameter: *mut std::ffi::c_void,
    parameter_length: CK_ULONG,
    additional_data: *const CK_BYTE,
    additional_data_length: CK_ULONG,
    input: *const CK_BYTE,
    input_length: CK_ULONG,
    output: *mut CK_BYTE,
    output_length: *mut CK_ULONG,
) -> Outcome<Sealing> {
    // SAFETY: promised by the caller.
    unsafe {
        Ok(Sealing {
            parameters: GcmMessage::read(parameter.cast(), parameter_length)?,
            additional_data: Input::new(additional_data, additional_data_length)?,
            input: Input::new(input, input_length)?,
            output: Output::new(output, output_length)?,
        })
    }
}

/// Encrypts or decrypts one message. Its length is that of its input, so a small buffer costs no call.
///
/// # Safety
/// As PKCS#11 says of the parameters.
unsafe fn run(session: &Session, operation: Operation, sealing: &Sealing) -> Outcome {
    let Sealing { parameters, additional_data, input, output } = sealing;
    let mut operations = session.operations()?;
    let key = operations.message_place(operation).as_ref().ok_or(NOT_BEGUN)?.key().clone();
    match output.capacity() {
        Some(capacity) if capacity >= input.len() => {}
        short => {
            output.announce(input.len());
            return if short.is_some() { refuse(CKR_BUFFER_TOO_SMALL) } else { Ok(()) };
        }
    }
    let encrypting = operation == Operation::Encrypt;
    let mechanism = parameters.mechanism(additional_data.copy()?, encrypting)?;
    let mut data = input.copy()?;
    if !encrypting {
        // SAFETY: promised by the caller.
        data.extend_from_slice(&unsafe { parameters.tag() }?);
    }
    if data.len() > PART_LIMIT {
        return refuse(CKR_DATA_LEN_RANGE);
    }
    let make = |with: With| {
        request::Body::Operate(wire::Operate {
            operation: operation as u32,
            key: Some(key.message(with)),
            mechanism: Some(mechanism.message(with)),
            data: data.clone(),
            ..Default::default()
        })
    };
    let reply = session.slot().call_for_bytes(About::Key, &make)?;
    if !encrypting {
        return output.give(&reply.data);
    }
    let split = reply.data.len().checked_sub(parameters.tag_bytes()).ok_or(ReturnValue(CKR_DEVICE_ERROR))?;
    let (ciphertext, tag) = reply.data.split_at(split);
    // SAFETY: promised by the caller.
    unsafe { parameters.write(&reply.iv, tag) }?;
    output.give(ciphertext)
}

/// A step of a message under signature or verification: `begins` says whether it starts one.
fn step(
    application: &Application,
    session: CK_SESSION_HANDLE,
    operation: Operation,
    begins: bool,
    run: impl FnOnce(&mut crate::operation::Active, &Slot) -> Step,
) -> Outcome {
    let session = application.session(session)?;
    let mut operations = session.operations()?;
    let place = operations.message_place(operation).as_mut().ok_or(NOT_BEGUN)?;
    if place.current.is_none() {
        if !begins {
            return Err(NOT_BEGUN);
        }
        place.current = Some(place.begin());
    }
    let Some(active) = &mut place.current else { return Err(NOT_BEGUN) };
    let Step { outcome, over } = run(active, session.slot());
    if over {
        place.current = None;
    }
    outcome
}

/// Messages under signature take no parameters of their own: those of the mechanism hold for all.
fn no_parameters(length: CK_ULONG) -> Outcome {
    if length == 0 { Ok(()) } else { refuse(CKR_MECHANISM_PARAM_INVALID) }
}

fn begin_message(
    application: &Application,
    session: CK_SESSION_HANDLE,
    operation: Operation,
    parameter_length: CK_ULONG,
) -> Outcome {
    no_parameters(parameter_length)?;
    let session = application.session(session)?;
    let mut operations = session.operations()?;
    let place = operations.message_place(operation).as_mut().ok_or(NOT_BEGUN)?;
    if place.current.is_some() {
        return refuse(CKR_OPERATION_ACTIVE);
    }
    place.current = Some(place.begin());
    Ok(())
}

entry! {
    /// `C_MessageEncryptInit` (§5.9.1).
    fn C_MessageEncryptInit(session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE) = unsafe |application| {
        begin(application, session, mechanism, key, Operation::Encrypt)
    };
}

entry! {
    /// `C_EncryptMessage` (§5.9.2).
    fn C_EncryptMessage(
        session: CK_SESSION_HANDLE,
        parameter: *mut std::ffi::c_void,
        parameter_length: CK_ULONG,
        additional_data: *mut CK_BYTE,
        additional_data_length: CK_ULONG,
        input: *mut CK_BYTE,
        input_length: CK_ULONG,
        output: *mut CK_BYTE,
        output_length: *mut CK_ULONG,
    ) = unsafe |application| {
        let session = application.session(session)?;
        let sealing = sealing(
            parameter,
            parameter_length,
            additional_data,
            additional_data_length,
            input,
            input_length,
            output,
            output_length,
        )?;
        run(&session, Operation::Encrypt, &sealing)
    };
}

entry! {
    /// `C_MessageEncryptFinal` (§5.9.5).
    fn C_MessageEncryptFinal(session: CK_SESSION_HANDLE) = |application| end(application, session, Operation::Encrypt);
}

entry! {
    /// `C_MessageDecryptInit` (§5.11.1).
    fn C_MessageDecryptInit(session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE) = unsafe |application| {
        begin(application, session, mechanism, key, Operation::Decrypt)
    };
}

entry! {
    /// `C_DecryptMessage` (§5.11.2).
    fn C_DecryptMessage(
        session: CK_SESSION_HANDLE,
        parameter: *mut std::ffi::c_void,
        parameter_length: CK_ULONG,
        additional_data: *mut CK_BYTE,
        additional_data_length: CK_ULONG,
        input: *mut CK_BYTE,
        input_length: CK_ULONG,
        output: *mut CK_BYTE,
        output_length: *mut CK_ULONG,
    ) = unsafe |application| {
        let session = application.session(session)?;
        let sealing = sealing(
            parameter,
            parameter_length,
            additional_data,
            additional_data_length,
            input,
            input_length,
            output,
            output_length,
        )?;
        run(&session, Operation::Decrypt, &sealing)
    };
}

entry! {
    /// `C_MessageDecryptFinal` (§5.11.5).
    fn C_MessageDecryptFinal(session: CK_SESSION_HANDLE) = |application| end(application, session, Operation::Decrypt);
}

entry! {
    /// `C_MessageSignInit` (§5.14.1).
    fn C_MessageSignInit(session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE) = unsafe |application| {
        begin(application, session, mechanism, key, Operation::Sign)
    };
}

entry! {
    /// `C_SignMessage` (§5.14.2).
    fn C_SignMessage(
        session: CK_SESSION_HANDLE,
        _parameter: *mut std::ffi::c_void,
        parameter_length: CK_ULONG,
        data: *mut CK_BYTE,
        data_length: CK_ULONG,
        signature: *mut CK_BYTE,
        signature_length: *mut CK_ULONG,
    ) = unsafe |application| {
        no_parameters(parameter_length)?;
        let (data, signature) = (Input::new(data, data_length)?, Output::new(signature, signature_length)?);
        step(application, session, Operation::Sign, true, |active, slot| active.whole(slot, data, signature))
    };
}

entry! {
    /// `C_SignMessageBegin` (§5.14.3).
    fn C_SignMessageBegin(session: CK_SESSION_HANDLE, _parameter: *mut std::ffi::c_void, parameter_length: CK_ULONG) = |application| {
        begin_message(application, session, Operation::Sign, parameter_length)
    };
}

entry! {
    /// `C_SignMessageNext` (§5.14.4): the last part is the one with a place for the signature's length.
    fn C_SignMessageNext(
        session: CK_SESSION_HANDLE,
        _parameter: *mut std::ffi::c_void,
        parameter_length: CK_ULONG,
        part: *mut CK_BYTE,
        part_length: CK_ULONG,
        signature: *mut CK_BYTE,
        signature_length: *mut CK_ULONG,
    ) = unsafe |application| {
        no_parameters(parameter_length)?;
        let part = Input::new(part, part_length)?;
        if signature_length.is_null() {
            return step(application, session, Operation::Sign, false, |active, slot| active.gather(slot, part));
        }
        let output = Output::new(signature, signature_length)?;
        step(application, session, Operation::Sign, false, |active, slot| active.finish_with_part(slot, part, output))
    };
}

entry! {
    /// `C_MessageSignFinal` (§5.14.5).
    fn C_MessageSignFinal(session: CK_SESSION_HANDLE) = |application| end(application, session, Operation::Sign);
}

entry! {
    /// `C_MessageVerifyInit` (§5.16.1).
    fn C_MessageVerifyInit(session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE) = unsafe |application| {
        begin(application, session, mechanism, key, Operation::Verify)
    };
}

entry! {
    /// `C_VerifyMessage` (§5.16.2).
    fn C_VerifyMessage(
        session: CK_SESSION_HANDLE,
        _parameter: *mut std::ffi::c_void,
        parameter_length: CK_ULONG,
        data: *mut CK_BYTE,
        data_length: CK_ULONG,
        signature: *mut CK_BYTE,
        signature_length: CK_ULONG,
    ) = unsafe |application| {
        no_parameters(parameter_length)?;
        let (data, signature) = (Input::new(data, data_length)?, Input::new(signature, signature_length)?);
        step(application, session, Operation::Verify, true, |active, slot| {
            active.verify_whole(slot, data, Some(signature))
        })
    };
}

entry! {
    /// `C_VerifyMessageBegin` (§5.16.3).
    fn C_VerifyMessageBegin(session: CK_SESSION_HANDLE, _parameter: *mut std::ffi::c_void, parameter_length: CK_ULONG) = |application| {
        begin_message(application, session, Operation::Verify, parameter_length)
    };
}

entry! {
    /// `C_VerifyMessageNext` (§5.16.4): the last part is the one with a signature.
    fn C_VerifyMessageNext(
        session: CK_SESSION_HANDLE,
        _parameter: *mut std::ffi::c_void,
        parameter_length: CK_ULONG,
        part: *mut CK_BYTE,
        part_length: CK_ULONG,
        signature: *mut CK_BYTE,
        signature_length: CK_ULONG,
    ) = unsafe |application| {
        no_parameters(parameter_length)?;
        let (part, last) = (Input::new(part, part_length)?, !signature.is_null());
        let signature = if last { Some(Input::new(signature, signature_length)?) } else { None };
        step(application, session, Operation::Verify, false, |active, slot| {
            let gathered = active.gather(slot, part);
            if last && !gathered.over { active.finish_verification(slot, signature) } else { gathered }
        })
    };
}

entry! {
    /// `C_MessageVerifyFinal` (§5.16.5).
    fn C_MessageVerifyFinal(session: CK_SESSION_HANDLE) = |application| end(application, session, Operation::Verify);
}
