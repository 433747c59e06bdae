//! A follower forwards commands to the leader.

use std::time::Duration;

use hsm_core::Index;
use hsm_protocol::ErrorCode;
use hsm_replication::{Outcome, limits};

use crate::support::{Yard, is_done, propose, start, version};

fn version_of(yard: &Yard, node: usize, machine: usize) -> String {
    let state = yard.nodes[node].read();
    state.member(yard.machines[machine].record().hsm).unwrap().1.version.clone()
}

#[tokio::test(start_paused = true)]
async fn a_follower_forwards_and_reads_its_own_write() {
    let yard = Yard::of(3).await;
    let leader = yard.leader().await;
    for follower in (0..3).filter(|&place| place != leader) {
        let outcome = propose(&yard.nodes[follower], version(&yard.machines[follower], "forwarded")).await;
        let Outcome::Done { index, result: Ok(_) } = outcome else { panic!("it is done") };
        assert!(yard.nodes[follower].applied() >= index);
        assert_eq!(version_of(&yard, follower, follower), "forwarded");
    }
}

#[tokio::test(start_paused = true)]
async fn commands_of_all_members_go_together_and_each_caller_gets_its_own_answer() {
    let yard = Yard::of(3).await;
    let mut told = Vec::new();
    for number in 0..300 {
        let node = &yard.nodes[number % 3];
        told.push(start(node, version(&yard.machines[number % 3], &number.to_string())));
    }
    let mut indexes = Vec::new();
    for outcome in told {
        let Outcome::Done { index, result: Ok(_) } = outcome.await.unwrap() else { panic!("it is done") };
        indexes.push(index);
    }
    let mut sorted = indexes.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(sorted.len(), 300, "every command has a place of its own");
    yard.level().await;
}

#[tokio::test(start_paused = true)]
async fn a_message_that_comes_twice_is_done_once() {
    let yard = Yard::of(3).await;
    let leader = yard.leader().await;
    yard.level().await;
    yard.wires.twice.lock().insert(yard.nodes[leader].status().node);
    let before = yard.nodes[leader].applied();
    let follower = (leader + 1) % 3;
    for number in 0..20_u64 {
        assert!(is_done(&propose(&yard.nodes[follower], version(&yard.machines[0], &number.to_string())).await));
        assert_eq!(yard.nodes[follower].applied(), Index(before.0 + number + 1));
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_leader_a_command_is_not_done_and_says_so() {
    let yard = Yard::of(3).await;
    let leader = yard.leader().await;
    let ids: Vec<u64> = yard.nodes.iter().map(|node| node.status().node).collect();
    ids.iter().for_each(|&id| yard.wires.isolate(id, &ids));
    let follower = (leader + 1) % 3;
    // Long enough for everybody to know that nobody leads.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let began = tokio::time::Instant::now();
    let outcome = propose(&yard.nodes[follower], version(&yard.machines[0], "lost")).await;
    assert!(matches!(outcome, Outcome::Unavailable(ErrorCode::NotReady)));
    assert!(began.elapsed() <= limits::PROPOSE_DEADLINE + Duration::from_secs(1));
    yard.wires.heal();
    yard.leader().await;
    assert!(is_done(&propose(&yard.nodes[follower], version(&yard.machines[0], "found")).await));
    assert_eq!(version_of(&yard, follower, 0), "found");
}

#[tokio::test(start_paused = true)]
async fn a_command_on_its_way_to_a_leader_that_is_lost_is_done_once_by_the_next_one() {
    let mut yard = Yard::of(3).await;
    let leader = yard.leader().await;
    yard.level().await;
    let follower = (leader + 1) % 3;
    let (to, from) = (yard.machines[leader].id(), yard.machines[follower].id());
    // The leader never hears of it.
    yard.wires.cut_one_way(from, to);
    let told = start(&yard.nodes[follower], version(&yard.machines[follower], "moved"));
    tokio::time::sleep(Duration::from_millis(50)).await;
    let before = yard.nodes[follower].applied();
    let node = yard.nodes.remove(leader);
    yard.machines[leader].stop(node).await;
    assert!(is_done(&told.await.unwrap()));
    yard.level().await;
    assert_eq!(yard.nodes[0].applied(), Index(before.0 + 1));
}

#[tokio::test(start_paused = true)]
async fn a_command_in_the_log_of_a_leader_that_is_cut_off_is_not_done_there_and_done_elsewhere() {
    let yard = Yard::of(3).await;
    let leader = yard.leader().await;
    yard.level().await;
    let ids: Vec<u64> = yard.nodes.iter().map(|node| node.status().node).collect();
    yard.wires.isolate(ids[leader], &ids);
    let told = start(&yard.nodes[leader], version(&yard.machines[leader], "old leader"));
    let other = (leader + 1) % 3;
    yard.until("another one leads", |yard| {
        let status = yard.nodes[other].status();
        status.leader.is_some_and(|leads| leads != ids[leader])
    })
    .await;
    assert!(is_done(&propose(&yard.nodes[other], version(&yard.machines[other], "new leader")).await));
    yard.wires.heal();
    // The old leader learns from the log that its entry is void, and sends the command to the new one.
    assert!(is_done(&told.await.unwrap()));
    yard.level().await;
    assert_eq!(version_of(&yard, other, leader), "old leader");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_loses_its_majority_for_good_calls_the_outcome_unknown() {
    let yard = Yard::of(3).await;
    let leader = yard.leader().await;
    let ids: Vec<u64> = yard.nodes.iter().map(|node| node.status().node).collect();
    ids.iter().for_each(|&id| yard.wires.isolate(id, &ids));
    let outcome = propose(&yard.nodes[leader], version(&yard.machines[0], "lost")).await;
    assert!(matches!(outcome, Outcome::Unknown));
}

#[tokio::test(start_paused = true)]
async fn a_member_that_nobody_reaches_any_more_still_tells_the_leader_where_it_is() {
    let yard = Yard::of(3).await;
    let leader = yard.leader().await;
    let moved = (leader + 1) % 3;
    for other in (0..3).filter(|&place| place != moved) {
        yard.wires.mute(yard.machines[other].id(), yard.machines[moved].id());
    }
    // It has not all of the log, so that nobody elects it.
    assert!(is_done(&propose(&yard.nodes[leader], version(&yard.machines[leader], "missed")).await));
    let term = |yard: &Yard, place: usize| yard.nodes[place].status().term;
    yard.until("it votes for itself", |yard| term(yard, moved) > term(yard, leader)).await;
    let told = start(&yard.nodes[moved], version(&yard.machines[moved], "told"));
    yard.until("the leader knows", |yard| version_of(yard, leader, moved) == "told").await;
    yard.wires.heal();
    assert!(is_done(&told.await.unwrap()));
    yard.level().await;
}
