//! What can go wrong with a call, by the party that must do something about it.
//!
//! Every message names the cause, who is at fault and the next step, and never an operand, a password or a token.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use hsm_protocol::frame::FrameError;
use hsm_protocol::{AttributeKind, ErrorCode, MechanismKind};

use crate::configuration::ConfigurationError;

/// A call that was not done, or whose outcome is unknown.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    /// An HSM answered that it will not do this.
    #[error("the HSM refused: {code}{}", About(*code, *subject))]
    Refused {
        /// Why.
        code: ErrorCode,
        /// The attribute or mechanism that it is about, or the milliseconds to wait
        /// ([`ErrorCode::LoginDelayed`]); 0 for none.
        subject: u64,
    },
    /// No HSM could be reached within the call's deadline. The call was not done.
    #[error(
        "no HSM of cluster \"{cluster}\" can be reached: {}; see that one runs and that the addresses in client.toml are right",
        Attempts(attempts)
    )]
    Unreachable {
        /// Label of the cluster.
        cluster: String,
        /// The last attempt at each address.
        attempts: Vec<Attempt>,
    },
    /// The connection was lost after the call had been sent, and it is not one that may be repeated.
    #[error(
        "the connection to cluster \"{cluster}\" was lost ({reason}) and the call may or may not have been done; look before you repeat it"
    )]
    OutcomeUnknown {
        /// Label of the cluster.
        cluster: String,
        /// How the connection ended.
        reason: String,
    },
    /// No answer within the call's deadline. A call that changes state may have been done all the same.
    #[error(
        "cluster \"{cluster}\" gave no answer within {waited:.1?}; the call may have been done all the same; see whether the HSM is overloaded or cut off"
    )]
    TimedOut {
        /// Label of the cluster.
        cluster: String,
        /// How long the call waited.
        waited: Duration,
    },
    /// `client.toml`, or a file that it names.
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    /// The two sides do not trust each other.
    #[error("{address}: {fault}")]
    Certificate {
        /// Where.
        address: String,
        /// What is wrong.
        fault: CertificateFault,
    },
    /// What answers is no HSM, or one of another version.
    #[error("what answers at {address} does not speak this protocol: {fault}")]
    Peer {
        /// Where.
        address: String,
        /// What it did.
        fault: PeerFault,
    },
    /// This process is a child of the one that made the [`crate::Cluster`]. Make a new one.
    #[error("this process was forked from the one that opened the cluster; open it anew here (PKCS#11: C_Initialize)")]
    Forked,
    /// The connection of a multi-part operation was lost after more input than is kept for a replay.
    #[error(
        "the HSM that held this multi-part operation was lost after {input} bytes of input, more than can be replayed; begin the operation again"
    )]
    StreamLost {
        /// Bytes of input so far.
        input: u64,
    },
}

impl CallError {
    /// The HSM's code, when an HSM answered. `hsm-pkcs11` makes its `CKR_…` from it.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// The attribute or mechanism that a refusal is about, or the milliseconds to wait; 0 for none.
    pub fn subject(&self) -> u64 {
        match self {
            Self::Refused { subject, .. } => *subject,
            _ => 0,
        }
    }

    /// A refusal about nothing in particular.
    pub(crate) fn refused(code: ErrorCode) -> Self {
        Self::Refused { code, subject: 0 }
    }
}

/// One attempt to reach an HSM.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Address or path of the socket.
    pub address: String,
    /// How it failed.
    pub reason: String,
}

/// Why the two sides do not trust each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateFault {
    /// No certificate in the trust anchor's file has signed the HSM's certificate.
    #[error("the HSM's certificate (subject \"{subject}\", issuer \"{issuer}\") is not signed by the trust anchor in {}; see that `trust-anchor` names the CA that signed the cluster's certificate request", anchor.display())]
    NotTrusted {
        /// The HSM's name in its certificate.
        subject: String,
        /// Who claims to have signed it.
        issuer: String,
        /// File of the trust anchor.
        anchor: PathBuf,
    },
    /// The certificate's time is over.
    #[error(
        "the HSM's certificate expired at {until}; sign and install a new one, and see that this machine's clock is right"
    )]
    Expired {
        /// End of its time.
        until: String,
    },
    /// The certificate's time has not begun.
    #[error(
        "the HSM's certificate is valid only from {from}; see that the clocks of this machine and of the signing one are right"
    )]
    NotYetValid {
        /// Beginning of its time.
        from: String,
    },
    /// A key type, signature or extension that must not be used here.
    #[error("the HSM's certificate cannot be used: {reason}")]
    Unusable {
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// The bytes are no certificate.
    #[error("the HSM sent something that is no X.509 certificate")]
    Unreadable,
    /// The HSM asks for a client certificate and none is configured.
    #[error("the HSM requires a client certificate; set `client-certificate` and `client-key` in client.toml")]
    ClientCertificateMissing,
    /// The HSM does not accept ours.
    #[error(
        "the HSM refused this client's certificate ({reason}); see that a trust anchor that signed it is registered with the cluster"
    )]
    ClientCertificateRefused {
        /// The alert that it sent.
        reason: String,
    },
    /// The handshake failed otherwise.
    #[error("the TLS handshake failed: {reason}; TLS 1.3 with ALPN hsm/1 is needed")]
    Handshake {
        /// What rustls says.
        reason: String,
    },
}

