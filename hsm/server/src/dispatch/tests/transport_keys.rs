//! Wrapped, derived, copied and changed keys, and the cache of parsed ones.

use std::sync::Arc;

use hsm_core::{Actor, ObjectHandle};
use hsm_crypto::Key;
use hsm_protocol::wire::{self, request};
use hsm_protocol::{
    AttributeKind, ErrorCode, KeyType, Mechanism, MechanismKind, ObjectClass, Operation, Parameters, Template, convert,
};

use super::client::{Client, Hsm, bare, created, octets, operate};
use crate::dispatch::key_cache::KeyCache;

fn mechanism(kind: MechanismKind) -> Option<wire::Mechanism> {
    Some(convert::mechanism_message(&Mechanism::plain(kind)))
}

fn message(template: &Template) -> Option<wire::Attributes> {
    Some(convert::template_message(template))
}

fn make_key(client: &mut Client, template: &Template) -> wire::ObjectReference {
    let body = request::Body::GenerateKey(wire::GenerateKey {
        mechanism: mechanism(MechanismKind::AES_KEY_GEN),
        template: message(template),
    });
    created(client.change(body).unwrap()).remove(0)
}

fn aes(token: bool) -> Template {
    Template::new().with_flag(AttributeKind::Token, token).with_number(AttributeKind::ValueLen, 32)
}

fn encrypted(client: &mut Client, key: &wire::ObjectReference) -> Result<Vec<u8>, ErrorCode> {
    octets(client.call(operate(Operation::Encrypt, key, MechanismKind::AES_ECB, &[7; 16])))
}

#[test]
fn a_wrapped_key_comes_back_as_the_same_key() {
    let hsm = Hsm::active();
    let mut client = hsm.connect_as("app");
    let flags = [AttributeKind::Wrap, AttributeKind::Unwrap];
    let wrapping =
        make_key(&mut client, &flags.into_iter().fold(aes(true), |template, kind| template.with_flag(kind, true)));
    let usable = aes(false).with_flag(AttributeKind::Encrypt, true).with_flag(AttributeKind::Extractable, true);
    let key = make_key(&mut client, &usable);
    let wrap = |key: &wire::ObjectReference| {
        request::Body::WrapKey(wire::WrapKey {
            mechanism: mechanism(MechanismKind::AES_KEY_WRAP),
            wrapping_key: Some(wrapping.clone()),
            key: Some(key.clone()),
        })
    };
    let wrapped = octets(client.call(wrap(&key))).unwrap();
    let unwrap = |wrapped: Vec<u8>| {
        let template = Template::new()
            .with_flag(AttributeKind::Token, true)
            .with_number(AttributeKind::Class, ObjectClass::SecretKey as u64)
            .with_number(AttributeKind::KeyType, KeyType::Aes as u64)
            .with_flag(AttributeKind::Encrypt, true);
        request::Body::UnwrapKey(wire::UnwrapKey {
            mechanism: mechanism(MechanismKind::AES_KEY_WRAP),
            unwrapping_key: Some(wrapping.clone()),
            wrapped,
            template: message(&template),
        })
    };
    let back = created(client.change(unwrap(wrapped.clone())).unwrap()).remove(0);
    assert_eq!(encrypted(&mut client, &key), encrypted(&mut client, &back));
    let mut altered = wrapped;
    altered[3] ^= 1;
    assert_eq!(client.change(unwrap(altered)).err(), Some(ErrorCode::WrappedKeyInvalid));
    let fixed = make_key(&mut client, &aes(true).with_flag(AttributeKind::Extractable, false));
    assert_eq!(client.call(wrap(&fixed)).err(), Some(ErrorCode::NotExtractable));
}

