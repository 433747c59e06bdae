//! Counting guesses.

use hsm_core::command::NewSession;
use hsm_core::{Action, Response, SessionId, Stamp};
use hsm_protocol::{ErrorCode, Role};

use crate::world::{HOUR, NO_SESSION, World, by, create_user, user, verifier};

fn failures_until_locked(world: &mut World, name: &str, role: Role) -> u32 {
    (0..100).find(|_| world.guess(name, role) == ErrorCode::UserLocked).expect("never locked")
}

#[test]
fn the_sixth_wrong_password_locks_new_logins_and_ends_no_running_session() {
    let (mut world, _, alice, _) = World::with_users(false);
    for _ in 0..6 {
        assert_eq!(world.guess("alice", Role::CryptoUser), ErrorCode::LoginRefused);
    }
    assert_eq!(world.guess("alice", Role::CryptoUser), ErrorCode::UserLocked);
    assert_eq!(world.log_in("alice", Role::CryptoUser).unwrap_err().code, ErrorCode::UserLocked);
    assert!(world.hsm.check(&world.actor(alice), world.now).is_ok());
    assert!(world.closed.is_empty() && world.user("alice", Role::CryptoUser).locked);
}

#[test]
fn an_admin_unlocks_by_a_new_password() {
    let (mut world, admin, alice, _) = World::with_users(false);
    failures_until_locked(&mut world, "alice", Role::CryptoUser);
    let (name, role) = (user("alice"), Role::CryptoUser);
    world.must(by(admin), Action::ChangePassword { name, role, verifier: verifier("new") });
    assert!(world.log_in("alice", Role::CryptoUser).is_ok());
    assert_eq!(world.closed, [alice]);
}

#[test]
fn a_user_does_not_unlock_himself() {
    let (mut world, _, alice, _) = World::with_users(false);
    failures_until_locked(&mut world, "alice", Role::CryptoUser);
    let (name, role) = (user("alice"), Role::CryptoUser);
    world.must(by(alice), Action::ChangePassword { name, role, verifier: verifier("new") });
    assert!(world.user("alice", Role::CryptoUser).locked);
}

#[test]
fn a_right_password_starts_the_count_again() {
    let (mut world, ..) = World::with_users(false);
    for _ in 0..5 {
        world.guess("alice", Role::CryptoUser);
    }
    world.log_in("alice", Role::CryptoUser).unwrap();
    assert_eq!(failures_until_locked(&mut world, "alice", Role::CryptoUser), 6);
}

#[test]
fn an_abandoned_attempt_stays_counted() {
    let (mut world, ..) = World::with_users(false);
    for _ in 0..6 {
        world.reserve("alice", Role::CryptoUser).unwrap();
    }
    // Nobody said how they ended; while they may all be right the answer is to come again.
    assert_eq!(world.reserve("alice", Role::CryptoUser).err().unwrap().code, ErrorCode::LoginDelayed);
    world.now.0 += 60_000;
    assert_eq!(world.reserve("alice", Role::CryptoUser).err().unwrap().code, ErrorCode::UserLocked);
}

#[test]
fn a_success_forgives_no_attempt_that_is_still_under_way() {
    let (mut world, ..) = World::with_users(false);
    let open: Vec<_> = (0..5).map(|_| world.reserve("alice", Role::CryptoUser).unwrap().0).collect();
    world.log_in("alice", Role::CryptoUser).unwrap();
    for attempt in open {
        world.refused(NO_SESSION, Action::FailLogin { attempt });
    }
    assert_eq!(world.guess("alice", Role::CryptoUser), ErrorCode::LoginRefused);
    assert_eq!(world.guess("alice", Role::CryptoUser), ErrorCode::UserLocked);
}

#[test]
fn many_processes_may_log_in_at_once_with_the_right_password() {
    let (mut world, ..) = World::with_users(false);
    let mut waiting = 50;
    while waiting > 0 {
        let open: Vec<_> = (0..10).filter_map(|_| world.reserve("alice", Role::CryptoUser).ok()).collect();
        assert!(!open.is_empty());
        for (attempt, _) in open {
            let session = SessionId(world.bytes());
            let new = NewSession { session, public_key: [0; 32], expires_at: Stamp(world.now.0 + HOUR) };
            world.must(NO_SESSION, Action::FinishLogin { attempt, session: Some(new) });
            waiting -= 1;
        }
    }
    assert!(!world.user("alice", Role::CryptoUser).locked);
}

#[test]
fn a_name_that_belongs_to_nobody_is_answered_as_one_that_belongs_to_somebody() {
    let (mut world, ..) = World::with_users(false);
    for name in ["alice", "nobody"] {
        let answers: Vec<_> = (0..9).map(|_| world.guess(name, Role::CryptoUser)).collect();
        let expected: Vec<_> = [ErrorCode::LoginRefused; 6].into_iter().chain([ErrorCode::UserLocked; 3]).collect();
        assert_eq!(answers, expected, "{name}");
    }
    // A right password cannot be: the name has none.
    let (attempt, verifier) = world.reserve("mallory", Role::CryptoUser).unwrap();
    assert!(verifier.is_none());
    let finish = Action::FinishLogin { attempt, session: None };
    assert_eq!(world.refused(NO_SESSION, finish), ErrorCode::LoginRefused);
}

