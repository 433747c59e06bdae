//! Dual-function cryptographic functions: PKCS#11 3.2 §5.17. Each is two single functions over the same part.
//!
//! The second one sees the part only when the first one has taken it: a buffer that is too small changes nothing in
//! either, and a part is never digested twice.

#![expect(unsafe_code, reason = "the C border")]

use cryptoki_sys::*;
use hsm_protocol::Operation;
use zeroize::Zeroizing;

use crate::application::Application;
use crate::entry;
use crate::functions::{both, run_step};
use crate::memory::{Input, Output};
use crate::return_value::{Outcome, refuse};

/// Encrypts a part, and digests or signs the plaintext.
fn gather_and_encrypt(
    application: &Application,
    session: CK_SESSION_HANDLE,
    gathers: Operation,
    arguments: Outcome<(Input, Output)>,
) -> Outcome {
    let session = application.session(session)?;
    let mut operations = session.operations()?;
    operations.active(gathers)?;
    operations.active(Operation::Encrypt)?;
    let (input, output) = arguments?;
    // Copied before the output is written: it may be the same memory.
    let plaintext = Zeroizing::new(input.copy()?);
    let slot = session.slot();
    let mut given = None;
    run_step(&mut operations, slot, Operation::Encrypt, |active, slot| {
        let (step, bytes) = active.cipher_part(slot, input, output);
        given = bytes;
        step
    })?;
    if given.is_none() {
        return Ok(());
    }
    run_step(&mut operations, slot, gathers, |active, slot| active.gather_bytes(slot, &plaintext))
}

/// Decrypts a part, and digests or verifies the plaintext that came out.
fn decrypt_and_gather(
    application: &Application,
    session: CK_SESSION_HANDLE,
    gathers: Operation,
    arguments: Outcome<(Input, Output)>,
) -> Outcome {
    let session = application.session(session)?;
    let mut operations = session.operations()?;
    if gathers == Operation::Verify && operations.active(gathers)?.has_given_signature() {
        return refuse(CKR_OPERATION_NOT_INITIALIZED);
    }
    operations.active(gathers)?;
    operations.active(Operation::Decrypt)?;
    let (input, output) = arguments?;
    let slot = session.slot();
    let mut given = None;
    run_step(&mut operations, slot, Operation::Decrypt, |active, slot| {
        let (step, bytes) = active.cipher_part(slot, input, output);
        given = bytes.map(Zeroizing::new);
        step
    })?;
    let Some(plaintext) = given else { return Ok(()) };
    run_step(&mut operations, slot, gathers, |active, slot| active.gather_bytes(slot, &plaintext))
}

entry! {
    /// `C_DigestEncryptUpdate` (§5.17.1).
    fn C_DigestEncryptUpdate(
        session: CK_SESSION_HANDLE,
        input: *mut CK_BYTE,
        input_length: CK_ULONG,
        output: *mut CK_BYTE,
        output_length: *mut CK_ULONG,
    ) = unsafe |application| {
        gather_and_encrypt(application, session, Operation::Digest, both(input, input_length, output, output_length))
    };
}

entry! {
    /// `C_DecryptDigestUpdate` (§5.17.2).
    fn C_DecryptDigestUpdate(
        session: CK_SESSION_HANDLE,
        input: *mut CK_BYTE,
        input_length: CK_ULONG,
        output: *mut CK_BYTE,
        output_length: *mut CK_ULONG,
    ) = unsafe |application| {
        decrypt_and_gather(application, session, Operation::Digest, both(input, input_length, output, output_length))
    };
}

entry! {
    /// `C_SignEncryptUpdate` (§5.17.3).
    fn C_SignEncryptUpdate(
        session: CK_SESSION_HANDLE,
        input: *mut CK_BYTE,
        input_length: CK_ULONG,
        output: *mut CK_BYTE,
        output_length: *mut CK_ULONG,
    ) = unsafe |application| {
        gather_and_encrypt(application, session, Operation::Sign, both(input, input_length, output, output_length))
    };
}

entry! {
    /// `C_DecryptVerifyUpdate` (§5.17.4).
    fn C_DecryptVerifyUpdate(
        session: CK_SESSION_HANDLE,
        input: *mut CK_BYTE,
        input_length: CK_ULONG,
        output: *mut CK_BYTE,
        output_length: *mut CK_ULONG,
    ) = unsafe |application| {
        decrypt_and_gather(application, session, Operation::Verify, both(input, input_length, output, output_length))
    };
}
