//! A node is stopped after every single operation of its disk, and comes back with everything that it acknowledged.

use std::collections::BTreeSet;
use std::sync::Arc;

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
