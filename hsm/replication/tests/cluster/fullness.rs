//! Full disks: who leads, and what is answered.

use std::time::Duration;

use hsm_protocol::ErrorCode;
use hsm_replication::Outcome;

use crate::support::{Yard, is_done, propose, start, version};

/// Longer than anybody waits before he stands for election.
const LONG: Duration = Duration::from_secs(30);

fn term(yard: &Yard) -> u64 {
    yard.nodes.iter().map(|node| node.status().term).max().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_disk_is_full_gives_the_lead_away_and_no_change_is_refused() {
    let yard = Yard::of(3).await;
    let full = yard.leader().await;
    yard.machines[full].disk.fill(true);
    // At every HSM, also at the one without room, before and after somebody else leads.
    for round in 0..100 {
        let begun: Vec<_> = (0..3)
            .map(|place| start(&yard.nodes[place], version(&yard.machines[place], &format!("round {round}"))))
            .collect();
        for told in begun {
            assert!(is_done(&told.await.unwrap()), "in round {round}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let leads = yard.leads().unwrap();
    assert_ne!(leads, full);
    let before = term(&yard);
    tokio::time::sleep(LONG).await;
    assert_eq!((yard.leads(), term(&yard)), (Some(leads), before), "and keeps it");
    assert!(yard.machines.iter().all(|machine| machine.faults.lock().is_empty()));
    yard.machines[full].disk.fill(false);
    yard.level().await;
}

#[tokio::test(start_paused = true)]
async fn when_all_disks_are_full_changes_are_refused_and_nobody_is_elected() {
    let yard = Yard::of(3).await;
    let leader = yard.leader().await;
    let before = term(&yard);
    yard.machines.iter().for_each(|machine| machine.disk.fill(true));
    for _ in 0..10 {
        for place in 0..3 {
            let outcome = propose(&yard.nodes[place], version(&yard.machines[place], "full")).await;
            assert!(matches!(outcome, Outcome::Unavailable(ErrorCode::StorageFull)));
        }
        tokio::time::sleep(LONG / 10).await;
    }
    assert_eq!((yard.leads(), term(&yard)), (Some(leader), before));
    yard.machines.iter().for_each(|machine| machine.disk.fill(false));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(is_done(&propose(&yard.nodes[leader], version(&yard.machines[leader], "room")).await));
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_disk_is_needed_for_a_majority_keeps_the_lead_and_refuses_changes() {
    let mut yard = Yard::of(3).await;
    let dead = (yard.leader().await + 1) % 3;
    let (machine, node) = (yard.machines.remove(dead), yard.nodes.remove(dead));
    machine.stop(node).await;
    // Until the others know that it is gone.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let leader = yard.leader().await;
    let before = term(&yard);
    yard.machines[leader].disk.fill(true);
    let outcome = propose(&yard.nodes[1 - leader], version(&yard.machines[1 - leader], "full")).await;
    assert!(matches!(outcome, Outcome::Unavailable(ErrorCode::StorageFull)));
    tokio::time::sleep(LONG).await;
    assert_eq!((yard.leads(), term(&yard)), (Some(leader), before));
}

#[tokio::test(start_paused = true)]
async fn a_voter_without_room_leaves_an_election_to_the_one_that_has_some() {
    for _ in 0..8 {
        let mut yard = Yard::of(3).await;
        let leader = yard.leader().await;
        let full = (leader + 1) % 3;
        yard.machines[full].disk.fill(true);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let other = yard.machines[(leader + 2) % 3].id();
        let (machine, node) = (yard.machines.remove(leader), yard.nodes.remove(leader));
        let before = term(&yard);
        machine.stop(node).await;
        yard.until("another one leads", |yard| yard.leads().is_some()).await;
        assert_eq!(yard.machines[yard.leads().unwrap()].id(), other);
        assert!(term(&yard) <= before + 2, "the other one did not stand as well");
    }
}