#[test]
fn names_that_belong_to_nobody_fill_no_memory() {
    let (mut world, admin, ..) = World::with_users(false);
    for number in 0..hsm_core::limits::UNKNOWN_NAMES + 10 {
        world.now.0 += 1;
        assert_eq!(world.guess(&format!("x{number}"), Role::CryptoUser), ErrorCode::LoginRefused);
    }
    let attempts = world.rows.keys().filter(|row| matches!(row, hsm_core::Row::Attempt(_))).count();
    assert_eq!(attempts, hsm_core::limits::UNKNOWN_NAMES);
    let last = format!("x{}", hsm_core::limits::UNKNOWN_NAMES + 9);
    world.must(by(admin), create_user(&last, Role::CryptoUser));
    let attempts = world.rows.keys().filter(|row| matches!(row, hsm_core::Row::Attempt(_))).count();
    assert_eq!(attempts, hsm_core::limits::UNKNOWN_NAMES - 1);
}

#[test]
fn the_last_usable_admin_is_slowed_down_and_not_locked() {
    let mut world = World::active(false);
    for _ in 0..6 {
        assert_eq!(world.guess("admin", Role::Admin), ErrorCode::LoginRefused);
    }
    let mut waits = Vec::new();
    for _ in 0..20 {
        let refusal = world.reserve("admin", Role::Admin).err().unwrap();
        assert_eq!(refusal.code, ErrorCode::LoginDelayed);
        waits.push(refusal.subject);
        world.now.0 += refusal.subject;
        assert_eq!(world.guess("admin", Role::Admin), ErrorCode::LoginRefused);
    }
    assert_eq!(waits[..4], [1_000, 2_000, 4_000, 8_000]);
    assert_eq!(*waits.last().unwrap(), hsm_core::limits::LAST_ADMIN_DELAY_MAXIMUM_MILLISECONDS);
    world.now.0 += waits.last().unwrap();
    assert!(world.log_in("admin", Role::Admin).is_ok());
}

#[test]
fn an_admin_beside_another_usable_one_is_locked() {
    let mut world = World::active(false);
    let admin = world.log_in("admin", Role::Admin).unwrap();
    world.must(by(admin), create_user("second", Role::Admin));
    assert_eq!(failures_until_locked(&mut world, "second", Role::Admin), 6);
    for _ in 0..6 {
        world.guess("admin", Role::Admin);
    }
    assert_eq!(world.guess("admin", Role::Admin), ErrorCode::LoginDelayed);
}

#[test]
fn a_disabled_user_is_told_so_only_with_the_right_password() {
    let (mut world, admin, ..) = World::with_users(false);
    let disable = Action::SetUserEnabled { name: user("alice"), role: Role::CryptoUser, enabled: false };
    world.must(by(admin), disable);
    assert_eq!(world.guess("alice", Role::CryptoUser), ErrorCode::LoginRefused);
    assert_eq!(world.log_in("alice", Role::CryptoUser).unwrap_err().code, ErrorCode::UserDisabled);
}

#[test]
fn an_attempt_is_good_once_and_for_a_minute_and_for_its_own_password() {
    let (mut world, admin, ..) = World::with_users(false);
    let (attempt, _) = world.reserve("alice", Role::CryptoUser).unwrap();
    let finish = || Action::FinishLogin { attempt, session: None };
    assert!(matches!(world.must(NO_SESSION, finish()), Response::LoggedIn { .. }));
    assert_eq!(world.refused(NO_SESSION, finish()), ErrorCode::LoginRefused);

    let (attempt, _) = world.reserve("alice", Role::CryptoUser).unwrap();
    world.now.0 += 60_000;
    assert_eq!(world.refused(NO_SESSION, Action::FinishLogin { attempt, session: None }), ErrorCode::LoginRefused);

    let (attempt, _) = world.reserve("alice", Role::CryptoUser).unwrap();
    let (name, role) = (user("alice"), Role::CryptoUser);
    world.must(by(admin), Action::ChangePassword { name, role, verifier: verifier("new") });
    assert_eq!(world.refused(NO_SESSION, Action::FinishLogin { attempt, session: None }), ErrorCode::LoginRefused);
}

#[test]
fn the_first_admin_confirms_the_activation_password_and_opens_no_session() {
    let mut world = World::formed(false);
    assert_eq!(world.reserve("admin", Role::UnactivatedAdmin).err().unwrap().code, ErrorCode::LifecycleRefused);
    let pem = crate::world::PEM.to_owned();
    world.must(NO_SESSION, Action::InstallCertificate { certificate: pem.clone(), trust_anchor: pem });
    assert_eq!(world.reserve("admin", Role::Admin).err().unwrap().code, ErrorCode::LifecycleRefused);
    let (attempt, compare) = world.reserve("admin", Role::UnactivatedAdmin).unwrap();
    assert!(compare == Some(verifier("activation")));
    let session = NewSession { session: SessionId([9; 16]), public_key: [0; 32], expires_at: Stamp(u64::MAX) };
    let finish = Action::FinishLogin { attempt, session: Some(session) };
    assert_eq!(world.refused(NO_SESSION, finish), ErrorCode::RoleRefused);
    let (attempt, _) = world.reserve("admin", Role::UnactivatedAdmin).unwrap();
    world.must(NO_SESSION, Action::FinishLogin { attempt, session: None });
    world.must(NO_SESSION, Action::Activate { verifier: verifier("own") });
    assert!(world.log_in("admin", Role::Admin).is_ok());
    assert_eq!(world.guess("admin", Role::UnactivatedAdmin), ErrorCode::LoginRefused);
}

#[test]
fn nobody_logs_in_as_the_appliance() {
    let mut world = World::active(false);
    assert_eq!(world.guess("app_user", Role::Appliance), ErrorCode::LoginRefused);
    assert_eq!(world.reserve("app_user", Role::Appliance).err().unwrap().code, ErrorCode::LoginRefused);
}
