//! New epochs of the master key, the moving of payloads to them, and new histories.

use hsm_core::command::{EpochStart, MovedPayload, SealedPayload};
use hsm_core::{
    Action, Effect, Epoch, HsmId, Incarnation, MemberKind, MemberRecord, NodeId, ObjectHandle, Row, SealedMaster,
    SessionId, Stamp,
};
use hsm_protocol::{ErrorCode, Template};

use crate::world::{NO_SESSION, World, by};

fn start(epoch: u32, nodes: &[u64]) -> EpochStart {
    let master = |&node: &u64| SealedMaster { node: NodeId(node), sealed: vec![9; 145], sealed_before: vec![7; 145] };
    EpochStart {
        epoch: Epoch(epoch),
        masters: nodes.iter().map(master).collect(),
        sealed_cluster_key: vec![8; 64],
        sealed_activation_password: Vec::new(),
    }
}

fn under(epoch: u32) -> SealedPayload {
    SealedPayload { epoch: Epoch(epoch), wrapped_data_key: vec![7; 60], ciphertext: vec![6; 60] }
}

fn moves(epoch: u32, after: u64, through: u64, moved: &[(u64, u32)]) -> Action {
    let moved = moved.iter().map(|&(handle, version)| MovedPayload {
        handle: ObjectHandle(handle),
        version,
        payload: under(epoch),
    });
    Action::MovePayloads {
        epoch: Epoch(epoch),
        after: ObjectHandle(after),
        through: ObjectHandle(through),
        moved: moved.collect(),
    }
}

/// A cluster of three HSMs and a witness, in which alice has made three keys.
fn world() -> (World, SessionId, SessionId) {
    let (mut world, admin, alice, _) = World::with_users(false);
    for number in 2..=3_u8 {
        let member = MemberRecord::alone(HsmId([number; 16]), MemberKind::Hsm);
        world.must(NO_SESSION, Action::AdmitMember { node: NodeId(u64::from(number)), member });
    }
    let witness = MemberRecord::alone(HsmId([4; 16]), MemberKind::Witness);
    world.must(NO_SESSION, Action::AdmitMember { node: NodeId(4), member: witness });
    for _ in 0..3 {
        world.aes(alice, &Template::new()).unwrap();
    }
    (world, admin, alice)
}

#[test]
fn an_epoch_is_sealed_for_the_hsms_that_are_members_and_for_no_witness() {
    let (mut world, admin, _) = world();
    world.must(by(admin), Action::RemoveMember { hsm: HsmId([3; 16]) });
    assert!(world.hsm.cluster().unwrap().epoch_due);
    for nodes in [&[1, 2, 3][..], &[1], &[1, 2, 4], &[2, 1], &[]] {
        let refused = world.refused(NO_SESSION, Action::BeginEpoch(start(2, nodes)));
        assert_eq!(refused, ErrorCode::ObjectChanged, "{nodes:?}");
    }
    for epoch in [0, 1, 3] {
        assert_eq!(world.refused(NO_SESSION, Action::BeginEpoch(start(epoch, &[1, 2]))), ErrorCode::ObjectChanged);
    }
    world.must(NO_SESSION, Action::BeginEpoch(start(2, &[1, 2])));
    assert!(world.effects.iter().any(|effect| matches!(effect, Effect::EpochBegan(Epoch(2)))));
    assert_eq!(world.hsm.cluster().unwrap().epoch, Epoch(2));
    assert!(!world.hsm.cluster().unwrap().epoch_due);
    assert_eq!(world.hsm.epoch_record().unwrap().masters.len(), 2);
    assert!(world.reloaded().epoch_record() == world.hsm.epoch_record(), "the keys travel with the state");
}

#[test]
fn the_removal_of_a_witness_makes_no_new_epoch_due() {
    let (mut world, admin, _) = world();
    world.must(by(admin), Action::RemoveMember { hsm: HsmId([4; 16]) });
    assert!(!world.hsm.cluster().unwrap().epoch_due);
}

#[test]
fn what_was_sealed_under_the_epoch_before_is_refused_and_made_again() {
    let (mut world, _, alice) = world();
    world.must(NO_SESSION, Action::BeginEpoch(start(2, &[1, 2, 3])));
    assert_eq!(world.aes(alice, &Template::new()).err().unwrap().code, ErrorCode::ObjectChanged);
}

