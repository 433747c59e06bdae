//! What the audit log says, and the life of a cluster.

use hsm_core::audit::{AuditRecord, Event, FIRST_LINK, link};
use hsm_core::{Action, Effect, SessionId, UserId};
use hsm_protocol::{ErrorCode, Lifecycle, Role, Template};

use crate::world::{NO_SESSION, PEM, World, by, create_user, form, user, verifier};

fn last(world: &World) -> (Event, u64, Option<SessionId>, u32) {
    let record = world.audit.last().unwrap();
    (record.event, record.user.0, record.session, record.result)
}

#[test]
fn every_management_command_leaves_a_record_whether_done_or_refused() {
    let (mut world, admin, alice, _) = World::with_users(false);
    let (name, role) = (user("alice"), Role::CryptoUser);
    let actions = [
        (create_user("carol", role), Event::CreateUser),
        (Action::SetUserEnabled { name: user("carol"), role, enabled: false }, Event::SetUserEnabled),
        (Action::ChangePassword { name: user("carol"), role, verifier: verifier("x") }, Event::ChangePassword),
        (Action::LogoutEverywhere { name: user("carol"), role }, Event::LogoutEverywhere),
        (Action::DeleteUser { name: user("carol"), role }, Event::DeleteUser),
        (Action::RegisterTrustAnchor { certificate: PEM.to_owned() }, Event::RegisterTrustAnchor),
        (Action::SetClientCertificates { required: true }, Event::SetClientCertificates),
        (Action::SetClientCertificates { required: false }, Event::SetClientCertificates),
        (Action::DeregisterTrustAnchor { reference: 1 }, Event::DeregisterTrustAnchor),
    ];
    let alice_id = world.user("alice", role).user.0;
    for (action, event) in actions {
        let before = world.audit.len();
        world.refused(by(alice), action.clone());
        assert_eq!(last(&world), (event, alice_id, Some(alice), ErrorCode::RoleRefused as u32));
        world.must(by(admin), action);
        assert_eq!(last(&world), (event, 1, Some(admin), 0));
        assert_eq!(world.audit.len(), before + 2);
    }
    world.must(by(alice), Action::LogoutEverywhere { name, role });
    world.refused(by(alice), create_user("x", role));
    assert_eq!(last(&world), (Event::CreateUser, 0, Some(alice), ErrorCode::NotLoggedIn as u32));
}

#[test]
fn logins_and_wrong_passwords_leave_a_record_and_reservations_none() {
    let (mut world, ..) = World::with_users(false);
    let alice = world.user("alice", Role::CryptoUser).user.0;
    let before = world.audit.len();
    let (attempt, _) = world.reserve("alice", Role::CryptoUser).unwrap();
    assert_eq!(world.audit.len(), before);
    world.refused(NO_SESSION, Action::FailLogin { attempt });
    assert_eq!(last(&world), (Event::Login, alice, None, ErrorCode::LoginRefused as u32));
    world.guess("nobody", Role::CryptoUser);
    assert_eq!(last(&world), (Event::Login, 0, None, ErrorCode::LoginRefused as u32));
    let session = world.log_in("alice", Role::CryptoUser).unwrap();
    assert_eq!(last(&world), (Event::Login, alice, Some(session), 0));
    world.must(by(session), Action::Logout { session });
    assert_eq!(last(&world), (Event::Logout, alice, Some(session), 0));
}

#[test]
fn keys_are_named_by_their_handles() {
    let (mut world, _, alice, _) = World::with_users(false);
    let handle = world.aes(alice, &Template::new()).unwrap();
    let record = world.audit.last().unwrap();
    assert_eq!((record.event, record.objects.as_slice()), (Event::CreateObject, &[handle][..]));
    world.must(by(alice), Action::DestroyObject { handle });
    let record = world.audit.last().unwrap();
    assert_eq!((record.event, record.objects.as_slice()), (Event::DestroyObject, &[handle][..]));
}

#[test]
fn a_record_that_is_changed_breaks_the_chain() {
    let (world, ..) = World::with_users(false);
    let chain = |records: &[AuditRecord]| records.iter().fold(FIRST_LINK, |before, record| link(&before, record));
    let mut altered = world.audit.clone();
    altered[2].user = UserId(99);
    assert_ne!(chain(&world.audit), chain(&altered));
    altered = world.audit.clone();
    altered.swap(1, 2);
    assert_ne!(chain(&world.audit), chain(&altered));
}

#[test]
fn the_life_of_a_cluster_goes_one_way() {
    let mut world = World::formed(false);
    let install = || Action::InstallCertificate { certificate: PEM.to_owned(), trust_anchor: PEM.to_owned() };
    let activate = || Action::Activate { verifier: verifier("x") };
    assert_eq!(world.hsm.lifecycle(), Some(Lifecycle::Uninitialized));
    assert_eq!(world.refused(NO_SESSION, Action::Form(form(false))), ErrorCode::LifecycleRefused);
    assert_eq!(world.refused(NO_SESSION, activate()), ErrorCode::LifecycleRefused);
    assert_eq!(world.refused(NO_SESSION, create_user("x", Role::Admin)), ErrorCode::LifecycleRefused);
    let bad = Action::InstallCertificate { certificate: "x".to_owned(), trust_anchor: PEM.to_owned() };
    assert_eq!(world.refused(NO_SESSION, bad), ErrorCode::CertificateRefused);
    world.must(NO_SESSION, install());
    assert!(world.effects.iter().any(|effect| matches!(effect, Effect::ReloadTls)));
    assert_eq!(world.refused(NO_SESSION, install()), ErrorCode::LifecycleRefused);
    let nobody = hsm_core::Actor::Nobody;
    assert_eq!(world.hsm.check(&nobody, world.now).unwrap_err().code, ErrorCode::LifecycleRefused);
    world.must(NO_SESSION, activate());
    assert!(world.hsm.cluster().unwrap().sealed_activation_password.is_empty());
    assert!(world.hsm.check(&nobody, world.now).is_ok());
    assert_eq!(world.refused(NO_SESSION, activate()), ErrorCode::LifecycleRefused);
}

#[test]
fn trust_anchors_are_two_and_the_last_one_stays_while_it_is_needed() {
    let (mut world, admin, ..) = World::with_users(false);
    let register = |body: &str| Action::RegisterTrustAnchor { certificate: PEM.replace("AAAA", body) };
    let require = |required| Action::SetClientCertificates { required };
    assert_eq!(world.refused(by(admin), require(true)), ErrorCode::TrustAnchorMissing);
    world.must(by(admin), register("AAAA"));
    assert_eq!(world.refused(by(admin), register("AAAA\n")), ErrorCode::TrustAnchorExists);
    world.must(by(admin), register("BBBB"));
    assert_eq!(world.refused(by(admin), register("CCCC")), ErrorCode::TrustAnchorLimit);
    world.must(by(admin), require(true));
    world.must(by(admin), Action::DeregisterTrustAnchor { reference: 1 });
    let last = Action::DeregisterTrustAnchor { reference: 2 };
    assert_eq!(world.refused(by(admin), last.clone()), ErrorCode::TrustAnchorMissing);
    assert_eq!(world.refused(by(admin), Action::DeregisterTrustAnchor { reference: 1 }), ErrorCode::TrustAnchorUnknown);
    world.must(by(admin), require(false));
    world.must(by(admin), last);
    world.must(by(admin), register("CCCC"));
    assert_eq!(world.hsm.cluster().unwrap().client_anchors[0].reference, 3);
}
