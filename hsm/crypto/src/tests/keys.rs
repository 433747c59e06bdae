//! Keys and calls for the tests.

use std::sync::{Arc, LazyLock};

use hsm_core::Object;
use hsm_core::curve::Curve;
use hsm_core::request::PairSpec;
use hsm_protocol::{AttributeKind, KeyType, Mechanism, ObjectClass, Parameters, Template};

use crate::key::make::{MadePair, Wanted, import_as};
use crate::key::{Key, KeyMaterial};
use crate::mechanism::{Call, Encrypted, Gather, family};
use crate::{CryptoFault, Module, Payload, generate_pair};

/// One module for all tests.
pub(crate) fn module() -> &'static Arc<Module> {
    static MODULE: LazyLock<Arc<Module>> = LazyLock::new(|| Module::start().unwrap());
    &MODULE
}

/// An object with these attributes, as the state machine would have made it: it is read from its stored form, because
/// only `hsm-core` makes objects.
pub(super) fn object(class: ObjectClass, attributes: &Template, has_payload: bool) -> Object {
    let attributes = attributes.clone().with_number(AttributeKind::Class, class as u64);
    let uid: [u8; 16] = module().random_bytes().unwrap();
    let stored = postcard::to_stdvec(&(uid, 1_u32, 7_u64, attributes, has_payload)).unwrap();
    postcard::from_bytes(&stored).unwrap_or_else(|_| panic!("not the form in which objects are stored"))
}

/// A pair as it is after it was generated and stored.
pub(super) struct Pair {
    pub(super) public_object: Object,
    pub(super) private_object: Object,
    pub(super) payload: Payload,
    pub(super) public: Key,
    pub(super) private: Key,
}

pub(super) fn pair(spec: &PairSpec) -> Pair {
    let key_type = match spec {
        PairSpec::Rsa { .. } => KeyType::Rsa,
        PairSpec::Ec(_) => KeyType::Ec,
        PairSpec::Ed25519 => KeyType::EcEdwards,
        PairSpec::X25519 => KeyType::EcMontgomery,
    };
    let MadePair { public, private, payload } = generate_pair(module(), spec).unwrap();
    let with_type = |facts: &Template| facts.clone().with_number(AttributeKind::KeyType, key_type as u64);
    let public_object = object(ObjectClass::PublicKey, &with_type(public.attributes()), false);
    let private_object = object(ObjectClass::PrivateKey, &with_type(private.attributes()), true);
    Pair {
        public: Key::load(&public_object, None).unwrap(),
        private: Key::load(&private_object, Some(&payload)).unwrap(),
        public_object,
        private_object,
        payload,
    }
}

pub(super) fn rsa() -> &'static Pair {
    static PAIR: LazyLock<Pair> = LazyLock::new(|| pair(&PairSpec::Rsa { bits: 2048, exponent: vec![1, 0, 1] }));
    &PAIR
}

pub(super) fn curve(curve: Curve) -> Pair {
    pair(&PairSpec::Ec(curve))
}

/// A secret key of its octets.
pub(super) fn secret(key_type: KeyType, value: &[u8]) -> Key {
    Key::bare(ObjectClass::SecretKey, key_type, KeyMaterial::secret(key_type, Some(value)).unwrap())
}

/// A public key of its attributes, through the check that an import makes.
pub(super) fn import_public(key_type: KeyType, attributes: &Template) -> Result<Key, CryptoFault> {
    let wanted = Wanted { class: ObjectClass::PublicKey, key_type: Some(key_type), has_payload: false };
    let made = import_as(wanted, attributes)?;
    let attributes = made.facts.attributes().clone().with_number(AttributeKind::KeyType, key_type as u64);
    Key::load(&object(ObjectClass::PublicKey, &attributes, false), None)
}

/// A private key of its attributes, through the check that an import makes.
pub(super) fn import_private(key_type: KeyType, attributes: &Template) -> Result<(Object, Payload), CryptoFault> {
    let wanted = Wanted { class: ObjectClass::PrivateKey, key_type: Some(key_type), has_payload: true };
    let made = import_as(wanted, attributes)?;
    let attributes = made.facts.attributes().clone().with_number(AttributeKind::KeyType, key_type as u64);
    Ok((object(ObjectClass::PrivateKey, &attributes, true), made.payload.unwrap()))
}

pub(super) fn with(kind: hsm_protocol::MechanismKind, parameters: Parameters) -> Mechanism {
    Mechanism { kind, parameters }
}

pub(super) fn call<'a>(key: &'a Key, mechanism: &'a Mechanism) -> Call<'a> {
    Call { module: module(), key, mechanism, fips: false }
}

pub(super) fn sign(key: &Key, mechanism: &Mechanism, data: &[u8]) -> Result<Vec<u8>, CryptoFault> {
    let (call, family) = (call(key, mechanism), family(mechanism.kind)?);
    family.sign(&call, &gathered(family.gather(&call)?, data)?)
}

pub(super) fn verify(key: &Key, mechanism: &Mechanism, data: &[u8], signature: &[u8]) -> Result<(), CryptoFault> {
    let (call, family) = (call(key, mechanism), family(mechanism.kind)?);
    family.verify(&call, &gathered(family.gather(&call)?, data)?, signature)
}

fn gathered(mut gather: Gather, data: &[u8]) -> Result<Vec<u8>, CryptoFault> {
    gather.update(data)?;
    Ok(gather.finish()?.to_vec())
}

pub(super) fn encrypt(key: &Key, mechanism: &Mechanism, data: &[u8]) -> Result<Encrypted, CryptoFault> {
    family(mechanism.kind)?.encrypt(&call(key, mechanism), data)
}

pub(super) fn decrypt(key: &Key, mechanism: &Mechanism, data: &[u8]) -> Result<Vec<u8>, CryptoFault> {
    Ok(family(mechanism.kind)?.decrypt(&call(key, mechanism), data)?.to_vec())
}
