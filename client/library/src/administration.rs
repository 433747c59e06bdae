//! Calls of administrators by name, for the command line: users, activation, trust anchors, members and
//! policy of the cluster.

use hsm_protocol::wire::{reply, request};
use hsm_protocol::{Role, wire};

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

/// Each of these is one message of `hsm-protocol`; the errors are those of [`Cluster::change`] and [`Cluster::call`]. Those
/// that answer with a list of [`wire::Unreached`] change what no HSM may act against: the list names the HSMs that may not
/// know of it yet, and until when; it is empty as a rule.
impl Cluster {
    /// Makes a user. By an admin.
    pub fn create_user(&self, login: &Login, name: &str, role: Role, password: &[u8]) -> Result<(), CallError> {
        self.change_done(Some(login), &|| {
            request::Body::CreateUser(wire::CreateUser {
                name: name.to_owned(),
                role: role as u32,
                password: password.to_vec(),
            })
        })
    }

    /// Removes a user who owns no key and is not logged in. By an admin.
    pub fn delete_user(&self, login: &Login, name: &str, role: Role) -> Result<Vec<wire::Unreached>, CallError> {
        self.change_everywhere(Some(login), &|| {
            request::Body::DeleteUser(wire::DeleteUser { name: name.to_owned(), role: role as u32 })
        })
    }

    /// All users.
    pub fn list_users(&self, login: Option<&Login>) -> Result<Vec<User>, CallError> {
        match self.call(login, &|_| request::Body::ListUsers(wire::ListUsers {}))? {
            reply::Body::ListUsers(reply) => Ok(reply.users.into_iter().map(User::from).collect()),
            _ => Err(self.unfitting_answer()),
        }
    }

    /// Changes a password: of the caller himself (`user` = `None`), or by an admin of another, who is then unlocked.
    pub fn change_password(
        &self,
        login: &Login,
        user: Option<(&str, Role)>,
        password: &[u8],
    ) -> Result<Vec<wire::Unreached>, CallError> {
        let (name, role) = user.unwrap_or(("", login.role()));
        self.change_everywhere(Some(login), &|| {
            request::Body::ChangePassword(wire::ChangePassword {
                name: name.to_owned(),
                role: role as u32,
                password: password.to_vec(),
            })
        })
    }

    /// Disables a user, which ends all his logins, or enables him again. By an admin.
    pub fn set_user_enabled(
        &self,
        login: &Login,
        name: &str,
        role: Role,
        enabled: bool,
    ) -> Result<Vec<wire::Unreached>, CallError> {
        self.change_everywhere(Some(login), &|| {
            request::Body::SetUserEnabled(wire::SetUserEnabled { name: name.to_owned(), role: role as u32, enabled })
        })
    }

    /// Ends all logins of a user, on every HSM. By an admin or the user himself.
    pub fn log_out_everywhere(&self, login: &Login, name: &str, role: Role) -> Result<Vec<wire::Unreached>, CallError> {
        self.change_everywhere(Some(login), &|| {
            request::Body::LogoutEverywhere(wire::LogoutEverywhere { user: name.to_owned(), role: role as u32 })
        })
    }

    /// Gives the first admin a password, and the cluster into service.
    pub fn activate(&self, activation_password: &[u8], password: &[u8]) -> Result<(), CallError> {
        self.change_done(None, &|| {
            request::Body::Activate(wire::Activate {
                activation_password: activation_password.to_vec(),
                password: password.to_vec(),
            })
        })?;
        // It said "not activated".
        self.pool().known().hello = None;
        Ok(())
    }

    /// The members of the cluster and its figures.
    pub fn cluster_info(&self) -> Result<wire::ClusterInfoReply, CallError> {
        match self.call(None, &|_| request::Body::ClusterInfo(wire::ClusterInfo {}))? {
            reply::Body::ClusterInfo(reply) => Ok(reply),
            _ => Err(self.unfitting_answer()),
        }
    }

    /// Registers an anchor (PEM) that signs client certificates; answers its reference. By an admin.
    pub fn register_trust_anchor(&self, login: &Login, certificate: &str) -> Result<u32, CallError> {
        let make =
            |_| request::Body::RegisterTrustAnchor(wire::RegisterTrustAnchor { certificate: certificate.to_owned() });
        match self.change(Some(login), &make)? {
            reply::Body::TrustAnchor(reply) => Ok(reply.reference),
            _ => Err(self.unfitting_answer()),
        }
    }

    /// Makes another TLS key for the cluster, and gives the request for its certificate, PEM. By an admin.
    pub fn begin_reissue(&self, login: &Login) -> Result<String, CallError> {
        self.change_done(Some(login), &|| request::Body::BeginReissue(wire::BeginReissue {}))?;
        self.reissue_request(login)
    }

    /// The request for the certificate of the TLS key that waits for one, PEM. By an admin.
    pub fn reissue_request(&self, login: &Login) -> Result<String, CallError> {
        match self.call(Some(login), &|_| request::Body::GetReissueRequest(wire::GetReissueRequest {}))? {
            reply::Body::ReissueRequest(reply) => Ok(reply.csr),
            _ => Err(self.unfitting_answer()),
        }
    }

