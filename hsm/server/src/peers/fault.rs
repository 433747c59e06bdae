//! Why an HSM refused another, or could not be reached. Each says what to do.

use std::net::SocketAddr;

use hsm_core::ReleaseRule;
use hsm_protocol::ErrorCode;
use hsm_protocol::peer::Refused;

use hsm_replication::versions::{NEWEST, OLDEST};

use crate::release::Misfit;

/// An HSM said no to another.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerRefusal {
    /// No version in common.
    #[error(
        "it speaks versions {oldest} to {newest} of the protocol between HSMs (release {release}): update the older HSM"
    )]
    Version {
        /// Oldest version that the refusing side speaks.
        oldest: u32,
        /// Newest version.
        newest: u32,
        /// Release of its program.
        release: String,
    },
    /// Another cluster.
    #[error("it belongs to another cluster: look at the addresses")]
    OtherCluster,
    /// Another history of the cluster.
    #[error(
        "it belongs to another history of this cluster, which was restored or recovered: join anew with an empty data folder"
    )]
    OtherHistory,
    /// The node that was meant is not the one that answers.
    #[error("another node answers there: the HSM has come back under a new node id, or the addresses were exchanged")]
    OtherNode,
    /// The asker is in no roster.
    #[error("this HSM is not in the cluster's roster: `kagimori-hsm manage join` asks for admission")]
    Stranger {
        /// Last command that the refusing member had applied.
        applied: u64,
    },
    /// The refusing side belongs to no cluster, or has no state yet.
    #[error("the HSM there belongs to no cluster yet, or has not got its state: ask another member, or wait")]
    NotReady,
    /// A witness was asked for keys.
    #[error("the member there is a witness and holds no keys: ask an HSM of the cluster")]
    Keyless,
    /// The newcomer's proof is wrong.
    #[error("the proof of the newcomer's identity is wrong, or was made for another connection")]
    Proof,
    /// Two processes with one identity.
    #[error("another process with the same identity is connected: no two HSMs may run on copies of one data folder")]
    Twin,
    /// What came cannot be decoded.
    #[error("the message cannot be decoded: the other side speaks another protocol")]
    Malformed,
    /// What came is over a limit.
    #[error("the message is over the limit")]
    TooLong,
    /// The log decided so.
    #[error("{}", .0.explanation())]
    Log(ErrorCode),
    /// The cluster uses commands that the asker does not know.
    #[error("the cluster uses version {needs} of commands, which this HSM's program does not know: update this HSM")]
    TooOld {
        /// The version that the cluster uses.
        needs: u32,
    },
    /// The cluster wants a signed program.
    #[error("the program of this HSM is not a signed release: install one that this cluster trusts")]
    Unsigned,
    /// The signature is over another program.
    #[error("the program of this HSM was altered after it was signed: install the release again")]
    Altered,
    /// The signature is a stranger's.
    #[error(
        "the program of this HSM is signed with a key that this cluster does not trust, such as a development build: \
         install a release of its builder, or have an admin trust the key (`kagimori cluster releases set`)"
    )]
    Untrusted,
    /// Too old.
    #[error("the program of this HSM is older than {minimum}, the oldest release that this cluster takes: update it")]
    Downgrade {
        /// The oldest that is taken.
        minimum: String,
    },
    /// A reason that this version does not know.
    #[error("for a reason that this version does not know (number {0}): update the older HSM")]
    Unknown(u32),
}

impl PeerRefusal {
    /// A cluster of this rule does not take a program.
    pub(super) fn of_program(misfit: Misfit, rule: &ReleaseRule) -> Self {
        match misfit {
            Misfit::Unsigned => Self::Unsigned,
            Misfit::Altered => Self::Altered,
            Misfit::Untrusted => Self::Untrusted,
            Misfit::Downgrade => Self::Downgrade { minimum: rule.minimum.to_string() },
        }
    }

    fn number(&self) -> u32 {
        match self {
            Self::Version { .. } => 1,
            Self::OtherCluster => 2,
            Self::OtherHistory => 3,
            Self::OtherNode => 4,
            Self::Stranger { .. } => 5,
            Self::NotReady => 6,
            Self::Keyless => 7,
            Self::Proof => 8,
            Self::Twin => 9,
            Self::Malformed => 10,
            Self::TooLong => 11,
            Self::Log(_) => 12,
            Self::TooOld { .. } => 13,
            Self::Unsigned => 14,
            Self::Altered => 15,
            Self::Untrusted => 16,
            Self::Downgrade { .. } => 17,
            Self::Unknown(number) => *number,
        }
    }

    /// The refusal as it is sent.
    pub(super) fn to_wire(&self) -> Refused {
        Refused {
            reason: self.number(),
            code: if let Self::Log(code) = self { *code as u32 } else { 0 },
            applied: if let Self::Stranger { applied } = self { *applied } else { 0 },
            release: env!("CARGO_PKG_VERSION").to_owned(),
            state_version: if let Self::TooOld { needs } = self { *needs } else { 0 },
            minimum_release: if let Self::Downgrade { minimum } = self { minimum.clone() } else { String::new() },
            oldest_version: if let Self::Version { oldest, .. } = self { *oldest } else { OLDEST },
            newest_version: if let Self::Version { newest, .. } = self { *newest } else { NEWEST },
        }
    }

