//! Attributes of objects: their numbers in PKCS#11, the shape of their values, and templates of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::mechanism::MechanismKind;

/// What an attribute's value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `CK_BBOOL`.
    Flag,
    /// `CK_ULONG` and the types made of it.
    Number,
    /// Octets as they are.
    Octets,
    /// Text in UTF-8.
    Text,
    /// Unsigned, big-endian; leading zero octets do not count.
    BigInteger,
    /// `CK_DATE`: eight digits, or empty.
    Date,
    /// Array of `CK_MECHANISM_TYPE`.
    Mechanisms,
    /// Array of attributes.
    Template,
}

macro_rules! attributes {
    ($($name:ident = $number:literal, $shape:ident;)+) => {
        /// An attribute that this product knows. Names and numbers are those of PKCS#11 3.2 (`CKA_…`).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "u64", into = "u64")]
        #[repr(u64)]
        #[expect(missing_docs, reason = "each is the CKA_ constant of the same name, documented in PKCS#11 3.2 §4")]
        pub enum AttributeKind { $($name = $number,)+ }

        impl AttributeKind {
            /// Every attribute, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The attribute with this `CKA_` number.
            pub fn from_number(number: u64) -> Option<Self> {
                match number { $($number => Some(Self::$name),)+ _ => None }
            }

            /// What its values are.
            pub fn shape(self) -> Shape {
                match self { $(Self::$name => Shape::$shape,)+ }
            }
        }
    };
}

attributes! {
    Class = 0x000, Number;
    Token = 0x001, Flag;
    Private = 0x002, Flag;
    Label = 0x003, Text;
    UniqueId = 0x004, Text;
    Application = 0x010, Text;
    Value = 0x011, Octets;
    ObjectId = 0x012, Octets;
    CertificateType = 0x080, Number;
    Issuer = 0x081, Octets;
    SerialNumber = 0x082, Octets;
    AcIssuer = 0x083, Octets;
    Owner = 0x084, Octets;
    AttributeTypes = 0x085, Octets;
    Trusted = 0x086, Flag;
    CertificateCategory = 0x087, Number;
    JavaMidpSecurityDomain = 0x088, Number;
    Url = 0x089, Text;
    HashOfSubjectPublicKey = 0x08A, Octets;
    HashOfIssuerPublicKey = 0x08B, Octets;
    NameHashAlgorithm = 0x08C, Number;
    CheckValue = 0x090, Octets;
    KeyType = 0x100, Number;
    Subject = 0x101, Octets;
    Id = 0x102, Octets;
    Sensitive = 0x103, Flag;
    Encrypt = 0x104, Flag;
    Decrypt = 0x105, Flag;
    Wrap = 0x106, Flag;
    Unwrap = 0x107, Flag;
    Sign = 0x108, Flag;
    SignRecover = 0x109, Flag;
    Verify = 0x10A, Flag;
    VerifyRecover = 0x10B, Flag;
    Derive = 0x10C, Flag;
    StartDate = 0x110, Date;
    EndDate = 0x111, Date;
    Modulus = 0x120, BigInteger;
    ModulusBits = 0x121, Number;
    PublicExponent = 0x122, BigInteger;
    PrivateExponent = 0x123, BigInteger;
    Prime1 = 0x124, BigInteger;
    Prime2 = 0x125, BigInteger;
    Exponent1 = 0x126, BigInteger;
    Exponent2 = 0x127, BigInteger;
    Coefficient = 0x128, BigInteger;
    PublicKeyInfo = 0x129, Octets;
    ValueBits = 0x160, Number;
    ValueLen = 0x161, Number;
    Extractable = 0x162, Flag;
    Local = 0x163, Flag;
    NeverExtractable = 0x164, Flag;
    AlwaysSensitive = 0x165, Flag;
    KeyGenMechanism = 0x166, Number;
    Modifiable = 0x170, Flag;
    Copyable = 0x171, Flag;
    Destroyable = 0x172, Flag;
    EcParams = 0x180, Octets;
    EcPoint = 0x181, Octets;
    AlwaysAuthenticate = 0x202, Flag;
    WrapWithTrusted = 0x210, Flag;
    ProfileId = 0x601, Number;
    WrapTemplate = 0x4000_0211, Template;
    UnwrapTemplate = 0x4000_0212, Template;
    DeriveTemplate = 0x4000_0213, Template;
    AllowedMechanisms = 0x4000_0600, Mechanisms;
}

