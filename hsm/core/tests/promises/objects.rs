//! Token objects: the log is the judge.

use hsm_core::command::{NewObject, SealedPayload};
use hsm_core::{Action, Epoch, Object, ObjectHandle, Request, Response, Row, SessionId, rows};
use hsm_protocol::{AttributeKind as A, ErrorCode, Mechanism, MechanismKind, Template};

use crate::world::{NO_SESSION, World, by, create_objects, sealed};

fn token_key(world: &mut World, session: SessionId, template: Template) -> Object {
    let mechanism = Mechanism::plain(MechanismKind::AES_KEY_GEN);
    let template = template.with_number(A::ValueLen, 32);
    world.make(session, Request::GenerateKey { mechanism: &mechanism, template: &template }).unwrap().remove(0)
}

fn on_token() -> Template {
    Template::new().with_flag(A::Token, true)
}

#[test]
fn handles_are_never_used_twice() {
    let (mut world, _, alice, _) = World::with_users(false);
    let first = world.aes(alice, &Template::new()).unwrap();
    world.must(by(alice), Action::DestroyObject { handle: first });
    world.hsm = world.reloaded();
    let second = world.aes(alice, &Template::new()).unwrap();
    assert!(second > first);
    assert_eq!(world.hsm.object(&world.actor(alice), first).err().unwrap().code, ErrorCode::ObjectUnknown);
}

#[test]
fn a_destroyed_key_leaves_no_row_and_no_parsed_key() {
    let (mut world, _, alice, _) = World::with_users(false);
    let handle = world.aes(alice, &Template::new()).unwrap();
    let uid = world.object(alice, handle).uid();
    assert!(rows::payload(&Row::Payload(handle), &world.rows[&Row::Payload(handle)]).is_ok());
    world.must(by(alice), Action::DestroyObject { handle });
    assert_eq!(world.forgotten, [uid]);
    assert!(!world.rows.contains_key(&Row::Payload(handle)) && !world.rows.contains_key(&Row::Object(handle)));
    assert_eq!(world.refused(by(alice), Action::DestroyObject { handle }), ErrorCode::ObjectUnknown);
}

#[test]
fn others_neither_see_nor_destroy_what_is_private() {
    let (mut world, admin, alice, bob) = World::with_users(false);
    let handle = world.aes(alice, &Template::new()).unwrap();
    let shown = world.aes(alice, &Template::new().with_flag(A::Private, false)).unwrap();
    let destroy = |handle| Action::DestroyObject { handle };
    assert_eq!(world.refused(by(bob), destroy(handle)), ErrorCode::ObjectUnknown);
    assert_eq!(world.refused(by(bob), destroy(shown)), ErrorCode::OwnerRefused);
    assert_eq!(world.refused(by(admin), destroy(handle)), ErrorCode::RoleRefused);
    assert_eq!(world.refused(NO_SESSION, destroy(shown)), ErrorCode::OwnerRefused);
    assert!(world.hsm.object(&world.actor(bob), shown).is_ok());
    assert!(world.hsm.object(&world.actor(bob), handle).is_err());
    assert!(world.hsm.object(&hsm_core::Actor::Nobody, shown).is_ok());
    assert!(world.hsm.object(&hsm_core::Actor::Nobody, handle).is_err());
}

#[test]
fn a_key_that_must_not_be_destroyed_is_not() {
    let (mut world, _, alice, _) = World::with_users(false);
    let handle = world.aes(alice, &Template::new().with_flag(A::Destroyable, false)).unwrap();
    assert_eq!(world.refused(by(alice), Action::DestroyObject { handle }), ErrorCode::NotDestroyable);
}

#[test]
fn only_crypto_users_own_keys_and_only_their_own() {
    let (mut world, admin, alice, bob) = World::with_users(false);
    let of_alice = || on_token();
    let object = token_key(&mut world, alice, of_alice());
    assert_eq!(world.refused(by(bob), create_objects(vec![object.clone()])), ErrorCode::Malformed);
    assert_eq!(world.refused(by(admin), create_objects(vec![object.clone()])), ErrorCode::RoleRefused);
    assert_eq!(world.refused(NO_SESSION, create_objects(vec![object.clone()])), ErrorCode::NotLoggedIn);
    world.must(by(alice), create_objects(vec![object]));
}