    /// Brings the certificate (PEM) that the CA with this certificate (PEM) made for the TLS key that waits. By an admin.
    pub fn finish_reissue(&self, login: &Login, certificate: &str, trust_anchor: &str) -> Result<(), CallError> {
        self.change_done(Some(login), &|| {
            let (certificate, trust_anchor) = (certificate.to_owned(), trust_anchor.to_owned());
            request::Body::FinishReissue(wire::FinishReissue { certificate, trust_anchor })
        })
    }

    /// Removes an anchor. By an admin.
    pub fn deregister_trust_anchor(&self, login: &Login, reference: u32) -> Result<(), CallError> {
        self.change_done(Some(login), &|| {
            request::Body::DeregisterTrustAnchor(wire::DeregisterTrustAnchor { reference })
        })
    }

    /// The registered anchors, and whether clients must present a certificate.
    pub fn list_trust_anchors(&self, login: Option<&Login>) -> Result<wire::ListTrustAnchorsReply, CallError> {
        match self.call(login, &|_| request::Body::ListTrustAnchors(wire::ListTrustAnchors {}))? {
            reply::Body::ListTrustAnchors(reply) => Ok(reply),
            _ => Err(self.unfitting_answer()),
        }
    }

    /// Says whether clients must present a certificate. By an admin.
    pub fn set_client_certificates(&self, login: &Login, required: bool) -> Result<(), CallError> {
        self.change_done(Some(login), &|| {
            request::Body::SetClientCertificates(wire::SetClientCertificates { required })
        })
    }

    /// Says by which standing rule HSMs may join. By an admin.
    pub fn set_admission_rule(&self, login: &Login, rule: wire::AdmissionRule) -> Result<(), CallError> {
        self.change_done(Some(login), &|| request::Body::SetAdmissionRule(wire::SetAdmissionRule { rule: Some(rule) }))
    }

    /// Lets one HSM join once, whatever the standing rule says. By an admin.
    pub fn approve_member(&self, login: &Login, hsm: [u8; 16]) -> Result<(), CallError> {
        self.change_done(Some(login), &|| request::Body::ApproveMember(wire::ApproveMember { hsm: hsm.to_vec() }))
    }

    /// Says for how many seconds an HSM goes on that hears from no majority. By an admin.
    pub fn set_isolation_window(&self, login: &Login, seconds: u32) -> Result<Vec<wire::Unreached>, CallError> {
        self.change_everywhere(Some(login), &|| request::Body::SetIsolationWindow(wire::SetIsolationWindow { seconds }))
    }

    /// Takes an HSM out of the cluster. By an admin.
    pub fn remove_member(&self, login: &Login, hsm: [u8; 16]) -> Result<Vec<wire::Unreached>, CallError> {
        self.change_everywhere(Some(login), &|| request::Body::RemoveMember(wire::RemoveMember { hsm: hsm.to_vec() }))
    }

    /// Who may join, and how long an HSM goes on alone. By any user.
    pub fn cluster_policy(&self, login: &Login) -> Result<wire::ClusterPolicyReply, CallError> {
        match self.call(Some(login), &|_| request::Body::GetClusterPolicy(wire::GetClusterPolicy {}))? {
            reply::Body::ClusterPolicy(reply) => Ok(reply),
            _ => Err(self.unfitting_answer()),
        }
    }

    /// The members as the roster names them, and how the HSM that answers sees them. By any user.
    pub fn list_members(&self, login: &Login) -> Result<wire::ListMembersReply, CallError> {
        match self.call(Some(login), &|_| request::Body::ListMembers(wire::ListMembers {}))? {
            reply::Body::ListMembers(reply) => Ok(reply),
            _ => Err(self.unfitting_answer()),
        }
    }

    /// Sets which programs take part in the cluster. By an admin; since version 2 of commands.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn set_release_rule(&self, login: &Login, rule: wire::ReleaseRule) -> Result<(), CallError> {
        let make = || request::Body::SetReleaseRule(wire::SetReleaseRule { rule: Some(rule.clone()) });
        self.change_done(Some(login), &make)
    }

    fn change_done(&self, login: Option<&Login>, make: &dyn Fn() -> request::Body) -> Result<(), CallError> {
        self.change_everywhere(login, make).map(drop)
    }

    fn change_everywhere(
        &self,
        login: Option<&Login>,
        make: &dyn Fn() -> request::Body,
    ) -> Result<Vec<wire::Unreached>, CallError> {
        match self.change(login, &|_| make())? {
            reply::Body::Done(done) => Ok(done.unreached),
            _ => Err(self.unfitting_answer()),
        }
    }
}

impl From<wire::User> for User {
    fn from(user: wire::User) -> Self {
        Self {
            name: user.name,
            role: Role::from_number(user.role),
            locked: user.locked,
            enabled: user.enabled,
            created_at: user.created_at,
            keys: user.keys,
            sessions: user.sessions,
        }
    }
}
