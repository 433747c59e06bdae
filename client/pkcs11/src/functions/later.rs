//! Functions of PKCS#11 3.0 and 3.2 that this library does not have yet: each says so, after the session was checked.
//!
//! `docs/compat/pkcs11.md` lists them with what to use instead. They stand in the tables because callers take a table as
//! a whole; none of them pretends.

#![expect(unsafe_code, reason = "the C border")]

use cryptoki_sys::*;

use crate::application::Application;
use crate::entry;
use crate::functions::not_supported;
use crate::return_value::Outcome;

fn not_here(application: &Application, session: CK_SESSION_HANDLE) -> Outcome {
    application.session(session).and_then(|_| not_supported())
}

entry! {
    /// `C_EncryptMessageBegin` (§5.9.3): a message under encryption in parts is not supported.
    fn C_EncryptMessageBegin(session: CK_SESSION_HANDLE, _second: *mut std::ffi::c_void, _third: CK_ULONG, _fourth: *mut CK_BYTE, _fifth: CK_ULONG) = |application| not_here(application, session);
}

entry! {
    /// `C_EncryptMessageNext` (§5.9.4): a message under encryption in parts is not supported.
    fn C_EncryptMessageNext(session: CK_SESSION_HANDLE, _second: *mut std::ffi::c_void, _third: CK_ULONG, _fourth: *mut CK_BYTE, _fifth: CK_ULONG, _sixth: *mut CK_BYTE, _seventh: *mut CK_ULONG, _eighth: CK_FLAGS) = |application| not_here(application, session);
}

entry! {
    /// `C_DecryptMessageBegin` (§5.11.3): a message under decryption in parts is not supported.
    fn C_DecryptMessageBegin(session: CK_SESSION_HANDLE, _second: *mut std::ffi::c_void, _third: CK_ULONG, _fourth: *mut CK_BYTE, _fifth: CK_ULONG) = |application| not_here(application, session);
}

entry! {
    /// `C_DecryptMessageNext` (§5.11.4): a message under decryption in parts is not supported.
    fn C_DecryptMessageNext(session: CK_SESSION_HANDLE, _second: *mut std::ffi::c_void, _third: CK_ULONG, _fourth: *mut CK_BYTE, _fifth: CK_ULONG, _sixth: *mut CK_BYTE, _seventh: *mut CK_ULONG, _eighth: CK_FLAGS) = |application| not_here(application, session);
}

entry! {
    /// `C_EncapsulateKey` (§5.18.8): key encapsulation is not supported.
    fn C_EncapsulateKey(session: CK_SESSION_HANDLE, _second: *mut CK_MECHANISM, _third: CK_OBJECT_HANDLE, _fourth: *mut CK_ATTRIBUTE, _fifth: CK_ULONG, _sixth: *mut CK_BYTE, _seventh: *mut CK_ULONG, _eighth: *mut CK_OBJECT_HANDLE) = |application| not_here(application, session);
}

entry! {
    /// `C_DecapsulateKey` (§5.18.9): key encapsulation is not supported.
    fn C_DecapsulateKey(session: CK_SESSION_HANDLE, _second: *mut CK_MECHANISM, _third: CK_OBJECT_HANDLE, _fourth: *mut CK_ATTRIBUTE, _fifth: CK_ULONG, _sixth: *mut CK_BYTE, _seventh: CK_ULONG, _eighth: *mut CK_OBJECT_HANDLE) = |application| not_here(application, session);
}

entry! {
    /// `C_WrapKeyAuthenticated` (§5.18.6): authenticated wrapping is not supported.
    fn C_WrapKeyAuthenticated(session: CK_SESSION_HANDLE, _second: *mut CK_MECHANISM, _third: CK_OBJECT_HANDLE, _fourth: CK_OBJECT_HANDLE, _fifth: *mut CK_BYTE, _sixth: CK_ULONG, _seventh: *mut CK_BYTE, _eighth: *mut CK_ULONG) = |application| not_here(application, session);
}

entry! {
    /// `C_UnwrapKeyAuthenticated` (§5.18.7): authenticated wrapping is not supported.
    fn C_UnwrapKeyAuthenticated(session: CK_SESSION_HANDLE, _second: *mut CK_MECHANISM, _third: CK_OBJECT_HANDLE, _fourth: *mut CK_BYTE, _fifth: CK_ULONG, _sixth: *mut CK_ATTRIBUTE, _seventh: CK_ULONG, _eighth: *mut CK_BYTE, _ninth: CK_ULONG, _tenth: *mut CK_OBJECT_HANDLE) = |application| not_here(application, session);
}

entry! {
    /// `C_GetSessionValidationFlags` (§5.6.11): validation flags are not supported.
    fn C_GetSessionValidationFlags(session: CK_SESSION_HANDLE, _second: CK_SESSION_VALIDATION_FLAGS_TYPE, _third: *mut CK_FLAGS) = |application| not_here(application, session);
}

entry! {
    /// `C_AsyncComplete` (§5.21.1): asynchronous functions are not supported.
    fn C_AsyncComplete(session: CK_SESSION_HANDLE, _second: *mut CK_UTF8CHAR, _third: *mut CK_ASYNC_DATA) = |application| not_here(application, session);
}

entry! {
    /// `C_AsyncGetID` (§5.21.2): asynchronous functions are not supported.
    fn C_AsyncGetID(session: CK_SESSION_HANDLE, _second: *mut CK_UTF8CHAR, _third: *mut CK_ULONG) = |application| not_here(application, session);
}

entry! {
    /// `C_AsyncJoin` (§5.21.3): asynchronous functions are not supported.
    fn C_AsyncJoin(session: CK_SESSION_HANDLE, _second: *mut CK_UTF8CHAR, _third: CK_ULONG, _fourth: *mut CK_BYTE, _fifth: CK_ULONG) = |application| not_here(application, session);
}