#[test]
fn payloads_move_in_order_and_none_is_passed_over() {
    let (mut world, ..) = world();
    world.must(NO_SESSION, Action::BeginEpoch(start(2, &[1, 2, 3])));
    assert!(!world.hsm.epoch_record().unwrap().is_settled());
    let refused = |world: &mut World, action| world.refused(NO_SESSION, action);
    assert_eq!(refused(&mut world, moves(2, 0, 2, &[(1, 1)])), ErrorCode::ObjectChanged, "2 was passed over");
    assert_eq!(refused(&mut world, moves(2, 1, 2, &[(2, 1)])), ErrorCode::ObjectChanged, "1 was passed over");
    assert_eq!(refused(&mut world, moves(1, 0, 1, &[(1, 1)])), ErrorCode::ObjectChanged, "of another epoch");
    assert_eq!(refused(&mut world, moves(2, 0, 1, &[(1, 1), (2, 1)])), ErrorCode::Malformed, "behind its end");
    assert_eq!(refused(&mut world, moves(2, 0, 0, &[])), ErrorCode::Malformed, "no step");
    let many: Vec<(u64, u32)> = (1..=65).map(|handle| (handle, 1)).collect();
    assert_eq!(refused(&mut world, moves(2, 0, 65, &many)), ErrorCode::Malformed, "more than one command carries");
    world.must(NO_SESSION, moves(2, 0, 2, &[(1, 1), (2, 1)]));
    let record = world.hsm.epoch_record().unwrap();
    assert_eq!((record.is_settled(), record.moved, record.keys), (false, 2, 3));
    assert!(record.masters.iter().all(|master| !master.sealed_before.is_empty()), "an HSM may have been away");
    world.must(NO_SESSION, moves(2, 2, 3, &[(3, 1)]));
    let record = world.hsm.epoch_record().unwrap();
    assert_eq!((record.is_settled(), record.moved, record.keys), (true, 3, 3));
    assert!(record.masters.iter().all(|master| master.sealed_before.is_empty() && !master.sealed.is_empty()));
    let epochs = world.rows.iter().filter(|(row, _)| matches!(row, Row::Payload(_)));
    for (row, value) in epochs {
        assert_eq!(hsm_core::rows::payload(row, value).unwrap().epoch, Epoch(2));
    }
}

#[test]
fn the_epoch_before_is_needed_until_payloads_are_moved_and_old_sessions_are_renewed_or_over() {
    let (mut world, admin, alice, bob) = World::with_users(false);
    world.aes(alice, &Template::new()).unwrap();
    assert!(!world.hsm.is_epoch_before_needed(), "there was none before the first");
    world.must(NO_SESSION, Action::Logout { session: bob });
    world.must(NO_SESSION, Action::BeginEpoch(start(2, &[1])));
    assert!(!world.hsm.epoch_record().unwrap().is_settled() && world.hsm.is_epoch_before_needed());
    world.must(NO_SESSION, moves(2, 0, 1, &[(1, 1)]));
    assert!(world.hsm.epoch_record().unwrap().is_settled() && world.hsm.is_epoch_before_needed());
    world.now.0 += 1;
    let expires_at = Stamp(world.now.0 + 60_000);
    world.must(NO_SESSION, Action::RenewSession { session: alice, expires_at });
    assert!(world.hsm.is_epoch_before_needed(), "the admin's token is an old one");
    world.must(NO_SESSION, Action::Logout { session: admin });
    assert!(!world.hsm.is_epoch_before_needed());
}

#[test]
fn a_key_that_was_destroyed_while_it_was_moved_does_not_return() {
    let (mut world, _, alice) = world();
    world.must(NO_SESSION, Action::BeginEpoch(start(2, &[1, 2, 3])));
    world.must(by(alice), Action::DestroyObject { handle: ObjectHandle(2) });
    world.must(NO_SESSION, moves(2, 0, 3, &[(1, 1), (2, 1), (3, 1)]));
    assert!(!world.rows.contains_key(&Row::Payload(ObjectHandle(2))));
    assert!(world.hsm.epoch_record().unwrap().is_settled());
}

