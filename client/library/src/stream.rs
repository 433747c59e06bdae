//! Operations in parts. One lives on one connection; when that is lost, its input is replayed on another one.

use hsm_protocol::{ErrorCode, wire};

use crate::cluster::{Cluster, With};
use crate::error::CallError;
use crate::login::Login;

/// What a part gave.
#[derive(Default)]
pub struct StreamOutput {
    /// Output of this part.
    pub data: Vec<u8>,
    /// The IV that the HSM made, when the mechanism asked for one and this part told it.
    pub iv: Vec<u8>,
}

/// An operation in parts, not begun on any HSM until its first part. Dropping it abandons it.
pub struct StreamCall {
    cluster: Cluster,
    login: Option<Login>,
    begin: Box<dyn Fn(With) -> wire::Operate + Send + Sync>,
}

impl StreamCall {
    pub(crate) fn new(
        cluster: Cluster,
        login: Option<Login>,
        begin: Box<dyn Fn(With) -> wire::Operate + Send + Sync>,
    ) -> Self {
        Self { cluster, login, begin }
    }

    /// Feeds input of any length, and gives the output that it completed.
    ///
    /// # Errors
    /// [`CallError`]; after any the operation is over.
    pub fn update(&mut self, _data: &[u8]) -> Result<StreamOutput, CallError> {
        Err(CallError::refused(ErrorCode::NotSupported))
    }

    /// Feeds the value of a key (`C_DigestKey`).
    ///
    /// # Errors
    /// [`CallError`]; after any the operation is over.
    pub fn update_with_key(
        &mut self,
        _key: Box<dyn Fn(With) -> wire::ObjectReference + Send + Sync>,
    ) -> Result<StreamOutput, CallError> {
        Err(CallError::refused(ErrorCode::NotSupported))
    }

    /// Ends the operation: the signature, digest or last output; for a verification `signature` is checked.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn finish(self, _signature: &[u8]) -> Result<StreamOutput, CallError> {
        let _parts = (&self.cluster, &self.login, &self.begin);
        Err(CallError::refused(ErrorCode::NotSupported))
    }
}
