//! Signing and MACing: PKCS#11 3.2 §5.13.

#![expect(unsafe_code, reason = "the C border")]

use cryptoki_sys::*;
use hsm_protocol::Operation;

use crate::entry;
use crate::functions::{begin, both, step, with_arguments};
use crate::memory::{Input, Output};

entry! {
    /// `C_SignInit` (§5.13.1).
    fn C_SignInit(session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE) = unsafe |application| {
        begin(application, session, mechanism, key, Operation::Sign)
    };
}

entry! {
    /// `C_Sign` (§5.13.2): one call to the HSM; none when the buffer is NULL.
    fn C_Sign(
        session: CK_SESSION_HANDLE,
        data: *mut CK_BYTE,
        data_length: CK_ULONG,
        signature: *mut CK_BYTE,
        signature_length: *mut CK_ULONG,
    ) = unsafe |application| {
        let arguments = both(data, data_length, signature, signature_length);
        step(application, session, Operation::Sign, |active, slot| {
            with_arguments(arguments, |(data, signature)| active.whole(slot, data, signature))
        })
    };
}

entry! {
    /// `C_SignUpdate` (§5.13.3).
    fn C_SignUpdate(session: CK_SESSION_HANDLE, part: *mut CK_BYTE, part_length: CK_ULONG) = unsafe |application| {
        let part = Input::new(part, part_length);
        step(application, session, Operation::Sign, |active, slot| {
            with_arguments(part, |part| active.gather(slot, part))
        })
    };
}

entry! {
    /// `C_SignFinal` (§5.13.4).
    fn C_SignFinal(session: CK_SESSION_HANDLE, signature: *mut CK_BYTE, signature_length: *mut CK_ULONG) = unsafe |application| {
        let signature = Output::new(signature, signature_length);
        step(application, session, Operation::Sign, |active, slot| {
            with_arguments(signature, |signature| active.finish_gathered(slot, signature))
        })
    };
}

entry! {
    /// `C_SignRecoverInit` (§5.13.5).
    fn C_SignRecoverInit(session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE) = unsafe |application| {
        begin(application, session, mechanism, key, Operation::SignRecover)
    };
}

entry! {
    /// `C_SignRecover` (§5.13.6).
    fn C_SignRecover(
        session: CK_SESSION_HANDLE,
        data: *mut CK_BYTE,
        data_length: CK_ULONG,
        signature: *mut CK_BYTE,
        signature_length: *mut CK_ULONG,
    ) = unsafe |application| {
        let arguments = both(data, data_length, signature, signature_length);
        step(application, session, Operation::SignRecover, |active, slot| {
            with_arguments(arguments, |(data, signature)| active.whole(slot, data, signature))
        })
    };
}
