//! No freed memory holds a key or a password.

use hsm_core::{ClusterId, Epoch, SessionId};
use hsm_protocol::mechanism::{HkdfSalt, kdf};
use hsm_protocol::{AttributeKind, KeyType, Mechanism, MechanismKind as M, ObjectClass, Parameters, Template};

use super::keys::{self, call, decrypt, encrypt, module, object, secret, sign};
use crate::key::Key;
use crate::key::make::{Wanted, from_octets, import_as};
use crate::mechanism::{Gather, family};
use crate::secret::watch::{CANARY, freed_with_canary};
use crate::wide::Direction;
use crate::{ClusterKeys, MasterKey, SecretBytes, password};

fn canary_key(key_type: KeyType) -> Key {
    secret(key_type, &CANARY)
}

#[test]
fn a_key_leaves_nothing_behind_from_import_to_drop() {
    let keys = ClusterKeys::new(&MasterKey::generate(module(), Epoch(1)).unwrap(), ClusterId([1; 16])).unwrap();
    let found = freed_with_canary(|| {
        let material = Template::new().with_octets(AttributeKind::Value, CANARY);
        let wanted = Wanted { class: ObjectClass::SecretKey, key_type: Some(KeyType::Aes), has_payload: true };
        let made = import_as(wanted, &material).unwrap();
        let attributes = made.facts.attributes().clone().with_number(AttributeKind::KeyType, KeyType::Aes as u64);
        let object = object(ObjectClass::SecretKey, &attributes, true);
        let payload = made.payload.unwrap();
        let sealed = keys.seal_payload(module(), &object, &payload).unwrap();
        let opened = keys.open_payload(&object, &sealed).unwrap();
        let session = Some(SessionId([1; 16]));
        let travelling = keys.seal_session_object(module(), session, &object, Some(&opened)).unwrap();
        let (object, payload) = keys.open_session_object(session, &travelling).unwrap();
        drop(Key::load(&object, payload.as_ref()).unwrap());
    });
    assert_eq!(found, 0);
}

#[test]
fn uses_of_a_key_leave_nothing_of_it_behind() {
    let found = freed_with_canary(|| {
        let aes = canary_key(KeyType::Aes);
        let gcm = Parameters::Gcm { iv: vec![1; 12], additional_data: vec![], tag_bits: 128, generate_iv: false };
        for mechanism in [
            Mechanism::plain(M::AES_ECB),
            Mechanism { kind: M::AES_GCM, parameters: gcm },
            Mechanism { kind: M::AES_CTR, parameters: Parameters::Ctr { counter_bits: 8, block: [0xFF; 16] } },
            Mechanism::plain(M::AES_KEY_WRAP),
        ] {
            let encrypted = encrypt(&aes, &mechanism, &[1; 32]).unwrap();
            decrypt(&aes, &mechanism, &encrypted.data).unwrap();
            let transform = family(mechanism.kind).unwrap().transform(&call(&aes, &mechanism), Direction::Decrypt);
            drop(transform.unwrap());
        }
        sign(&aes, &Mechanism::plain(M::AES_CMAC), b"data").unwrap();
        let octets = canary_key(KeyType::GenericSecret);
        sign(&octets, &Mechanism::plain(M::SHA256_HMAC), b"data").unwrap();
        sign(&octets, &Mechanism::plain(M::SHA3_256_HMAC), b"data").unwrap();
        let salt = HkdfSalt::Data(vec![1]);
        let hkdf = Parameters::Hkdf { extract: false, expand: true, hash: M::SHA256, salt, info: vec![] };
        for mechanism in [
            Mechanism { kind: M::HKDF_DERIVE, parameters: hkdf },
            Mechanism { kind: M::CONCATENATE_BASE_AND_DATA, parameters: Parameters::DerivationData(vec![1; 8]) },
            Mechanism { kind: M::XOR_BASE_AND_DATA, parameters: Parameters::DerivationData(vec![0; 16]) },
        ] {
            let derived = family(mechanism.kind).unwrap().derive(&call(&octets, &mechanism), None, Some(16)).unwrap();
            let wanted = Wanted { class: ObjectClass::SecretKey, key_type: Some(KeyType::Aes), has_payload: true };
            drop(from_octets(wanted, derived).unwrap());
        }
    });
    assert_eq!(found, 0);
}

#[test]
fn what_is_decrypted_or_held_leaves_nothing_behind() {
    let key = secret(KeyType::Aes, &[1; 16]);
    let plain = [&CANARY[..], &CANARY[..], &CANARY[..]].concat();
    let iv = Parameters::Iv(vec![1; 16]);
    let mechanism = Mechanism { kind: M::AES_CBC_PAD, parameters: iv };
    let wrapped = encrypt(&key, &mechanism, &plain).unwrap().data;
    let found = freed_with_canary(|| {
        drop(family(mechanism.kind).unwrap().unwrap(&call(&key, &mechanism), &wrapped, None).unwrap());
        let mut gather = Gather::whole();
        (0..20).for_each(|_| gather.update(&CANARY).unwrap());
        drop(gather.finish().unwrap());
        drop(SecretBytes::from(CANARY.to_vec()));
    });
    assert_eq!(found, 0);
}

#[test]
fn private_keys_leave_nothing_behind() {
    let curve = hsm_core::curve::Curve::P256;
    let pair = keys::curve(curve);
    let scalar = [[0x11; 16], CANARY].concat();
    let found = freed_with_canary(|| {
        let material = Template::new()
            .with_octets(AttributeKind::EcParams, curve.params())
            .with_octets(AttributeKind::Value, scalar.as_slice());
        let (object, payload) = keys::import_private(KeyType::Ec, &material).unwrap();
        let key = Key::load(&object, Some(&payload)).unwrap();
        sign(&key, &Mechanism::plain(M::ECDSA), &[1; 32]).unwrap();
        let exported = crate::key::exported(&object, &payload).unwrap();
        let wanted = Wanted { class: ObjectClass::PrivateKey, key_type: Some(KeyType::Ec), has_payload: true };
        drop(from_octets(wanted, exported).unwrap());
        let peer = pair.public_object.attribute(AttributeKind::EcPoint).and_then(|point| point.as_octets()).unwrap();
        let parameters = Parameters::Ecdh { kdf: kdf::NULL, shared_data: vec![], public_data: peer.to_vec() };
        let mechanism = Mechanism { kind: M::ECDH1_DERIVE, parameters };
        drop(family(M::ECDH1_DERIVE).unwrap().derive(&call(&key, &mechanism), None, None).unwrap());
    });
    assert_eq!(found, 0);
}

#[test]
fn a_password_leaves_nothing_behind() {
    let found = freed_with_canary(|| {
        let verifier = password::make(module(), &CANARY, false).unwrap();
        assert!(password::confirm(&verifier, &CANARY).unwrap());
    });
    assert_eq!(found, 0);
}