#[test]
fn an_object_that_no_draft_becomes_is_refused() {
    let (mut world, admin, alice, _) = World::with_users(false);
    let session_key = token_key(&mut world, alice, Template::new());
    let object = token_key(&mut world, alice, on_token());
    let trust = &Template::new().with_flag(A::Trusted, true);
    let trusted = world.make(admin, Request::SetAttributes { object: &object, template: trust }).unwrap().remove(0);
    let bad: Vec<Vec<NewObject>> = vec![
        vec![],
        vec![NewObject { object: session_key, payload: Some(sealed()) }],
        vec![NewObject { object: object.clone(), payload: None }],
        vec![NewObject { object: trusted, payload: Some(sealed()) }],
    ];
    let before = world.hsm.state_hash();
    for objects in bad {
        assert_eq!(world.refused(by(alice), Action::CreateObjects { objects }), ErrorCode::Malformed);
    }
    let twice = create_objects(vec![object.clone(), object.clone()]);
    assert_eq!(world.refused(by(alice), twice), ErrorCode::ObjectChanged);
    let three = create_objects(vec![object.clone(), object.clone(), object]);
    assert_eq!(world.refused(by(alice), three), ErrorCode::Malformed);
    assert_eq!(world.hsm.state_hash(), before);
}

#[test]
fn what_was_sealed_in_another_epoch_is_made_again() {
    let (mut world, _, alice, _) = World::with_users(false);
    let object = token_key(&mut world, alice, on_token());
    let payload = Some(SealedPayload { epoch: Epoch(2), ..sealed() });
    let create = Action::CreateObjects { objects: vec![NewObject { object, payload }] };
    assert_eq!(world.refused(by(alice), create), ErrorCode::ObjectChanged);
}

#[test]
fn a_change_applies_to_the_version_that_it_was_made_from_and_only_as_policy_allows() {
    let (mut world, _, alice, bob) = World::with_users(false);
    let handle = world.aes(alice, &Template::new()).unwrap();
    let old = world.object(alice, handle);
    let template = &Template::new().with_octets(A::Label, "new");
    let new = world.make(alice, Request::SetAttributes { object: &old, template }).unwrap().remove(0);
    let replace = |object: &Object, payload| Action::ReplaceObject { handle, object: object.clone(), payload };
    assert_eq!(world.refused(by(bob), replace(&new, Some(sealed()))), ErrorCode::ObjectUnknown);
    assert_eq!(world.refused(by(alice), replace(&new, None)), ErrorCode::Malformed);
    assert_eq!(world.refused(by(alice), replace(&old, Some(sealed()))), ErrorCode::ObjectChanged);
    world.must(by(alice), replace(&new, Some(sealed())));
    assert_eq!(world.object(alice, handle).octets(A::Label), Some(&b"new"[..]));
    assert_eq!(world.refused(by(alice), replace(&new, Some(sealed()))), ErrorCode::ObjectChanged);
    // An object whose seal would be right, but whose owner could not have asked for it.
    let loose = Template::new().with_flag(A::Extractable, true);
    let other = token_key(&mut world, alice, on_token().with_flag(A::Extractable, true));
    let forged = world.make(alice, Request::SetAttributes { object: &other, template }).unwrap().remove(0);
    assert_eq!(world.refused(by(alice), replace(&forged, Some(sealed()))), ErrorCode::ObjectChanged);
    let current = world.object(alice, handle);
    let asked = world.needs(alice, Request::SetAttributes { object: &current, template: &loose });
    assert_eq!(asked.err().unwrap().code, ErrorCode::AttributeReadOnly);
}

#[test]
fn a_pair_is_created_whole_and_in_order() {
    let (mut world, _, alice, _) = World::with_users(false);
    let mechanism = Mechanism::plain(MechanismKind::RSA_PKCS_KEY_PAIR_GEN);
    let public_template = &on_token().with_number(A::ModulusBits, 2048);
    let private_template = &on_token();
    let request = Request::GenerateKeyPair { mechanism: &mechanism, public_template, private_template };
    let objects = world.make(alice, request).unwrap();
    let Response::Created(handles) = world.must(by(alice), create_objects(objects)) else { panic!("another") };
    assert_eq!(handles, [ObjectHandle(1), ObjectHandle(2)]);
    assert!(!world.rows.contains_key(&Row::Payload(handles[0])) && world.rows.contains_key(&Row::Payload(handles[1])));
}

#[test]
fn zeroizing_leaves_no_object_no_user_and_no_session() {
    let (mut world, admin, alice, _) = World::with_users(false);
    world.aes(alice, &Template::new()).unwrap();
    world.must(by(admin), Action::Zeroize);
    assert_eq!((world.hsm.object_count(), world.hsm.user_count(), world.hsm.session_count()), (0, 0, 0));
    assert!(world.rows.keys().all(|row| matches!(row, Row::Cluster | Row::Counters | Row::Member(_))));
    assert_eq!(world.closed.len(), 3);
    assert!(world.effects.iter().any(|effect| matches!(effect, hsm_core::Effect::Zeroize)));
    let cluster = world.hsm.cluster().unwrap();
    assert!(cluster.sealed_cluster_key.is_empty() && cluster.sealed_activation_password.is_empty());
    assert_eq!(world.refused(NO_SESSION, Action::Zeroize), ErrorCode::LifecycleRefused);
    assert_eq!(world.reserve("admin", hsm_protocol::Role::Admin).err().unwrap().code, ErrorCode::LifecycleRefused);
}
