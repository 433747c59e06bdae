//! Members: who may join by which rule, who may leave, and that an identity is used once.

use hsm_core::{Action, AdmissionRule, HsmId, MemberKind, MemberRecord, NodeId, Response};
use hsm_protocol::{ErrorCode, Role};

use crate::world::{HOUR, NO_SESSION, World, by};

fn hsm(number: u8) -> MemberRecord {
    let alone = MemberRecord::alone(HsmId([number; 16]), MemberKind::Hsm);
    MemberRecord { zone: format!("zone-{}", number % 3), certificate: vec![number; 8], ..alone }
}

fn witness(number: u8) -> MemberRecord {
    MemberRecord { kind: MemberKind::Witness, ..hsm(number) }
}

fn admit(node: u64, member: MemberRecord) -> Action {
    Action::AdmitMember { node: NodeId(node), member }
}

fn rule(standing: bool, members: u32, per_day: u32) -> Action {
    Action::SetAdmissionRule { rule: AdmissionRule { standing, members, per_day } }
}

#[test]
fn the_founder_is_the_first_member() {
    let world = World::formed(false);
    let (node, member) = world.hsm.member(HsmId([1; 16])).expect("the founder");
    assert_eq!((node, member.kind, world.hsm.members().len()), (NodeId(1), MemberKind::Hsm, 1));
    assert!(world.reloaded().members() == world.hsm.members(), "the roster is stored");
}

#[test]
fn a_twenty_ninth_hsm_is_refused() {
    let mut world = World::active(false);
    for number in 2..=28 {
        world.must(NO_SESSION, admit(u64::from(number), hsm(number)));
    }
    assert_eq!(world.refused(NO_SESSION, admit(29, hsm(29))), ErrorCode::MemberLimit);
    world.must(NO_SESSION, admit(30, witness(30)));
    assert_eq!(world.refused(NO_SESSION, admit(31, witness(31))), ErrorCode::MemberLimit, "one witness is enough");
}

#[test]
fn the_standing_rule_admits_so_many_a_day_and_no_more() {
    let (mut world, admin, ..) = World::with_users(false);
    world.must(by(admin), rule(true, 28, 2));
    world.must(NO_SESSION, admit(2, hsm(2)));
    world.must(NO_SESSION, admit(3, hsm(3)));
    assert_eq!(world.refused(NO_SESSION, admit(4, hsm(4))), ErrorCode::AdmissionRefused);
    world.must(by(admin), Action::ApproveMember { hsm: HsmId([4; 16]) });
    world.must(NO_SESSION, admit(4, hsm(4)));
    world.now.0 += 24 * HOUR;
    world.must(NO_SESSION, admit(5, hsm(5)));
}

#[test]
fn without_a_standing_rule_only_an_approved_hsm_joins_and_once() {
    let (mut world, admin, alice, _) = World::with_users(false);
    world.must(by(admin), rule(false, 28, 56));
    assert_eq!(world.refused(NO_SESSION, admit(2, hsm(2))), ErrorCode::AdmissionRefused);
    assert_eq!(world.refused(by(alice), Action::ApproveMember { hsm: HsmId([2; 16]) }), ErrorCode::RoleRefused);
    world.must(by(admin), Action::ApproveMember { hsm: HsmId([2; 16]) });
    world.must(NO_SESSION, admit(2, hsm(2)));
    world.must(by(admin), Action::RemoveMember { hsm: HsmId([2; 16]) });
    assert_eq!(world.refused(NO_SESSION, admit(3, hsm(2))), ErrorCode::AdmissionRefused, "the approval is spent");
}

#[test]
fn an_hsm_that_returns_takes_the_place_of_its_old_node_without_an_approval() {
    let (mut world, admin, ..) = World::with_users(false);
    world.must(NO_SESSION, admit(2, hsm(2)));
    world.must(by(admin), rule(false, 28, 0));
    world.must(NO_SESSION, admit(7, hsm(2)));
    assert_eq!(world.hsm.member(HsmId([2; 16])).map(|(node, _)| node), Some(NodeId(7)));
    assert!(!world.hsm.members().contains_key(&NodeId(2)));
}

