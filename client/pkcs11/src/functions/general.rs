//! General-purpose functions: PKCS#11 3.2 §5.4. The tables of functions are in [`crate::interfaces`].

#![expect(unsafe_code, reason = "the C border")]

use cryptoki_sys::*;

use crate::application;
use crate::entry;
use crate::memory;
use crate::return_value::{Outcome, refuse};

/// Text in a field of fixed length, padded with blanks as PKCS#11 wants it; cut at a character's end.
pub(crate) fn padded<const LENGTH: usize>(text: &str) -> [u8; LENGTH] {
    let mut field = [b' '; LENGTH];
    let mut end = text.len().min(LENGTH);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    field[..end].copy_from_slice(&text.as_bytes()[..end]);
    field
}

/// Who makes this library.
pub(crate) const MANUFACTURER: &str = "Kagimori";

/// The version of this library.
pub(crate) fn library_version() -> CK_VERSION {
    let part = |text: &str| text.parse().unwrap_or(0);
    CK_VERSION { major: part(env!("CARGO_PKG_VERSION_MAJOR")), minor: part(env!("CARGO_PKG_VERSION_MINOR")) }
}

/// # Safety
/// As PKCS#11 says.
unsafe fn initialize(arguments: *mut std::ffi::c_void) -> Outcome {
    if !arguments.is_null() {
        // SAFETY: promised by the caller.
        check_arguments(&unsafe { memory::read(arguments.cast::<CK_C_INITIALIZE_ARGS>()) }?)?;
    }
    application::initialize()
}

/// The rules of §5.4.1. This library makes no threads and locks with the system's means, so it can do without the
/// application's mutexes wherever it may.
fn check_arguments(arguments: &CK_C_INITIALIZE_ARGS) -> Outcome {
    if !arguments.pReserved.is_null() {
        return refuse(CKR_ARGUMENTS_BAD);
    }
    let given = [
        arguments.CreateMutex.is_some(),
        arguments.DestroyMutex.is_some(),
        arguments.LockMutex.is_some(),
        arguments.UnlockMutex.is_some(),
    ];
    let all = given.iter().all(|&given| given);
    if !all && given.iter().any(|&given| given) {
        return refuse(CKR_ARGUMENTS_BAD);
    }
    // The application's mutexes and nothing else: its threads may be such as the system's locks do not know.
    if all && arguments.flags & CKF_OS_LOCKING_OK == 0 { refuse(CKR_CANT_LOCK) } else { Ok(()) }
}

fn finalize(reserved: *mut std::ffi::c_void) -> Outcome {
    application::current()?;
    if reserved.is_null() { application::finalize() } else { refuse(CKR_ARGUMENTS_BAD) }
}

fn info(cryptoki_version: CK_VERSION) -> CK_INFO {
    CK_INFO {
        cryptokiVersion: cryptoki_version,
        manufacturerID: padded(MANUFACTURER),
        flags: 0,
        libraryDescription: padded("Kagimori client library"),
        libraryVersion: library_version(),
    }
}

entry! {
    /// `C_Initialize` (§5.4.1): reads `client.toml`; connects to nothing.
    fn C_Initialize(arguments: *mut std::ffi::c_void) = unsafe initialize(arguments);
}

entry! {
    /// `C_Finalize` (§5.4.2): logs out, closes all sessions and connections.
    fn C_Finalize(reserved: *mut std::ffi::c_void) = finalize(reserved);
}

entry! {
    /// `C_GetInfo` (§5.4.3), as a caller of the 2.40 functions sees it.
    fn C_GetInfo(place: *mut CK_INFO) = unsafe |_application| {
        memory::write(place, info(CK_VERSION { major: 2, minor: 40 }))
    };
}

/// `C_GetInfo` in the tables of 3.0 and 3.2: some callers of 2.40 refuse a library that calls itself 3.
///
/// # Safety
/// As PKCS#11 says.
pub(crate) unsafe extern "C" fn get_info_of_version_3(place: *mut CK_INFO) -> CK_RV {
    entry::run_in_application("C_GetInfo", |_| {
        // SAFETY: promised by the caller.
        unsafe { memory::write(place, info(CK_VERSION { major: 3, minor: 2 })) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::return_value::ReturnValue;

    unsafe extern "C" fn create(_: *mut *mut std::ffi::c_void) -> CK_RV {
        CKR_OK
    }

    unsafe extern "C" fn act(_: *mut std::ffi::c_void) -> CK_RV {
        CKR_OK
    }

    /// All 16 choices of callbacks, with each of the two flags set or not.
    #[test]
    fn every_combination_of_mutex_callbacks_and_flags_gets_the_answer_of_the_standard() {
        for callbacks in 0u32..16 {
            for flags in 0..4 {
                let given = |bit: u32| callbacks & (1 << bit) != 0;
                let arguments = CK_C_INITIALIZE_ARGS {
                    CreateMutex: given(0).then_some(create as _),
                    DestroyMutex: given(1).then_some(act as _),
                    LockMutex: given(2).then_some(act as _),
                    UnlockMutex: given(3).then_some(act as _),
                    flags,
                    pReserved: std::ptr::null_mut(),
                };
                let expected = match (callbacks, flags & CKF_OS_LOCKING_OK != 0) {
                    (0, _) | (15, true) => Ok(()),
                    (15, false) => Err(ReturnValue(CKR_CANT_LOCK)),
                    _ => Err(ReturnValue(CKR_ARGUMENTS_BAD)),
                };
                assert_eq!(check_arguments(&arguments), expected, "callbacks {callbacks:04b}, flags {flags:#x}");
            }
        }
    }

    #[test]
    fn the_reserved_argument_must_be_null() {
        let mut somewhere = 0u8;
        let arguments = CK_C_INITIALIZE_ARGS {
            CreateMutex: None,
            DestroyMutex: None,
            LockMutex: None,
            UnlockMutex: None,
            flags: CKF_OS_LOCKING_OK,
            pReserved: (&raw mut somewhere).cast(),
        };
        assert_eq!(check_arguments(&arguments), Err(ReturnValue(CKR_ARGUMENTS_BAD)));
    }

    #[test]
    fn fields_are_padded_with_blanks_and_cut_between_characters() {
        assert_eq!(&padded::<6>("ab"), b"ab    ");
        assert_eq!(&padded::<3>("ab\u{e9}"), b"ab ");
    }
}
