//! The tables of functions: what an application gets from `C_GetFunctionList` and `C_GetInterface`.
//!
//! Three tables, PKCS#11 2.40, 3.0 and 3.2, of the same functions; only `C_GetInfo` differs, which names the version.
//! They are constants: nothing is made at load and nothing undone at unload.

#![expect(unsafe_code, reason = "the C border: tables that are handed out as pointers")]

use cryptoki_sys::*;

use crate::entry;
use crate::functions::decryption::{C_Decrypt, C_DecryptFinal, C_DecryptInit, C_DecryptUpdate};
use crate::functions::digest::{C_Digest, C_DigestFinal, C_DigestInit, C_DigestKey, C_DigestUpdate};
use crate::functions::dual::{
    C_DecryptDigestUpdate, C_DecryptVerifyUpdate, C_DigestEncryptUpdate, C_SignEncryptUpdate,
};
use crate::functions::encryption::{C_Encrypt, C_EncryptFinal, C_EncryptInit, C_EncryptUpdate};
use crate::functions::general::{C_Finalize, C_GetInfo, C_Initialize, get_info_of_version_3};
use crate::functions::key::{C_DeriveKey, C_GenerateKey, C_GenerateKeyPair, C_UnwrapKey, C_WrapKey};
use crate::functions::later::{
    C_AsyncComplete, C_AsyncGetID, C_AsyncJoin, C_DecapsulateKey, C_DecryptMessageBegin, C_DecryptMessageNext,
    C_EncapsulateKey, C_EncryptMessageBegin, C_EncryptMessageNext, C_GetSessionValidationFlags,
    C_UnwrapKeyAuthenticated, C_WrapKeyAuthenticated,
};
use crate::functions::message::{
    C_DecryptMessage, C_EncryptMessage, C_MessageDecryptFinal, C_MessageDecryptInit, C_MessageEncryptFinal,
    C_MessageEncryptInit, C_MessageSignFinal, C_MessageSignInit, C_MessageVerifyFinal, C_MessageVerifyInit,
    C_SignMessage, C_SignMessageBegin, C_SignMessageNext, C_VerifyMessage, C_VerifyMessageBegin, C_VerifyMessageNext,
};
use crate::functions::object::{
    C_CopyObject, C_CreateObject, C_DestroyObject, C_FindObjects, C_FindObjectsFinal, C_FindObjectsInit,
    C_GetAttributeValue, C_GetObjectSize, C_SetAttributeValue,
};
use crate::functions::parallel::{C_CancelFunction, C_GetFunctionStatus};
use crate::functions::random::{C_GenerateRandom, C_SeedRandom};
use crate::functions::session::{
    C_CloseAllSessions, C_CloseSession, C_GetOperationState, C_GetSessionInfo, C_Login, C_LoginUser, C_Logout,
    C_OpenSession, C_SessionCancel, C_SetOperationState,
};
use crate::functions::signing::{C_Sign, C_SignFinal, C_SignInit, C_SignRecover, C_SignRecoverInit, C_SignUpdate};
use crate::functions::slot_and_token::{
    C_GetMechanismInfo, C_GetMechanismList, C_GetSlotInfo, C_GetSlotList, C_GetTokenInfo, C_InitPIN, C_InitToken,
    C_SetPIN, C_WaitForSlotEvent,
};
use crate::functions::verification::{
    C_Verify, C_VerifyFinal, C_VerifyInit, C_VerifyRecover, C_VerifyRecoverInit, C_VerifySignature,
    C_VerifySignatureFinal, C_VerifySignatureInit, C_VerifySignatureUpdate, C_VerifyUpdate,
};
use crate::memory;
use crate::return_value::{Outcome, refuse};

const VERSION_2_40: CK_VERSION = CK_VERSION { major: 2, minor: 40 };
const VERSION_3_0: CK_VERSION = CK_VERSION { major: 3, minor: 0 };
const VERSION_3_2: CK_VERSION = CK_VERSION { major: 3, minor: 2 };