impl From<AttributeKind> for u64 {
    fn from(kind: AttributeKind) -> Self {
        kind as Self
    }
}

impl TryFrom<u64> for AttributeKind {
    type Error = &'static str;

    fn try_from(number: u64) -> Result<Self, Self::Error> {
        Self::from_number(number).ok_or("an attribute number that this version does not know")
    }
}

/// `CKO_…` of PKCS#11 3.2 §4.2, as far as objects of that class can be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u64)]
#[expect(missing_docs, reason = "each is the CKO_ constant of the same name")]
pub enum ObjectClass {
    Data = 0,
    Certificate = 1,
    PublicKey = 2,
    PrivateKey = 3,
    SecretKey = 4,
}

impl ObjectClass {
    /// The class with this `CKO_` number.
    pub fn from_number(number: u64) -> Option<Self> {
        [Self::Data, Self::Certificate, Self::PublicKey, Self::PrivateKey, Self::SecretKey]
            .into_iter()
            .find(|&class| class as u64 == number)
    }

    /// Public, private or secret key.
    pub fn is_key(self) -> bool {
        matches!(self, Self::PublicKey | Self::PrivateKey | Self::SecretKey)
    }
}

/// `CKK_…` of PKCS#11 3.2, as far as keys of that type can be stored. A later mechanism adds a line here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u64)]
#[expect(missing_docs, reason = "each is the CKK_ constant of the same name")]
pub enum KeyType {
    Rsa = 0x00,
    Ec = 0x03,
    GenericSecret = 0x10,
    Aes = 0x1F,
    Sha1Hmac = 0x28,
    Sha256Hmac = 0x2B,
    Sha384Hmac = 0x2C,
    Sha512Hmac = 0x2D,
    Sha224Hmac = 0x2E,
    Sha3_224Hmac = 0x33,
    Sha3_256Hmac = 0x34,
    Sha3_384Hmac = 0x35,
    Sha3_512Hmac = 0x36,
    EcEdwards = 0x40,
    EcMontgomery = 0x41,
    Hkdf = 0x42,
}

impl KeyType {
    /// All key types.
    pub const ALL: &[Self] = &[
        Self::Rsa,
        Self::Ec,
        Self::GenericSecret,
        Self::Aes,
        Self::Sha1Hmac,
        Self::Sha256Hmac,
        Self::Sha384Hmac,
        Self::Sha512Hmac,
        Self::Sha224Hmac,
        Self::Sha3_224Hmac,
        Self::Sha3_256Hmac,
        Self::Sha3_384Hmac,
        Self::Sha3_512Hmac,
        Self::EcEdwards,
        Self::EcMontgomery,
        Self::Hkdf,
    ];

    /// The type with this `CKK_` number.
    pub fn from_number(number: u64) -> Option<Self> {
        Self::ALL.iter().copied().find(|&kind| kind as u64 == number)
    }

    /// A key made of plain octets: generic secrets, HMAC and HKDF keys. (AES has fixed lengths and is not one.)
    pub fn is_octets(self) -> bool {
        !matches!(self, Self::Rsa | Self::Ec | Self::Aes | Self::EcEdwards | Self::EcMontgomery)
    }
}

/// A value. Which variant an attribute takes follows from [`AttributeKind::shape`]; [`AttributeValue::fits`] checks.
///
/// Has no `Debug`: a value may be a secret on its way in or out.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AttributeValue {
    /// For [`Shape::Flag`].
    Flag(bool),
    /// For [`Shape::Number`].
    Number(u64),
    /// For [`Shape::Octets`], [`Shape::Text`], [`Shape::BigInteger`] and [`Shape::Date`].
    Octets(Vec<u8>),
    /// For [`Shape::Mechanisms`].
    Mechanisms(Vec<MechanismKind>),
    /// For [`Shape::Template`].
    Template(Template),
}

impl AttributeValue {
    /// Whether a value of this variant is possible for that attribute.
    pub fn fits(&self, kind: AttributeKind) -> bool {
        matches!(
            (self, kind.shape()),
            (Self::Flag(_), Shape::Flag)
                | (Self::Number(_), Shape::Number)
                | (Self::Octets(_), Shape::Octets | Shape::Text | Shape::BigInteger | Shape::Date)
                | (Self::Mechanisms(_), Shape::Mechanisms)
                | (Self::Template(_), Shape::Template)
        )
    }

    /// The octets, when it is a value of octets.
    pub fn as_octets(&self) -> Option<&[u8]> {
        if let Self::Octets(octets) = self { Some(octets) } else { None }
    }
}

