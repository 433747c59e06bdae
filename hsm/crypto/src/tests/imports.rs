//! Keys that come from outside: whole, in parts, wrong.

use hsm_core::curve::{Curve, der_octet_string, raw_point};
use hsm_core::request::PairSpec;
use hsm_protocol::{AttributeKind as A, KeyType, Mechanism, MechanismKind, ObjectClass, Template};

use super::keys::{self, import_private, import_public, sign, verify};
use crate::key::Key;
use crate::key::make::{Wanted, import_as, new_secret};
use crate::{CryptoFault, generate_pair};

const NUMBERS: [A; 6] = [A::PrivateExponent, A::Prime1, A::Prime2, A::Exponent1, A::Exponent2, A::Coefficient];

fn rsa_template() -> Template {
    let pair = keys::rsa();
    let octets = |kind| pair.private_object.attribute(kind).and_then(|value| value.as_octets()).unwrap().to_vec();
    let template = Template::new()
        .with_octets(A::Modulus, octets(A::Modulus))
        .with_octets(A::PublicExponent, octets(A::PublicExponent));
    NUMBERS.iter().fold(template, |template, &kind| template.with_octets(kind, pair.payload.get(kind).unwrap()))
}

#[test]
fn an_rsa_key_comes_whole_or_without_its_primes_and_is_the_same() {
    let whole = rsa_template();
    let mut without = rsa_template();
    for kind in &NUMBERS[1..] {
        without.remove(*kind);
    }
    let mut with_primes = rsa_template();
    for kind in &NUMBERS[3..] {
        with_primes.remove(*kind);
    }
    for template in [whole, without, with_primes] {
        let (object, payload) = import_private(KeyType::Rsa, &template).unwrap();
        let key = Key::load(&object, Some(&payload)).unwrap();
        let mechanism = Mechanism::plain(MechanismKind::SHA256_RSA_PKCS);
        let signature = sign(&key, &mechanism, b"data").unwrap();
        verify(&keys::rsa().public, &mechanism, b"data", &signature).unwrap();
        let product = |kind| payload.get(kind).unwrap().len();
        assert_eq!((product(A::Prime1), product(A::Prime2)), (128, 128));
    }
}

#[test]
fn an_rsa_private_key_without_a_public_exponent_gets_the_usual_one() {
    let mut template = rsa_template();
    template.remove(A::PublicExponent);
    let (object, _) = import_private(KeyType::Rsa, &template).unwrap();
    let exponent = object.attribute(A::PublicExponent).and_then(|value| value.as_octets()).unwrap();
    assert_eq!(exponent, [1, 0, 1]);
    NUMBERS[1..].iter().for_each(|&kind| drop(template.remove(kind)));
    assert!(import_private(KeyType::Rsa, &template).is_ok());
}

#[test]
fn rsa_numbers_that_do_not_fit_are_refused() {
    for kind in [A::PrivateExponent, A::Prime1, A::Prime2, A::Exponent1, A::Exponent2, A::Coefficient, A::Modulus] {
        let mut template = rsa_template();
        let mut wrong = template.octets(kind).unwrap().to_vec();
        *wrong.last_mut().unwrap() ^= 4;
        template = template.with_octets(kind, wrong);
        assert_eq!(import_private(KeyType::Rsa, &template).err(), Some(CryptoFault::KeyMaterial), "{kind:?}");
    }
    let mut missing = rsa_template();
    missing.remove(A::PrivateExponent);
    let refused = import_private(KeyType::Rsa, &missing).err();
    assert_eq!(refused, Some(CryptoFault::AttributeMissing(A::PrivateExponent)));
}

#[test]
fn an_ec_scalar_of_any_length_becomes_one_of_the_orders_length() {
    for &curve in Curve::ALL {
        let bytes = curve.field_bytes();
        let long = [vec![0; 5], vec![0; bytes - 1], vec![9]].concat();
        for value in [vec![9], long] {
            let template = Template::new().with_octets(A::EcParams, curve.params()).with_octets(A::Value, value);
            let (object, payload) = import_private(KeyType::Ec, &template).unwrap();
            assert_eq!(payload.value().unwrap().len(), bytes);
            let point = object.attribute(A::EcPoint).and_then(|point| point.as_octets()).unwrap();
            assert_eq!(raw_point(point).unwrap().len(), 1 + 2 * bytes);
        }
        for value in [vec![0], vec![0xFF; bytes], vec![]] {
            let template = Template::new().with_octets(A::EcParams, curve.params()).with_octets(A::Value, value);
            assert!(import_private(KeyType::Ec, &template).is_err());
        }
    }
}

