//! Nodes join, vote, leave, and come back.

use std::time::Duration;

use hsm_core::{Action, MemberKind};
use hsm_replication::{History, Node, OpenFault, Outcome, Standing, limits};

use crate::support::{HISTORY, Yard, is_done, propose, version};

#[tokio::test(start_paused = true)]
async fn three_nodes_form_by_joins_and_all_three_vote() {
    let yard = Yard::of(3).await;
    yard.level().await;
    assert_eq!(yard.nodes[2].read().members().len(), 3);
    assert_eq!(*yard.machines[2].standings.lock(), [Standing::Member]);
}

#[tokio::test(start_paused = true)]
async fn of_two_one_votes_and_with_a_witness_all_three() {
    let mut yard = Yard::of(2).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(yard.voters().len(), 1);
    yard.join(MemberKind::Witness).await;
    yard.until("all three vote", |yard| yard.voters().len() == 3).await;
}

#[tokio::test(start_paused = true)]
async fn five_of_six_vote_and_the_sixth_has_all_state() {
    let yard = Yard::of(6).await;
    let leader = yard.leader().await;
    assert!(is_done(&propose(&yard.nodes[leader], version(&yard.machines[0], "9")).await));
    yard.level().await;
    assert_eq!(yard.voters().len(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_lost_leader_is_replaced_and_writes_go_on() {
    let mut yard = Yard::of(3).await;
    let leader = yard.leader().await;
    let node = yard.nodes.remove(leader);
    let machine = yard.machines.remove(leader);
    machine.stop(node).await;
    yard.until("another one leads", |yard| yard.leads().is_some()).await;
    for (place, node) in yard.nodes.iter().enumerate() {
        assert!(is_done(&propose(node, version(&yard.machines[place], "2")).await));
    }
    let node = machine.open().await;
    yard.nodes.push(node);
    yard.level().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_joins_gets_the_state_by_a_snapshot_when_the_log_is_gone() {
    let mut yard = Yard::form().await;
    for number in 0..1200 {
        assert!(is_done(&propose(&yard.nodes[0], version(&yard.machines[0], &number.to_string())).await));
    }
    assert!(yard.nodes[0].status().purged_entry.is_some());
    yard.join(MemberKind::Hsm).await;
    yard.level().await;
    yard.until("it takes commands", |yard| yard.nodes[1].status().ready.is_ok()).await;
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_join_goes_on_where_the_store_is_opened_again() {
    let mut yard = Yard::form().await;
    let machine = yard.machine(MemberKind::Hsm);
    let join = |id| Node::join_here(machine.settings(), machine.key(), id, HISTORY);
    join(77).await.unwrap().stop_here().await;
    assert!(matches!(join(78).await.err(), Some(OpenFault::OtherNode { found: 77, asked: 78 })));
    join(77).await.unwrap().stop_here().await;
    let action = Action::AdmitMember { node: hsm_core::NodeId(77), member: machine.record() };
    assert!(is_done(&propose(&yard.nodes[0], action).await));
    let node = machine.open().await;
    assert!(node.status().ready.is_err());
    yard.nodes.push(node);
    yard.level().await;
    yard.until("it takes commands", |yard| yard.nodes[1].status().ready.is_ok()).await;
    let formed = Node::join_here(yard.machines[0].settings(), yard.machines[0].key(), 5, HISTORY);
    yard.machines[0].stop(yard.nodes.remove(0)).await;
    assert!(matches!(formed.await.err(), Some(OpenFault::AlreadyFormed(_))));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_holds_nothing_is_not_formed() {
    let yard = Yard::form().await;
    let machine = yard.machine(MemberKind::Hsm);
    let opened = Node::open_here(machine.settings(), machine.key()).await;
    assert!(matches!(opened.err(), Some(OpenFault::NotFormed(_))));
}

#[tokio::test(start_paused = true)]
async fn all_lose_power_and_come_back_without_a_hand() {
    let mut yard = Yard::of(3).await;
    assert!(is_done(&propose(&yard.nodes[1], version(&yard.machines[1], "2")).await));
    for (machine, node) in yard.machines.iter().zip(yard.nodes.drain(..)) {
        machine.stop(node).await;
    }
    for machine in &yard.machines {
        yard.nodes.push(machine.open().await);
    }
    let outcome = propose(&yard.nodes[2], version(&yard.machines[2], "3")).await;
    assert!(matches!(outcome, Outcome::Unavailable(_)) || is_done(&outcome), "it is not ready, or does it");
    yard.until("all are ready", |yard| yard.nodes.iter().all(|node| node.status().ready.is_ok())).await;
    assert!(is_done(&propose(&yard.nodes[2], version(&yard.machines[2], "3")).await));
    yard.level().await;
}

#[tokio::test(start_paused = true)]
async fn a_removed_member_loses_its_vote_and_its_place_also_when_it_leads() {
    let mut yard = Yard::of(4).await;
    let leader = yard.leader().await;
    let hsm = yard.machines[leader].record().hsm;
    let removed = yard.machines[leader].id();
    assert!(is_done(&propose(&yard.nodes[leader], Action::RemoveMember { hsm }).await));
    yard.until("another one leads", |yard| yard.leads().is_some_and(|leads| leads != leader)).await;
    yard.until("three others vote", |yard| yard.voters().len() == 3 && !yard.voters().contains(&removed)).await;
    let machine = yard.machines.remove(leader);
    let node = yard.nodes.remove(leader);
    yard.level().await;
    machine.stop(node).await;
    assert!(is_done(&propose(&yard.nodes[0], version(&yard.machines[0], "after")).await));
}

#[tokio::test(start_paused = true)]
async fn entries_of_the_largest_size_reach_a_member_that_lags_over_a_slow_line() {
    let mut yard = Yard::of(3).await;
    let leader = yard.leader().await;
    let away = (leader + 1) % 3;
    let node = yard.nodes.remove(away);
    let machine = yard.machines.remove(away);
    machine.stop(node).await;
    // 8 entries of 256 KiB take half a heartbeat on this line.
    yard.wires.octets_per_second.store(8 * 256 * 1024 * 8, std::sync::atomic::Ordering::SeqCst);
    let leader = yard.leader().await;
    let large = "x".repeat(limits::ENTRY_BYTES - 512);
    for _ in 0..40 {
        // It is refused, and has its place in the log all the same.
        let outcome = propose(&yard.nodes[leader], version(&yard.machines[leader], &large)).await;
        assert!(matches!(outcome, Outcome::Done { result: Err(_), .. }));
    }
    let node = machine.open().await;
    yard.nodes.push(node);
    yard.level().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_speaks_for_another_one_is_not_answered() {
    let yard = Yard::of(3).await;
    let leader = yard.leader().await;
    let (before, posing) = (yard.nodes[leader].status().term, yard.machines[(leader + 1) % 3].id());
    yard.wires.posing.lock().insert(yard.machines[leader].id(), posing);
    yard.until("another one leads", |yard| yard.leads().is_some_and(|leads| leads != leader)).await;
    assert!(yard.leads().is_some_and(|leads| yard.nodes[leads].status().term > before));
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_waits_for_the_history_that_it_was_admitted_to() {
    let mut yard = Yard::form().await;
    let machine = yard.machine(MemberKind::Hsm);
    let action = Action::AdmitMember { node: hsm_core::NodeId(77), member: machine.record() };
    assert!(is_done(&propose(&yard.nodes[0], action).await));
    let other = History { incarnation: hsm_core::Incarnation([9; 16]), ..HISTORY };
    let node = Node::join_here(machine.settings(), machine.key(), 77, other).await.unwrap();
    yard.nodes.push(machine.plug(node));
    tokio::time::sleep(Duration::from_secs(20)).await;
    let status = yard.nodes[1].status();
    assert_eq!((status.applied.0, status.last_entry, status.leader), (0, 0, None));
}

#[tokio::test(start_paused = true)]
async fn a_member_that_was_away_follows_a_leader_that_came_meanwhile() {
    let mut yard = Yard::of(3).await;
    let leader = yard.leader().await;
    let (away, gone) = ((leader + 1) % 3, (leader + 2) % 3);
    let node = yard.nodes[away].clone();
    yard.machines[away].stop(node).await;
    // Another one takes the place of the third.
    let newcomer = yard.join(MemberKind::Hsm).await;
    let hsm = yard.machines[gone].record().hsm;
    assert!(is_done(&propose(&yard.nodes[leader], Action::RemoveMember { hsm }).await));
    yard.until("it votes", |yard| yard.nodes[leader].status().voters.contains(&newcomer)).await;
    let gone_id = yard.machines[gone].id();
    yard.until("the third does not", |yard| !yard.nodes[leader].status().voters.contains(&gone_id)).await;
    let node = yard.nodes[gone].clone();
    yard.machines[gone].stop(node).await;
    // Whoever led says nothing any more but answers.
    let old = yard.machines[leader].id();
    yard.wires.mute(old, yard.machines[away].id());
    yard.wires.mute(old, newcomer);
    yard.nodes[away] = yard.machines[away].open().await;
    let follows = |yard: &Yard| yard.nodes[away].status().leader == Some(newcomer);
    yard.until("it follows one that its roster lacked", follows).await;
    assert!(is_done(&propose(&yard.nodes[3], version(&yard.machines[3], "2")).await));
    let caught_up = |yard: &Yard| yard.nodes[away].applied() == yard.nodes[3].applied();
    yard.until("it has caught up", caught_up).await;
}