impl Zeroize for AttributeValue {
    fn zeroize(&mut self) {
        match self {
            Self::Octets(octets) => octets.zeroize(),
            Self::Template(template) => template.zeroize(),
            Self::Flag(_) | Self::Number(_) | Self::Mechanisms(_) => {}
        }
    }
}

/// Attributes with their values: each attribute at most once, in the order of their numbers.
///
/// Wiped on drop, because a template for `C_CreateObject` carries key material. Has no `Debug` for the same reason.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Template(BTreeMap<AttributeKind, AttributeValue>);

impl Template {
    /// A template without attributes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds or replaces; returns the value that was there.
    pub fn insert(&mut self, kind: AttributeKind, value: AttributeValue) -> Option<AttributeValue> {
        debug_assert!(value.fits(kind), "{kind:?} given a value of another shape");
        self.0.insert(kind, value)
    }

    /// Adds a flag and returns the template, for building.
    #[must_use]
    pub fn with_flag(mut self, kind: AttributeKind, flag: bool) -> Self {
        self.insert(kind, AttributeValue::Flag(flag));
        self
    }

    /// Adds a number and returns the template, for building.
    #[must_use]
    pub fn with_number(mut self, kind: AttributeKind, number: u64) -> Self {
        self.insert(kind, AttributeValue::Number(number));
        self
    }

    /// Adds octets and returns the template, for building.
    #[must_use]
    pub fn with_octets(mut self, kind: AttributeKind, octets: impl Into<Vec<u8>>) -> Self {
        self.insert(kind, AttributeValue::Octets(octets.into()));
        self
    }

    /// Takes an attribute out.
    pub fn remove(&mut self, kind: AttributeKind) -> Option<AttributeValue> {
        self.0.remove(&kind)
    }

    /// The value of an attribute.
    pub fn get(&self, kind: AttributeKind) -> Option<&AttributeValue> {
        self.0.get(&kind)
    }

    /// The value of a flag; `None` when it is absent.
    pub fn flag(&self, kind: AttributeKind) -> Option<bool> {
        if let Some(AttributeValue::Flag(flag)) = self.get(kind) { Some(*flag) } else { None }
    }

    /// Whether a flag is present and true.
    pub fn is(&self, kind: AttributeKind) -> bool {
        self.flag(kind) == Some(true)
    }

    /// The value of a number; `None` when it is absent.
    pub fn number(&self, kind: AttributeKind) -> Option<u64> {
        if let Some(AttributeValue::Number(number)) = self.get(kind) { Some(*number) } else { None }
    }

    /// The octets of an attribute; `None` when it is absent.
    pub fn octets(&self, kind: AttributeKind) -> Option<&[u8]> {
        self.get(kind).and_then(AttributeValue::as_octets)
    }

    /// The attributes in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (AttributeKind, &AttributeValue)> {
        self.0.iter().map(|(&kind, value)| (kind, value))
    }

    /// How many attributes there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether every attribute of `wanted` is here with the same value (the rule of `C_FindObjects`).
    pub fn matches(&self, wanted: &Self) -> bool {
        wanted.iter().all(|(kind, value)| self.get(kind) == Some(value))
    }
}

impl Zeroize for Template {
    fn zeroize(&mut self) {
        self.0.values_mut().for_each(Zeroize::zeroize);
    }
}

impl Drop for Template {
    fn drop(&mut self) {
        self.zeroize();
    }
}

impl FromIterator<(AttributeKind, AttributeValue)> for Template {
    fn from_iter<I: IntoIterator<Item = (AttributeKind, AttributeValue)>>(items: I) -> Self {
        Self(items.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_kinds_stand_one_to_one() {
        for &kind in AttributeKind::ALL {
            assert_eq!(AttributeKind::from_number(kind as u64), Some(kind));
        }
        assert!(AttributeKind::ALL.is_sorted_by_key(|&kind| kind as u64));
    }

    #[test]
    fn a_template_matches_what_it_contains() {
        let whole = Template::new().with_flag(AttributeKind::Token, true).with_octets(AttributeKind::Label, "a");
        assert!(whole.matches(&Template::new()));
        assert!(whole.matches(&Template::new().with_octets(AttributeKind::Label, "a")));
        assert!(!whole.matches(&Template::new().with_octets(AttributeKind::Label, "b")));
        assert!(!whole.matches(&Template::new().with_octets(AttributeKind::Id, "a")));
    }
}
