//! `CKR_…`: what a function returns, and which one each error of the HSM becomes.
//!
//! One table, [`ReturnValue::from_code`], in which every [`ErrorCode`] stands by name. The detail that a number cannot
//! carry goes to the log at the same moment (`crate::log`).

use cryptoki_sys::*;
use hsm_client::CallError;
use hsm_protocol::ErrorCode;

/// A `CKR_…` number other than `CKR_OK`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReturnValue(pub CK_RV);

/// Success, or why not.
pub type Outcome<T = ()> = Result<T, ReturnValue>;

/// An outcome that is this error.
///
/// # Errors
/// Always: that is its use.
pub fn refuse<T>(code: CK_RV) -> Outcome<T> {
    Err(ReturnValue(code))
}

/// What a call was about: PKCS#11 names the same fault differently for a key, an object or a wrapping key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// An object as such: its attributes, a copy, its destruction.
    Object,
    /// A key in use.
    Key,
    /// A pair of wrapping key and key.
    Wrap,
    /// An unwrapping key.
    Unwrap,
    /// A base key and what is derived from it.
    Derive,
    /// A login.
    Login,
    /// Nothing of these: random numbers, digests, lists.
    Token,
}

impl ReturnValue {
    /// The number for an error of a call; also says whether the cause is worth a warning.
    pub fn from_call_error(error: &CallError, about: About) -> Self {
        match error {
            CallError::Refused { code, .. } => Self::from_code(*code, about),
            CallError::Forked => Self(CKR_CRYPTOKI_NOT_INITIALIZED),
            CallError::Configuration(_) => Self(CKR_GENERAL_ERROR),
            CallError::StreamLost { .. } => Self(CKR_FUNCTION_FAILED),
            CallError::Unreachable { .. }
            | CallError::OutcomeUnknown { .. }
            | CallError::TimedOut { .. }
            | CallError::Certificate { .. }
            | CallError::Peer { .. } => Self(CKR_DEVICE_ERROR),
        }
    }

    /// The number for a code of the HSM.
    pub fn from_code(code: ErrorCode, about: About) -> Self {
        use ErrorCode as E;
        Self(match code {
            E::Malformed | E::Broken | E::NotReady | E::Isolated | E::CryptoFailed | E::LoginNotMerged => {
                CKR_DEVICE_ERROR
            }
            E::UnknownMethod | E::NotSupported => CKR_FUNCTION_NOT_SUPPORTED,
            E::Busy | E::Unknown | E::SequencePassed | E::LoginDelayed | E::ObjectChanged => CKR_FUNCTION_FAILED,
            E::StorageFull | E::ObjectLimit => CKR_DEVICE_MEMORY,
            E::TooLarge if matches!(about, About::Object) => CKR_ATTRIBUTE_VALUE_INVALID,
            E::TooLarge => CKR_DATA_LEN_RANGE,

            E::LoginRefused => CKR_PIN_INCORRECT,
            E::UserNameRule | E::UserUnknown if matches!(about, About::Login) => CKR_PIN_INCORRECT,
            E::UserLocked => CKR_PIN_LOCKED,
            E::UserDisabled if matches!(about, About::Login) => CKR_PIN_LOCKED,
            E::PasswordRule => CKR_PIN_LEN_RANGE,
            E::SessionLimit => CKR_SESSION_COUNT,
            E::LifecycleRefused if matches!(about, About::Login) => CKR_USER_PIN_NOT_INITIALIZED,
            E::LifecycleRefused => CKR_TOKEN_NOT_RECOGNIZED,
            E::NotLoggedIn | E::TokenRefused | E::OtherIncarnation | E::RoleRefused | E::UserDisabled => {
                CKR_USER_NOT_LOGGED_IN
            }
            E::UserNameRule | E::UserUnknown => CKR_PIN_INVALID,
            // Users, certificates and members are managed by `kagimori` and not through PKCS#11, so these do not arrive here.
            E::UserExists | E::UserInUse | E::LastAdmin | E::UserLimit => CKR_FUNCTION_FAILED,
            E::CertificateRefused | E::TrustAnchorLimit | E::TrustAnchorExists => CKR_FUNCTION_FAILED,
            E::TrustAnchorUnknown | E::TrustAnchorMissing => CKR_FUNCTION_FAILED,
            E::AdmissionRefused | E::MemberLimit | E::MemberUnknown => CKR_FUNCTION_FAILED,
            E::LastMember | E::QuorumLoss => CKR_FUNCTION_FAILED,
            E::VersionRefused | E::ClusterTooOld | E::ReleaseRefused => CKR_FUNCTION_FAILED,

            E::ObjectUnknown | E::SessionObjectUnknown | E::SessionObjectRefused => about.handle_invalid(),
            E::OwnerRefused if matches!(about, About::Object) => CKR_ACTION_PROHIBITED,
            E::OwnerRefused | E::KeyUseRefused => CKR_KEY_FUNCTION_NOT_PERMITTED,
            E::NotDestroyable | E::NotCopyable | E::NotModifiable => CKR_ACTION_PROHIBITED,
            E::KeyTypeRefused => about.key_type_inconsistent(),
            E::KeySizeRefused => about.key_size_range(),
            E::NotExtractable => CKR_KEY_UNEXTRACTABLE,
            E::WrapWithTrusted | E::KeyNotWrappable => CKR_KEY_NOT_WRAPPABLE,
            // PKCS#11 3.2 §4.9, CKA_WRAP_TEMPLATE: a key that does not match is as good as not there.
            E::WrapTemplate => CKR_KEY_HANDLE_INVALID,
            E::KeyIndigestible => CKR_KEY_INDIGESTIBLE,

            E::TemplateIncomplete => CKR_TEMPLATE_INCOMPLETE,
            E::TemplateInconsistent => CKR_TEMPLATE_INCONSISTENT,
            E::AttributeUnknown => CKR_ATTRIBUTE_TYPE_INVALID,
            E::AttributeValue => CKR_ATTRIBUTE_VALUE_INVALID,
            E::AttributeReadOnly => CKR_ATTRIBUTE_READ_ONLY,
            E::CurveUnsupported => CKR_CURVE_NOT_SUPPORTED,
            E::KeyMaterialInvalid if matches!(about, About::Derive) => CKR_MECHANISM_PARAM_INVALID,
            E::KeyMaterialInvalid if matches!(about, About::Unwrap) => CKR_WRAPPED_KEY_INVALID,
            E::KeyMaterialInvalid => CKR_ATTRIBUTE_VALUE_INVALID,

            E::MechanismInvalid | E::MechanismNotAllowed | E::FipsRefused => CKR_MECHANISM_INVALID,
            E::MechanismParameters => CKR_MECHANISM_PARAM_INVALID,
            E::DataLength => CKR_DATA_LEN_RANGE,
            E::DataInvalid => CKR_DATA_INVALID,
            E::EncryptedLength => CKR_ENCRYPTED_DATA_LEN_RANGE,
            E::EncryptedInvalid => CKR_ENCRYPTED_DATA_INVALID,
            E::SignatureInvalid => CKR_SIGNATURE_INVALID,
            E::SignatureLength => CKR_SIGNATURE_LEN_RANGE,
            E::WrappedKeyInvalid => CKR_WRAPPED_KEY_INVALID,
            E::WrappedKeyLength => CKR_WRAPPED_KEY_LEN_RANGE,
            E::StreamUnknown => CKR_OPERATION_NOT_INITIALIZED,
        })
    }
}