#[test]
fn a_key_is_derived_from_another() {
    let hsm = Hsm::active();
    let mut client = hsm.connect_as("app");
    let base = make_key(&mut client, &aes(true).with_flag(AttributeKind::Derive, true));
    let derive =
        Mechanism { kind: MechanismKind::AES_ECB_ENCRYPT_DATA, parameters: Parameters::DerivationData(vec![9; 32]) };
    let template = Template::new()
        .with_number(AttributeKind::Class, ObjectClass::SecretKey as u64)
        .with_number(AttributeKind::KeyType, KeyType::Aes as u64)
        .with_number(AttributeKind::ValueLen, 32)
        .with_flag(AttributeKind::Encrypt, true);
    let request = |token| {
        request::Body::DeriveKey(wire::DeriveKey {
            mechanism: Some(convert::mechanism_message(&derive)),
            base_key: Some(base.clone()),
            template: message(&template.clone().with_flag(AttributeKind::Token, token)),
        })
    };
    let in_session = created(client.change(request(false)).unwrap()).remove(0);
    let on_token = created(client.change(request(true)).unwrap()).remove(0);
    assert_eq!(encrypted(&mut client, &in_session), encrypted(&mut client, &on_token));
}

#[test]
fn a_copy_is_the_same_key_under_other_attributes_in_either_place() {
    let hsm = Hsm::active();
    let mut client = hsm.connect_as("app");
    for (from, to) in [(true, true), (true, false), (false, true), (false, false)] {
        let key = make_key(&mut client, &aes(from).with_flag(AttributeKind::Encrypt, true));
        let template = Template::new().with_flag(AttributeKind::Token, to).with_octets(AttributeKind::Label, "copy");
        let copy =
            request::Body::CopyObject(wire::CopyObject { object: Some(key.clone()), template: message(&template) });
        let copy = created(client.change(copy).unwrap()).remove(0);
        assert_eq!(copy.token_object > 0, to);
        assert_eq!(encrypted(&mut client, &key), encrypted(&mut client, &copy), "{from} {to}");
    }
}

#[test]
fn a_changed_session_object_takes_the_place_of_the_old_one() {
    let hsm = Hsm::active();
    let mut client = hsm.connect_as("app");
    let old = make_key(&mut client, &aes(false).with_flag(AttributeKind::Encrypt, true));
    let template = Template::new().with_flag(AttributeKind::Encrypt, false);
    let set =
        request::Body::SetAttributes(wire::SetAttributes { object: Some(old.clone()), template: message(&template) });
    let new = created(client.change(set).unwrap()).remove(0);
    assert_eq!(new.session_object, old.session_object);
    assert_eq!(encrypted(&mut client, &bare(&new)), Err(ErrorCode::KeyUseRefused));
    assert_eq!(encrypted(&mut client, &old), Err(ErrorCode::KeyUseRefused), "its old form is not opened again");
}

#[test]
fn the_cache_of_parsed_keys_keeps_its_limits_and_spares_what_is_used() {
    let hsm = Hsm::active();
    let mut client = hsm.connect_as("app");
    let handles: Vec<u64> = (0..40).map(|_| client.make_pair(true).0.token_object).collect();
    let Some(actor @ Actor::Session { .. }) = hsm.service.attached_sessions().pop() else { panic!("nobody") };
    let object = |handle: &u64| hsm.node.read().object(&actor, ObjectHandle(*handle)).unwrap();
    let cache = KeyCache::with_limits(32, 1 << 20);
    for handle in &handles {
        let object = object(handle);
        assert!(cache.get(&object).is_none());
        cache.put(&object, Arc::new(Key::load(&object, None).unwrap()));
        assert!(cache.get(&object).is_some());
        cache.put(&object, Arc::new(Key::load(&object, None).unwrap()));
        let (keys, bytes) = cache.size();
        assert!(keys <= 32 && bytes <= 1 << 20, "{keys} keys, {bytes} bytes");
    }
    handles.iter().for_each(|handle| cache.forget(object(handle).uid()));
    assert_eq!(cache.size(), (0, 0));
}
