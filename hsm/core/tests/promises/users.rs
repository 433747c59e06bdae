//! Who may do what to users, and what it does to their sessions.

use hsm_core::{Action, SessionId};
use hsm_protocol::{ErrorCode, Role, Template};

use crate::world::{NO_SESSION, World, by, create_user, user, verifier};

fn every_admin_action() -> Vec<Action> {
    let (name, role) = (user("bob"), Role::CryptoUser);
    vec![
        create_user("carol", Role::CryptoUser),
        Action::DeleteUser { name: name.clone(), role },
        Action::ChangePassword { name: name.clone(), role, verifier: verifier("x") },
        Action::SetUserEnabled { name: name.clone(), role, enabled: false },
        Action::LogoutEverywhere { name, role },
        Action::RegisterTrustAnchor { certificate: crate::world::PEM.to_owned() },
        Action::DeregisterTrustAnchor { reference: 1 },
        Action::SetClientCertificates { required: true },
        Action::Zeroize,
    ]
}

#[test]
fn crypto_users_and_strangers_manage_nobody() {
    let (mut world, _, alice, bob) = World::with_users(false);
    let before = world.hsm.state_hash();
    for action in every_admin_action() {
        assert_eq!(world.refused(by(alice), action.clone()), ErrorCode::RoleRefused);
        if !matches!(action, Action::Zeroize) {
            assert_eq!(world.refused(NO_SESSION, action), ErrorCode::NotLoggedIn);
        }
    }
    assert_eq!(world.hsm.state_hash(), before);
    assert!(world.hsm.check(&world.actor(bob), world.now).is_ok());
}

#[test]
fn a_crypto_user_does_not_learn_who_exists() {
    let (mut world, _, alice, _) = World::with_users(false);
    for name in ["bob", "nobody"] {
        let change = Action::ChangePassword { name: user(name), role: Role::CryptoUser, verifier: verifier("x") };
        assert_eq!(world.refused(by(alice), change), ErrorCode::RoleRefused);
    }
}

#[test]
fn names_are_unique_within_a_role_whatever_their_case() {
    let (mut world, admin, ..) = World::with_users(false);
    assert_eq!(world.refused(by(admin), create_user("ALICE", Role::CryptoUser)), ErrorCode::UserExists);
    world.must(by(admin), create_user("alice", Role::Admin));
    for role in [Role::Appliance, Role::UnactivatedAdmin] {
        assert_eq!(world.refused(by(admin), create_user("x", role)), ErrorCode::RoleRefused);
    }
}

#[test]
fn a_user_is_deleted_only_without_keys_and_sessions() {
    let (mut world, admin, alice, bob) = World::with_users(false);
    let delete = |name| Action::DeleteUser { name: user(name), role: Role::CryptoUser };
    assert_eq!(world.refused(by(admin), delete("alice")), ErrorCode::UserInUse);
    let key = world.aes(alice, &Template::new()).unwrap();
    world.must(by(alice), Action::Logout { session: alice });
    assert_eq!(world.refused(by(admin), delete("alice")), ErrorCode::UserInUse);
    let alice = world.log_in("alice", Role::CryptoUser).unwrap();
    world.must(by(alice), Action::DestroyObject { handle: key });
    world.must(by(alice), Action::Logout { session: alice });
    world.must(by(admin), delete("alice"));
    assert_eq!(world.refused(by(admin), delete("alice")), ErrorCode::UserUnknown);
    // A session whose time is over holds nobody back.
    world.now.0 += crate::world::HOUR - 1;
    let admin = world.log_in("admin", Role::Admin).unwrap();
    world.now.0 += 1;
    world.must(by(admin), delete("bob"));
    assert!(world.hsm.session(bob, world.now).is_err());
    assert!(world.closed.contains(&bob));
}

#[test]
fn the_last_admin_who_can_log_in_stays() {
    let mut world = World::active(false);
    let admin = world.log_in("admin", Role::Admin).unwrap();
    let (name, role) = (user("admin"), Role::Admin);
    let disable = Action::SetUserEnabled { name: name.clone(), role, enabled: false };
    let delete = Action::DeleteUser { name, role };
    assert_eq!(world.refused(by(admin), disable.clone()), ErrorCode::LastAdmin);
    assert_eq!(world.refused(by(admin), delete.clone()), ErrorCode::LastAdmin);
    world.must(by(admin), create_user("second", Role::Admin));
    for _ in 0..6 {
        world.guess("second", Role::Admin);
    }
    // A locked admin is no help.
    assert_eq!(world.refused(by(admin), disable.clone()), ErrorCode::LastAdmin);
    let (name, verifier) = (user("second"), verifier("new"));
    world.must(by(admin), Action::ChangePassword { name, role, verifier });
    world.must(by(admin), disable);
    assert_eq!(world.closed, [admin]);
}

fn ends_all_sessions(action: impl Fn() -> Action) -> (World, SessionId) {
    let (mut world, admin, alice, _) = World::with_users(false);
    let second = world.log_in("alice", Role::CryptoUser).unwrap();
    let actor = world.actor(alice);
    world.must(by(admin), action());
    let mut ended = vec![alice, second];
    ended.sort_unstable();
    assert_eq!(world.closed, ended);
    assert_eq!(world.hsm.check(&actor, world.now).unwrap_err().code, ErrorCode::NotLoggedIn);
    assert_eq!(world.refused(by(alice), create_user("x", Role::CryptoUser)), ErrorCode::NotLoggedIn);
    (world, admin)
}

#[test]
fn disabling_a_user_ends_his_sessions_and_enabling_revives_none() {
    let (name, role) = (user("alice"), Role::CryptoUser);
    let set = |enabled| Action::SetUserEnabled { name: name.clone(), role, enabled };
    let (mut world, admin) = ends_all_sessions(|| set(false));
    world.must(by(admin), set(true));
    assert_eq!(world.user("alice", role).sessions, 0);
    assert!(world.log_in("alice", role).is_ok());
}

#[test]
fn a_new_password_by_an_admin_ends_all_sessions_of_the_user() {
    let (name, role) = (user("alice"), Role::CryptoUser);
    ends_all_sessions(|| Action::ChangePassword { name: name.clone(), role, verifier: verifier("x") });
}

#[test]
fn logging_out_everywhere_ends_all_sessions_and_no_login() {
    let (name, role) = (user("alice"), Role::CryptoUser);
    let (mut world, _) = ends_all_sessions(|| Action::LogoutEverywhere { name: name.clone(), role });
    assert!(world.log_in("alice", role).is_ok());
}

#[test]
fn a_new_password_by_oneself_keeps_the_session_that_asked() {
    let (mut world, _, alice, _) = World::with_users(false);
    let other = world.log_in("alice", Role::CryptoUser).unwrap();
    let (name, role) = (user("alice"), Role::CryptoUser);
    world.must(by(alice), Action::ChangePassword { name, role, verifier: verifier("x") });
    assert_eq!(world.closed, [other]);
    assert!(world.hsm.check(&world.actor(alice), world.now).is_ok());
    assert!(world.hsm.session(other, world.now).is_err());
}

#[test]
fn the_number_of_users_is_bounded() {
    let (mut world, admin, ..) = World::with_users(false);
    let limit = hsm_core::limits::Quotas::OURS.users;
    // Admin, alice and bob are there; the appliance user is not a person.
    for number in 3..limit {
        world.must(by(admin), create_user(&format!("u{number}"), Role::CryptoUser));
    }
    assert_eq!(world.refused(by(admin), create_user("last", Role::CryptoUser)), ErrorCode::UserLimit);
}