/// Calls a macro with what it is given and every function of 2.40 but `C_GetInfo`, whose answer differs by version.
macro_rules! with_functions_of_2_40 {
    ($then:ident!($($given:tt)*)) => {
        $then! {
            $($given)*
            C_Initialize C_Finalize C_GetFunctionList C_GetSlotList C_GetSlotInfo C_GetTokenInfo
            C_GetMechanismList C_GetMechanismInfo C_InitToken C_InitPIN C_SetPIN C_OpenSession
            C_CloseSession C_CloseAllSessions C_GetSessionInfo C_GetOperationState C_SetOperationState
            C_Login C_Logout C_CreateObject C_CopyObject C_DestroyObject C_GetObjectSize
            C_GetAttributeValue C_SetAttributeValue C_FindObjectsInit C_FindObjects C_FindObjectsFinal
            C_EncryptInit C_Encrypt C_EncryptUpdate C_EncryptFinal C_DecryptInit C_Decrypt C_DecryptUpdate
            C_DecryptFinal C_DigestInit C_Digest C_DigestUpdate C_DigestKey C_DigestFinal C_SignInit
            C_Sign C_SignUpdate C_SignFinal C_SignRecoverInit C_SignRecover C_VerifyInit C_Verify
            C_VerifyUpdate C_VerifyFinal C_VerifyRecoverInit C_VerifyRecover C_DigestEncryptUpdate
            C_DecryptDigestUpdate C_SignEncryptUpdate C_DecryptVerifyUpdate C_GenerateKey
            C_GenerateKeyPair C_WrapKey C_UnwrapKey C_DeriveKey C_SeedRandom C_GenerateRandom
            C_GetFunctionStatus C_CancelFunction C_WaitForSlotEvent
        }
    };
}

/// The same with those of 3.0.
macro_rules! with_functions_of_3_0 {
    ($then:ident!($($given:tt)*)) => {
        with_functions_of_2_40! { $then!($($given)*
            C_GetInterfaceList C_GetInterface C_LoginUser C_SessionCancel C_MessageEncryptInit
            C_EncryptMessage C_EncryptMessageBegin C_EncryptMessageNext C_MessageEncryptFinal
            C_MessageDecryptInit C_DecryptMessage C_DecryptMessageBegin C_DecryptMessageNext
            C_MessageDecryptFinal C_MessageSignInit C_SignMessage C_SignMessageBegin C_SignMessageNext
            C_MessageSignFinal C_MessageVerifyInit C_VerifyMessage C_VerifyMessageBegin
            C_VerifyMessageNext C_MessageVerifyFinal
        ) }
    };
}

/// The same with those of 3.2.
macro_rules! with_functions_of_3_2 {
    ($then:ident!($($given:tt)*)) => {
        with_functions_of_3_0! { $then!($($given)*
            C_EncapsulateKey C_DecapsulateKey C_VerifySignatureInit C_VerifySignature
            C_VerifySignatureUpdate C_VerifySignatureFinal C_GetSessionValidationFlags C_AsyncComplete
            C_AsyncGetID C_AsyncJoin C_WrapKeyAuthenticated C_UnwrapKeyAuthenticated
        ) }
    };
}

macro_rules! function_list {
    ($name:ident: $type:ident, $version:ident, $get_info:ident, $($function:ident)*) => {
        static $name: $type = $type {
            version: $version,
            C_GetInfo: Some($get_info),
            $($function: Some($function),)*
        };
    };
}

with_functions_of_2_40!(function_list!(FUNCTIONS_2_40: CK_FUNCTION_LIST, VERSION_2_40, C_GetInfo,));
with_functions_of_3_0!(function_list!(FUNCTIONS_3_0: CK_FUNCTION_LIST_3_0, VERSION_3_0, get_info_of_version_3,));
with_functions_of_3_2!(function_list!(FUNCTIONS_3_2: CK_FUNCTION_LIST_3_2, VERSION_3_2, get_info_of_version_3,));

/// Interfaces with pointers inside, which Rust does not share by itself.
struct Interfaces([CK_INTERFACE; 3]);

// SAFETY: the pointers are to constants that nobody writes to.
unsafe impl Sync for Interfaces {}

const NAME: &std::ffi::CStr = c"PKCS 11";

/// The first one is what a caller gets who asks for none: 3.0, because callers of 3.2 ask for it by number and some
/// callers of 3.0 want that very number.
static INTERFACES: Interfaces = Interfaces([
    interface((&raw const FUNCTIONS_3_0).cast()),
    interface((&raw const FUNCTIONS_3_2).cast()),
    interface((&raw const FUNCTIONS_2_40).cast()),
]);

const VERSIONS: [CK_VERSION; 3] = [VERSION_3_0, VERSION_3_2, VERSION_2_40];

