//! The codes with which an HSM refuses or fails, and who is at fault for each.
//!
//! What crosses the trust boundary is a code; the detail stands in the HSM's log beside the request id. A code never
//! tells whether a user exists, and never carries an operand.

/// Who must do something about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party {
    /// Policy said no. The caller may do something else, not the same again.
    Refusal,
    /// The caller's bug: a call that can never succeed as it stands.
    Misuse,
    /// The other side of the connection does not speak the protocol.
    PeerFault,
    /// Not now or not here: try again, or at another HSM.
    Unavailable,
    /// This HSM must not go on.
    Broken,
}

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $number:literal, $party:ident;)+) => {
        /// Why a request was not done. The numbers are part of the protocol and never change their meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[repr(u32)]
        pub enum ErrorCode {
            $($(#[doc = $doc])+ $name = $number,)+
        }

        impl ErrorCode {
            /// All codes, for tables and tests.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The code with this number on the wire.
            pub fn from_number(number: u32) -> Option<Self> {
                match number { $($number => Some(Self::$name),)+ _ => None }
            }

            /// Who is at fault.
            pub fn party(self) -> Party {
                match self { $(Self::$name => Party::$party,)+ }
            }

            /// One sentence for a person: the cause and what to do.
            pub fn explanation(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

codes! {
    /// The message could not be decoded; the peer is broken or speaks another version.
    Malformed = 1, PeerFault;
    /// This HSM does not know the method; update it.
    UnknownMethod = 2, PeerFault;
    /// A part, template or value is over a documented limit; send less or in parts.
    TooLarge = 3, Misuse;
    /// Too many requests are under way; wait a moment and try again.
    Busy = 4, Unavailable;
    /// The HSM is not ready for requests (starting, stopping, or without a leader); try again or another HSM.
    NotReady = 5, Unavailable;
    /// The outcome is unknown; repeat the call with the same sequence number to learn it.
    Unknown = 6, Unavailable;
    /// The HSM found its own state broken and stops; look at its log.
    Broken = 7, Broken;
    /// This does not exist in this version.
    NotSupported = 8, Misuse;
    /// The sequence number was used before and its result is gone; use a new one.
    SequencePassed = 9, Misuse;
    /// The answer belongs to another incarnation of the cluster; log in again.
    OtherIncarnation = 10, Unavailable;
    /// The HSM's disk is full or refuses writes; nothing was changed.
    StorageFull = 11, Unavailable;

    /// This HSM hears from no majority of its cluster, and may not do this alone, or not any more; try another HSM.
    Isolated = 12, Unavailable;
    /// The change would leave too few members to decide anything; bring the others back first, or recover the cluster.
    QuorumLoss = 13, Refusal;

    /// Nobody is logged in on this connection, or the login has ended; log in.
    NotLoggedIn = 20, Refusal;
    /// User name or password is wrong, or the user may not log in now.
    LoginRefused = 21, Refusal;
    /// Too many wrong passwords: an admin must change the password to unlock the user.
    UserLocked = 22, Refusal;
    /// An admin has disabled this user.
    UserDisabled = 23, Refusal;
    /// The role of this login does not allow the call.
    RoleRefused = 24, Refusal;
    /// Wait before the next attempt to log in.
    LoginDelayed = 25, Unavailable;
    /// The password does not fit the rules (8 to 128 characters).
    PasswordRule = 26, Misuse;
    /// The user name does not fit the rules (1 to 31 letters, digits, or one of _ - . @, beginning with a letter).
    UserNameRule = 27, Misuse;
    /// A user of that name and role exists.
    UserExists = 28, Refusal;
    /// There is no user of that name and role.
    UserUnknown = 29, Refusal;
    /// The user owns keys or is logged in, so it cannot be deleted.
    UserInUse = 30, Refusal;
    /// This is the last admin who can still log in.
    LastAdmin = 31, Refusal;
    /// The cluster's limit of users is reached.
    UserLimit = 32, Refusal;
    /// The limit of logins at one time is reached; log out elsewhere.
    SessionLimit = 33, Refusal;
    /// The token does not belong to this cluster, or its proof is wrong; log in again.
    TokenRefused = 34, Refusal;

    /// The cluster is not in the state that this call needs (uninitialised, not activated, zeroized).
    LifecycleRefused = 40, Refusal;
    /// A certificate was refused: see the HSM's log for the rule it breaks.
    CertificateRefused = 41, Refusal;
    /// The limit of trust anchors is reached; deregister one.
    TrustAnchorLimit = 42, Refusal;
    /// This trust anchor is registered already.
    TrustAnchorExists = 43, Refusal;
    /// There is no trust anchor with that reference.
    TrustAnchorUnknown = 44, Refusal;
    /// Client certificates cannot be required before a trust anchor is registered.
    TrustAnchorMissing = 45, Refusal;
    /// No rule covers this HSM's admission; an admin approves it (`kagimori cluster admission approve`) or raises the rule.
    AdmissionRefused = 46, Refusal;
    /// The cluster has as many HSMs as its admission rule allows (28 at most).
    MemberLimit = 47, Refusal;
    /// No member of the cluster has that name.
    MemberUnknown = 48, Refusal;
    /// This is the last HSM of the cluster; delete the cluster instead.
    LastMember = 49, Refusal;

    /// There is no such object, or this login may not see it.
    ObjectUnknown = 50, Refusal;
    /// The HSM does not hold this session object; repeat the call with the sealed object.
    SessionObjectUnknown = 51, Unavailable;
    /// The sealed session object is altered, or belongs to another login.
    SessionObjectRefused = 52, Refusal;
    /// The object belongs to another user.
    OwnerRefused = 53, Refusal;
    /// The object's attributes do not allow this use.
    KeyUseRefused = 54, Refusal;
    /// The key's type does not fit the mechanism.
    KeyTypeRefused = 55, Misuse;
    /// The key's size does not fit the mechanism.
    KeySizeRefused = 56, Misuse;
    /// The key cannot leave the HSM (CKA_EXTRACTABLE is false).
    NotExtractable = 57, Refusal;
    /// The key may be wrapped only by a trusted key (CKA_WRAP_WITH_TRUSTED).
    WrapWithTrusted = 58, Refusal;
    /// The wrapping key's template does not match the key.
    WrapTemplate = 59, Refusal;
    /// The object must not be destroyed (CKA_DESTROYABLE is false).
    NotDestroyable = 60, Refusal;
    /// The object must not be copied (CKA_COPYABLE is false).
    NotCopyable = 61, Refusal;
    /// The object must not be changed (CKA_MODIFIABLE is false).
    NotModifiable = 62, Refusal;
    /// The cluster's limit of objects is reached.
    ObjectLimit = 63, Refusal;
    /// The object changed while the call was prepared; the HSM tries again by itself, then tells so.
    ObjectChanged = 64, Unavailable;
    /// The mechanism is not in the key's CKA_ALLOWED_MECHANISMS.
    MechanismNotAllowed = 65, Refusal;
    /// Wrapping this key by this mechanism is not possible (type, size).
    KeyNotWrappable = 66, Misuse;
    /// The value of this key cannot be digested.
    KeyIndigestible = 67, Refusal;

    /// The template lacks an attribute that this object needs.
    TemplateIncomplete = 70, Misuse;
    /// Two attributes contradict each other, or one does not fit the object or mechanism.
    TemplateInconsistent = 71, Misuse;
    /// The attribute is not known or not possible for this object.
    AttributeUnknown = 72, Misuse;
    /// The attribute's value is not possible.
    AttributeValue = 73, Misuse;
    /// The attribute cannot be set by the caller, or not in this direction.
    AttributeReadOnly = 74, Refusal;
    /// The curve or domain parameters are not supported.
    CurveUnsupported = 75, Misuse;

    /// The mechanism does not exist here, or not for this operation.
    MechanismInvalid = 80, Misuse;
    /// The mechanism's parameters are not possible.
    MechanismParameters = 81, Misuse;
    /// In mode FIPS this mechanism, key size or hash is not approved.
    FipsRefused = 82, Refusal;
    /// The data's length does not fit the operation.
    DataLength = 83, Misuse;
    /// The data is not possible for the operation.
    DataInvalid = 84, Misuse;
    /// The encrypted data's length does not fit.
    EncryptedLength = 85, Misuse;
    /// The encrypted data is not valid (padding or tag).
    EncryptedInvalid = 86, Refusal;
    /// The signature is not valid for this data and key.
    SignatureInvalid = 87, Refusal;
    /// The signature's length does not fit.
    SignatureLength = 88, Refusal;
    /// The wrapped key is not valid.
    WrappedKeyInvalid = 89, Refusal;
    /// The wrapped key's length does not fit.
    WrappedKeyLength = 90, Misuse;
    /// There is no such multi-part operation, or its parts do not follow each other.
    StreamUnknown = 91, Misuse;
    /// The key material is not valid (a point off its curve, inconsistent RSA numbers).
    KeyMaterialInvalid = 92, Misuse;
    /// The cryptographic module refused or failed a test; the HSM stops.
    CryptoFailed = 93, Broken;

    /// This HSM's program is older than the version that its cluster uses; update it.
    VersionRefused = 94, Refusal;
    /// A member of the cluster runs a program that does not know this yet; update every HSM first.
    ClusterTooOld = 95, Refusal;
    /// This HSM's program is no release that its cluster trusts, or an older one than it takes; install a signed release.
    ReleaseRefused = 96, Refusal;

    /// This login was made on an HSM that was isolated, and the cluster does not know it yet: it uses keys there, and changes
    /// nothing until that HSM hears from a majority again; bring the others back, then repeat the call.
    LoginNotMerged = 97, Unavailable;
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{:?} ({}): {}", self, *self as u32, self.explanation())
    }
}

impl std::error::Error for ErrorCode {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_codes_stand_one_to_one() {
        for &code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_number(code as u32), Some(code));
        }
        assert_eq!(ErrorCode::from_number(0), None);
    }

    #[test]
    fn every_code_says_something_to_a_person() {
        for &code in ErrorCode::ALL {
            assert!(code.explanation().ends_with('.'), "{code:?}");
        }
    }
}
