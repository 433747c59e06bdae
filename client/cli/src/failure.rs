//! What the command line says when something was not done: the cause, who must do something about it, and what.

use std::process::ExitCode;

use hsm_client::{CallError, ConfigurationError};
use hsm_protocol::{ErrorCode, Party};

use crate::command_line::Output;

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
            next: "repair client.toml (docs/operations/client-toml.md), then run `kagimori doctor`".to_owned(),
        }
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        let (party, next) = match &error {
            CallError::Refused { code, .. } => (party(*code), next_step(*code)),
            CallError::Configuration(_) => ("the configuration of this machine", "repair client.toml"),
            CallError::Unreachable { .. } => {
                ("the network or the HSM", "run `kagimori doctor`; start the HSM if it is down")
            }
            CallError::OutcomeUnknown { .. } | CallError::TimedOut { .. } => {
                ("the network or the HSM", "look (user list, key list) before you repeat the command")
            }
            CallError::Certificate { .. } => ("the certificates of the two sides", "run `kagimori doctor`"),
            CallError::Peer { .. } => ("the other side", "see that the address is an HSM's, and update the older side"),
            CallError::Forked | CallError::StreamLost { .. } => ("this program", "run the command again"),
        };
        Self { cause: error.to_string(), party, next: next.to_owned() }
    }
}

fn party(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::LoginRefused => return "the credentials, or an admin who locked or disabled the user",
        ErrorCode::UserLocked | ErrorCode::UserDisabled => return "whoever locked or disabled the user",
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

fn next_step(code: ErrorCode) -> &'static str {
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
        ErrorCode::AdmissionRefused => {
            "an admin approves this HSM (`kagimori cluster admission approve`), or raises the rule (`kagimori cluster \
             admission set --standing on --per-day NUMBER`)"
        }
        ErrorCode::MemberLimit => {
            "raise the rule by `kagimori cluster admission set --members NUMBER` (28 at most), or remove an HSM first"
        }
        ErrorCode::MemberUnknown => "see `kagimori cluster status` for the ids of the HSMs",
        ErrorCode::LastMember => "leave it; to end the cluster, delete the cluster itself",
        ErrorCode::QuorumLoss => {
            "see `kagimori cluster status` for who is silent: bring that HSM back, or remove it first if it is gone for good"
        }
        ErrorCode::UserInUse => "delete the user's keys and end his logins first",
        _ => match code.party() {
            Party::Refusal => "do what the message says, or ask an admin of the cluster",
            Party::Misuse => "correct the arguments and run the command again",
            Party::PeerFault => "update the older side",
            Party::Unavailable => "run the command again, and `kagimori doctor` if it goes on",
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
}