impl About {
    /// The number for a handle that names nothing.
    pub fn handle_invalid(self) -> CK_RV {
        match self {
            Self::Object | Self::Login | Self::Token => CKR_OBJECT_HANDLE_INVALID,
            Self::Key | Self::Derive | Self::Wrap => CKR_KEY_HANDLE_INVALID,
            Self::Unwrap => CKR_UNWRAPPING_KEY_HANDLE_INVALID,
        }
    }

    /// The number for a key whose type does not fit.
    pub fn key_type_inconsistent(self) -> CK_RV {
        match self {
            Self::Wrap => CKR_WRAPPING_KEY_TYPE_INCONSISTENT,
            Self::Unwrap => CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT,
            Self::Object | Self::Key | Self::Derive | Self::Login | Self::Token => CKR_KEY_TYPE_INCONSISTENT,
        }
    }

    fn key_size_range(self) -> CK_RV {
        match self {
            Self::Wrap => CKR_WRAPPING_KEY_SIZE_RANGE,
            Self::Unwrap => CKR_UNWRAPPING_KEY_SIZE_RANGE,
            Self::Object | Self::Key | Self::Derive | Self::Login | Self::Token => CKR_KEY_SIZE_RANGE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABOUTS: [About; 7] =
        [About::Object, About::Key, About::Wrap, About::Unwrap, About::Derive, About::Login, About::Token];

    #[test]
    fn no_error_of_the_hsm_becomes_success_or_a_number_that_is_not_pkcs11() {
        for &code in ErrorCode::ALL {
            for about in ABOUTS {
                let ReturnValue(number) = ReturnValue::from_code(code, about);
                assert_ne!(number, CKR_OK, "{code:?}");
                assert!(number < CKR_TOKEN_NOT_INITIALIZED, "{code:?} gives {number:#x}, which 2.40 does not have");
            }
        }
    }

    #[test]
    fn a_missing_object_is_named_after_its_role() {
        let number = |about| ReturnValue::from_code(ErrorCode::ObjectUnknown, about).0;
        assert_eq!(number(About::Object), CKR_OBJECT_HANDLE_INVALID);
        assert_eq!(number(About::Key), CKR_KEY_HANDLE_INVALID);
        assert_eq!(number(About::Unwrap), CKR_UNWRAPPING_KEY_HANDLE_INVALID);
    }

    #[test]
    fn wrong_and_locked_passwords_are_told_apart() {
        let number = |code| ReturnValue::from_code(code, About::Login).0;
        assert_eq!(number(ErrorCode::LoginRefused), CKR_PIN_INCORRECT);
        assert_eq!(number(ErrorCode::UserLocked), CKR_PIN_LOCKED);
        assert_eq!(number(ErrorCode::UserDisabled), CKR_PIN_LOCKED);
    }
}
