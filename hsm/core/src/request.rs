//! What is asked of the state machine before anything is made, and what it says must be made.

use hsm_protocol::{AttributeKind, AttributeValue, KeyType, Mechanism, ObjectClass, Role, Template, UserName};

use crate::curve::Curve;
use crate::ids::{HsmId, ObjectHandle, UserId};
use crate::object::Object;
use crate::permit::{BeCopied, Derive, Disclose, Permit, Unwrap};
use crate::releases::ReleaseRule;
use crate::roster::AdmissionRule;

/// A request that would change something, as `Hsm::needs` judges it before a command is made of it.
#[derive(Clone, Copy)]
#[expect(missing_docs, reason = "the members have the names of PKCS#11's arguments; each variant says the rest")]
pub enum Request<'a> {
    /// `C_GenerateKey`. Answer: [`Needs::SecretKey`].
    GenerateKey { mechanism: &'a Mechanism, template: &'a Template },
    /// `C_GenerateKeyPair`. Answer: [`Needs::KeyPair`].
    GenerateKeyPair { mechanism: &'a Mechanism, public_template: &'a Template, private_template: &'a Template },
    /// `C_CreateObject`. Answer: [`Needs::Import`].
    CreateObject { template: &'a Template },
    /// `C_CopyObject`. Answer: [`Needs::Copy`].
    CopyObject { source: &'a Object, template: &'a Template },
    /// `C_SetAttributeValue`. Answer: [`Needs::Replace`].
    SetAttributes { object: &'a Object, template: &'a Template },
    /// `C_DestroyObject`. Answer: [`Needs::Nothing`].
    DestroyObject { object: &'a Object },
    /// `C_UnwrapKey`. Answer: [`Needs::Unwrap`].
    UnwrapKey {
        mechanism: &'a Mechanism,
        unwrapping_key: &'a Object,
        template: &'a Template,
        confirmation: Confirmation,
    },
    /// `C_DeriveKey`. `second` is the other key of `CKM_CONCATENATE_BASE_AND_KEY`, or the salt key of HKDF.
    /// Answer: [`Needs::Derive`].
    DeriveKey {
        mechanism: &'a Mechanism,
        base_key: &'a Object,
        second: Option<&'a Object>,
        template: &'a Template,
        confirmation: Confirmation,
    },
    /// New user; the server makes the verifier after this was allowed. Answer: [`Needs::Nothing`], as for all below.
    CreateUser { name: &'a UserName, role: Role },
    /// Remove a user.
    DeleteUser { name: &'a UserName, role: Role },
    /// New password for oneself, or by an admin for anybody.
    ChangePassword { name: &'a UserName, role: Role },
    /// Enable or disable a user.
    SetUserEnabled { name: &'a UserName, role: Role, enabled: bool },
    /// End all sessions of a user.
    LogoutEverywhere { name: &'a UserName, role: Role },
    /// Remove a member of the cluster.
    RemoveMember { hsm: HsmId },
    /// Let one HSM join.
    ApproveMember { hsm: HsmId },
    /// Set the standing rule for admissions.
    SetAdmissionRule { rule: AdmissionRule },
    /// Set how long an HSM without a majority goes on.
    SetIsolationWindow { seconds: u32 },
    /// Set which programs take part.
    SetReleaseRule { rule: &'a ReleaseRule },
    /// See the members with their addresses, and the policy of the cluster.
    ShowCluster,
    /// Begin to give the cluster another TLS key.
    BeginReissue,
    /// See what the customer's CA must sign for it, or bring what it signed.
    FinishReissue,
    /// See the users.
    ListUsers,
    /// Register an anchor for client certificates.
    RegisterTrustAnchor { certificate: &'a str },
    /// Remove one.
    DeregisterTrustAnchor { reference: u32 },
    /// See the anchors.
    ListTrustAnchors,
    /// Whether clients must present a certificate.
    SetClientCertificates { required: bool },
}

/// Whether the user's password was just confirmed for this one operation (`CKU_CONTEXT_SPECIFIC`), which keys with
/// `CKA_ALWAYS_AUTHENTICATE` demand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmation {
    /// No password came with the request.
    None,
    /// The password came and was right: `FinishLogin` without a session was applied for this user.
    Given,
}

/// What must be made before a request can become a command.
pub enum Needs {
    /// Random octets for a secret key.
    SecretKey {
        /// The key to be.
        draft: Draft,
        /// How many octets.
        bytes: usize,
    },
    /// A key pair.
    KeyPair {
        /// The public key to be.
        public: Draft,
        /// The private key to be.
        private: Draft,
        /// What kind of pair.
        pair: PairSpec,
    },
    /// Material that the caller brought, to be checked and, where it is secret, sealed.
    Import {
        /// The object to be. [`Draft::has_payload`] says whether there is a secret part.
        draft: Draft,
        /// What came.
        material: Material,
    },
    /// A copy of an object: its payload sealed again for the new one.
    Copy {
        /// The copy to be.
        draft: Draft,
        /// Leave to open the source.
        permit: Permit<BeCopied>,
    },
    /// A key to be decrypted.
    Unwrap {
        /// The key to be.
        draft: Draft,
        /// Leave to use the unwrapping key.
        permit: Permit<Unwrap>,
        /// `CKA_VALUE_LEN` of the template, in bytes: needed by mechanisms that do not keep the length.
        length: Option<usize>,
    },
    /// A key to be derived.
    Derive {
        /// The key to be.
        draft: Draft,
        /// Leave to use the base key.
        permit: Permit<Derive>,
        /// Leave to use the second key, when the mechanism has one.
        second: Option<Permit<Derive>>,
        /// Wanted length in bytes; `None` = what the mechanism gives.
        length: Option<usize>,
    },
    /// The payload sealed under the object's new binding.
    Replace {
        /// Its handle; `None` for a session object.
        handle: Option<ObjectHandle>,
        /// The object as it shall be: its version is one above the version that it was made from.
        object: Object,
    },
    /// Nothing: the command can be made at once.
    Nothing,
}

/// A key pair to generate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PairSpec {
    /// RSA.
    Rsa {
        /// Bits of the modulus.
        bits: u32,
        /// Public exponent, big-endian without leading zeros.
        exponent: Vec<u8>,
    },
    /// A curve in Weierstrass form.
    Ec(Curve),
    /// Ed25519.
    Ed25519,
    /// X25519.
    X25519,
}

/// The material that came in a template: the secret attributes, and the public ones that must agree with them
/// (`CKA_MODULUS`, `CKA_EC_PARAMS`, `CKA_EC_POINT`, …). Wiped on drop; has no `Debug` and no `Clone`.
pub struct Material(Template);

impl Material {
    pub(crate) fn new(attributes: Template) -> Self {
        Self(attributes)
    }

    /// The attributes.
    pub fn attributes(&self) -> &Template {
        &self.0
    }

    /// The octets of one attribute.
    pub fn octets(&self, kind: AttributeKind) -> Option<&[u8]> {
        self.0.octets(kind)
    }
}

/// What making the material brought to light: public attributes such as `CKA_MODULUS`, `CKA_EC_POINT` (DER),
/// `CKA_PUBLIC_KEY_INFO`, `CKA_VALUE_LEN`, `CKA_CHECK_VALUE`. Never a secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Facts(Template);

impl Facts {
    /// No facts.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds octets and returns the facts, for building.
    #[must_use]
    pub fn with_octets(self, kind: AttributeKind, octets: impl Into<Vec<u8>>) -> Self {
        Self(self.0.with_octets(kind, octets))
    }

    /// Adds a number and returns the facts, for building.
    #[must_use]
    pub fn with_number(self, kind: AttributeKind, number: u64) -> Self {
        Self(self.0.with_number(kind, number))
    }

    /// The facts.
    pub fn attributes(&self) -> &Template {
        &self.0
    }
}

/// An object before its material is known. Policy has said yes to its attributes; [`Draft::complete`] adds the facts.
pub struct Draft {
    pub(crate) owner: UserId,
    pub(crate) class: ObjectClass,
    pub(crate) attributes: Template,
    pub(crate) has_payload: bool,
    /// A copy: its facts are those of its source.
    pub(crate) is_copy: bool,
    pub(crate) fips: bool,
}

impl Draft {
    /// Whether it becomes a token object (`Action::CreateObjects`) or a session object (sealed for the client).
    pub fn is_token(&self) -> bool {
        self.attributes.is(AttributeKind::Token)
    }

    /// Whether it has a secret part.
    pub fn has_payload(&self) -> bool {
        self.has_payload
    }

    /// Who will own it.
    pub fn owner(&self) -> UserId {
        self.owner
    }

    /// `CKA_CLASS`.
    pub fn class(&self) -> ObjectClass {
        self.class
    }

    /// `CKA_KEY_TYPE`; `None` for what is no key.
    pub fn key_type(&self) -> Option<KeyType> {
        self.attributes.number(AttributeKind::KeyType).and_then(KeyType::from_number)
    }

    /// An attribute that policy has settled.
    pub fn attribute(&self, kind: AttributeKind) -> Option<&AttributeValue> {
        self.attributes.get(kind)
    }
}

/// An answer to one attribute that was asked for.
pub enum Disclosure {
    /// Here it is.
    Value(AttributeValue),
    /// It must not be told (`CKR_ATTRIBUTE_SENSITIVE`).
    Sensitive,
    /// The object has no such attribute (`CKR_ATTRIBUTE_TYPE_INVALID`).
    Absent,
    /// It may be told, and stands in the payload: ask `hsm-crypto` with this permit.
    FromPayload(Permit<Disclose>, AttributeKind),
}
