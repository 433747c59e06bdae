//! Which attributes an object has, by class and key type (PKCS#11 3.2 §4.4 to §4.10 and the tables of §6), which of them
//! are secret, and what an attribute is when nothing is stored for it.

use hsm_protocol::attribute::{AttributeValue, Shape};
use hsm_protocol::{AttributeKind as A, KeyType, ObjectClass, Template};

use crate::object::Object;

/// Whether an object of that class and key type has the attribute.
pub(crate) fn applies(kind: A, class: ObjectClass, key_type: Option<KeyType>) -> bool {
    let certificate = class == ObjectClass::Certificate;
    let public = class == ObjectClass::PublicKey;
    let private = class == ObjectClass::PrivateKey;
    let secret = class == ObjectClass::SecretKey;
    let rsa = key_type == Some(KeyType::Rsa);
    let curve = matches!(key_type, Some(KeyType::Ec | KeyType::EcEdwards | KeyType::EcMontgomery));
    match kind {
        A::Class | A::Token | A::Private | A::Label | A::UniqueId | A::Modifiable | A::Copyable | A::Destroyable => {
            true
        }
        A::Application | A::ObjectId => class == ObjectClass::Data,
        A::Value => class == ObjectClass::Data || certificate || secret || (private && curve),
        A::CertificateType | A::CertificateCategory | A::Issuer | A::SerialNumber | A::AcIssuer => certificate,
        A::Owner | A::AttributeTypes | A::JavaMidpSecurityDomain | A::Url | A::NameHashAlgorithm => certificate,
        A::HashOfSubjectPublicKey | A::HashOfIssuerPublicKey => certificate,
        A::Trusted => certificate || public || secret,
        A::CheckValue => certificate || secret,
        A::Id | A::StartDate | A::EndDate => certificate || class.is_key(),
        A::KeyType | A::Derive | A::Local | A::KeyGenMechanism | A::AllowedMechanisms => class.is_key(),
        A::Subject | A::PublicKeyInfo => certificate || public || private,
        A::Sensitive | A::Extractable | A::AlwaysSensitive | A::NeverExtractable => private || secret,
        A::Decrypt | A::Sign | A::Unwrap | A::UnwrapTemplate | A::DeriveTemplate => private || secret,
        A::WrapWithTrusted => private || secret,
        A::Encrypt | A::Verify | A::Wrap | A::WrapTemplate => public || secret,
        A::SignRecover | A::AlwaysAuthenticate => private,
        A::VerifyRecover => public,
        A::Modulus | A::PublicExponent => rsa && (public || private),
        A::ModulusBits => rsa && public,
        A::PrivateExponent | A::Prime1 | A::Prime2 | A::Exponent1 | A::Exponent2 | A::Coefficient => rsa && private,
        // The standard gives a private key no CKA_EC_POINT; OpenSC and GnuTLS ask for it all the same.
        A::EcParams | A::EcPoint => curve && (public || private),
        A::ValueLen => secret,
        A::ValueBits | A::ProfileId => false,
    }
}

/// Whether the attribute is part of the payload of an object that has one.
pub(crate) fn is_secret(kind: A, class: ObjectClass) -> bool {
    match kind {
        A::Value => matches!(class, ObjectClass::PrivateKey | ObjectClass::SecretKey | ObjectClass::Data),
        A::PrivateExponent | A::Prime1 | A::Prime2 | A::Exponent1 | A::Exponent2 | A::Coefficient => {
            class == ObjectClass::PrivateKey
        }
        _ => false,
    }
}

/// Attributes that only the HSM sets (footnotes of PKCS#11 3.2 §4, tables of common key attributes).
pub(crate) fn is_computed(kind: A) -> bool {
    matches!(kind, A::UniqueId | A::Local | A::AlwaysSensitive | A::NeverExtractable | A::KeyGenMechanism)
}

/// Flags that say what a key is for.
pub(crate) fn is_usage(kind: A) -> bool {
    matches!(
        kind,
        A::Encrypt
            | A::Decrypt
            | A::Wrap
            | A::Unwrap
            | A::Sign
            | A::SignRecover
            | A::Verify
            | A::VerifyRecover
            | A::Derive
    )
}

/// What an attribute is when nothing is stored for it: empty, for those that may be. `None` = the object has none.
pub(crate) fn value_when_absent(object: &Object, kind: A) -> Option<AttributeValue> {
    let class = object.class()?;
    if !applies(kind, class, object.key_type()) || (object.has_payload() && is_secret(kind, class)) {
        return None;
    }
    match kind.shape() {
        // A check value or a public key that is not there is not an empty one.
        _ if matches!(kind, A::CheckValue | A::EcPoint | A::EcParams) => None,
        Shape::Octets | Shape::Text | Shape::Date => Some(AttributeValue::Octets(Vec::new())),
        Shape::Mechanisms => Some(AttributeValue::Mechanisms(Vec::new())),
        Shape::Template => Some(AttributeValue::Template(Template::new())),
        Shape::Flag | Shape::Number | Shape::BigInteger => None,
    }
}

/// A big integer as it is stored.
pub(crate) fn without_leading_zeros(octets: &[u8]) -> &[u8] {
    let zeros = octets.iter().take_while(|&&octet| octet == 0).count();
    &octets[zeros..]
}

/// Bits of a big integer.
pub(crate) fn bits(octets: &[u8]) -> u64 {
    let octets = without_leading_zeros(octets);
    octets.first().map_or(0, |first| octets.len() as u64 * 8 - u64::from(first.leading_zeros()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_counted_without_leading_zeros() {
        assert_eq!(bits(&[0, 0, 1, 0, 1]), 17);
        assert_eq!(bits(&[0x80; 256]), 2048);
        assert_eq!(bits(&[0, 0]), 0);
        assert_eq!(without_leading_zeros(&[0, 1, 0]), [1, 0]);
    }

    #[test]
    fn secret_attributes_belong_to_private_and_secret_things_only() {
        assert!(is_secret(A::Value, ObjectClass::SecretKey) && is_secret(A::Prime1, ObjectClass::PrivateKey));
        assert!(!is_secret(A::Value, ObjectClass::Certificate) && !is_secret(A::Modulus, ObjectClass::PrivateKey));
        for &kind in A::ALL {
            let secret = is_secret(kind, ObjectClass::PrivateKey);
            let known = KeyType::ALL.iter().any(|&key| applies(kind, ObjectClass::PrivateKey, Some(key)));
            assert!(!secret || known, "{kind:?}");
        }
    }
}
