//! Verifying signatures and MACs: PKCS#11 3.2 §5.15 and §5.16 (the signature first, new in 3.2).

#![expect(unsafe_code, reason = "the C border")]

use cryptoki_sys::*;
use hsm_protocol::Operation;

use crate::application::Application;
use crate::entry;
use crate::functions::{begin, both, prepare, step, with_arguments};
use crate::memory::Input;
use crate::operation::{Active, Step};
use crate::return_value::{Outcome, refuse};
use crate::slot::Slot;

/// A step of a verification that was begun with its signature (3.2) or without.
fn step_of(
    application: &Application,
    session: CK_SESSION_HANDLE,
    signature_was_given: bool,
    run: impl FnOnce(&mut Active, &Slot) -> Step,
) -> Outcome {
    step(application, session, Operation::Verify, |active, slot| {
        if active.has_given_signature() == signature_was_given {
            run(active, slot)
        } else {
            Step { outcome: refuse(CKR_OPERATION_NOT_INITIALIZED), over: false }
        }
    })
}

/// # Safety
/// As PKCS#11 says of the mechanism.
unsafe fn begin_with_signature(
    application: &Application,
    session: CK_SESSION_HANDLE,
    mechanism: *const CK_MECHANISM,
    key: CK_OBJECT_HANDLE,
    signature: Outcome<Input>,
) -> Outcome {
    let session = application.session(session)?;
    let mut operations = session.operations()?;
    if operations.place(Operation::Verify).is_some() {
        return refuse(CKR_OPERATION_ACTIVE);
    }
    let signature = signature?.copy()?;
    // SAFETY: promised by the caller.
    let (mechanism, key) = unsafe { prepare(session.slot(), mechanism, key, Operation::Verify) }?;
    let active = Active::new(Operation::Verify, Some(key), mechanism).with_signature(signature);
    *operations.place(Operation::Verify) = Some(active);
    Ok(())
}

entry! {
    /// `C_VerifyInit` (§5.15.1).
    fn C_VerifyInit(session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE) = unsafe |application| {
        begin(application, session, mechanism, key, Operation::Verify)
    };
}

entry! {
    /// `C_Verify` (§5.15.2).
    fn C_Verify(
        session: CK_SESSION_HANDLE,
        data: *mut CK_BYTE,
        data_length: CK_ULONG,
        signature: *mut CK_BYTE,
        signature_length: CK_ULONG,
    ) = unsafe |application| {
        let data = Input::new(data, data_length);
        let signature = Input::new(signature, signature_length);
        step_of(application, session, false, |active, slot| {
            let arguments = data.and_then(|data| Ok((data, signature?)));
            with_arguments(arguments, |(data, signature)| active.verify_whole(slot, data, Some(signature)))
        })
    };
}

entry! {
    /// `C_VerifyUpdate` (§5.15.3).
    fn C_VerifyUpdate(session: CK_SESSION_HANDLE, part: *mut CK_BYTE, part_length: CK_ULONG) = unsafe |application| {
        let part = Input::new(part, part_length);
        step_of(application, session, false, |active, slot| with_arguments(part, |part| active.gather(slot, part)))
    };
}

entry! {
    /// `C_VerifyFinal` (§5.15.4).
    fn C_VerifyFinal(session: CK_SESSION_HANDLE, signature: *mut CK_BYTE, signature_length: CK_ULONG) = unsafe |application| {
        let signature = Input::new(signature, signature_length);
        step_of(application, session, false, |active, slot| {
            with_arguments(signature, |signature| active.finish_verification(slot, Some(signature)))
        })
    };
}

entry! {
    /// `C_VerifyRecoverInit` (§5.15.5).
    fn C_VerifyRecoverInit(session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE) = unsafe |application| {
        begin(application, session, mechanism, key, Operation::VerifyRecover)
    };
}

entry! {
    /// `C_VerifyRecover` (§5.15.6).
    fn C_VerifyRecover(
        session: CK_SESSION_HANDLE,
        signature: *mut CK_BYTE,
        signature_length: CK_ULONG,
        data: *mut CK_BYTE,
        data_length: *mut CK_ULONG,
    ) = unsafe |application| {
        let arguments = both(signature, signature_length, data, data_length);
        step(application, session, Operation::VerifyRecover, |active, slot| {
            with_arguments(arguments, |(signature, data)| active.whole(slot, signature, data))
        })
    };
}

entry! {
    /// `C_VerifySignatureInit` (§5.16.1, new in 3.2).
    fn C_VerifySignatureInit(
        session: CK_SESSION_HANDLE,
        mechanism: *mut CK_MECHANISM,
        key: CK_OBJECT_HANDLE,
        signature: *mut CK_BYTE,
        signature_length: CK_ULONG,
    ) = unsafe |application| {
        begin_with_signature(application, session, mechanism, key, Input::new(signature, signature_length))
    };
}

entry! {
    /// `C_VerifySignature` (§5.16.2, new in 3.2).
    fn C_VerifySignature(session: CK_SESSION_HANDLE, data: *mut CK_BYTE, data_length: CK_ULONG) = unsafe |application| {
        let data = Input::new(data, data_length);
        step_of(application, session, true, |active, slot| {
            with_arguments(data, |data| active.verify_whole(slot, data, None))
        })
    };
}

entry! {
    /// `C_VerifySignatureUpdate` (§5.16.3, new in 3.2).
    fn C_VerifySignatureUpdate(session: CK_SESSION_HANDLE, part: *mut CK_BYTE, part_length: CK_ULONG) = unsafe |application| {
        let part = Input::new(part, part_length);
        step_of(application, session, true, |active, slot| with_arguments(part, |part| active.gather(slot, part)))
    };
}

entry! {
    /// `C_VerifySignatureFinal` (§5.16.4, new in 3.2).
    fn C_VerifySignatureFinal(session: CK_SESSION_HANDLE) = |application| {
        step_of(application, session, true, |active, slot| active.finish_verification(slot, None))
    };
}
