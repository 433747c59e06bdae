//! The shell of every C entry: one way in and one way out.
//!
//! [`entry!`](crate::entry) makes the `extern "C"` function; the work is a function that returns an
//! [`Outcome`]. A panic ends here as `CKR_GENERAL_ERROR` with a line in the log: it never
//! unwinds into the application.

use std::panic::AssertUnwindSafe;

use cryptoki_sys::{CK_RV, CKR_GENERAL_ERROR, CKR_OK};

use crate::application::{self, Application};
use crate::return_value::{Outcome, ReturnValue};

/// Runs the body of an entry.
pub(crate) fn run(name: &'static str, body: impl FnOnce() -> Outcome) -> CK_RV {
    let value = match std::panic::catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => CKR_OK,
        Ok(Err(ReturnValue(value))) => value,
        Err(_) => {
            tracing::error!("{name} panicked; this is a bug in the library, please report it with the lines above");
            CKR_GENERAL_ERROR
        }
    };
    tracing::trace!("{name} returns {value:#x}");
    value
}

/// Runs the body of an entry that needs an initialised library.
pub(crate) fn run_in_application(name: &'static str, body: impl FnOnce(&Application) -> Outcome) -> CK_RV {
    run(name, || body(&*application::current()?))
}

/// Declares a C entry: `fn C_Name(arguments) = |application| outcome;` for a body that follows no pointer, `= unsafe
/// |application| outcome;` for one that does, and without `|application|` for what works before `C_Initialize`.
#[macro_export]
#[doc(hidden)]
macro_rules! entry {
    ($(#[$attribute:meta])* fn $name:ident($($argument:ident: $type:ty),* $(,)?) = |$application:ident| $body:expr;) => {
        $(#[$attribute])*
        ///
        /// # Safety
        /// As PKCS#11 says: pointers are good for their lengths.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> cryptoki_sys::CK_RV {
            $crate::entry::run_in_application(stringify!($name), |$application| $body)
        }
    };
    ($(#[$attribute:meta])* fn $name:ident($($argument:ident: $type:ty),* $(,)?) = unsafe |$application:ident| $body:expr;) => {
        $(#[$attribute])*
        ///
        /// # Safety
        /// As PKCS#11 says: pointers are good for their lengths.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> cryptoki_sys::CK_RV {
            $crate::entry::run_in_application(stringify!($name), |$application| {
                // SAFETY: the caller of a C_ function vouches for its pointers (PKCS#11 3.2 §5.1).
                unsafe { $body }
            })
        }
    };
    ($(#[$attribute:meta])* fn $name:ident($($argument:ident: $type:ty),* $(,)?) = unsafe $body:expr;) => {
        $(#[$attribute])*
        ///
        /// # Safety
        /// As PKCS#11 says: pointers are good for their lengths.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> cryptoki_sys::CK_RV {
            $crate::entry::run(stringify!($name), || {
                // SAFETY: the caller of a C_ function vouches for its pointers (PKCS#11 3.2 §5.1).
                unsafe { $body }
            })
        }
    };
    ($(#[$attribute:meta])* fn $name:ident($($argument:ident: $type:ty),* $(,)?) = $body:expr;) => {
        $(#[$attribute])*
        ///
        /// # Safety
        /// As PKCS#11 says: pointers are good for their lengths.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> cryptoki_sys::CK_RV {
            $crate::entry::run(stringify!($name), || $body)
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_ends_at_the_border_as_a_general_error() {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        assert_eq!(run("C_Test", || panic!("of this test")), CKR_GENERAL_ERROR);
        std::panic::set_hook(hook);
    }
}
