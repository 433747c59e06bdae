//! What the command line says when something was not done: the cause, who must do something about it, and what.

use std::process::ExitCode;

use hsm_client::{CallError, CertificateFault, ConfigurationError, PeerFault};
use hsm_protocol::{AttributeKind, ErrorCode, Party};

use crate::attributes;
use crate::command_line::Output;

/// What to do before a user can be deleted.
pub(crate) const USER_IN_USE: &str = "his keys: he deletes them himself (`kagimori key delete`); his logins: `kagimori \
                                      user logout` ends them, `kagimori user disable` ends them and refuses new ones; \
                                      then delete him";

/// What to do when nothing answers.
const REACH: &str = "see that kagimori-hsm runs (`kagimori-hsm manage status` on its host), that `addresses` in \
                     client.toml is where it listens, and that no firewall is between";

/// A command that was not done. Holds no secret.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    cause: String,
    party: &'static str,
    next: String,
}

impl Failure {
    /// The caller's arguments cannot be.
    pub(crate) fn misuse(cause: impl Into<String>, next: impl Into<String>) -> Self {
        Self { cause: cause.into(), party: "this command line", next: next.into() }
    }

    /// No HSM answers.
    pub(crate) fn unreachable(cause: impl Into<String>) -> Self {
        Self {
            cause: cause.into(),
            party: "the HSM, the network, or `addresses` in client.toml",
            next: REACH.to_owned(),
        }
    }

    /// A host name that has no address.
    pub(crate) fn unknown_host(cause: impl Into<String>) -> Self {
        Self {
            cause: cause.into(),
            party: "`addresses` in client.toml, or this machine's name service",
            next: "correct the name in client.toml, or write the address in numbers".to_owned(),
        }
    }

    /// The cluster is not in service.
    pub(crate) fn not_in_service(cause: &str, next: &str) -> Self {
        Self { cause: cause.to_owned(), party: "whoever administers the cluster", next: next.to_owned() }
    }

    /// The same with another word on what to do.
    pub(crate) fn with_next(self, next: impl Into<String>) -> Self {
        Self { next: next.into(), ..self }
    }

    /// A file of this machine.
    pub(crate) fn file(path: &std::path::Path, error: &std::io::Error) -> Self {
        Self {
            cause: format!("{}: {error}", path.display()),
            party: "this machine",
            next: "see that the file is there and that you may read it".to_owned(),
        }
    }

    /// An answer that does not fit the question.
    pub(crate) fn strange_answer() -> Self {
        Self {
            cause: "the HSM's answer does not fit the question".to_owned(),
            party: "the HSM or this program",
            next: "update the older of the two".to_owned(),
        }
    }

    /// Why it was not done.
    pub(crate) fn cause(&self) -> &str {
        &self.cause
    }

    /// Who must do something about it.
    pub(crate) fn party(&self) -> &str {
        self.party
    }

    /// What to do.
    pub(crate) fn next(&self) -> &str {
        &self.next
    }

    /// Prints it where the form says and gives the exit code.
    pub(crate) fn print(&self, output: Output) -> ExitCode {
        match output {
            Output::Text => eprintln!("failed: {}\n  at fault: {}\n  next: {}", self.cause, self.party, self.next),
            Output::Json => {
                let data = format!("{} (at fault: {}; next: {})", self.cause, self.party, self.next);
                println!("{}", serde_json::json!({ "error_code": 1, "data": data }));
            }
        }
        ExitCode::FAILURE
    }
}

impl From<ConfigurationError> for Failure {
    fn from(error: ConfigurationError) -> Self {
        Self {
            cause: error.to_string(),
            party: "the configuration of this machine",
            next: "repair client.toml, or the file that it names (docs/operations/client-toml.md)".to_owned(),
        }
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        let (party, next) = match &error {
            CallError::Refused { code, subject } => (party(*code), next_step(*code, *subject)),
            CallError::Configuration(_) => {
                ("the configuration of this machine", "repair client.toml, or the file that it names".to_owned())
            }
            CallError::Unreachable { .. } => return Self::unreachable(error.to_string()),
            CallError::OutcomeUnknown { .. } | CallError::TimedOut { .. } => {
                ("the network or the HSM", "look (user list, key list) before you repeat the command".to_owned())
            }
            CallError::Certificate { fault, .. } => {
                let (party, next) = distrust(fault);
                (party, next.to_owned())
            }
            CallError::Peer { fault, .. } => {
                let (party, next) = strange_peer(fault);
                (party, next.to_owned())
            }
            CallError::Forked | CallError::StreamLost { .. } => ("this program", "run the command again".to_owned()),
        };
        Self { cause: error.to_string(), party, next }
    }
}

