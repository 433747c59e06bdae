//! Operations over messages (PKCS#11 3.0 §5.9 to §5.16): one key and mechanism, many independent messages.
//!
//! A message is one whole operation. `C_SignMessageBegin` and its like gather a message here and run it at its end.

use hsm_protocol::Operation;

use crate::objects::Reference;
use crate::operation::Active;
use crate::parameters::ReadMechanism;

/// What `C_Message…Init` prepared.
pub(crate) struct MessageOperation {
    operation: Operation,
    key: Reference,
    mechanism: ReadMechanism,
    /// The message under way in parts, or whose result waits for a larger buffer.
    pub(crate) current: Option<Active>,
}

impl MessageOperation {
    pub(crate) fn new(operation: Operation, key: Reference, mechanism: ReadMechanism) -> Self {
        Self { operation, key, mechanism, current: None }
    }

    /// Begins a message with the mechanism of `C_Message…Init`.
    pub(crate) fn begin(&self) -> Active {
        Active::new(self.operation, Some(self.key.clone()), self.mechanism.clone())
    }

    /// The key that is used.
    pub(crate) fn key(&self) -> &Reference {
        &self.key
    }
}
