//! Keys that travel: wrapped here, unwrapped here, and the same afterwards.

use hsm_core::curve::Curve;
use hsm_core::request::PairSpec;
use hsm_protocol::mechanism::mgf;
use hsm_protocol::{AttributeKind, KeyType, Mechanism, MechanismKind as M, ObjectClass, Parameters};

use super::keys::{self, call, secret};
use crate::key::make::{Made, Wanted, from_octets};
use crate::key::{Key, exported};
use crate::mechanism::family;
use crate::{CryptoFault, SecretBytes};

fn aes_wraps() -> Vec<Mechanism> {
    let gcm = Parameters::Gcm { iv: vec![2; 12], additional_data: vec![], tag_bits: 128, generate_iv: false };
    vec![
        Mechanism::plain(M::AES_KEY_WRAP_PAD),
        Mechanism::plain(M::AES_KEY_WRAP_KWP),
        Mechanism::plain(M::AES_KEY_WRAP_PKCS7),
        Mechanism { kind: M::AES_CBC_PAD, parameters: Parameters::Iv(vec![1; 16]) },
        Mechanism { kind: M::AES_GCM, parameters: gcm },
    ]
}

fn private(key_type: KeyType) -> Wanted {
    Wanted { class: ObjectClass::PrivateKey, key_type: Some(key_type), has_payload: true }
}

fn travel(mechanism: &Mechanism, material: &SecretBytes, wanted: Wanted) -> Result<Made, CryptoFault> {
    let key = secret(KeyType::Aes, &[5; 32]);
    let family = family(mechanism.kind)?;
    let is_secret_key = wanted.class == ObjectClass::SecretKey;
    let wrapped = family.wrap(&call(&key, mechanism), material.expose(), is_secret_key)?.data;
    for bit in [0, wrapped.len() * 4, wrapped.len() * 8 - 1] {
        let mut altered = wrapped.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        let opened = family.unwrap(&call(&key, mechanism), &altered, None);
        assert!(mechanism.kind == M::AES_CBC_PAD || opened.is_err(), "{:?}", mechanism.kind.name());
    }
    from_octets(wanted, family.unwrap(&call(&key, mechanism), &wrapped, None)?)
}

#[test]
fn private_keys_of_every_type_travel() {
    let mut pairs: Vec<_> = Curve::ALL.iter().map(|&curve| (KeyType::Ec, keys::curve(curve))).collect();
    pairs.push((KeyType::EcEdwards, keys::pair(&PairSpec::Ed25519)));
    pairs.push((KeyType::EcMontgomery, keys::pair(&PairSpec::X25519)));
    pairs.push((KeyType::Rsa, keys::pair(&PairSpec::Rsa { bits: 2048, exponent: vec![1, 0, 1] })));
    for (key_type, pair) in pairs {
        let material = exported(&pair.private_object, &pair.payload).unwrap();
        for mechanism in aes_wraps() {
            let made = travel(&mechanism, &material, private(key_type)).unwrap();
            let info = |object: &hsm_protocol::Template| object.octets(AttributeKind::PublicKeyInfo).unwrap().to_vec();
            assert_eq!(info(made.facts.attributes()), info(&pair.public_object.attributes()));
            assert_eq!(made.payload.unwrap().encode(), pair.payload.encode(), "{:?}", mechanism.kind.name());
        }
        let other = if key_type == KeyType::Rsa { KeyType::Ec } else { KeyType::Rsa };
        let refused = travel(&aes_wraps()[0], &material, private(other)).err();
        assert_eq!(refused, Some(CryptoFault::AttributeInconsistent(AttributeKind::KeyType)));
    }
}

#[test]
fn secret_keys_travel_by_rsa() {
    let pair = keys::rsa();
    let oaep = Parameters::Oaep { hash: M::SHA384, mgf: mgf::SHA384, label: b"l".to_vec() };
    for mechanism in [Mechanism::plain(M::RSA_PKCS), Mechanism { kind: M::RSA_PKCS_OAEP, parameters: oaep }] {
        let family = family(mechanism.kind).unwrap();
        let wrapped = family.wrap(&call(&pair.public, &mechanism), &[7; 32], true).unwrap().data;
        let opened = family.unwrap(&call(&pair.private, &mechanism), &wrapped, None).unwrap();
        assert_eq!(opened.expose(), [7; 32]);
        let refused = family.unwrap(&call(&pair.private, &mechanism), &wrapped[1..], None).err();
        assert_eq!(refused, Some(CryptoFault::WrappedKeyLength));
        let too_long = family.wrap(&call(&pair.public, &mechanism), &[7; 256], true).err();
        assert_eq!(too_long, Some(CryptoFault::NotWrappable));
    }
}

#[test]
fn cbc_without_padding_fills_secret_keys_with_zeros_and_refuses_private_ones() {
    let key = secret(KeyType::Aes, &[5; 16]);
    let mechanism = Mechanism { kind: M::AES_CBC, parameters: Parameters::Iv(vec![1; 16]) };
    let family = family(mechanism.kind).unwrap();
    let wrapped = family.wrap(&call(&key, &mechanism), &[7; 20], true).unwrap().data;
    assert_eq!(wrapped.len(), 32);
    let opened = |length| family.unwrap(&call(&key, &mechanism), &wrapped, length);
    assert_eq!(opened(Some(20)).unwrap().expose(), [7; 20]);
    assert_eq!(opened(Some(33)).err(), Some(CryptoFault::WrappedKeyLength));
    assert_eq!(opened(Some(16)).err(), Some(CryptoFault::WrappedKeyLength));
    assert_eq!(family.wrap(&call(&key, &mechanism), &[7; 32], false).err(), Some(CryptoFault::NotWrappable));
}

#[test]
fn key_wrap_refuses_what_is_not_in_eights() {
    let key = secret(KeyType::Aes, &[5; 16]);
    let mechanism = Mechanism::plain(M::AES_KEY_WRAP);
    let wrap = |length| family(M::AES_KEY_WRAP).unwrap().wrap(&call(&key, &mechanism), &vec![1; length], true);
    for length in [0, 8, 15, 17, 20] {
        assert_eq!(wrap(length).err(), Some(CryptoFault::NotWrappable), "{length}");
    }
    assert!(wrap(16).is_ok() && wrap(24).is_ok());
}

#[test]
fn what_is_no_private_key_is_refused() {
    for junk in [&b""[..], &[0x30, 0x00], &[0; 64], &[0x30, 0x82, 0xFF, 0xFF]] {
        let refused = from_octets(private(KeyType::Rsa), SecretBytes::copy_of(junk)).err();
        assert_eq!(refused, Some(CryptoFault::WrappedKeyInvalid));
    }
    let pair = keys::curve(Curve::P256);
    let material = exported(&pair.private_object, &pair.payload).unwrap();
    let trailing = SecretBytes::copy_of(&[material.expose(), &[1]].concat());
    assert!(from_octets(private(KeyType::Ec), trailing).is_err());
    let object = keys::object(ObjectClass::Data, &hsm_protocol::Template::new(), true);
    assert!(matches!(Key::load(&object, None), Err(CryptoFault::KeyType)));
}