/// How the other side broke the protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerFault {
    /// Its bytes are no frame.
    #[error("{0}")]
    Frame(#[from] FrameError),
    /// Its frame holds no message, or none that answers the call.
    #[error("an answer could not be read or does not fit its call; update the older side")]
    Answer,
    /// It answered what nobody asked.
    #[error("an answer to a request that was never made")]
    RequestId,
    /// A code that this version does not know.
    #[error("error code {0} is not known here; update this client")]
    Code(u32),
    /// It leaves request after request without an answer.
    #[error("too many requests without an answer")]
    Silent,
    /// It belongs to another cluster than the one that this process works with.
    #[error("this HSM belongs to another cluster; see that `addresses` in client.toml names the HSMs of one cluster")]
    OtherCluster,
    /// It belongs to the same cluster at another time: before or after it was restored from a backup.
    #[error(
        "this HSM is of another incarnation of the cluster (before or after a restoration); stop the one that is out of date"
    )]
    OtherIncarnation,
    /// The cluster's roster does not list it.
    #[error("this HSM is no member of the cluster any more; take its address out of client.toml")]
    NotAMember,
    /// Its bytes are no TLS.
    #[error("its answer is no TLS; is this the port of an HSM?")]
    NotTls,
    /// It did not agree on the application protocol.
    #[error("no agreement on ALPN hsm/1; is this the port of an HSM?")]
    Alpn,
}

/// What a refusal is about, in the words of PKCS#11.
struct About(ErrorCode, u64);

impl fmt::Display for About {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let &Self(code, subject) = self;
        let attribute = || AttributeKind::from_number(subject).map(|kind| constant_name("CKA", &format!("{kind:?}")));
        let mechanism = || MechanismKind(subject).name().map(|name| format!("CKM_{name}"));
        let name = match code {
            _ if subject == 0 => return Ok(()),
            ErrorCode::LoginDelayed => return write!(formatter, " (in {subject} ms)"),
            ErrorCode::TemplateIncomplete
            | ErrorCode::TemplateInconsistent
            | ErrorCode::AttributeUnknown
            | ErrorCode::AttributeValue
            | ErrorCode::AttributeReadOnly
            | ErrorCode::CurveUnsupported => attribute(),
            _ => mechanism().or_else(attribute),
        };
        write!(formatter, " (about {})", name.unwrap_or_else(|| format!("{subject:#x}")))
    }
}

/// The constant of PKCS#11 with our name for it: `ModulusBits` is `CKA_MODULUS_BITS`.
fn constant_name(prefix: &str, name: &str) -> String {
    name.chars().fold(prefix.to_owned(), |mut constant, character| {
        if character.is_ascii_uppercase() || character.is_ascii_digit() {
            constant.push('_');
        }
        constant.push(character.to_ascii_uppercase());
        constant
    })
}

struct Attempts<'a>(&'a [Attempt]);

impl fmt::Display for Attempts<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return formatter.write_str("no attempt was finished in time");
        }
        for (position, attempt) in self.0.iter().enumerate() {
            let separator = if position == 0 { "" } else { ", " };
            write!(formatter, "{separator}{} ({})", attempt.address, attempt.reason)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_what_it_is_about_as_pkcs11_does() {
        let words = |code, subject| CallError::Refused { code, subject }.to_string();
        assert!(words(ErrorCode::AttributeValue, 0x121).ends_with("(about CKA_MODULUS_BITS)"));
        assert!(words(ErrorCode::TemplateIncomplete, 0x124).ends_with("(about CKA_PRIME_1)"));
        assert!(words(ErrorCode::MechanismInvalid, 0x40).ends_with("(about CKM_SHA256_RSA_PKCS)"));
        assert!(words(ErrorCode::FipsRefused, 0x122).ends_with("(about CKA_PUBLIC_EXPONENT)"));
        assert!(words(ErrorCode::AttributeUnknown, 0x7777).ends_with("(about 0x7777)"));
        assert!(words(ErrorCode::LoginDelayed, 2000).ends_with("(in 2000 ms)"));
        assert!(!words(ErrorCode::LoginRefused, 0).contains("about"));
    }
}
