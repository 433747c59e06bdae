//! Seals of the cluster: a payload opens under its own metadata and nothing else.

use hsm_core::{ClusterId, Epoch, Incarnation, Object, SessionId, UserId};
use hsm_protocol::{AttributeKind, KeyType, ObjectClass, Role, Template};

use super::keys::{module, object};
use crate::{ClusterKeys, MasterKey, Payload, SealBroken, SecretBytes, TokenClaims};

fn cluster_keys(epoch: u32) -> ClusterKeys {
    ClusterKeys::new(&MasterKey::generate(module(), Epoch(epoch)).unwrap(), ClusterId([1; 16])).unwrap()
}

fn key(label: &str) -> Object {
    let attributes = Template::new()
        .with_number(AttributeKind::KeyType, KeyType::Aes as u64)
        .with_octets(AttributeKind::Label, label);
    object(ObjectClass::SecretKey, &attributes, true)
}

fn payload() -> Payload {
    Payload::new().with(AttributeKind::Value, SecretBytes::copy_of(&[0x5E; 32]))
}

/// The same object with another label, as if an attacker had changed the store.
fn relabelled(object: &Object, label: &str, version: u32) -> Object {
    let mut attributes = object.attributes().with_octets(AttributeKind::Label, label);
    attributes.remove(AttributeKind::UniqueId);
    let stored = postcard::to_stdvec(&(object.uid(), version, object.owner(), attributes, true)).unwrap();
    postcard::from_bytes(&stored).unwrap_or_else(|_| panic!("not the form in which objects are stored"))
}

#[test]
fn a_payload_opens_under_its_own_metadata_only() {
    let keys = cluster_keys(1);
    let object = key("a");
    let sealed = keys.seal_payload(module(), &object, &payload()).unwrap();
    assert_eq!(keys.open_payload(&object, &sealed).unwrap().value().unwrap(), [0x5E; 32]);
    for other in [key("a"), relabelled(&object, "b", 1), relabelled(&object, "a", 2)] {
        assert_eq!(keys.open_payload(&other, &sealed).err(), Some(SealBroken::Authentication));
    }
    assert_eq!(cluster_keys(1).open_payload(&object, &sealed).err(), Some(SealBroken::Authentication));
    assert_eq!(cluster_keys(2).open_payload(&object, &sealed).err(), Some(SealBroken::Epoch));
}

#[test]
fn each_flipped_bit_of_a_payload_is_refused() {
    let keys = cluster_keys(1);
    let object = key("a");
    let sealed = keys.seal_payload(module(), &object, &payload()).unwrap();
    for bit in 0..sealed.wrapped_data_key.len() * 8 {
        let mut altered = sealed.clone();
        altered.wrapped_data_key[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(keys.open_payload(&object, &altered).err(), Some(SealBroken::Authentication));
    }
    for bit in 0..sealed.ciphertext.len() * 8 {
        let mut altered = sealed.clone();
        altered.ciphertext[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(keys.open_payload(&object, &altered).err(), Some(SealBroken::Authentication));
    }
    for length in 0..sealed.ciphertext.len() {
        let mut altered = sealed.clone();
        altered.ciphertext.truncate(length);
        assert!(keys.open_payload(&object, &altered).is_err());
    }
}

#[test]
fn a_rebound_payload_opens_under_the_new_version_only() {
    let keys = cluster_keys(1);
    let old = key("a");
    let new = relabelled(&old, "b", 2);
    let sealed = keys.seal_payload(module(), &old, &payload()).unwrap();
    let rebound = keys.rebind_payload(module(), &old, &new, &sealed).unwrap();
    assert_eq!(keys.open_payload(&new, &rebound).unwrap().value().unwrap(), [0x5E; 32]);
    assert!(keys.open_payload(&old, &rebound).is_err());
    assert!(keys.rebind_payload(module(), &old, &key("c"), &sealed).is_err(), "another object");
}

#[test]
fn a_session_object_opens_for_its_login_only() {
    let keys = cluster_keys(1);
    let (mine, other) = (Some(SessionId([1; 16])), Some(SessionId([2; 16])));
    let object = key("a");
    let sealed = keys.seal_session_object(module(), mine, &object, Some(&payload())).unwrap();
    let (opened, secret) = keys.open_session_object(mine, &sealed).unwrap();
    assert!(opened == object);
    assert_eq!(secret.unwrap().value().unwrap(), [0x5E; 32]);
    for session in [other, None] {
        assert_eq!(keys.open_session_object(session, &sealed).err(), Some(SealBroken::Authentication));
    }
    for byte in 0..sealed.len() {
        let mut altered = sealed.clone();
        altered[byte] ^= 0x10;
        assert!(keys.open_session_object(mine, &altered).is_err());
    }
}

#[test]
fn tokens_and_bytes_open_for_their_purpose_only() {
    let keys = cluster_keys(1);
    let claims = TokenClaims {
        incarnation: Incarnation([3; 16]),
        session: SessionId([4; 16]),
        user: UserId(5),
        role: Role::CryptoUser,
    };
    let token = keys.seal_token(module(), &claims).unwrap();
    assert_eq!(keys.open_token(&token), Ok(claims));
    assert!(cluster_keys(1).open_token(&token).is_err());
    let sealed = keys.seal_bytes(module(), "one", b"secret").unwrap();
    assert_eq!(keys.open_bytes("one", &sealed).unwrap().expose(), b"secret");
    assert!(keys.open_bytes("other", &sealed).is_err());
    assert!(keys.open_token(&sealed).is_err());
}
