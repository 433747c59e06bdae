//! What an attribute is when a template does not say.
//!
//! PKCS#11 leaves most of this to the token. The values are those with which clients that say little work on SoftHSM2,
//! as long as they cost no secrecy: secret and private keys are sensitive, private and not extractable; a key may do
//! what its type can do.

use hsm_protocol::attribute::AttributeValue;
use hsm_protocol::{AttributeKind as A, KeyType, ObjectClass, Template};

/// Fills in what the template left open.
pub(crate) fn fill(attributes: &mut Template, class: ObjectClass, key_type: Option<KeyType>) {
    let is_key = class.is_key();
    let has_secret = matches!(class, ObjectClass::PrivateKey | ObjectClass::SecretKey);
    let mut flag = |kind, flag| put(attributes, kind, AttributeValue::Flag(flag));
    flag(A::Token, false);
    flag(A::Private, has_secret || class == ObjectClass::Data);
    flag(A::Modifiable, true);
    flag(A::Copyable, true);
    flag(A::Destroyable, true);
    if has_secret {
        flag(A::Sensitive, true);
        flag(A::Extractable, false);
        flag(A::WrapWithTrusted, false);
    }
    if matches!(class, ObjectClass::Certificate | ObjectClass::PublicKey | ObjectClass::SecretKey) {
        flag(A::Trusted, false);
    }
    if class == ObjectClass::PrivateKey {
        flag(A::AlwaysAuthenticate, false);
    }
    if is_key {
        usage(class).iter().for_each(|&kind| flag(kind, can(kind, key_type)));
    }
    if class == ObjectClass::Certificate {
        put(attributes, A::CertificateCategory, AttributeValue::Number(0));
    }
}

fn put(attributes: &mut Template, kind: A, value: AttributeValue) {
    if attributes.get(kind).is_none() {
        attributes.insert(kind, value);
    }
}

/// The usage flags that a class of keys has.
fn usage(class: ObjectClass) -> &'static [A] {
    match class {
        ObjectClass::PublicKey => &[A::Encrypt, A::Verify, A::VerifyRecover, A::Wrap, A::Derive],
        ObjectClass::PrivateKey => &[A::Decrypt, A::Sign, A::SignRecover, A::Unwrap, A::Derive],
        ObjectClass::SecretKey => &[A::Encrypt, A::Decrypt, A::Sign, A::Verify, A::Wrap, A::Unwrap, A::Derive],
        ObjectClass::Data | ObjectClass::Certificate => &[],
    }
}

/// Whether keys of a type are made for a use. AES keys derive only when asked to: a derivation by encryption gives its
/// result to whoever derives.
fn can(kind: A, key_type: Option<KeyType>) -> bool {
    match key_type {
        Some(KeyType::Rsa) => kind != A::Derive,
        Some(KeyType::Ec) => matches!(kind, A::Sign | A::Verify | A::Derive),
        Some(KeyType::EcEdwards) => matches!(kind, A::Sign | A::Verify),
        Some(KeyType::EcMontgomery | KeyType::Hkdf) => kind == A::Derive,
        Some(KeyType::Aes) => kind != A::Derive,
        Some(KeyType::GenericSecret) => matches!(kind, A::Sign | A::Verify | A::Derive),
        Some(_) => matches!(kind, A::Sign | A::Verify),
        None => false,
    }
}
