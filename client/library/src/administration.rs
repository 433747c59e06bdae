//! Calls of administrators by name, for the command line: users, activation, trust anchors.

use hsm_protocol::{ErrorCode, Role, wire};

use crate::cluster::Cluster;
use crate::error::CallError;
use crate::login::Login;

/// A user as the cluster lists him.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Name in lower case.
    pub name: String,
    /// Role; `None` when this version does not know it.
    pub role: Option<Role>,
    /// Too many wrong passwords.
    pub locked: bool,
    /// Whether an admin lets him log in.
    pub enabled: bool,
    /// Milliseconds since 1970-01-01 UTC.
    pub created_at: u64,
    /// Keys that he owns.
    pub keys: u64,
    /// Logins that he has now.
    pub sessions: u64,
}

/// Each of these is one message of `hsm-protocol`; the errors are those of [`Cluster::change`] and [`Cluster::call`].
#[expect(clippy::missing_errors_doc, reason = "said once above for all")]
impl Cluster {
    /// Makes a user. By an admin.
    pub fn create_user(&self, _login: &Login, _name: &str, _role: Role, _password: &[u8]) -> Result<(), CallError> {
        Err(CallError::refused(ErrorCode::NotSupported))
    }

    /// Removes a user who owns no key and is not logged in. By an admin.
    pub fn delete_user(&self, _login: &Login, _name: &str, _role: Role) -> Result<(), CallError> {
        Err(CallError::refused(ErrorCode::NotSupported))
    }

    /// All users.
    pub fn list_users(&self, _login: Option<&Login>) -> Result<Vec<User>, CallError> {
        Err(CallError::refused(ErrorCode::NotSupported))
    }

    /// Changes a password: of the caller himself (`user` = `None`), or by an admin of another, who is then unlocked.
    pub fn change_password(&self, _login: &Login, _user: Option<(&str, Role)>, _password: &[u8]) -> Result<(), CallError> {
        Err(CallError::refused(ErrorCode::NotSupported))
    }

    /// Disables a user, which ends all his logins, or enables him again. By an admin.
    pub fn set_user_enabled(&self, _login: &Login, _name: &str, _role: Role, _enabled: bool) -> Result<(), CallError> {
        Err(CallError::refused(ErrorCode::NotSupported))
    }

    /// Ends all logins of a user, on every HSM. By an admin or the user himself.
    pub fn log_out_everywhere(&self, _login: &Login, _name: &str, _role: Role) -> Result<(), CallError> {
        Err(CallError::refused(ErrorCode::NotSupported))
    }

    /// Gives the first admin a password, and the cluster into service.
    pub fn activate(&self, _activation_password: &[u8], _password: &[u8]) -> Result<(), CallError> {
        Err(CallError::refused(ErrorCode::NotSupported))
    }

    /// The members of the cluster and its figures.
    pub fn cluster_info(&self) -> Result<wire::ClusterInfoReply, CallError> {
        Err(CallError::refused(ErrorCode::NotSupported))
    }

    /// Registers an anchor (PEM) that signs client certificates; answers its reference. By an admin.
    pub fn register_trust_anchor(&self, _login: &Login, _certificate: &str) -> Result<u32, CallError> {
        Err(CallError::refused(ErrorCode::NotSupported))
    }

    /// Removes an anchor. By an admin.
    pub fn deregister_trust_anchor(&self, _login: &Login, _reference: u32) -> Result<(), CallError> {
        Err(CallError::refused(ErrorCode::NotSupported))
    }

    /// The registered anchors, and whether clients must present a certificate.
    pub fn list_trust_anchors(&self, _login: Option<&Login>) -> Result<wire::ListTrustAnchorsReply, CallError> {
        Err(CallError::refused(ErrorCode::NotSupported))
    }

    /// Says whether clients must present a certificate. By an admin.
    pub fn set_client_certificates(&self, _login: &Login, _required: bool) -> Result<(), CallError> {
        Err(CallError::refused(ErrorCode::NotSupported))
    }
}
