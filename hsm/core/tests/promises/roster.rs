//! Members: who may join by which rule, who may leave, and that an identity is used once.

use hsm_core::limits::{DEPARTED_MEMBERS, PAST_WINDOWS};
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

#[test]
fn a_window_that_was_lowered_is_remembered_until_nobody_can_go_by_it() {
    let (mut world, admin, ..) = World::with_users(false);
    let window = |seconds| Action::SetIsolationWindow { seconds };
    world.must(by(admin), window(7200));
    assert!(world.hsm.lingering().windows.is_empty(), "whoever has not heard of a longer one stops earlier");
    world.must(by(admin), window(0));
    let [past] = world.hsm.lingering().windows[..] else { panic!("one is remembered") };
    assert_eq!((past.seconds, past.lowered_at.0), (7200, world.index));
    // A clock may run by an eighth too fast.
    assert!(past.until.0 >= world.now.0 + 2 * HOUR + 2 * HOUR / 8);
    assert!(world.reloaded().lingering() == world.hsm.lingering(), "it is stored");
    assert_eq!(world.hsm.lingering().last_lowering().0, world.index);
    // A shorter one that was lowered before is no longer of interest, a longer one is.
    world.must(by(admin), window(9000));
    world.must(by(admin), window(8000));
    world.must(by(admin), window(60));
    let seconds = |world: &World| world.hsm.lingering().windows.iter().map(|past| past.seconds).collect::<Vec<_>>();
    assert_eq!(seconds(&world), [9000, 8000]);
    world.now.0 += 3 * HOUR;
    let admin = world.log_in("admin", Role::Admin).unwrap();
    world.must(by(admin), window(0));
    assert_eq!(seconds(&world), [60], "what is over is forgotten");
}

#[test]
fn so_many_lowered_windows_are_remembered_and_one_more_counts_with_the_longest() {
    let (mut world, admin, ..) = World::with_users(false);
    let window = |seconds| Action::SetIsolationWindow { seconds };
    let most = u32::try_from(PAST_WINDOWS).unwrap();
    for step in 0..=most {
        world.must(by(admin), window(3000 - step));
    }
    let windows = world.hsm.lingering().windows;
    assert_eq!((windows.len(), windows[0].seconds), (PAST_WINDOWS, 3600));
    world.must(by(admin), window(0));
    let windows = world.hsm.lingering().windows;
    assert_eq!(
        (windows.len(), windows[0].seconds, windows[0].lowered_at.0),
        (PAST_WINDOWS, 3600, world.index - u64::from(most) + 1)
    );
}

#[test]
fn an_hsm_that_was_removed_is_remembered_until_it_has_stopped_for_certain() {
    let (mut world, admin, ..) = World::with_users(false);
    let (removal, window) =
        (|hsm| Action::RemoveMember { hsm: HsmId([hsm; 16]) }, Action::SetIsolationWindow { seconds: 0 });
    world.must(NO_SESSION, admit(2, hsm(2)));
    world.must(NO_SESSION, admit(3, witness(3)));
    world.must(by(admin), removal(3));
    assert!(world.hsm.lingering().members.is_empty(), "a witness serves nobody");
    world.must(by(admin), window);
    world.must(by(admin), removal(2));
    let [gone] = world.hsm.lingering().members[..] else { panic!("one is remembered") };
    assert_eq!((gone.node, gone.hsm, gone.removed_at.0), (NodeId(2), HsmId([2; 16]), world.index));
    assert!(gone.until.0 >= world.now.0 + HOUR, "it may not have heard of the other window");
    world.now.0 += 2 * HOUR;
    world.must(NO_SESSION, admit(4, hsm(4)));
    world.must(NO_SESSION, removal(4));
    let gone: Vec<_> = world.hsm.lingering().members.iter().map(|gone| gone.node.0).collect();
    assert_eq!(gone, [4]);
}

#[test]
fn so_many_removed_hsms_are_remembered_and_one_more_takes_the_place_of_the_first() {
    let (mut world, admin, ..) = World::with_users(false);
    world.must(by(admin), rule(true, 28, 1024));
    let last = u64::try_from(DEPARTED_MEMBERS).unwrap() + 2;
    for node in 2..=last {
        let member = hsm(u8::try_from(node).unwrap());
        let hsm = member.hsm;
        world.must(NO_SESSION, admit(node, member));
        world.must(NO_SESSION, Action::RemoveMember { hsm });
    }
    let gone = world.hsm.lingering().members;
    assert_eq!((gone.len(), gone[0].node.0, gone[gone.len() - 1].node.0), (DEPARTED_MEMBERS, 3, last));
}
