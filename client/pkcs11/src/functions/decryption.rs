//! Decryption: PKCS#11 3.2 §5.10.

#![expect(unsafe_code, reason = "the C border")]

use cryptoki_sys::*;
use hsm_protocol::Operation;

use crate::entry;
use crate::functions::{begin, both, step, with_arguments};
use crate::memory::Output;

entry! {
    /// `C_DecryptInit` (§5.10.1).
    fn C_DecryptInit(session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE) = unsafe |application| {
        begin(application, session, mechanism, key, Operation::Decrypt)
    };
}

entry! {
    /// `C_Decrypt` (§5.10.2).
    fn C_Decrypt(
        session: CK_SESSION_HANDLE,
        input: *mut CK_BYTE,
        input_length: CK_ULONG,
        output: *mut CK_BYTE,
        output_length: *mut CK_ULONG,
    ) = unsafe |application| {
        let arguments = both(input, input_length, output, output_length);
        step(application, session, Operation::Decrypt, |active, slot| {
            with_arguments(arguments, |(input, output)| active.whole(slot, input, output))
        })
    };
}

entry! {
    /// `C_DecryptUpdate` (§5.10.3).
    fn C_DecryptUpdate(
        session: CK_SESSION_HANDLE,
        input: *mut CK_BYTE,
        input_length: CK_ULONG,
        output: *mut CK_BYTE,
        output_length: *mut CK_ULONG,
    ) = unsafe |application| {
        let arguments = both(input, input_length, output, output_length);
        step(application, session, Operation::Decrypt, |active, slot| {
            with_arguments(arguments, |(input, output)| active.cipher_part(slot, input, output).0)
        })
    };
}

entry! {
    /// `C_DecryptFinal` (§5.10.4).
    fn C_DecryptFinal(session: CK_SESSION_HANDLE, output: *mut CK_BYTE, output_length: *mut CK_ULONG) = unsafe |application| {
        let output = Output::new(output, output_length);
        step(application, session, Operation::Decrypt, |active, slot| {
            with_arguments(output, |output| active.finish_cipher(slot, output))
        })
    };
}
