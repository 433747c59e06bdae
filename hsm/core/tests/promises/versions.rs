//! Versions of commands: used when every member knows them, for ever, and by nobody who does not.

use hsm_core::command::Versioned;
use hsm_core::versions::NEWEST;
use hsm_core::{Action, HsmId, MemberKind, MemberRecord, NodeId, Release, ReleaseRule};
use hsm_protocol::ErrorCode;

use crate::world::{NO_SESSION, World, by};

const OLD: u32 = 1;

fn hsm(number: u8, state_version: u32) -> MemberRecord {
    let alone = MemberRecord::alone(HsmId([number; 16]), MemberKind::Hsm);
    MemberRecord { certificate: vec![number; 8], state_version, ..alone }
}

fn admit(number: u8, state_version: u32) -> Action {
    Action::AdmitMember { node: NodeId(number.into()), member: hsm(number, state_version) }
}

fn new_action() -> Action {
    Action::SetReleaseRule { rule: ReleaseRule { keys: vec![[7; 32]], minimum: Release(0, 1, 0) } }
}

/// A cluster that an older program formed, and its admin.
fn old_world() -> (World, hsm_core::SessionId) {
    let (mut world, admin, ..) = World::with_users_of(OLD);
    world.must(NO_SESSION, admit(2, OLD));
    (world, admin)
}

#[test]
fn a_later_version_is_used_only_when_every_member_knows_it() {
    let (mut world, admin) = old_world();
    assert_eq!((world.hsm.version(), world.hsm.possible_version()), (OLD, None));
    let raise = Action::RaiseVersion { version: NEWEST };
    assert_eq!(world.refused(by(admin), new_action()), ErrorCode::ClusterTooOld);
    assert_eq!(world.refused(NO_SESSION, raise.clone()), ErrorCode::ClusterTooOld);
    for (number, left) in [(1, Some(())), (2, None)] {
        let known = world.hsm.member(HsmId([number; 16])).unwrap().1.clone();
        let member = MemberRecord { state_version: NEWEST, ..known };
        world.must(NO_SESSION, Action::UpdateMember { node: NodeId(number.into()), member });
        assert_eq!(world.hsm.possible_version().is_none(), left.is_some(), "after HSM {number}");
    }
    world.must(NO_SESSION, raise.clone());
    assert_eq!((world.hsm.version(), world.hsm.possible_version()), (NEWEST, None));
    world.must(by(admin), new_action());
    world.must(NO_SESSION, raise);
    world.must(NO_SESSION, Action::RaiseVersion { version: OLD });
    assert_eq!(world.reloaded().version(), NEWEST, "it never falls");
}

#[test]
fn whoever_knows_less_than_is_used_is_not_admitted_and_does_not_come_back() {
    let (mut world, ..) = World::with_users(false);
    world.must(NO_SESSION, admit(2, NEWEST));
    assert_eq!(world.refused(NO_SESSION, admit(3, OLD)), ErrorCode::VersionRefused);
    let older = Action::UpdateMember { node: NodeId(2), member: hsm(2, OLD) };
    assert_eq!(world.refused(NO_SESSION, older), ErrorCode::VersionRefused);
    let returns = Action::AdmitMember { node: NodeId(9), member: hsm(2, OLD) };
    assert_eq!(world.refused(NO_SESSION, returns), ErrorCode::VersionRefused);
    world.must(NO_SESSION, admit(4, NEWEST + 1));
}

#[test]
fn a_command_is_written_in_the_oldest_format_that_has_its_action() {
    let version = |action| {
        let command = hsm_core::Command { stamp: hsm_core::Stamp(1), origin: NO_SESSION, action };
        let encoded = postcard::to_stdvec(&Versioned::new(command)).unwrap();
        Versioned::version_of(&encoded).unwrap()
    };
    assert_eq!(version(Action::ExpireSessions), 1);
    assert_eq!(version(Action::RaiseVersion { version: 9 }), 1, "whoever knows the first format follows the step");
    assert_eq!(version(new_action()), 2);
    assert_eq!(Versioned::version_of(&[]), None);
    assert_eq!(Versioned::version_of(&[7, 1, 2]), Some(8), "of a later program");
}