#[test]
fn a_point_off_its_curve_is_refused_and_one_on_it_is_taken_in_every_form() {
    for &curve in Curve::ALL {
        let pair = keys::curve(curve);
        let der = pair.public_object.attribute(A::EcPoint).and_then(|point| point.as_octets()).unwrap();
        let raw = raw_point(der).unwrap();
        let compressed = [&[2 + (raw[raw.len() - 1] & 1)], &raw[1..=curve.field_bytes()]].concat();
        let template =
            |point: &[u8]| Template::new().with_octets(A::EcParams, curve.params()).with_octets(A::EcPoint, point);
        for form in [raw, der, &compressed, &der_octet_string(&compressed)] {
            let key = import_public(KeyType::Ec, &template(form)).unwrap();
            let plain = Mechanism::plain(MechanismKind::ECDSA);
            verify(&key, &plain, &[1; 32], &sign(&pair.private, &plain, &[1; 32]).unwrap()).unwrap();
        }
        let mut off = raw.to_vec();
        *off.last_mut().unwrap() ^= 1;
        assert_eq!(import_public(KeyType::Ec, &template(&off)).err(), Some(CryptoFault::KeyMaterial));
        assert_eq!(import_public(KeyType::Ec, &template(&[0])).err(), Some(CryptoFault::KeyMaterial));
    }
}

/// From Wycheproof: a point on secp256k1 whose raw form, 04 3F …, reads as a DER OCTET STRING of 63 bytes.
#[test]
fn a_raw_point_that_looks_like_der_is_taken_for_what_it_is() {
    let point = "043f3952199774c7cf39b38b66cb1042a6260d8680803845e4d433adba3bb248185ea495b68cbc7ed4173ee63c9042dc502625c7\
                 eb7e21fb02ca9a9114e0a3a18d";
    let template = Template::new()
        .with_octets(A::EcParams, Curve::Secp256k1.params())
        .with_octets(A::EcPoint, hex::decode(point).unwrap());
    assert!(import_public(KeyType::Ec, &template).is_ok());
}

#[test]
fn a_public_point_beside_a_private_key_must_be_its_own() {
    let one = keys::curve(Curve::P256);
    let other = keys::curve(Curve::P256);
    let point = |pair: &keys::Pair| {
        pair.public_object.attribute(A::EcPoint).and_then(|point| point.as_octets()).unwrap().to_vec()
    };
    let template = |point: Vec<u8>| {
        Template::new()
            .with_octets(A::EcParams, Curve::P256.params())
            .with_octets(A::Value, one.payload.value().unwrap())
            .with_octets(A::EcPoint, point)
    };
    assert!(import_private(KeyType::Ec, &template(point(&one))).is_ok());
    let refused = import_private(KeyType::Ec, &template(point(&other))).err();
    assert_eq!(refused, Some(CryptoFault::AttributeInconsistent(A::EcPoint)));
}

#[test]
fn rsa_sizes_and_exponents_that_cannot_be_are_refused() {
    let pair = |bits, exponent: &[u8]| {
        generate_pair(keys::module(), &PairSpec::Rsa { bits, exponent: exponent.to_vec() }).err()
    };
    for exponent in [&[][..], &[1], &[2], &[1, 0, 0], &[1, 0, 0, 0, 1]] {
        assert_eq!(pair(2048, exponent), Some(CryptoFault::AttributeValue(A::PublicExponent)), "{exponent:?}");
    }
    assert_eq!(pair(2048, &[3]), None);
    assert_eq!(pair(2049, &[3]), Some(CryptoFault::AttributeValue(A::ModulusBits)));
    let small = Template::new().with_octets(A::Modulus, [0xC1; 128]).with_octets(A::PublicExponent, [1, 0, 1]);
    assert!(import_public(KeyType::Rsa, &small).is_err(), "1024 bits");
}

#[test]
fn secret_keys_have_the_lengths_of_their_type() {
    let import = |key_type, length| {
        let wanted = Wanted { class: ObjectClass::SecretKey, key_type: Some(key_type), has_payload: true };
        import_as(wanted, &Template::new().with_octets(A::Value, vec![1; length])).is_ok()
    };
    for length in [0, 1, 15, 16, 17, 24, 31, 32, 33, 64] {
        assert_eq!(import(KeyType::Aes, length), [16, 24, 32].contains(&length), "{length}");
        assert!(import(KeyType::GenericSecret, length), "{length}");
    }
    assert!(new_secret(keys::module(), KeyType::Aes, 20).is_err());
}

#[test]
fn check_values_are_those_of_the_standard() {
    // FIPS 197 has no such example: OpenSSL says that AES-128 with the zero key turns the zero block into 66e94bd4…
    let wanted = Wanted { class: ObjectClass::SecretKey, key_type: Some(KeyType::Aes), has_payload: true };
    let made = import_as(wanted, &Template::new().with_octets(A::Value, [0; 16])).unwrap();
    assert_eq!(made.facts.attributes().octets(A::CheckValue).unwrap(), [0x66, 0xE9, 0x4B]);
    let wanted = Wanted { key_type: Some(KeyType::GenericSecret), ..wanted };
    let made = import_as(wanted, &Template::new().with_octets(A::Value, b"abc".to_vec())).unwrap();
    assert_eq!(made.facts.attributes().octets(A::CheckValue).unwrap(), [0xA9, 0x99, 0x3E]);
    assert_eq!(made.facts.attributes().number(A::ValueLen), Some(3));
}
