//! Why the state machine said no.

use hsm_protocol::ErrorCode;
use serde::{Deserialize, Serialize};

/// A request that was not allowed or cannot be: a code for the caller and what it is about.
///
/// Carries no operand and no name. A refusal is an ordinary outcome; what must not happen at all is a panic with a
/// sentence, which stops the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code} (subject {subject:#x})")]
pub struct Refusal {
    /// Why.
    pub code: ErrorCode,
    /// The attribute or mechanism number, or the milliseconds to wait; 0 for none.
    pub subject: u64,
}

impl From<ErrorCode> for Refusal {
    fn from(code: ErrorCode) -> Self {
        Self { code, subject: 0 }
    }
}