const fn interface(functions: *const std::ffi::c_void) -> CK_INTERFACE {
    CK_INTERFACE {
        pInterfaceName: NAME.as_ptr().cast_mut().cast(),
        pFunctionList: functions.cast_mut(),
        // Not CKF_INTERFACE_FORK_SAFE: that flag promises that a child inherits sessions and logins.
        flags: 0,
    }
}

/// # Safety
/// As PKCS#11 says: the name is NULL or ends in NUL, the version is NULL or readable, the place is writable.
unsafe fn get_interface(
    name: *const CK_UTF8CHAR,
    version: *const CK_VERSION,
    place: *mut *mut CK_INTERFACE,
    flags: CK_FLAGS,
) -> Outcome {
    if place.is_null() {
        return refuse(CKR_ARGUMENTS_BAD);
    }
    // SAFETY: promised by the caller.
    let name_fits = name.is_null() || unsafe { std::ffi::CStr::from_ptr(name.cast()) } == NAME;
    let found = if version.is_null() {
        Some(0)
    } else {
        // SAFETY: promised by the caller.
        let version = unsafe { memory::read(version) }?;
        VERSIONS.iter().position(|found| (found.major, found.minor) == (version.major, version.minor))
    };
    match found {
        Some(position) if name_fits && flags == 0 => {
            let interface = (&raw const INTERFACES.0[position]).cast_mut();
            // SAFETY: promised by the caller.
            unsafe { memory::write(place, interface) }
        }
        _ => refuse(CKR_FUNCTION_FAILED),
    }
}

entry! {
    /// `C_GetFunctionList` (PKCS#11 3.2 §5.4.4): the functions of 2.40.
    fn C_GetFunctionList(place: *mut *mut CK_FUNCTION_LIST) =
        unsafe memory::write(place, (&raw const FUNCTIONS_2_40).cast_mut());
}

entry! {
    /// `C_GetInterfaceList` (PKCS#11 3.2 §5.4.5).
    fn C_GetInterfaceList(list: *mut CK_INTERFACE, count: *mut CK_ULONG) =
        unsafe memory::write_list(list, count, &INTERFACES.0);
}

entry! {
    /// `C_GetInterface` (PKCS#11 3.2 §5.4.6).
    fn C_GetInterface(
        name: *mut CK_UTF8CHAR,
        version: *mut CK_VERSION,
        place: *mut *mut CK_INTERFACE,
        flags: CK_FLAGS,
    ) = unsafe get_interface(name, version, place, flags);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::return_value::ReturnValue;

    fn version_at(interface: *const CK_INTERFACE) -> (u8, u8) {
        // SAFETY: every table begins with its version.
        let version = unsafe { (*interface).pFunctionList.cast::<CK_VERSION>().read() };
        (version.major, version.minor)
    }

    #[test]
    fn each_version_is_found_by_its_number_and_others_are_not() {
        for expected in [(2, 40), (3, 0), (3, 2)] {
            let mut version = CK_VERSION { major: expected.0, minor: expected.1 };
            let mut place = std::ptr::null_mut();
            // SAFETY: all places live on this stack; the name ends in NUL.
            unsafe { get_interface(c"PKCS 11".as_ptr().cast(), &raw mut version, &raw mut place, 0) }.unwrap();
            assert_eq!(version_at(place), expected);
        }
        let mut version = CK_VERSION { major: 3, minor: 1 };
        let mut place = std::ptr::null_mut();
        // SAFETY: as above.
        let unknown = unsafe { get_interface(std::ptr::null(), &raw mut version, &raw mut place, 0) };
        assert_eq!(unknown, Err(ReturnValue(CKR_FUNCTION_FAILED)));
    }

    #[test]
    fn another_vendors_interface_or_a_promise_we_do_not_keep_is_refused() {
        let mut place = std::ptr::null_mut();
        // SAFETY: all places live on this stack; the name ends in NUL.
        unsafe {
            let name = c"Vendor X".as_ptr().cast();
            assert!(get_interface(name, std::ptr::null(), &raw mut place, 0).is_err());
            let forks = get_interface(std::ptr::null(), std::ptr::null(), &raw mut place, CKF_INTERFACE_FORK_SAFE);
            assert!(forks.is_err());
            get_interface(std::ptr::null(), std::ptr::null(), &raw mut place, 0).unwrap();
        }
        assert_eq!(version_at(place), (3, 0));
    }
}