    /// A refusal that came.
    pub(super) fn from_wire(refused: Refused) -> Self {
        match refused.reason {
            1 => {
                let (oldest, newest) = (refused.oldest_version, refused.newest_version);
                Self::Version { oldest, newest, release: refused.release.chars().take(40).collect() }
            }
            2 => Self::OtherCluster,
            3 => Self::OtherHistory,
            4 => Self::OtherNode,
            5 => Self::Stranger { applied: refused.applied },
            6 => Self::NotReady,
            7 => Self::Keyless,
            8 => Self::Proof,
            9 => Self::Twin,
            10 => Self::Malformed,
            11 => Self::TooLong,
            12 => ErrorCode::from_number(refused.code).map_or(Self::Unknown(12), Self::Log),
            13 => Self::TooOld { needs: refused.state_version },
            14 => Self::Unsigned,
            15 => Self::Altered,
            16 => Self::Untrusted,
            17 => Self::Downgrade { minimum: refused.minimum_release.chars().take(40).collect() },
            number => Self::Unknown(number),
        }
    }

    /// What whoever asked for a join over management gets as a code.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Version { .. } | Self::Unknown(_) => ErrorCode::NotSupported,
            Self::OtherCluster | Self::OtherHistory | Self::OtherNode => ErrorCode::OtherIncarnation,
            Self::Stranger { .. } | Self::Keyless | Self::Twin => ErrorCode::AdmissionRefused,
            Self::NotReady => ErrorCode::NotReady,
            Self::TooOld { .. } => ErrorCode::VersionRefused,
            Self::Unsigned | Self::Altered | Self::Untrusted | Self::Downgrade { .. } => ErrorCode::ReleaseRefused,
            Self::Proof => ErrorCode::CertificateRefused,
            Self::Malformed => ErrorCode::Malformed,
            Self::TooLong => ErrorCode::TooLarge,
            Self::Log(code) => *code,
        }
    }
}

/// There is no connection to another HSM.
#[derive(Debug, thiserror::Error)]
pub enum DialFault {
    /// The sandbox forbids the port.
    #[error("the port of {address} is not among --peer-ports: start this HSM with all ports that members listen on")]
    Port {
        /// Where it should go.
        address: SocketAddr,
    },
    /// What the roster has is no address.
    #[error("{0:?} is no address and port")]
    Address(String),
    /// TCP.
    #[error("it cannot be reached: {0}")]
    Unreachable(std::io::Error),
    /// The certificates do not chain to the same card key.
    #[error(
        "it is of another installation: HSMs of one cluster are certified by one card key, so start them with the same \
         --installation"
    )]
    OtherInstallation,
    /// TLS failed otherwise.
    #[error("TLS failed: {0}")]
    Tls(std::io::Error),
    /// Another HSM than the roster says.
    #[error("the HSM there has another certificate than the roster says")]
    OtherHsm,
    /// Too slow.
    #[error("it did not answer in time")]
    TimedOut,
    /// Not this protocol.
    #[error("it does not speak this protocol, or the connection was cut: {0}")]
    Wire(#[from] super::wire::WireFault),
    /// The cluster does not take the program that it runs.
    #[error("it is not taken as a member: {0}")]
    Program(PeerRefusal),
    /// It said no.
    #[error("it refused: {0}")]
    Refused(PeerRefusal),
}

impl DialFault {
    /// A failure while the handshake was under way, or on the first message after it.
    pub(super) fn of_tls(error: std::io::Error) -> Self {
        use rustls::{AlertDescription, CertificateError, Error};
        let rustls = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        match rustls {
            Some(
                Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature)
                | Error::AlertReceived(AlertDescription::UnknownCA | AlertDescription::DecryptError),
            ) => Self::OtherInstallation,
            _ => Self::Tls(error),
        }
    }

    /// What whoever asked for a join over management gets as a code.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Port { .. } | Self::Address(_) => ErrorCode::AttributeValue,
            Self::Unreachable(_) | Self::TimedOut | Self::Tls(_) => ErrorCode::NotReady,
            Self::OtherInstallation | Self::OtherHsm => ErrorCode::CertificateRefused,
            Self::Wire(_) => ErrorCode::Malformed,
            Self::Program(refusal) | Self::Refused(refusal) => refusal.code(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_arrives_as_it_was_sent() {
        let release = env!("CARGO_PKG_VERSION").to_owned();
        let refusals = [
            PeerRefusal::Version { oldest: OLDEST, newest: NEWEST, release },
            PeerRefusal::OtherCluster,
            PeerRefusal::OtherHistory,
            PeerRefusal::OtherNode,
            PeerRefusal::Stranger { applied: 7 },
            PeerRefusal::NotReady,
            PeerRefusal::Keyless,
            PeerRefusal::Proof,
            PeerRefusal::Twin,
            PeerRefusal::Malformed,
            PeerRefusal::TooLong,
            PeerRefusal::TooOld { needs: 2 },
            PeerRefusal::Unsigned,
            PeerRefusal::Altered,
            PeerRefusal::Untrusted,
            PeerRefusal::Downgrade { minimum: "1.2.3".to_owned() },
            PeerRefusal::Log(ErrorCode::MemberLimit),
            PeerRefusal::Unknown(99),
        ];
        for refusal in refusals {
            assert_eq!(PeerRefusal::from_wire(refusal.to_wire()), refusal);
        }
    }
}
