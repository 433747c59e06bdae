//! Why a request is not done, on its way to the wire.

use hsm_core::Refusal;
use hsm_crypto::CryptoFault;
use hsm_protocol::convert::Malformed;
use hsm_protocol::{ErrorCode, wire};

/// A code, what it is about, and when to try again. Carries nothing that a stranger may not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Why.
    pub(crate) code: ErrorCode,
    /// The attribute, mechanism or limit that it is about; 0 for none.
    pub(crate) subject: u64,
    /// Milliseconds that the client should wait before it tries again; 0 = nothing known.
    pub(crate) retry_after: u32,
}

impl Failure {
    /// A code with the milliseconds to wait.
    pub(crate) fn after(code: ErrorCode, milliseconds: u64) -> Self {
        Self { code, subject: 0, retry_after: u32::try_from(milliseconds).unwrap_or(u32::MAX) }
    }

    /// As a message.
    pub(crate) fn message(self) -> wire::Failure {
        wire::Failure { code: self.code as u32, retry_after_milliseconds: self.retry_after, subject: self.subject }
    }
}

impl From<ErrorCode> for Failure {
    fn from(code: ErrorCode) -> Self {
        Self { code, subject: 0, retry_after: 0 }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        // The subject of a delayed login is the time to wait.
        if refusal.code == ErrorCode::LoginDelayed {
            return Self::after(refusal.code, refusal.subject);
        }
        Self { code: refusal.code, subject: refusal.subject, retry_after: 0 }
    }
}

impl From<Malformed> for Failure {
    fn from(malformed: Malformed) -> Self {
        Self { code: malformed.code, subject: malformed.subject, retry_after: 0 }
    }
}

impl From<CryptoFault> for Failure {
    fn from(fault: CryptoFault) -> Self {
        Self { code: fault.code(), subject: fault.subject(), retry_after: 0 }
    }
}
