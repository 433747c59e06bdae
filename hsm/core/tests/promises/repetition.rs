//! Calls that come twice (Raft dissertation §6.3).

use hsm_core::{Action, Response};
use hsm_protocol::{AttributeKind as A, ErrorCode, Mechanism, MechanismKind, Role, Template};

use crate::world::{World, by, create_objects, create_user, numbered};

fn new_key(world: &mut World, session: hsm_core::SessionId) -> Action {
    let mechanism = Mechanism::plain(MechanismKind::AES_KEY_GEN);
    let template = Template::new().with_flag(A::Token, true).with_number(A::ValueLen, 32);
    let request = hsm_core::Request::GenerateKey { mechanism: &mechanism, template: &template };
    create_objects(world.make(session, request).unwrap())
}

#[test]
fn a_repeated_call_has_the_first_result_and_makes_no_second_key() {
    let (mut world, _, alice, _) = World::with_users(false);
    let (first, second) = (new_key(&mut world, alice), new_key(&mut world, alice));
    let Response::Created(handles) = world.must(numbered(alice, 1, 1), first) else { panic!("another response") };
    let audited = world.audit.len();
    let Response::Created(again) = world.must(numbered(alice, 1, 1), second) else { panic!("another response") };
    assert_eq!(handles, again);
    assert_eq!((world.hsm.object_count(), world.audit.len()), (1, audited));
}

#[test]
fn a_refusal_is_repeated_too_even_when_its_cause_is_gone() {
    let (mut world, admin, ..) = World::with_users(false);
    let create = || create_user("alice", Role::CryptoUser);
    assert_eq!(world.refused(numbered(admin, 5, 5), create()), ErrorCode::UserExists);
    let delete = Action::SetUserEnabled { name: crate::world::user("alice"), role: Role::CryptoUser, enabled: false };
    world.must(by(admin), delete);
    assert_eq!(world.refused(numbered(admin, 5, 5), create()), ErrorCode::UserExists);
}

#[test]
fn a_number_that_was_answered_is_passed_and_never_executed() {
    let (mut world, admin, ..) = World::with_users(false);
    world.must(numbered(admin, 1, 1), create_user("u1", Role::CryptoUser));
    world.must(numbered(admin, 3, 3), create_user("u3", Role::CryptoUser));
    for sequence in [1, 2] {
        let create = create_user("late", Role::CryptoUser);
        assert_eq!(world.refused(numbered(admin, sequence, 1), create), ErrorCode::SequencePassed);
    }
    assert_eq!(world.hsm.users().iter().filter(|user| user.name.as_str() == "late").count(), 0);
}

#[test]
fn a_refusal_that_means_again_is_not_kept() {
    let (mut world, _, alice, _) = World::with_users(false);
    let handle = world.aes(alice, &Template::new()).unwrap();
    let object = world.object(alice, handle);
    let label = |text: &str| Template::new().with_octets(A::Label, text);
    let (first, second) = (label("one"), label("two"));
    let replace = |world: &mut World, template: &Template, origin, object: &hsm_core::Object| {
        let request = hsm_core::Request::SetAttributes { object, template };
        let object = world.make(alice, request).unwrap().remove(0);
        world.act(origin, Action::ReplaceObject { handle, object, payload: Some(crate::world::sealed()) })
    };
    replace(&mut world, &first, by(alice), &object).unwrap();
    let stale = replace(&mut world, &second, numbered(alice, 1, 1), &object);
    assert_eq!(stale.err().unwrap().code, ErrorCode::ObjectChanged);
    let fresh = world.object(alice, handle);
    replace(&mut world, &second, numbered(alice, 1, 1), &fresh).unwrap();
    assert_eq!(world.object(alice, handle).octets(A::Label), Some(&b"two"[..]));
}

#[test]
fn results_that_wait_for_confirmation_are_bounded() {
    let (mut world, admin, ..) = World::with_users(false);
    let limit = hsm_core::limits::RESULTS_PER_SESSION as u64;
    for sequence in 1..=limit {
        assert_eq!(
            world.refused(numbered(admin, sequence, 1), create_user("alice", Role::CryptoUser)),
            ErrorCode::UserExists
        );
    }
    let next = create_user("carol", Role::CryptoUser);
    assert_eq!(world.refused(numbered(admin, limit + 1, 1), next.clone()), ErrorCode::Busy);
    world.must(numbered(admin, limit + 1, limit + 1), next);
}

#[test]
fn a_call_that_all_others_overtook_is_done_and_they_go_on() {
    let (mut world, admin, ..) = World::with_users(false);
    let limit = hsm_core::limits::RESULTS_PER_SESSION as u64;
    // The first one was on an HSM that was cut off.
    for sequence in 2..=limit + 1 {
        world.refused(numbered(admin, sequence, 1), create_user("alice", Role::CryptoUser));
    }
    let carol = create_user("carol", Role::CryptoUser);
    assert_eq!(world.refused(numbered(admin, limit + 2, 1), carol.clone()), ErrorCode::Busy);
    world.must(numbered(admin, 1, 1), carol.clone());
    world.must(numbered(admin, 1, 1), carol);
    world.must(numbered(admin, limit + 2, limit + 2), create_user("dave", Role::CryptoUser));
}

#[test]
fn the_sessions_of_others_have_numbers_of_their_own() {
    let (mut world, _, alice, bob) = World::with_users(false);
    let (of_alice, of_bob) = (new_key(&mut world, alice), new_key(&mut world, bob));
    world.must(numbered(alice, 1, 1), of_alice);
    world.must(numbered(bob, 1, 1), of_bob);
    assert_eq!(world.hsm.object_count(), 2);
}
