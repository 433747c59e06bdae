//! The system calls that std lacks.
#![expect(unsafe_code, reason = "the foreign function interface to libc; each call says why it is sound")]

/// Number of the user whose rights this process has.
pub(crate) fn effective_user() -> u32 {
    // SAFETY: geteuid takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

/// Whether the process was started with more rights than its caller has, so that the caller's environment must not
/// steer it (as `secure_getenv`).
pub(crate) fn privileges_were_raised() -> bool {
    // SAFETY: getauxval takes a number and cannot fail; an unknown number gives 0.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}