/// Who and what next when the two sides do not trust each other.
fn distrust(fault: &CertificateFault) -> (&'static str, &'static str) {
    use CertificateFault as F;
    match fault {
        F::NotTrusted { .. } => (
            "`trust-anchor` or `addresses` in client.toml; or a stranger is in the HSM's place",
            "let `trust-anchor` be the certificate of the CA that signed this cluster (customerCA.crt of `kagimori-hsm \
             manage certificates`), and see that the address is this cluster's",
        ),
        F::Expired { .. } | F::NotYetValid { .. } => (
            "the cluster's certificate, or this machine's clock",
            "set the clock right; if it is, let the operator of the HSM have a new certificate signed",
        ),
        F::Unusable { .. } | F::Unreadable => (
            "the cluster's certificate",
            "see that the address is an HSM's; if it is, let its operator have the certificate signed anew",
        ),
        F::ClientCertificateMissing => (
            "the configuration of this machine",
            "have the clients' CA sign a certificate for this machine, and name it and its key as `client-certificate` \
             and `client-key` in client.toml",
        ),
        F::ClientCertificateRefused { .. } => (
            "`client-certificate` in client.toml",
            "name one that a registered CA signed (an admin lists them by `kagimori cluster mtls list-trust-anchors`) \
             and that has not expired",
        ),
        F::Handshake { .. } => (
            "the other side",
            "see that the address is an HSM's (TLS 1.3); if it is, update the older side and read the HSM's log",
        ),
    }
}

/// Who and what next when what answers speaks something else.
fn strange_peer(fault: &PeerFault) -> (&'static str, &'static str) {
    match fault {
        PeerFault::NotTls | PeerFault::Alpn => (
            "`addresses` in client.toml: this is not the port of an HSM",
            "set it to the HSM's port for clients (`kagimori-hsm manage status` shows it), not the one for health",
        ),
        PeerFault::Code(_) => ("this program", "update it: the HSM is newer"),
        _ => ("the other side", "see that the address is an HSM's, and update the older side"),
    }
}

fn party(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::LoginRefused => return "the credentials, or an admin who locked or disabled the user",
        ErrorCode::UserLocked => return "whoever sent the wrong passwords",
        ErrorCode::UserDisabled => return "the admin who disabled the user",
        ErrorCode::LoginDelayed => return "whoever sends wrong passwords for this user, or many logins at once",
        _ => {}
    }
    match code.party() {
        Party::Refusal => "nobody: a rule of the cluster says no",
        Party::Misuse => "the request as it stands",
        Party::PeerFault => "the protocol between this program and the HSM",
        Party::Unavailable => "the HSM, for now",
        Party::Broken => "the HSM",
    }
}

fn next_step(code: ErrorCode, subject: u64) -> String {
    if code == ErrorCode::LoginDelayed && subject != 0 {
        return format!("wait {subject} ms and run the command again; who guesses stands in the HSM's audit log");
    }
    let about = AttributeKind::from_number(subject).filter(|_| code == ErrorCode::AttributeValue);
    match about.and_then(attributes::range) {
        Some(range) => format!("give {range}"),
        None => usual_step(code).to_owned(),
    }
}

