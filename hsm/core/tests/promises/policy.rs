//! What may change, be copied and be told.

use hsm_core::{Disclosure, Object, Request, SessionId};
use hsm_protocol::attribute::AttributeValue;
use hsm_protocol::{AttributeKind as A, ErrorCode, KeyType, Mechanism, MechanismKind, Template};

use crate::world::World;

fn key(world: &mut World, session: SessionId, template: Template) -> Object {
    let mechanism = Mechanism::plain(MechanismKind::AES_KEY_GEN);
    let template = template.with_number(A::ValueLen, 32);
    world.make(session, Request::GenerateKey { mechanism: &mechanism, template: &template }).unwrap().remove(0)
}

fn set(world: &mut World, session: SessionId, object: &Object, template: Template) -> Result<Object, ErrorCode> {
    let made = world.make(session, Request::SetAttributes { object, template: &template });
    made.map(|mut objects| objects.remove(0)).map_err(|refusal| refusal.code)
}

fn copy(world: &mut World, session: SessionId, source: &Object, template: Template) -> Result<Object, ErrorCode> {
    let made = world.make(session, Request::CopyObject { source, template: &template });
    made.map(|mut objects| objects.remove(0)).map_err(|refusal| refusal.code)
}

fn flag(kind: A, flag: bool) -> Template {
    Template::new().with_flag(kind, flag)
}

#[test]
fn protection_is_tightened_and_never_loosened() {
    let (mut world, _, alice, _) = World::with_users(false);
    let loose = flag(A::Sensitive, false).with_flag(A::Extractable, true);
    let object = key(&mut world, alice, loose);
    let directions = [(A::Sensitive, true), (A::Extractable, false), (A::WrapWithTrusted, true), (A::Copyable, false)];
    let mut tightened = object.clone();
    for (kind, value) in directions {
        tightened = set(&mut world, alice, &tightened, flag(kind, value)).unwrap();
        assert_eq!(tightened.is(kind), value);
    }
    for (kind, value) in directions {
        let refused = set(&mut world, alice, &tightened, flag(kind, !value));
        assert_eq!(refused.err(), Some(ErrorCode::AttributeReadOnly), "{kind:?}");
    }
    // What was once readable was not always sensitive.
    assert!(!tightened.is(A::AlwaysSensitive) && !tightened.is(A::NeverExtractable));
    assert_eq!(tightened.version(), 5);
}

#[test]
fn identity_and_history_of_an_object_never_change() {
    let (mut world, _, alice, _) = World::with_users(false);
    let object = key(&mut world, alice, Template::new());
    let fixed = [
        Template::new().with_number(A::Class, 3),
        flag(A::Token, true),
        flag(A::Private, false),
        flag(A::Local, false),
        flag(A::AlwaysSensitive, false),
        flag(A::NeverExtractable, false),
        Template::new().with_number(A::KeyType, 0),
        Template::new().with_number(A::KeyGenMechanism, 1),
        Template::new().with_number(A::ValueLen, 16),
        Template::new().with_octets(A::Value, [1; 32]),
        Template::new().with_octets(A::UniqueId, "x"),
        Template::new().with_octets(A::CheckValue, "x"),
    ];
    for (position, template) in fixed.into_iter().enumerate() {
        assert_eq!(set(&mut world, alice, &object, template).err(), Some(ErrorCode::AttributeReadOnly), "{position}");
    }
    let unknown = Template::new().with_octets(A::Modulus, "x");
    assert_eq!(set(&mut world, alice, &object, unknown).err(), Some(ErrorCode::AttributeUnknown));
    let free = Template::new().with_octets(A::Label, "l").with_octets(A::Id, "i").with_octets(A::EndDate, "20300101");
    let free = free.with_flag(A::Sign, false).with_flag(A::Destroyable, false);
    assert!(set(&mut world, alice, &object, free).is_ok());
}

#[test]
fn an_object_that_cannot_be_changed_stays_as_it_is() {
    let (mut world, admin, alice, _) = World::with_users(false);
    let object = key(&mut world, alice, flag(A::Modifiable, false));
    let label = Template::new().with_octets(A::Label, "x");
    assert_eq!(set(&mut world, alice, &object, label).err(), Some(ErrorCode::NotModifiable));
    assert_eq!(set(&mut world, admin, &object, flag(A::Trusted, true)).err(), Some(ErrorCode::NotModifiable));
    let object = key(&mut world, alice, Template::new());
    let frozen = set(&mut world, alice, &object, flag(A::Modifiable, false)).unwrap();
    assert_eq!(set(&mut world, alice, &frozen, flag(A::Modifiable, true)).err(), Some(ErrorCode::NotModifiable));
}

