//! A survivor begins a new history when the majority is gone for good.

use std::time::Duration;

use hsm_core::{HsmId, Incarnation, MemberKind, NodeId};
use hsm_replication::{Node, OpenFault, Recovery, Serving};

use crate::support::{Machine, Yard, is_done, propose, start, version};

/// The node id of the survivor's second life.
const SECOND: u64 = 77;

fn recovery(machine: &Machine) -> Recovery {
    Recovery {
        incarnation: Incarnation([9; 16]),
        node: SECOND,
        member: machine.record(),
        prepare: Box::new(|_| Ok(())),
    }
}

/// Of three machines the last two are gone: the survivor's, and theirs.
async fn lost(yard: &mut Yard) -> (Machine, [Machine; 2]) {
    let (third, second) = (yard.machines.pop().unwrap(), yard.machines.pop().unwrap());
    third.stop(yard.nodes.pop().unwrap()).await;
    second.stop(yard.nodes.pop().unwrap()).await;
    (yard.machines.pop().unwrap(), [second, third])
}

#[tokio::test(start_paused = true)]
async fn a_survivor_goes_on_alone_with_everything_that_was_acknowledged() {
    let mut yard = Yard::of(3).await;
    let leader = yard.leader().await;
    for number in 0..40 {
        assert!(is_done(&propose(&yard.nodes[leader], version(&yard.machines[1], &number.to_string())).await));
    }
    yard.level().await;
    let applied = yard.nodes[0].applied();
    let (machine, gone) = lost(&mut yard).await;
    let node = yard.nodes.pop().unwrap();
    // Without a majority nothing is decided: whether this one is done is unknown.
    let unknown = start(&node, version(&machine, "unknown"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    machine.stop(node).await;
    drop(unknown);
    let node = Node::recover_here(machine.settings(), machine.key(), recovery(&machine)).await.unwrap();
    assert!(node.applied() > applied && node.status().node == SECOND);
    {
        let state = node.read();
        assert_eq!(state.cluster().unwrap().incarnation, Incarnation([9; 16]));
        assert!(state.cluster().unwrap().epoch_due, "whoever is gone knows the master key");
        let members: Vec<_> = state.members().iter().map(|(node, member)| (*node, member.hsm)).collect();
        assert_eq!(members, [(NodeId(SECOND), HsmId([1; 16]))]);
    }
    assert_eq!((node.status().voters, node.status().leader), (vec![SECOND], Some(SECOND)));
    assert!(matches!(node.serving(), Serving::Leased));
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(node.status().voters, [SECOND], "nobody of the old roster came back into the membership");
    node.stop_here().await;
    drop(node);
    // It is what it is after a restart, and others may join it.
    let node = machine.open().await;
    assert_eq!((node.status().node, node.status().leader), (SECOND, Some(SECOND)));
    yard.nodes.push(node);
    yard.machines.push(machine);
    yard.machines.extend(gone);
    yard.join(MemberKind::Hsm).await;
    yard.join(MemberKind::Hsm).await;
    yard.until("three vote", |yard| yard.voters().len() == 3).await;
    yard.level().await;
}

#[tokio::test(start_paused = true)]
async fn a_learner_can_be_the_survivor() {
    let mut yard = Yard::of(4).await;
    yard.level().await;
    let learner = (0..4).find(|&at| !yard.voters().contains(&yard.machines[at].id())).unwrap();
    let (node, machine) = (yard.nodes.remove(learner), yard.machines.remove(learner));
    for (node, other) in yard.nodes.drain(..).zip(&yard.machines) {
        other.stop(node).await;
    }
    machine.stop(node).await;
    let node = Node::recover_here(machine.settings(), machine.key(), recovery(&machine)).await.unwrap();
    assert_eq!((node.status().voters, node.read().members().len()), (vec![SECOND], 1));
    assert!(is_done(&propose(&node, hsm_core::Action::ExpireSessions).await));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_recovered_is_left_as_it_is() {
    let mut yard = Yard::of(3).await;
    yard.level().await;
    let (machine, _gone) = lost(&mut yard).await;
    machine.stop(yard.nodes.pop().unwrap()).await;
    let before = machine.id();
    let mut foreign = recovery(&machine);
    foreign.member.hsm = HsmId([8; 16]);
    let unready = Recovery { prepare: Box::new(|_| Err("a key is missing".to_owned())), ..recovery(&machine) };
    for refused in [foreign, unready] {
        let refused = Node::recover_here(machine.settings(), machine.key(), refused).await;
        assert!(matches!(refused, Err(OpenFault::Recovery(_))), "{:?}", refused.err());
    }
    let node = machine.open().await;
    assert_eq!((node.status().node, node.read().members().len()), (before, 3));
}

#[tokio::test(start_paused = true)]
async fn an_old_member_that_comes_back_is_not_heard() {
    let mut yard = Yard::of(3).await;
    yard.level().await;
    let (machine, [second, other]) = lost(&mut yard).await;
    machine.stop(yard.nodes.pop().unwrap()).await;
    let node = Node::recover_here(machine.settings(), machine.key(), recovery(&machine)).await.unwrap();
    let applied = node.applied();
    // Two old members are a majority of the old history, and go on in it; this one takes nothing from them.
    let old = [other.open().await, second.open().await];
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!((node.applied(), node.status().leader), (applied, Some(SECOND)));
    assert!(old.iter().all(|old| old.read().members().len() == 3));
}
