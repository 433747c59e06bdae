//! What may go wrong in the cryptographic module, and which code of the protocol each fault becomes.
//!
//! A fault carries no operand: neither data nor key, only, where it helps, the number of the attribute concerned.

use hsm_core::Refusal;
use hsm_protocol::{AttributeKind, ErrorCode};

/// Why a cryptographic operation was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CryptoFault {
    /// The mechanism does not exist here, or not for this operation.
    #[error("the mechanism does not exist, or not for this operation")]
    MechanismInvalid,
    /// Its parameters are not possible.
    #[error("the mechanism's parameters are not possible")]
    MechanismParameters,
    /// Mode FIPS does not allow these parameters.
    #[error("mode FIPS does not allow these parameters")]
    FipsRefused,
    /// The key's type does not fit the mechanism.
    #[error("the key's type does not fit the mechanism")]
    KeyType,
    /// The key's size does not fit the mechanism.
    #[error("the key's size does not fit the mechanism")]
    KeySize,
    /// The key material is not valid: a point off its curve, inconsistent RSA numbers, a wrong length.
    #[error("the key material is not valid")]
    KeyMaterial,
    /// The curve is not supported.
    #[error("the curve is not supported")]
    CurveUnsupported,
    /// An attribute that is needed is missing.
    #[error("attribute {0:?} is missing")]
    AttributeMissing(AttributeKind),
    /// The value of an attribute is not possible.
    #[error("the value of attribute {0:?} is not possible")]
    AttributeValue(AttributeKind),
    /// An attribute contradicts the key material or the mechanism.
    #[error("attribute {0:?} contradicts the key")]
    AttributeInconsistent(AttributeKind),
    /// The data's length does not fit.
    #[error("the data's length does not fit")]
    DataLength,
    /// The data is not possible.
    #[error("the data is not possible")]
    DataInvalid,
    /// The encrypted data's length does not fit.
    #[error("the encrypted data's length does not fit")]
    EncryptedLength,
    /// The encrypted data is not valid (padding or tag).
    #[error("the encrypted data is not valid")]
    EncryptedInvalid,
    /// The signature is wrong.
    #[error("the signature is wrong")]
    SignatureInvalid,
    /// The signature's length does not fit.
    #[error("the signature's length does not fit")]
    SignatureLength,
    /// The wrapped key is not valid.
    #[error("the wrapped key is not valid")]
    WrappedKeyInvalid,
    /// The wrapped key's length does not fit.
    #[error("the wrapped key's length does not fit")]
    WrappedKeyLength,
    /// This key cannot be wrapped by this mechanism.
    #[error("this key cannot be wrapped by this mechanism")]
    NotWrappable,
    /// The value of this key cannot be digested.
    #[error("the value of this key cannot be digested")]
    Indigestible,
    /// More input than a limit allows.
    #[error("more input than a limit allows")]
    TooLarge,
    /// The parts of a multi-part operation do not follow each other.
    #[error("the parts of the operation do not follow each other")]
    OutOfOrder,
    /// This does not exist in this version.
    #[error("this does not exist in this version")]
    NotSupported,
    /// A permit was presented for another object or another mechanism than the one used: a bug of the caller inside the
    /// HSM, which must stop.
    #[error("a permit was presented for another key or mechanism")]
    PermitMismatch,
    /// The provider failed, or a test of the module did: the HSM must stop.
    #[error("the cryptographic module failed")]
    ModuleFailed,
}

impl CryptoFault {
    /// The code that the caller is answered.
    pub fn code(self) -> ErrorCode {
        match self {
            Self::MechanismInvalid => ErrorCode::MechanismInvalid,
            Self::MechanismParameters => ErrorCode::MechanismParameters,
            Self::FipsRefused => ErrorCode::FipsRefused,
            Self::KeyType => ErrorCode::KeyTypeRefused,
            Self::KeySize => ErrorCode::KeySizeRefused,
            Self::KeyMaterial => ErrorCode::KeyMaterialInvalid,
            Self::CurveUnsupported => ErrorCode::CurveUnsupported,
            Self::AttributeMissing(_) => ErrorCode::TemplateIncomplete,
            Self::AttributeValue(_) => ErrorCode::AttributeValue,
            Self::AttributeInconsistent(_) => ErrorCode::TemplateInconsistent,
            Self::DataLength => ErrorCode::DataLength,
            Self::DataInvalid => ErrorCode::DataInvalid,
            Self::EncryptedLength => ErrorCode::EncryptedLength,
            Self::EncryptedInvalid => ErrorCode::EncryptedInvalid,
            Self::SignatureInvalid => ErrorCode::SignatureInvalid,
            Self::SignatureLength => ErrorCode::SignatureLength,
            Self::WrappedKeyInvalid => ErrorCode::WrappedKeyInvalid,
            Self::WrappedKeyLength => ErrorCode::WrappedKeyLength,
            Self::NotWrappable => ErrorCode::KeyNotWrappable,
            Self::Indigestible => ErrorCode::KeyIndigestible,
            Self::TooLarge => ErrorCode::TooLarge,
            Self::OutOfOrder => ErrorCode::StreamUnknown,
            Self::NotSupported => ErrorCode::NotSupported,
            Self::PermitMismatch | Self::ModuleFailed => ErrorCode::CryptoFailed,
        }
    }

    /// The number of the attribute concerned; 0 when there is none.
    pub fn subject(self) -> u64 {
        match self {
            Self::AttributeMissing(kind) | Self::AttributeValue(kind) | Self::AttributeInconsistent(kind) => {
                kind.into()
            }
            _ => 0,
        }
    }
}

impl From<CryptoFault> for Refusal {
    fn from(fault: CryptoFault) -> Self {
        Self { code: fault.code(), subject: fault.subject() }
    }
}

/// Something sealed does not open: it is altered, or belongs elsewhere, or was made under another key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealBroken {
    /// It is no sealed thing of a known format.
    #[error("the sealed bytes have no known format")]
    Format,
    /// It was sealed under a key of another epoch.
    #[error("sealed under another epoch of the cluster master key")]
    Epoch,
    /// Its authentication fails: altered, or bound to something else.
    #[error("the sealed bytes are altered, or bound to something else")]
    Authentication,
}

impl From<SealBroken> for CryptoFault {
    /// For seals that the HSM itself keeps: one that does not open means a broken store.
    fn from(_: SealBroken) -> Self {
        Self::ModuleFailed
    }
}

/// A test of the module failed: it must not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelfTestFailure {
    /// A known answer came out differently.
    #[error("known-answer test of {0} failed")]
    KnownAnswer(&'static str),
    /// A new key pair does not belong together.
    #[error("pairwise consistency test of {0} failed")]
    Pairwise(&'static str),
    /// The noise source repeats itself (SP 800-90B §4.4.1).
    #[error("repetition count test of the noise source failed")]
    Repetition,
    /// The noise source prefers a value (SP 800-90B §4.4.2).
    #[error("adaptive proportion test of the noise source failed")]
    Proportion,
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    NoEntropy,
    /// Secret memory could not be had.
    #[error("no memory for secrets: raise the limit of locked memory (RLIMIT_MEMLOCK)")]
    NoSecretMemory,
}

impl From<SelfTestFailure> for CryptoFault {
    fn from(_: SelfTestFailure) -> Self {
        Self::ModuleFailed
    }
}
