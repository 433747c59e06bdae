//! Login sessions: how long they live and how many there are.

use hsm_core::command::NewSession;
use hsm_core::limits::{SESSION_MILLISECONDS, SESSIONS_PER_USER};
use hsm_core::{Action, Actor, SessionId, Stamp};
use hsm_protocol::{ErrorCode, Role};

use crate::world::{HOUR, NO_SESSION, World, by, create_user};

#[test]
fn a_session_ends_with_its_time_and_is_swept_away() {
    let (mut world, _, alice, _) = World::with_users(false);
    let actor = world.actor(alice);
    world.now.0 += HOUR - 1;
    assert!(world.hsm.check(&actor, world.now).is_ok());
    assert!(!world.hsm.has_expired_sessions(world.now));
    world.now.0 += 1;
    assert_eq!(world.hsm.check(&actor, world.now).unwrap_err().code, ErrorCode::NotLoggedIn);
    assert_eq!(world.refused(by(alice), create_user("x", Role::CryptoUser)), ErrorCode::NotLoggedIn);
    assert!(world.hsm.has_expired_sessions(world.now));
    world.must(NO_SESSION, Action::ExpireSessions);
    assert_eq!(world.closed.len(), 3);
    assert_eq!(world.hsm.session_count(), 0);
}

#[test]
fn a_session_is_renewed_while_it_stands_and_within_its_longest_life() {
    let (mut world, _, alice, _) = World::with_users(false);
    let renew = |expires_at| Action::RenewSession { session: alice, expires_at };
    let first = world.hsm.session(alice, world.now).unwrap().expires_at;
    world.must(NO_SESSION, renew(Stamp(first.0 + HOUR)));
    assert_eq!(world.hsm.session(alice, world.now).unwrap().expires_at, Stamp(first.0 + HOUR));
    // Never shorter, never too long, never dead.
    world.must(NO_SESSION, renew(Stamp(world.now.0 + 1)));
    assert_eq!(world.hsm.session(alice, world.now).unwrap().expires_at, Stamp(first.0 + HOUR));
    world.must(NO_SESSION, renew(Stamp(u64::MAX)));
    let longest = Stamp(world.now.0 + SESSION_MILLISECONDS);
    assert_eq!(world.hsm.session(alice, world.now).unwrap().expires_at, longest);
    world.now = longest;
    assert_eq!(world.refused(NO_SESSION, renew(Stamp(u64::MAX))), ErrorCode::NotLoggedIn);
}

#[test]
fn a_logout_ends_that_session_only_and_nobody_ends_another_users() {
    let (mut world, _, alice, bob) = World::with_users(false);
    let second = world.log_in("alice", Role::CryptoUser).unwrap();
    assert_eq!(world.refused(by(bob), Action::Logout { session: alice }), ErrorCode::NotLoggedIn);
    world.must(by(alice), Action::Logout { session: alice });
    assert_eq!(world.closed, [alice]);
    assert!(world.hsm.check(&world.actor(second), world.now).is_ok());
    assert_eq!(world.refused(by(alice), Action::Logout { session: alice }), ErrorCode::NotLoggedIn);
}

#[test]
fn a_session_serves_only_the_user_and_role_that_it_was_opened_for() {
    let (world, _, alice, bob) = World::with_users(false);
    let Actor::Session { user, role, .. } = world.actor(alice) else { panic!("nobody") };
    for forged in [
        Actor::Session { session: bob, user, role },
        Actor::Session { session: alice, user, role: Role::Admin },
        Actor::Session { session: SessionId([0xEE; 16]), user, role },
    ] {
        assert_eq!(world.hsm.check(&forged, world.now).unwrap_err().code, ErrorCode::NotLoggedIn);
        assert!(world.hsm.find(&forged, &Default::default(), hsm_core::ObjectHandle(0), 10).is_err());
    }
}

#[test]
fn sessions_of_a_user_are_bounded_and_only_idle_ones_make_room() {
    let (mut world, _, alice, _) = World::with_users(false);
    let mut sessions = vec![alice];
    while sessions.len() < SESSIONS_PER_USER {
        sessions.push(world.log_in("alice", Role::CryptoUser).unwrap());
    }
    // All are young: none is taken from a process that may live.
    assert_eq!(world.log_in("alice", Role::CryptoUser).unwrap_err().code, ErrorCode::SessionLimit);
    world.now.0 += HOUR / 2 + 1;
    for &session in &sessions[1..] {
        world.must(NO_SESSION, Action::RenewSession { session, expires_at: Stamp(world.now.0 + HOUR) });
    }
    assert!(world.log_in("alice", Role::CryptoUser).is_ok());
    assert_eq!(world.closed, [alice]);
    assert_eq!(world.log_in("alice", Role::CryptoUser).unwrap_err().code, ErrorCode::SessionLimit);
    assert!(!world.user("alice", Role::CryptoUser).locked);
}

#[test]
fn a_session_cannot_be_opened_in_the_past_or_twice() {
    let (mut world, _, alice, _) = World::with_users(false);
    for (session, expires_at, code) in
        [(SessionId([0xCC; 16]), world.now, ErrorCode::Malformed), (alice, Stamp(u64::MAX), ErrorCode::TokenRefused)]
    {
        let (attempt, _) = world.reserve("alice", Role::CryptoUser).unwrap();
        let new = NewSession { session, public_key: [0; 32], expires_at };
        assert_eq!(world.refused(NO_SESSION, Action::FinishLogin { attempt, session: Some(new) }), code);
    }
}
