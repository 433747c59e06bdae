//! Tests of a state that differs, made by writing to a store behind the node's back with the store's own key.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics where it stands")]

use std::sync::Arc;
use std::time::Duration;

use serde_bytes::ByteArray;

use self::support::{Machine, Yard, is_done, propose, version};
use crate::fault::Faults;
use crate::store::Work;
use crate::store::opening::{self, Beginning};
use crate::store::pending::Changes;
use crate::{Serving, Standing};

#[path = "../tests/cluster/support.rs"]
#[expect(dead_code, reason = "shared with tests/cluster, which uses all of it")]
mod support;

/// Changes the chain of hashes on a stopped machine's disk.
fn falsify(machine: &Machine) {
    let disk = machine.settings().disk;
    let faults = Arc::new(Faults::new(Arc::new(|_| {})));
    let opened = opening::open(&disk, &machine.key(), 1024 * 1024, &faults, Beginning::No).unwrap();
    let mut progress = opened.progress;
    progress.hash = ByteArray::new([0xee; 48]);
    opened.store.pend(Changes { progress: Some(progress), ..Changes::default() });
    opened.store.commit(&Work { durable: true, ..Work::default() }).unwrap();
    opened.store.close();
}

async fn restart_falsified(yard: &mut Yard, place: usize) {
    let node = yard.nodes.remove(place);
    yard.machines[place].stop(node).await;
    falsify(&yard.machines[place]);
    let node = yard.machines[place].open().await;
    yard.nodes.insert(place, node);
}

#[tokio::test(start_paused = true)]
async fn a_voter_whose_hash_differs_from_the_majority_stops_and_the_others_go_on() {
    let mut yard = Yard::of(3).await;
    yard.level().await;
    let place = (yard.leader().await + 1) % 3;
    restart_falsified(&mut yard, place).await;
    yard.until("it says so", |yard| !yard.machines[place].faults.lock().is_empty()).await;
    assert_eq!(*yard.machines[place].faults.lock(), ["Diverged"]);
    assert_ne!(yard.nodes[place].serving(), Serving::Leased);
    assert!(yard.nodes[place].status().ready.is_err());
    let leader = yard.leader().await;
    assert!(is_done(&propose(&yard.nodes[leader], version(&yard.machines[leader], "on")).await));
    tokio::time::sleep(Duration::from_secs(10)).await;
    let others = yard.machines.iter().enumerate().filter(|&(other, _)| other != place);
    assert!(others.into_iter().all(|(_, machine)| machine.faults.lock().is_empty()));
}

#[tokio::test(start_paused = true)]
async fn a_learner_whose_hash_differs_does_not_become_a_voter() {
    let mut yard = Yard::of(2).await;
    yard.level().await;
    let place = 1 - yard.leader().await;
    // It is not heard before the third comes, and then no leader believes it.
    let (node, id) = (yard.nodes.remove(place), yard.machines[place].id());
    yard.machines[place].stop(node).await;
    falsify(&yard.machines[place]);
    yard.join(hsm_core::MemberKind::Hsm).await;
    let node = yard.machines[place].open().await;
    yard.nodes.insert(place, node);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(!yard.voters().contains(&id), "two of three ready ones are no three voters");
    assert_eq!(yard.voters().len(), 1);
    assert_eq!(*yard.machines[place].faults.lock(), ["Diverged"]);
    assert_ne!(yard.nodes[place].status().standing, Standing::RolledBack);
}