#[test]
fn there_are_never_more_than_two_epochs() {
    let (mut world, ..) = world();
    world.must(NO_SESSION, Action::BeginEpoch(start(2, &[1, 2, 3])));
    let refused = world.refused(NO_SESSION, Action::BeginEpoch(start(3, &[1, 2, 3])));
    assert_eq!(refused, ErrorCode::ObjectChanged, "the first move is not finished");
    world.must(NO_SESSION, moves(2, 0, 3, &[(1, 1), (2, 1), (3, 1)]));
    world.must(NO_SESSION, Action::BeginEpoch(start(3, &[1, 2, 3])));
    assert_eq!(world.rows.keys().filter(|row| matches!(row, Row::Epoch(_))).count(), 1);
}

#[test]
fn a_new_history_has_one_member_and_no_session() {
    let (mut world, _, alice) = world();
    let survivor = MemberRecord::alone(HsmId([2; 16]), MemberKind::Hsm);
    let begin = |incarnation: u8, node: u64, member: &MemberRecord| Action::BeginIncarnation {
        incarnation: Incarnation([incarnation; 16]),
        node: NodeId(node),
        member: member.clone(),
    };
    let present = world.hsm.cluster().unwrap().incarnation;
    assert_eq!(world.refused(NO_SESSION, begin(present.0[0], 9, &survivor)), ErrorCode::AdmissionRefused);
    let stranger = MemberRecord::alone(HsmId([7; 16]), MemberKind::Hsm);
    assert_eq!(world.refused(NO_SESSION, begin(0x77, 9, &stranger)), ErrorCode::MemberUnknown);
    let witness = MemberRecord::alone(HsmId([4; 16]), MemberKind::Witness);
    assert_eq!(world.refused(NO_SESSION, begin(0x77, 9, &witness)), ErrorCode::MemberUnknown, "it has no keys");
    world.must(NO_SESSION, begin(0x77, 9, &survivor));
    assert_eq!(world.hsm.cluster().unwrap().incarnation, Incarnation([0x77; 16]));
    assert_eq!(world.hsm.members().keys().copied().collect::<Vec<_>>(), [NodeId(9)]);
    assert_eq!((world.hsm.session_count(), world.hsm.object_count()), (0, 3));
    assert_eq!(world.refused(by(alice), Action::DestroyObject { handle: ObjectHandle(1) }), ErrorCode::NotLoggedIn);
}

fn reissue(epoch: u32) -> Action {
    Action::BeginReissue { epoch: Epoch(epoch), sealed_cluster_key: vec![4; 64] }
}

fn signed() -> Action {
    let pem = |number| format!("-----BEGIN CERTIFICATE-----\n{number}\n-----END CERTIFICATE-----\n");
    Action::FinishReissue { certificate: pem(1), trust_anchor: pem(2) }
}

#[test]
fn a_new_tls_key_serves_only_once_it_is_signed_and_only_admins_bring_it() {
    let (mut world, admin, alice) = world();
    assert_eq!(world.refused(by(alice), reissue(1)), ErrorCode::RoleRefused);
    assert_eq!(world.refused(NO_SESSION, reissue(1)), ErrorCode::NotLoggedIn);
    assert_eq!(world.refused(by(admin), signed()), ErrorCode::LifecycleRefused, "none has begun");
    assert_eq!(world.refused(by(admin), reissue(2)), ErrorCode::ObjectChanged, "sealed under another epoch");
    let before = world.hsm.cluster().unwrap().sealed_cluster_key.clone();
    world.must(by(admin), reissue(1));
    assert_eq!(world.hsm.cluster().unwrap().sealed_cluster_key, before);
    assert_eq!(world.refused(by(alice), signed()), ErrorCode::RoleRefused);
    world.must(by(admin), signed());
    assert!(world.effects.iter().any(|effect| matches!(effect, Effect::ReloadTls)));
    let cluster = world.hsm.cluster().unwrap();
    assert_eq!(cluster.sealed_cluster_key, [4; 64]);
    assert!(cluster.sealed_next_cluster_key.is_empty() && cluster.certificate.contains('1'));
    assert_eq!(world.refused(by(admin), signed()), ErrorCode::LifecycleRefused, "it is over");
}

#[test]
fn a_tls_key_that_waited_when_an_epoch_began_never_serves() {
    let (mut world, admin, _) = world();
    world.must(by(admin), reissue(1));
    world.must(NO_SESSION, Action::BeginEpoch(start(2, &[1, 2, 3])));
    assert_eq!(world.refused(by(admin), signed()), ErrorCode::LifecycleRefused);
}
