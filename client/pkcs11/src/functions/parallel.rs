//! Parallel function management: PKCS#11 3.2 §5.20. Relics of version 1, which the standard wants answered so.

#![expect(unsafe_code, reason = "the C border")]

use cryptoki_sys::*;

use crate::application::Application;
use crate::entry;
use crate::return_value::{Outcome, refuse};

fn not_parallel(application: &Application, session: CK_SESSION_HANDLE) -> Outcome {
    application.session(session).and_then(|_| refuse(CKR_FUNCTION_NOT_PARALLEL))
}

entry! {
    /// `C_GetFunctionStatus` (§5.20.1).
    fn C_GetFunctionStatus(session: CK_SESSION_HANDLE) = |application| not_parallel(application, session);
}

entry! {
    /// `C_CancelFunction` (§5.20.2).
    fn C_CancelFunction(session: CK_SESSION_HANDLE) = |application| not_parallel(application, session);
}
