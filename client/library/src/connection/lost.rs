//! Why a connection ended.

use crate::error::{CertificateFault, PeerFault};

/// The reason that everybody on the connection learns.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Lost {
    /// The HSM closed it.
    #[error("the HSM closed the connection")]
    Closed,
    /// The system ended it.
    #[error("{0}")]
    Io(String),
    /// TLS ended it.
    #[error("{0}")]
    Tls(rustls::Error),
    /// One side does not trust the other.
    #[error("{0}")]
    Certificate(CertificateFault),
    /// The HSM broke the protocol.
    #[error("{0}")]
    Peer(PeerFault),
    /// Nothing came for as long as a whole call may take.
    #[error("the HSM gave no sign of life")]
    Silent,
    /// A defect in this library.
    #[error("a thread failed in the midst of the connection; report this defect")]
    Panicked,
}

impl From<std::io::Error> for Lost {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error.to_string())
    }
}

impl From<PeerFault> for Lost {
    fn from(fault: PeerFault) -> Self {
        Self::Peer(fault)
    }
}

impl From<rustls::Error> for Lost {
    fn from(error: rustls::Error) -> Self {
        use rustls::AlertDescription as Alert;
        if let Some(fault) = crate::trust::fault_of(&error) {
            return Self::Certificate(fault);
        }
        match error {
            rustls::Error::AlertReceived(Alert::CertificateRequired) => {
                Self::Certificate(CertificateFault::ClientCertificateMissing)
            }
            rustls::Error::AlertReceived(
                alert @ (Alert::BadCertificate
                | Alert::UnsupportedCertificate
                | Alert::CertificateRevoked
                | Alert::CertificateExpired
                | Alert::CertificateUnknown
                | Alert::UnknownCA
                | Alert::AccessDenied),
            ) => Self::Certificate(CertificateFault::ClientCertificateRefused { reason: format!("{alert:?}") }),
            rustls::Error::AlertReceived(Alert::NoApplicationProtocol) | rustls::Error::NoApplicationProtocol => {
                Self::Peer(PeerFault::Alpn)
            }
            rustls::Error::AlertReceived(Alert::CloseNotify) => Self::Closed,
            rustls::Error::InvalidMessage(_) => Self::Peer(PeerFault::NotTls),
            rustls::Error::AlertReceived(_)
            | rustls::Error::PeerIncompatible(_)
            | rustls::Error::PeerMisbehaved(_)
            | rustls::Error::InappropriateMessage { .. }
            | rustls::Error::InappropriateHandshakeMessage { .. }
            | rustls::Error::InvalidCertificate(_) => {
                Self::Certificate(CertificateFault::Handshake { reason: error.to_string() })
            }
            other => Self::Tls(other),
        }
    }
}
