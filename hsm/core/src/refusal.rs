//! Why the state machine said no.

use hsm_protocol::{AttributeKind, ErrorCode, MechanismKind};
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

impl Refusal {
    /// A refusal about an attribute.
    pub fn of(code: ErrorCode, kind: AttributeKind) -> Self {
        Self { code, subject: kind as u64 }
    }

    /// A refusal about a mechanism.
    pub fn of_mechanism(code: ErrorCode, kind: MechanismKind) -> Self {
        Self { code, subject: kind.0 }
    }
}

impl From<ErrorCode> for Refusal {
    fn from(code: ErrorCode) -> Self {
        Self { code, subject: 0 }
    }
}

/// Stored state that cannot be what this program wrote: the node must not go on with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stored state is broken: {row} {what}")]
pub struct Broken {
    /// Which row, without its content.
    pub row: String,
    /// What is wrong with it.
    pub what: &'static str,
}