#[test]
fn a_second_hsm_with_the_name_of_the_first_is_refused() {
    let mut world = World::active(false);
    world.must(NO_SESSION, admit(2, hsm(2)));
    let thief = MemberRecord { certificate: vec![0xee; 8], ..hsm(2) };
    assert_eq!(world.refused(NO_SESSION, admit(3, thief.clone())), ErrorCode::AdmissionRefused);
    assert_eq!(world.refused(NO_SESSION, admit(2, thief)), ErrorCode::AdmissionRefused);
    assert_eq!(world.refused(NO_SESSION, admit(3, witness(2))), ErrorCode::AdmissionRefused, "nor as a witness");
    assert!(matches!(world.must(NO_SESSION, admit(2, hsm(2))), Response::Done), "a repetition is no second one");
}

#[test]
fn the_last_hsm_cannot_be_removed_and_a_crypto_user_removes_none() {
    let (mut world, admin, alice, _) = World::with_users(false);
    let remove = |number: u8| Action::RemoveMember { hsm: HsmId([number; 16]) };
    assert_eq!(world.refused(by(admin), remove(1)), ErrorCode::LastMember);
    world.must(NO_SESSION, admit(3, witness(3)));
    assert_eq!(world.refused(by(admin), remove(1)), ErrorCode::LastMember, "a witness holds no keys");
    world.must(NO_SESSION, admit(2, hsm(2)));
    assert_eq!(world.refused(by(alice), remove(1)), ErrorCode::RoleRefused);
    assert_eq!(world.refused(by(admin), remove(9)), ErrorCode::MemberUnknown);
    world.must(by(admin), remove(1));
    assert_eq!(world.hsm.members().len(), 2);
}

#[test]
fn a_member_moves_but_keeps_its_identity() {
    let mut world = World::active(false);
    world.must(NO_SESSION, admit(2, hsm(2)));
    let moved = MemberRecord { peer_address: "127.0.0.9:2224".to_owned(), ..hsm(2) };
    world.must(NO_SESSION, Action::UpdateMember { node: NodeId(2), member: moved.clone() });
    assert_eq!(world.hsm.members()[&NodeId(2)].peer_address, "127.0.0.9:2224");
    let other = MemberRecord { certificate: vec![5; 8], ..moved.clone() };
    let refused = world.refused(NO_SESSION, Action::UpdateMember { node: NodeId(2), member: other });
    assert_eq!(refused, ErrorCode::AdmissionRefused);
    let refused = world.refused(NO_SESSION, Action::UpdateMember { node: NodeId(9), member: moved });
    assert_eq!(refused, ErrorCode::MemberUnknown);
}

#[test]
fn limits_of_a_member_hold_at_the_bound_and_one_past_it() {
    let mut world = World::active(false);
    let zone = |length| MemberRecord { zone: "z".repeat(length), ..hsm(2) };
    assert_eq!(world.refused(NO_SESSION, admit(2, zone(33))), ErrorCode::Malformed);
    world.must(NO_SESSION, admit(2, zone(32)));
    let address = |length| MemberRecord { peer_address: "a".repeat(length), ..hsm(3) };
    assert_eq!(world.refused(NO_SESSION, admit(3, address(261))), ErrorCode::Malformed);
    world.must(NO_SESSION, admit(3, address(260)));
}

#[test]
fn rules_and_windows_are_an_admins_within_bounds() {
    let (mut world, admin, alice, _) = World::with_users(false);
    assert_eq!(world.refused(by(alice), rule(true, 28, 56)), ErrorCode::RoleRefused);
    for (members, per_day) in [(0, 56), (29, 56), (28, 1025)] {
        assert_eq!(world.refused(by(admin), rule(true, members, per_day)), ErrorCode::AttributeValue);
    }
    let window = |seconds| Action::SetIsolationWindow { seconds };
    assert_eq!(world.hsm.cluster().map(|cluster| cluster.policy.isolation_window_seconds), Some(3600));
    assert_eq!(world.refused(by(alice), window(0)), ErrorCode::RoleRefused);
    assert_eq!(world.refused(by(admin), window(604_801)), ErrorCode::AttributeValue);
    world.must(by(admin), window(604_800));
    world.must(by(admin), window(0));
    assert!(world.log_in("admin", Role::Admin).is_ok());
}
