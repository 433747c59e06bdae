//! A disk that was put back to an older one, a state that differs, a member that was removed.

use std::time::Duration;

use hsm_core::{Action, MemberKind};
use hsm_replication::{Serving, Standing};

use crate::support::{Machine, Yard, is_done, propose, version};

/// Stops the node at `place`, gives its machine this disk and starts it again.
async fn put_back(yard: &mut Yard, place: usize, disk: crate::support::MemoryDisk) {
    let node = yard.nodes.remove(place);
    yard.machines[place].stop(node).await;
    yard.machines[place].disk = disk;
    let node = yard.machines[place].open().await;
    yard.nodes.insert(place, node);
}

async fn write(yard: &Yard, node: usize, times: usize) {
    for number in 0..times {
        assert!(is_done(&propose(&yard.nodes[node], version(&yard.machines[node], &number.to_string())).await));
    }
}

#[tokio::test(start_paused = true)]
async fn a_voter_with_yesterdays_disk_never_votes_and_says_so() {
    let mut yard = Yard::of(3).await;
    let leader = yard.leader().await;
    let victim = (leader + 1) % 3;
    let disk = yard.machines[victim].disk.copy();
    write(&yard, leader, 20).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    put_back(&mut yard, victim, disk).await;
    yard.until("it finds out", |yard| yard.nodes[victim].status().standing == Standing::RolledBack).await;
    assert_eq!(yard.machines[victim].standings.lock().last(), Some(&Standing::RolledBack));
    assert!(yard.nodes[victim].status().ready.is_err());
    assert_eq!(yard.nodes[victim].serving(), Serving::Expired);
    // With the leader gone too nobody can lead: its vote does not count.
    let node = yard.nodes.remove(leader);
    yard.machines[leader].stop(node).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(yard.leads(), None);
}

#[tokio::test(start_paused = true)]
async fn a_voter_with_the_disk_from_before_it_joined_never_takes_part() {
    let mut yard = Yard::form().await;
    let empty = {
        // The disk as it is while the join is under way.
        yard.wires.isolate(1002, &[yard.machines[0].id()]);
        yard.join(MemberKind::Hsm).await;
        let disk = yard.machines[1].disk.copy();
        yard.wires.heal();
        disk
    };
    yard.join(MemberKind::Hsm).await;
    yard.until("all vote", |yard| yard.voters().len() == 3).await;
    write(&yard, 0, 5).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    put_back(&mut yard, 1, empty).await;
    yard.until("it finds out", |yard| yard.nodes[1].status().standing == Standing::RolledBack).await;
}

#[tokio::test(start_paused = true)]
async fn a_founder_with_the_disk_from_when_it_was_alone_stops_when_it_hears_the_others() {
    let mut yard = Yard::form().await;
    let alone = yard.machines[0].disk.copy();
    yard.join(MemberKind::Hsm).await;
    yard.join(MemberKind::Hsm).await;
    yard.until("all vote", |yard| yard.voters().len() == 3).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    put_back(&mut yard, 0, alone).await;
    yard.until("it finds out", |yard| yard.nodes[0].status().standing == Standing::RolledBack).await;
    yard.until("another one leads", |yard| yard.nodes[1].status().leader.is_some_and(|id| id != yard.machines[0].id()))
        .await;
    write(&yard, 1, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_restarted_voter_waits_for_a_majority_before_it_takes_part() {
    let mut yard = Yard::of(3).await;
    yard.level().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    for (machine, node) in yard.machines.iter().zip(yard.nodes.drain(..)) {
        machine.stop(node).await;
    }
    yard.nodes.push(yard.machines[0].open().await);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(yard.nodes[0].status().standing, Standing::Checking);
    assert_eq!(yard.nodes[0].serving(), Serving::Expired);
    yard.nodes.push(yard.machines[1].open().await);
    yard.until("two lead again", |yard| yard.nodes.iter().all(|node| node.status().ready.is_ok())).await;
    write(&yard, 1, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_member_that_was_removed_is_told_so() {
    let mut yard = Yard::of(4).await;
    let leader = yard.leader().await;
    let removed = (leader + 1) % 4;
    let hsm = yard.machines[removed].record().hsm;
    let node = yard.nodes[removed].clone();
    assert!(is_done(&propose(&yard.nodes[leader], Action::RemoveMember { hsm }).await));
    yard.until("it is told", |_| node.status().standing == Standing::Removed).await;
    assert!(node.status().ready.is_err());
    assert_eq!(node.serving(), Serving::Expired);
    yard.nodes.remove(removed);
    yard.machines.remove(removed);
    yard.until("three others vote", |yard| yard.voters().len() == 3).await;
}

#[tokio::test(start_paused = true)]
async fn a_member_that_was_removed_while_it_was_off_is_told_so_when_it_comes_back() {
    let mut yard = Yard::of(4).await;
    let leader = yard.leader().await;
    let away = (leader + 1) % 4;
    let hsm = yard.machines[away].record().hsm;
    let node = yard.nodes.remove(away);
    let machine: Machine = yard.machines.remove(away);
    machine.stop(node).await;
    let leader = yard.leader().await;
    assert!(is_done(&propose(&yard.nodes[leader], Action::RemoveMember { hsm }).await));
    yard.until("it has no place", |yard| yard.voters().len() == 3 && !yard.voters().contains(&machine.id())).await;
    let node = machine.open().await;
    yard.until("it is told", |_| node.status().standing == Standing::Removed).await;
}
