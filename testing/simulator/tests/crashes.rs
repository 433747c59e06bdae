//! A node is stopped after every single operation of its disk, and comes back with everything that it acknowledged.

use std::collections::BTreeSet;
use std::sync::Arc;

use hsm_replication::OpenFault;
use simulator::disk::Crash;
use simulator::oracle::{self, Found};
use simulator::random::Random;
use simulator::workload::{self, Bench, History};
use simulator::world::{World, simulate};

/// Records one run.
async fn record(seed: u64, users: usize, steps: usize) -> (World, Arc<History>, simulator::disk::Recording) {
    let world = World::new(seed);
    world.disk.record();
    let node = Arc::new(world.form().await.expect("a cluster is formed"));
    let bench = Bench::new(node.clone(), world.disk.clone(), world.random.clone());
    workload::run(&bench, users, steps).await;
    let history = bench.history.clone();
    node.stop_here().await;
    assert_eq!(world.faults.count(), 0, "no fault: {}", world.faults.last());
    let recording = world.disk.recording();
    (world, history, recording)
}

#[test]
fn nothing_acknowledged_is_lost_by_a_crash_at_any_write() {
    let seed = Random::seed_of_run(1);
    simulate(seed, async {
        let (world, history, recording) = record(seed, 4, 12).await;
        let calls = history.calls.lock().len();
        let mut found = BTreeSet::new();
        let mut checked = 0;
        let mut crashes = recording.crashes();
        for position in 0..=recording.len() {
            for crash in Crash::ALL {
                let disk = crashes.at(position, crash, &world.random);
                let survivor = World::with(disk, world.random.clone(), world.key.clone());
                let result = oracle::check(&survivor, &history, position).await;
                checked += 1;
                if let Found::Node(index) = result {
                    found.insert(index);
                }
            }
        }
        println!(
            "{calls} calls, {} disk operations, {checked} crashes, {} indexes found",
            recording.len(),
            found.len()
        );
        assert!(found.len() > 20, "crashes were found at many indexes");
    });
}

#[test]
fn a_disk_that_lied_about_its_syncs_is_caught_by_the_mark() {
    let seed = Random::seed_of_run(2);
    simulate(seed, async {
        let (world, _history, recording) = record(seed, 2, 6).await;
        let crashes = recording.crashes();
        let mut caught = 0;
        for position in (recording.len() / 4..recording.len()).step_by(7) {
            for lies in 1..4 {
                let Some(disk) = crashes.of_liar(position, lies) else { continue };
                let victim = World::with(disk, world.random.clone(), world.key.clone());
                match victim.open().await {
                    Err(OpenFault::RolledBack { found, durable }) => {
                        assert!(found < durable);
                        caught += 1;
                    }
                    Err(fault) => panic!("another fault: {fault}"),
                    // The sync that was not done belonged to no commit that was told of.
                    Ok(node) => node.stop_here().await,
                }
            }
        }
        assert!(caught > 20, "{caught} caught");
    });
}

#[test]
fn the_same_seed_writes_the_same_octets() {
    let seed = Random::seed_of_run(3);
    let run = || {
        simulate(seed, async {
            let (_world, history, recording) = record(seed, 3, 8).await;
            let moments: Vec<_> = history.moments.lock().iter().map(|(&index, moment)| (index, moment.hash)).collect();
            (recording, moments)
        })
    };
    let (first, second) = (run(), run());
    assert!(first.1 == second.1, "the same commands in the same order");
    assert!(first.0 == second.0, "the same writes");
}
