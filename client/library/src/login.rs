//! A login: what proves on any connection, to any HSM, that its user's password was right.

use std::sync::Arc;

use hsm_protocol::Role;

/// A login session. Clones are the same session. It is not ended by dropping it: see [`crate::Cluster::log_out`].
///
/// Holds the session's key pair and token, so it has no `Debug`.
#[derive(Clone)]
pub struct Login {
    inner: Arc<LoginInner>,
}

struct LoginInner {
    name: String,
    role: Role,
}

impl Login {
    /// The user's name in lower case.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The role it was opened in.
    pub fn role(&self) -> Role {
        self.inner.role
    }
}
