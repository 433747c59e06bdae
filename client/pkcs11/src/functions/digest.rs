//! Message digesting: PKCS#11 3.2 §5.12.

#![expect(unsafe_code, reason = "the C border")]

use cryptoki_sys::*;
use hsm_protocol::Operation;

use crate::application::Application;
use crate::entry;
use crate::functions::{both, check_mechanism, step, with_arguments};
use crate::memory::{Input, Output};
use crate::operation::Active;
use crate::parameters;
use crate::return_value::{About, Outcome, refuse};

/// # Safety
/// As PKCS#11 says of the mechanism.
unsafe fn begin(application: &Application, session: CK_SESSION_HANDLE, mechanism: *const CK_MECHANISM) -> Outcome {
    let session = application.session(session)?;
    let mut operations = session.operations()?;
    if mechanism.is_null() && operations.place(Operation::Digest).take().is_some() {
        return Ok(());
    }
    if operations.place(Operation::Digest).is_some() {
        return refuse(CKR_OPERATION_ACTIVE);
    }
    let slot = session.slot();
    // SAFETY: promised by the caller.
    let mechanism = unsafe { parameters::read(mechanism, &|handle| slot.reference(handle, About::Key)) }?;
    check_mechanism(slot, mechanism.kind(), CKF_DIGEST)?;
    *operations.place(Operation::Digest) = Some(Active::new(Operation::Digest, None, mechanism));
    Ok(())
}

entry! {
    /// `C_DigestInit` (§5.12.1).
    fn C_DigestInit(session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM) = unsafe |application| {
        begin(application, session, mechanism)
    };
}

entry! {
    /// `C_Digest` (§5.12.2).
    fn C_Digest(
        session: CK_SESSION_HANDLE,
        input: *mut CK_BYTE,
        input_length: CK_ULONG,
        output: *mut CK_BYTE,
        output_length: *mut CK_ULONG,
    ) = unsafe |application| {
        let arguments = both(input, input_length, output, output_length);
        step(application, session, Operation::Digest, |active, slot| {
            with_arguments(arguments, |(input, output)| active.whole(slot, input, output))
        })
    };
}

entry! {
    /// `C_DigestUpdate` (§5.12.3).
    fn C_DigestUpdate(session: CK_SESSION_HANDLE, input: *mut CK_BYTE, input_length: CK_ULONG) = unsafe |application| {
        let input = Input::new(input, input_length);
        step(application, session, Operation::Digest, |active, slot| {
            with_arguments(input, |input| active.gather(slot, input))
        })
    };
}

entry! {
    /// `C_DigestKey` (§5.12.4).
    fn C_DigestKey(session: CK_SESSION_HANDLE, key: CK_OBJECT_HANDLE) = |application| {
        step(application, session, Operation::Digest, |active, slot| {
            with_arguments(slot.reference(key, About::Key), |key| active.gather_key(slot, key))
        })
    };
}

entry! {
    /// `C_DigestFinal` (§5.12.5).
    fn C_DigestFinal(session: CK_SESSION_HANDLE, output: *mut CK_BYTE, output_length: *mut CK_ULONG) = unsafe |application| {
        let output = Output::new(output, output_length);
        step(application, session, Operation::Digest, |active, slot| {
            with_arguments(output, |output| active.finish_gathered(slot, output))
        })
    };
}