#[test]
fn only_the_owner_changes_an_object_and_an_admin_only_its_trust() {
    let (mut world, admin, alice, bob) = World::with_users(false);
    let private = key(&mut world, alice, Template::new());
    let public = key(&mut world, alice, flag(A::Private, false));
    let label = || Template::new().with_octets(A::Label, "x");
    assert_eq!(set(&mut world, bob, &private, label()).err(), Some(ErrorCode::ObjectUnknown));
    assert_eq!(set(&mut world, bob, &public, label()).err(), Some(ErrorCode::OwnerRefused));
    assert_eq!(set(&mut world, admin, &private, label()).err(), Some(ErrorCode::RoleRefused));
    assert_eq!(set(&mut world, admin, &private, Template::new()).err(), Some(ErrorCode::RoleRefused));
    let trusted = set(&mut world, admin, &private, flag(A::Trusted, true)).unwrap();
    assert!(trusted.is(A::Trusted));
    assert!(set(&mut world, admin, &trusted, flag(A::Trusted, false)).is_ok());
}

#[test]
fn a_trusted_key_is_not_made_to_do_more_by_its_owner() {
    let (mut world, admin, alice, _) = World::with_users(false);
    let kek = key(&mut world, alice, flag(A::Decrypt, false));
    let trusted = set(&mut world, admin, &kek, flag(A::Trusted, true)).unwrap();
    assert_eq!(set(&mut world, alice, &trusted, flag(A::Decrypt, true)).err(), Some(ErrorCode::AttributeReadOnly));
    assert!(set(&mut world, alice, &trusted, flag(A::Encrypt, false)).is_ok());
    let copied = copy(&mut world, alice, &trusted, flag(A::Decrypt, true)).unwrap();
    assert!(!copied.is(A::Trusted));
}

#[test]
fn a_copy_is_as_protected_as_its_source() {
    let (mut world, _, alice, bob) = World::with_users(false);
    let source = key(&mut world, alice, flag(A::Extractable, true).with_flag(A::Sensitive, false));
    let tighter = flag(A::Extractable, false).with_flag(A::Token, true).with_octets(A::Label, "copy");
    let copied = copy(&mut world, alice, &source, tighter).unwrap();
    assert!(
        !copied.is(A::Extractable) && copied.is(A::Token) && !copied.is(A::NeverExtractable) && copied.is(A::Local)
    );
    assert_ne!(copied.uid(), source.uid());
    assert_eq!(copied.version(), Object::FIRST_VERSION);
    for (kind, value) in [(A::Extractable, true), (A::Private, false)] {
        let refused = copy(&mut world, alice, &copied, flag(kind, value));
        assert_eq!(refused.err(), Some(ErrorCode::AttributeReadOnly));
    }
    let fixed = key(&mut world, alice, flag(A::Copyable, false));
    assert_eq!(copy(&mut world, alice, &fixed, Template::new()).err(), Some(ErrorCode::NotCopyable));
    let shown = key(&mut world, alice, flag(A::Private, false));
    assert_eq!(copy(&mut world, bob, &shown, Template::new()).err(), Some(ErrorCode::OwnerRefused));
    assert_eq!(copy(&mut world, bob, &source, Template::new()).err(), Some(ErrorCode::ObjectUnknown));
    let frozen = key(&mut world, alice, flag(A::Modifiable, false));
    assert!(copy(&mut world, alice, &frozen, flag(A::Modifiable, true)).unwrap().is(A::Modifiable));
}

fn told(world: &World, session: SessionId, object: &Object, kind: A) -> &'static str {
    match world.hsm.disclose(&world.actor(session), object, &[kind]).remove(0) {
        Disclosure::Value(_) => "value",
        Disclosure::Sensitive => "sensitive",
        Disclosure::Absent => "absent",
        Disclosure::FromPayload(..) => "payload",
    }
}

#[test]
fn a_secret_value_is_told_only_of_a_key_that_is_neither_sensitive_nor_kept() {
    let (mut world, admin, alice, bob) = World::with_users(false);
    for (sensitive, extractable, expected) in
        [(true, true, "sensitive"), (true, false, "sensitive"), (false, false, "sensitive"), (false, true, "payload")]
    {
        let object = key(&mut world, alice, flag(A::Sensitive, sensitive).with_flag(A::Extractable, extractable));
        assert_eq!(told(&world, alice, &object, A::Value), expected);
        assert_eq!(told(&world, bob, &object, A::Value), "absent");
        assert_eq!(told(&world, admin, &object, A::Value), "sensitive");
        assert_eq!(told(&world, alice, &object, A::Modulus), "absent");
        assert_eq!(told(&world, alice, &object, A::Label), "value");
        assert_eq!(told(&world, alice, &object, A::UniqueId), "value");
    }
}

#[test]
fn what_is_readable_is_everything_but_the_secret_part() {
    let (mut world, _, alice, _) = World::with_users(false);
    let object = key(&mut world, alice, flag(A::Sensitive, false).with_flag(A::Extractable, true));
    let readable = world.hsm.readable(&world.actor(alice), &object);
    assert!(readable.get(A::Value).is_none());
    assert!(readable.octets(A::Label) == Some(b"") && readable.octets(A::StartDate) == Some(b""));
    assert!(readable.number(A::Class) == Some(4) && readable.number(A::KeyType) == Some(KeyType::Aes as u64));
    assert!(readable.get(A::AllowedMechanisms) == Some(&AttributeValue::Mechanisms(vec![])));
    assert_eq!(readable.octets(A::UniqueId), Some(object.unique_id().as_bytes()));
}