fn usual_step(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::LoginRefused => {
            "check name, role and password; the user may also be locked or disabled (an admin sees it in `kagimori user list`)"
        }
        ErrorCode::UserLocked => "an admin unlocks the user by `kagimori user change-password`",
        ErrorCode::UserDisabled => "an admin enables the user by `kagimori user enable`",
        ErrorCode::LoginDelayed | ErrorCode::Busy => "wait some seconds and run the command again",
        ErrorCode::RoleRefused => "run the command as a user of the other role (--as, --as-role)",
        ErrorCode::NotLoggedIn => "say who you are: set KAGIMORI_ROLE and KAGIMORI_PIN, or use --as and --as-role",
        ErrorCode::UserExists => "choose another name, or change that user's password",
        ErrorCode::UserUnknown => "see `kagimori user list`; name and role must both fit",
        ErrorCode::LifecycleRefused => {
            "see `kagimori-hsm manage status` for where the cluster stands and what comes next"
        }
        ErrorCode::FipsRefused => "use what FIPS approves (see `docs/compat/fips.md`), or a NON_FIPS cluster",
        ErrorCode::TrustAnchorMissing => "register one first: `kagimori cluster mtls register-trust-anchor`",
        ErrorCode::UserInUse => USER_IN_USE,
        ErrorCode::AdmissionRefused => {
            "an admin approves this HSM (`kagimori cluster admission approve`), or raises the rule (`kagimori cluster \
             admission set --standing on --per-day NUMBER`)"
        }
        ErrorCode::MemberLimit => {
            "raise the rule by `kagimori cluster admission set --members NUMBER` (28 at most), or remove an HSM first"
        }
        ErrorCode::MemberUnknown => "see `kagimori cluster status` for the ids of the HSMs",
        ErrorCode::ClusterTooOld => "see `kagimori cluster status` for the versions of the HSMs, and update the oldest",
        ErrorCode::LastMember => "leave it; to end the cluster, delete the cluster itself",
        ErrorCode::QuorumLoss => {
            "see `kagimori cluster status` for who is silent: bring that HSM back, or remove it first if it is gone for good"
        }
        _ => match code.party() {
            Party::Refusal => "do what the message says, or ask an admin of the cluster",
            Party::Misuse => "correct the arguments and run the command again",
            Party::PeerFault => "update the older side",
            Party::Unavailable => "run the command again; if it goes on, the HSM's log says why",
            Party::Broken => "look at the HSM's log",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_refused_as_a_member_learns_which_command_helps() {
        for (code, command) in [
            (ErrorCode::AdmissionRefused, "kagimori cluster admission set"),
            (ErrorCode::AdmissionRefused, "kagimori cluster admission approve"),
            (ErrorCode::MemberLimit, "kagimori cluster admission set --members"),
            (ErrorCode::MemberUnknown, "kagimori cluster status"),
            (ErrorCode::QuorumLoss, "kagimori cluster status"),
        ] {
            let failure = Failure::from(CallError::Refused { code, subject: 0 });
            assert!(failure.next().contains(command), "{code:?}: {}", failure.next());
        }
    }

    #[test]
    fn every_code_names_a_party_and_a_next_step() {
        for &code in ErrorCode::ALL {
            let failure = Failure::from(CallError::Refused { code, subject: 0 });
            assert!(!failure.cause.is_empty() && !failure.party.is_empty() && !failure.next.is_empty(), "{code:?}");
        }
    }

    fn certificate(fault: CertificateFault) -> Failure {
        CallError::Certificate { address: "a:1".to_owned(), fault }.into()
    }

    fn peer(fault: PeerFault) -> Failure {
        CallError::Peer { address: "a:1".to_owned(), fault }.into()
    }

    #[test]
    fn no_failure_sends_the_reader_to_doctor_who_may_have_sent_him() {
        let reason = "alert".to_owned();
        let failures = [
            certificate(CertificateFault::NotTrusted {
                subject: "s".to_owned(),
                issuer: "i".to_owned(),
                anchor: "ca.crt".into(),
            }),
            certificate(CertificateFault::ClientCertificateMissing),
            certificate(CertificateFault::ClientCertificateRefused { reason: reason.clone() }),
            certificate(CertificateFault::Handshake { reason }),
            peer(PeerFault::NotTls),
            CallError::Unreachable { cluster: "c".to_owned(), attempts: Vec::new() }.into(),
        ];
        let refusals = ErrorCode::ALL.iter().map(|&code| Failure::from(CallError::Refused { code, subject: 0 }));
        for failure in failures.into_iter().chain(refusals) {
            assert!(!failure.next.contains("doctor"), "{failure:?}");
        }
    }

    #[test]
    fn a_missing_and_a_wrong_client_certificate_are_laid_to_client_toml_by_the_key_in_it() {
        assert!(certificate(CertificateFault::ClientCertificateMissing).next.contains("`client-certificate`"));
        let refused = certificate(CertificateFault::ClientCertificateRefused { reason: String::new() });
        assert!(refused.party.contains("`client-certificate`") && refused.next.contains("registered CA"));
    }

    #[test]
    fn a_port_that_is_no_hsms_is_laid_to_its_address() {
        for fault in [PeerFault::NotTls, PeerFault::Alpn] {
            assert!(peer(fault).party.contains("not the port of an HSM"));
        }
    }

    #[test]
    fn a_delayed_login_is_laid_to_whoever_guesses_and_tells_the_time() {
        let failure = Failure::from(CallError::Refused { code: ErrorCode::LoginDelayed, subject: 4000 });
        assert!(failure.party.contains("wrong passwords") && failure.next.contains("4000 ms"), "{failure:?}");
    }

    #[test]
    fn a_modulus_that_cannot_be_is_told_the_range() {
        let subject = AttributeKind::ModulusBits as u64;
        let failure = Failure::from(CallError::Refused { code: ErrorCode::AttributeValue, subject });
        assert!(failure.cause.contains("CKA_MODULUS_BITS") && failure.next.contains("2048 to 8192"), "{failure:?}");
    }

    #[test]
    fn a_user_in_use_is_told_commands_that_exist() {
        for command in ["key delete", "user logout", "user disable"] {
            assert!(USER_IN_USE.contains(command));
            let words = ["kagimori"].into_iter().chain(command.split(' ')).chain(["--help"]);
            let help = <crate::command_line::Arguments as clap::CommandFactory>::command().try_get_matches_from(words);
            assert_eq!(help.unwrap_err().kind(), clap::error::ErrorKind::DisplayHelp, "{command}");
        }
    }
}
